//! Tests that no secret is ever shown, in an output or in a file, whatever a server answers and however wrong the
//! configuration is.
//!
//! Every run here logs at `trace`, as text and as JSON.

use std::time::Duration;

use jiff::Timestamp;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use url::form_urlencoded;

use crate::daemon::{Ended, Setup};
use crate::support::{AdvertiseAuth, FakeIntake, FakeScm, Fault, IntakeOptions, Records, ScmOptions};

/// The mark in each secret that must not be seen. Characters that need escapes surround it. It is the same in every
/// spelling: plain, form-encoded, in a URL, in JSON, in JSON within JSON.
const CLIENT_MARK: &str = "HUNTER4711hunter";
const KEY_MARK: &str = "APIKEY4711apikey";
const PROXY_MARK: &str = "PROXY4711proxy";
/// The beginning of the fake's access tokens, and of nothing else.
const TOKEN_MARK: &str = "eyJ.";

const CLIENT_SECRET: &str = "=s0 \"HUNTER4711hunter\" #x$y\\z&é%'";
const API_KEY: &str = "k\"APIKEY4711apikey'\\%";
/// The client secret in the encoding of a form or a query.
const IN_A_FORM: &str = "%3Ds0+%22HUNTER4711hunter%22+%23x%24y%5Cz%26%C3%A9%25%27";

struct World {
    scm: FakeScm,
    intake: FakeIntake,
}

impl World {
    async fn new() -> Self {
        Self::with(ScmOptions::default()).await
    }

    async fn with(options: ScmOptions) -> Self {
        let scm = FakeScm::start(ScmOptions { client_secret: CLIENT_SECRET.into(), ..options }).await;
        let intake = FakeIntake::start(IntakeOptions { api_key: API_KEY.into(), ..Default::default() }).await;
        let now = Timestamp::now();
        scm.push(Records::seeded(1).between(now - Duration::from_secs(900), now - Duration::from_secs(2), 2));
        Self { scm, intake }
    }

    /// A run that gives up at the first failure, with the token endpoint known beforehand.
    fn setup(&self, format: &str) -> Setup {
        Setup::between(&self.scm, &self.intake)
            .with("SECTIGO_AUDIT_API_CLIENT_SECRET", CLIENT_SECRET)
            .with("SECTIGO_AUDIT_API_TOKEN_URL", self.scm.token_url())
            .with("DD_API_KEY", API_KEY)
            .with("SECTIGO_AUDIT_RETRY_BUDGET", "0s")
            .with("SECTIGO_AUDIT_LOG_LEVEL", "trace")
            .with("SECTIGO_AUDIT_LOG_FORMAT", format)
    }
}

const FORMATS: [&str; 2] = ["text", "json"];

/// Searches both outputs and every written file for secrets.
fn nothing_shown(what: &str, setup: &Setup, ended: &Ended) {
    let mut texts =
        vec![("standard output".to_owned(), ended.stdout.clone()), ("standard error".to_owned(), ended.stderr.clone())];
    for entry in std::fs::read_dir(setup.folder()).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        if entry.path().is_file() && name != ".env" {
            texts.push((name, String::from_utf8(std::fs::read(entry.path()).unwrap()).unwrap()));
        }
    }
    for (where_it_is, text) in texts {
        let lower = text.to_lowercase();
        for mark in [CLIENT_MARK, KEY_MARK, PROXY_MARK, TOKEN_MARK] {
            assert!(!lower.contains(&mark.to_lowercase()), "{what}: {mark} is in {where_it_is}:\n{text}");
        }
    }
}

/// Runs in both formats, after `arrange` has set up the world. The run ends with `code` and says `told`.
async fn shows_nothing(what: &str, arrange: impl Fn(&World), change: impl Fn(Setup) -> Setup, code: i32, told: &str) {
    for format in FORMATS {
        let world = World::new().await;
        arrange(&world);
        let setup = change(world.setup(format));
        let ended = setup.run(&[]).await;
        assert_eq!(ended.code(), Some(code), "{what}: {}", ended.stderr);
        assert!(ended.stderr.contains(told), "{what} does not say {told:?}: {}", ended.stderr);
        nothing_shown(what, &setup, &ended);
    }
}

/// The beginning of the fakes' echo: if a message shows it, it quotes the answer's text.
const ECHO: &str = "refused: ";
/// The text that replaces a secret in it.
const HIDDEN: &str = "[hidden]";

#[tokio::test]
async fn a_run_that_succeeds_shows_no_secret() {
    shows_nothing("success", |_| (), |setup| setup, 0, "synced").await;
}

