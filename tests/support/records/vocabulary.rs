//! The words of the records.

pub(super) struct Person {
    pub(super) name: &'static str,
    pub(super) email: &'static str,
}

pub(super) const PEOPLE: [Person; 6] = [
    Person { name: "Ann Lee", email: "ann.lee@example.com" },
    Person { name: "Zoë Brontë", email: "zoe@example.org" },
    Person { name: "Jürgen \"JJ\" Jäger", email: "jj@example.de" },
    Person { name: "Łukasz Ślusarczyk", email: "lukasz@example.pl" },
    Person { name: "山田 太郎", email: "taro.yamada@example.jp" },
    Person { name: "Siobhán O’Neill 🔑", email: "siobhan+scm@example.ie" },
];

pub(super) const HOSTS: [&str; 5] =
    ["www.example.com", "*.example.org", "münchen.example", "10.1.2.3", "mail-07.eu.corp.example.net"];

pub(super) const WORDS: [&str; 12] = [
    "validity=397d",
    "key=EC-P256",
    "san=dns:www.example.com",
    "profile=ov-ssl",
    "term=1y",
    "org=4711",
    "dept=IT",
    "comment=none",
    "san=dns:example.com",
    "issuer=R3",
    "sha256=5e884898da28",
    "requester=api",
];

#[derive(Clone, Copy)]
pub(super) struct Kind {
    pub(super) action: &'static str,
    pub(super) service: &'static str,
    pub(super) category: &'static str,
    pub(super) object_type: &'static str,
    pub(super) sentence: &'static str,
    pub(super) failure: bool,
    pub(super) by_person: bool,
}

const fn kind(action: &'static str, category: &'static str, object_type: &'static str, sentence: &'static str) -> Kind {
    Kind { action, service: "scm", category, object_type, sentence, failure: false, by_person: true }
}

const fn job(action: &'static str, service: &'static str, object_type: &'static str, sentence: &'static str) -> Kind {
    Kind { action, service, category: "", object_type, sentence, failure: false, by_person: false }
}

const fn failed(kind: Kind) -> Kind {
    Kind { failure: true, ..kind }
}

const MAIL: &str = "scm.customer.notification.email";
const HOOK: &str = "scm.customer.notification.webhook";

pub(super) const KINDS: [Kind; 12] = [
    kind("certificate_requested", "ssl", "scm.ssl", "{person} asked for {host}"),
    kind("certificate_issued", "ssl", "scm.ssl", "CN={host}, O=\"Müller & Söhne\""),
    kind("certificate_revoked", "ssl", "scm.ssl", "{host} by {person}:\n\tkeyCompromise"),
    kind("certificate_downloaded", "smime", "scm.smime", "C:\\certs\\{host}.p7b"),
    kind("role_changed", "", "scm.admin", "{person}: DRAO → RAO"),
    kind("api_key_created", "", "", "by {person}"),
    kind("login", "", "", "{person}"),
    failed(kind("login", "", "", "{person}: wrong password, 2/5")),
    job("schedule", "scm", MAIL, "expiry of {host} in 30 days"),
    job("webhook_notification_prepare", "notification.processor", HOOK, "{host}"),
    job("discovery_finished", "scm", "", "<b>{host}</b>: 12 found, 3 new\r\n"),
    failed(job("webhook_send_failure", "notification.sender", HOOK, "https://{host}/hook?a=1&b=2 → 502")),
];
