//! The Datadog site: a bare host name. Any name is accepted, because Datadog adds sites.

use url::Url;

/// A site, and the addresses that follow from it.
#[derive(Debug)]
pub(crate) struct Site {
    /// The site itself, such as `datadoghq.com`.
    pub(super) name: String,
    /// The logs intake.
    pub(super) intake: Url,
    /// The API.
    pub(super) api: Url,
}

/// The prefixes that people leave before the site when they copy an address.
const HOSTS: [&str; 3] = ["app.", "api.", "http-intake.logs."];

/// Accepts `text` only if it is a site as it stands. A wrong correction would show up only as a rejected key.
pub(super) fn parse(text: &str) -> Result<Site, String> {
    let bare = !HOSTS.iter().any(|host| text.starts_with(host)) && is_host_name(text);
    let place = |host: &str| Url::parse(&format!("https://{host}.{text}")).ok();
    if let (true, Some(intake), Some(api)) = (bare, place("http-intake.logs"), place("api")) {
        return Ok(Site { name: text.to_owned(), intake, api });
    }
    let hint = meant(text).map(|site| format!("; write {site}")).unwrap_or_default();
    Err(format!("must be the bare name of a Datadog site, such as datadoghq.com or us5.datadoghq.com{hint}"))
}

/// Finds the site in a text that looks like an address of Datadog.
fn meant(text: &str) -> Option<String> {
    // An address with a password gives no hint, because the hint could show a piece of the password.
    if text.contains('@') {
        return None;
    }
    let lower = text.to_ascii_lowercase();
    let host = lower.split_once("://").map_or(lower.as_str(), |(_, rest)| rest);
    let host = host.split(['/', '?', '#', ':']).next()?.trim_end_matches('.');
    let site = HOSTS.iter().find_map(|prefix| host.strip_prefix(prefix)).unwrap_or(host);
    let known = super::response::DOMAINS.iter().any(|known| site.ends_with(known));
    (known && is_host_name(site)).then(|| site.to_owned())
}

fn is_host_name(text: &str) -> bool {
    let label = |label: &str| {
        !label.is_empty() && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    text.contains('.') && text.split('.').all(label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_site_is_taken_and_gives_its_places() {
        for name in ["datadoghq.com", "us3.datadoghq.com", "datadoghq.eu", "us2.ddog-gov.com", "xy9.example.org"] {
            let site = parse(name).unwrap();
            assert_eq!(site.name, name);
            assert_eq!(site.intake.as_str(), format!("https://http-intake.logs.{name}/"));
            assert_eq!(site.api.as_str(), format!("https://api.{name}/"));
        }
    }

    #[test]
    fn what_is_no_site_is_told_what_to_write() {
        for (text, meant) in [
            ("app.datadoghq.com", "datadoghq.com"),
            ("https://app.datadoghq.eu/logs?x=y", "datadoghq.eu"),
            ("https://us5.datadoghq.com", "us5.datadoghq.com"),
            ("DatadogHQ.com", "datadoghq.com"),
            ("datadoghq.com/", "datadoghq.com"),
            ("datadoghq.com:443", "datadoghq.com"),
            ("datadoghq.com.", "datadoghq.com"),
            ("api.us3.datadoghq.com", "us3.datadoghq.com"),
            ("http-intake.logs.datadoghq.com", "datadoghq.com"),
        ] {
            let rule = parse(text).unwrap_err();
            assert!(rule.ends_with(&format!("; write {meant}")), "{text}: {rule}");
        }
    }

    #[test]
    fn what_cannot_be_guessed_gets_no_hint() {
        for text in [
            "us5",
            "data doghq.com",
            "a..b",
            ".com",
            "1.2",
            "https://me:pw@datadoghq.com",
            "https://hunter2.datadoghq.com:x@y.example",
            "hunter2.key:x",
        ] {
            let rule = parse(text).unwrap_err();
            assert!(rule.ends_with("us5.datadoghq.com"), "{text}: {rule}");
        }
    }
}