#[tokio::test]
async fn a_source_that_echoes_secrets_is_quoted_without_them() {
    for (status, code) in
        [(200, 75), (201, 75), (400, 78), (401, 77), (403, 77), (404, 78), (422, 78), (429, 75), (500, 75), (503, 75)]
    {
        let what = format!("source, {status}");
        let arrange = |world: &World| world.scm.answer_always(Some(Fault::EchoAuthorization(status)));
        shows_nothing(&what, arrange, |setup| setup, code, HIDDEN).await;
    }
}

#[tokio::test]
async fn an_answer_that_is_no_page_is_quoted_without_secrets_and_cut() {
    for (what, body) in [
        ("an object", format!("{{\"secret\":\"{CLIENT_MARK}\"}}")),
        ("a string", format!("\"{}\"", CLIENT_SECRET.replace('\\', "\\\\").replace('"', "\\\""))),
        ("half a page", format!("[{{\"id\":1,\"details\":{CLIENT_SECRET:?}")),
        ("a long string", format!("\"{}\"", "x".repeat(200_000))),
    ] {
        let body = body.replace(&format!("\"{CLIENT_MARK}\""), &format!("{CLIENT_SECRET:?}"));
        for format in FORMATS {
            let world = World::new().await;
            world.scm.answer_always(Some(Fault::Body(body.clone())));
            let setup = world.setup(format);
            let ended = setup.run(&[]).await;
            assert_eq!(ended.code(), Some(75), "{what}: {:.3000}", ended.stderr);
            assert!(ended.stderr.contains("page of records: "), "{what}: {:.3000}", ended.stderr);
            assert!(ended.stderr.len() < 10_000, "{what}: the log has {} bytes", ended.stderr.len());
            nothing_shown(what, &setup, &ended);
        }
    }
}

#[tokio::test]
async fn a_source_that_echoes_secrets_before_it_knows_us_is_quoted_without_them() {
    for (status, code) in [(400, 78), (404, 78), (429, 75), (500, 75)] {
        let what = format!("source called for its token endpoint, {status}");
        let arrange = |world: &World| world.scm.answer_always(Some(Fault::EchoAuthorization(status)));
        let change = |setup: Setup| setup.without("SECTIGO_AUDIT_API_TOKEN_URL");
        shows_nothing(&what, arrange, change, code, ECHO).await;
    }
}

#[tokio::test]
async fn a_refused_page_token_is_reported_without_secrets() {
    for format in FORMATS {
        let world = World::new().await;
        world.scm.set_page_size(1);
        world.scm.script(Fault::PASS);
        world.scm.script(Fault::EchoAuthorization(400));
        let setup = world.setup(format);
        let ended = setup.run(&[]).await;
        assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
        assert!(ended.stderr.contains("the API refused the next page of a range"), "{}", ended.stderr);
        nothing_shown("page token", &setup, &ended);
    }
}

#[tokio::test]
async fn a_token_endpoint_that_echoes_secrets_is_quoted_without_them() {
    for (status, code) in [(400, 77), (401, 77), (403, 77), (404, 78), (429, 75), (500, 75)] {
        let what = format!("token endpoint, {status}");
        let arrange = |world: &World| world.scm.answer_tokens_always(Some(Fault::EchoAuthorization(status)));
        shows_nothing(&what, arrange, |setup| setup, code, HIDDEN).await;
    }
}

#[tokio::test]
async fn a_token_answer_that_is_none_is_not_quoted() {
    for (what, body) in [
        ("no token in it", format!("{{\"token\":\"eyJ.x\",\"secret\":{CLIENT_SECRET:?}}}")),
        ("a token of another type", format!("{{\"access_token\":[\"eyJ.x{CLIENT_MARK}\"]}}")),
        ("a token that no header can carry", format!("{{\"access_token\":\"eyJ.\\n{CLIENT_MARK}\"}}")),
        ("no JSON", format!("eyJ.x {CLIENT_SECRET}")),
        ("half a token", format!("{{\"access_token\":\"eyJ.x{CLIENT_MARK}")),
        ("nothing", String::new()),
    ] {
        let arrange = |world: &World| world.scm.answer_tokens_always(Some(Fault::Body(body.clone())));
        shows_nothing(what, arrange, |setup| setup, 75, "contains no access token").await;
    }
}

#[tokio::test]
async fn an_intake_that_echoes_the_key_is_quoted_without_it() {
    for (status, code) in [(400, 78), (401, 77), (403, 77), (404, 78), (413, 78), (422, 78), (429, 75), (500, 75)] {
        let what = format!("intake, {status}");
        let arrange = |world: &World| world.intake.answer_always(Some(Fault::EchoAuthorization(status)));
        shows_nothing(&what, arrange, |setup| setup, code, HIDDEN).await;
    }
}

#[tokio::test]
async fn an_intake_that_accepts_and_echoes_the_key_is_not_quoted() {
    let arrange = |world: &World| world.intake.answer_always(Some(Fault::EchoAuthorization(202)));
    shows_nothing("intake, 202", arrange, |setup| setup, 0, "synced").await;
}

#[tokio::test]
async fn a_rejected_record_is_kept_with_a_reason_that_holds_no_key() {
    for format in FORMATS {
        let world = World::new().await;
        // The faults meet both records, then the first one whole and as text; later requests are accepted.
        for _ in 0..3 {
            world.intake.script(Fault::EchoAuthorization(400));
        }
        let setup = world.setup(format);
        let ended = setup.run(&[]).await;
        assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
        let rejected = setup.dead_letters();
        assert_eq!(rejected.len(), 1, "{}", ended.stderr);
        let reason = rejected[0]["reason"].as_str().unwrap();
        assert!(reason.contains(ECHO) && reason.contains(HIDDEN), "{reason}");
        nothing_shown("dead letter", &setup, &ended);
    }
}

/// Targets of redirects, with the secret that `who` knows in every part and every spelling.
fn locations(elsewhere: &FakeIntake, secret: &str) -> [String; 6] {
    let url = elsewhere.url();
    let form: String = form_urlencoded::byte_serialize(secret.as_bytes()).collect();
    let percent = form.replace('+', "%20");
    [
        format!("{url}/login?secret={form}&access_token=eyJ.x"),
        format!("{url}/{form}/login#eyJ.x"),
        format!("{url}/{percent}/login"),
        format!("/login?next={form}"),
        format!("//me:{CLIENT_MARK}@127.0.0.1:9/login"),
        format!("http://me:{KEY_MARK}@127.0.0.1:9/{secret}"),
    ]
}

async fn a_redirect_is_not_followed(what: &str, secret: &str, arrange: impl Fn(&World, Fault)) {
    let elsewhere = FakeIntake::start(IntakeOptions::default()).await;
    for location in locations(&elsewhere, secret) {
        let what = format!("{what} redirects to {location}");
        let arrange = |world: &World| arrange(world, Fault::Redirect(location.clone()));
        shows_nothing(&what, arrange, |setup| setup, 78, "a redirect to").await;
    }
    assert_eq!(elsewhere.hits(), 0, "{what}: nothing followed");
}

#[tokio::test]
async fn a_redirect_from_the_api_is_neither_followed_nor_shown_with_secrets() {
    a_redirect_is_not_followed("API", CLIENT_SECRET, |world, fault| world.scm.answer_always(Some(fault))).await;
}

#[tokio::test]
async fn a_redirect_from_the_token_endpoint_is_neither_followed_nor_shown_with_secrets() {
    a_redirect_is_not_followed("token endpoint", CLIENT_SECRET, |world, fault| {
        world.scm.answer_tokens_always(Some(fault));
    })
    .await;
}

#[tokio::test]
async fn a_redirect_from_the_intake_is_neither_followed_nor_shown_with_secrets() {
    a_redirect_is_not_followed("intake", API_KEY, |world, fault| world.intake.answer_always(Some(fault))).await;
}

#[tokio::test]
async fn a_token_endpoint_that_is_not_trusted_is_named_without_secrets() {
    for uri in [
        format!("https://evil.example/token?client_secret={IN_A_FORM}"),
        format!("https://evil.example/{IN_A_FORM}/token"),
        format!("https://me:{CLIENT_MARK}@evil.example/token"),
    ] {
        for format in FORMATS {
            let world =
                World::with(ScmOptions { advertise_auth: AdvertiseAuth::Other(uri.clone()), ..Default::default() })
                    .await;
            let setup = world.setup(format).without("SECTIGO_AUDIT_API_TOKEN_URL");
            let ended = setup.run(&[]).await;
            assert_eq!(ended.code(), Some(78), "{}", ended.stderr);
            assert!(ended.stderr.contains("evil.example") && ended.stderr.contains("SECTIGO_AUDIT_API_TOKEN_URL"));
            nothing_shown(&uri, &setup, &ended);
        }
    }
}

#[tokio::test]
async fn check_shows_no_secret() {
    for (status, told) in [(403, "FAILED   API key"), (500, "unknown  API key")] {
        for format in FORMATS {
            let world = World::new().await;
            world.intake.answer_validate_always(Some(Fault::EchoAuthorization(status)));
            world.intake.answer_always(Some(Fault::EchoAuthorization(403)));
            world.scm.answer_always(Some(Fault::EchoAuthorization(500)));
            let setup = world.setup(format);
            let ended = setup.run(&["check"]).await;
            assert!(ended.stdout.contains(told) && ended.stdout.contains(HIDDEN), "{}", ended.stdout);
            nothing_shown("check", &setup, &ended);
        }
    }
}

#[tokio::test]
async fn a_secret_in_any_wrong_variable_is_not_shown() {
    // A secret in the vendor's form, and a key of the usual form.
    for secret in ["=HUNTER4711hunterJQZNp]d2C8DIf1qM", "hunter4711hunter0123456789abcdef"] {
        let world = World::new().await;
        for variable in auditsync::pipeline::registry::variables() {
            let setup = world.setup("json").with(variable.name, secret);
            let ended = setup.run(&[]).await;
            assert_ne!(ended.code(), Some(70), "{}", variable.name);
            nothing_shown(variable.name, &setup, &ended);
        }
    }
}

#[tokio::test]
async fn an_address_with_a_password_is_not_shown() {
    let world = World::new().await;
    for name in ["SECTIGO_AUDIT_API_URL", "SECTIGO_AUDIT_API_TOKEN_URL", "DD_LOGS_CONFIG_LOGS_DD_URL", "DD_SITE"] {
        for address in [
            format!("https://me:{CLIENT_MARK}@audit.example.com"),
            format!("https://{KEY_MARK}@audit.example.com/"),
            format!("https://audit.example.com/?key={KEY_MARK}"),
            format!("https://audit.example.com/#{KEY_MARK}"),
            format!("me:{CLIENT_MARK}@audit.example.com:443"),
        ] {
            let setup = world.setup("text").with(name, address.as_str());
            let ended = setup.run(&[]).await;
            assert_eq!(ended.code(), Some(78), "{name}={address}: {}", ended.stderr);
            assert!(ended.stderr.contains(&format!("{name}=[hidden]: ")), "{}", ended.stderr);
            nothing_shown(name, &setup, &ended);
        }
    }
    assert_eq!((world.scm.hits(), world.intake.hits()), (0, 0));
}

#[tokio::test]
async fn a_secret_that_cannot_be_used_is_not_shown() {
    let world = World::new().await;
    for key in [format!("{KEY_MARK}\n"), format!(" {KEY_MARK}"), format!("'{KEY_MARK}'"), format!("{KEY_MARK}ü")] {
        let setup = world.setup("text").with("DD_API_KEY", key.as_str());
        let ended = setup.run(&[]).await;
        assert_eq!(ended.code(), Some(78), "{key:?}: {}", ended.stderr);
        assert!(ended.stderr.contains("DD_API_KEY=[hidden]: "), "{}", ended.stderr);
        nothing_shown(&key, &setup, &ended);
    }
}

#[tokio::test]
async fn broken_lines_of_the_env_file_are_named_and_not_shown() {
    for line in [
        format!("SECTIGO_AUDIT_API_CLIENT_SECRET={CLIENT_MARK} and more"),
        format!("SECTIGO_AUDIT_API_CLIENT_SECRET=a${CLIENT_MARK}"),
        format!("SECTIGO_AUDIT_API_CLIENT_SECRET=a\"b{CLIENT_MARK}"),
        format!("SECTIGO_AUDIT_API_CLIENT_SECRET={CLIENT_MARK} #x"),
        format!("SECTIGO_AUDIT_API_CLIENT_SECRET=#{CLIENT_MARK}"),
        format!("SECTIGO_AUDIT_API_CLIENT_SECRET='{CLIENT_MARK}"),
        format!("SECTIGO_AUDIT_API_CLIENT_SECRET={CLIENT_MARK}\\"),
        format!("DD_API_KEY=it's {KEY_MARK}\nDD_ENV=it's"),
        format!("DD-API-KEY={KEY_MARK}"),
        format!("={CLIENT_MARK}"),
        CLIENT_MARK.to_owned(),
        format!("{CLIENT_MARK}=a b"),
        format!("HTTPS_PROXY=http://me:{PROXY_MARK}@proxy x"),
    ] {
        let setup = Setup::bare().with("SECTIGO_AUDIT_LOG_LEVEL", "trace");
        std::fs::write(setup.folder().join(".env"), format!("# a comment\n{line}\nDD_SITE=datadoghq.eu\n")).unwrap();
        for command in [&["run"][..], &["check"], &["state", "show"]] {
            let ended = setup.run(command).await;
            assert_eq!(ended.code(), Some(78), "{line}: {}", ended.everything());
            assert!(ended.stderr.contains(".env") && ended.stderr.contains("line 2"), "{line}: {}", ended.stderr);
            nothing_shown(&line, &setup, &ended);
        }
    }
}

#[tokio::test]
async fn an_env_file_that_is_no_text_is_not_shown() {
    let setup = Setup::bare();
    let file = [b"DD_API_KEY=APIKEY4711apikey\xff\n".as_slice(), b"HUNTER4711hunter\n"].concat();
    std::fs::write(setup.folder().join(".env"), file).unwrap();
    let ended = setup.run(&[]).await;
    assert_eq!(ended.code(), Some(78), "{}", ended.stderr);
    assert!(ended.stderr.contains("cannot read .env: stream did not contain valid UTF-8"), "{}", ended.stderr);
    nothing_shown(".env", &setup, &ended);
}

/// A proxy that answers every request alike, and passes on the requests that it got.
async fn proxy(answer: &'static str) -> (u16, mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (asked, questions) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut connection, _)) = listener.accept().await {
            let mut question = vec![0; 4096];
            let length = connection.read(&mut question).await.unwrap_or_default();
            question.truncate(length);
            let _ = asked.send(String::from_utf8_lossy(&question).into_owned());
            let _ = connection.write_all(answer.as_bytes()).await;
        }
    });
    (port, questions)
}

#[tokio::test]
async fn the_password_of_a_proxy_is_used_and_not_shown() {
    for answer in [
        "",
        "HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm=\"PROXY4711proxy\"\r\n\r\n",
        "HTTP/1.1 502 PROXY4711proxy\r\nContent-Length: 14\r\n\r\nPROXY4711proxy",
        "HTTP/1.1 302 Found\r\nLocation: http://me:PROXY4711proxy@127.0.0.1:9/\r\n\r\n",
        "PROXY4711proxy\r\n\r\n",
    ] {
        for (format, variable) in FORMATS.into_iter().zip(["HTTPS_PROXY", "https_proxy"]) {
            let world = World::new().await;
            let (port, mut questions) = proxy(answer).await;
            let setup = world
                .setup(format)
                .with("SECTIGO_AUDIT_API_URL", "https://audit.example.invalid")
                .with("SECTIGO_AUDIT_API_TOKEN_URL", "https://auth.example.invalid/token")
                .with(variable, format!("http://me:{PROXY_MARK}@127.0.0.1:{port}"));
            let ended = setup.run(&[]).await;
            assert_eq!(ended.code(), Some(75), "{answer:?}: {}", ended.stderr);
            assert!(ended.stderr.contains("auth.example.invalid"), "{}", ended.stderr);
            let question = questions.recv().await.unwrap();
            assert!(question.starts_with("CONNECT auth.example.invalid:443"), "{question}");
            assert!(
                question.to_lowercase().contains("proxy-authorization: basic "),
                "the password was used: {question}"
            );
            nothing_shown(answer, &setup, &ended);
        }
    }
}

#[tokio::test]
async fn the_password_of_a_proxy_that_is_not_there_or_makes_no_sense_is_not_shown() {
    let world = World::new().await;
    for (address, code) in [
        (format!("http://me:{PROXY_MARK}@127.0.0.1:1"), 75),
        (format!("https://me:{PROXY_MARK}@127.0.0.1:1"), 75),
        (format!("socks5://me:{PROXY_MARK}@127.0.0.1:1"), 78),
        (format!("ftp://me:{PROXY_MARK}@127.0.0.1:1"), 78),
        (format!("http://me:{PROXY_MARK}@[::"), 78),
        (format!("http://me:{PROXY_MARK}@127.0.0.1:99999"), 78),
        (format!("me:{PROXY_MARK}@"), 78),
        (format!("me {PROXY_MARK}"), 78),
    ] {
        for (format, variable) in FORMATS.into_iter().zip(["HTTPS_PROXY", "ALL_PROXY"]) {
            let setup = world
                .setup(format)
                // No server listens there, in case a request bypasses the proxy.
                .with("SECTIGO_AUDIT_API_URL", "https://127.0.0.1:1")
                .with("SECTIGO_AUDIT_API_TOKEN_URL", "https://127.0.0.1:1/token")
                .with(variable, address.as_str());
            let ended = setup.run(&[]).await;
            assert_eq!(ended.code(), Some(code), "{address}: {}", ended.stderr);
            assert!(
                code == 75 || ended.stderr.contains(&format!("{variable}=[hidden]: must be http")),
                "{}",
                ended.stderr
            );
            nothing_shown(&address, &setup, &ended);
        }
    }
}
