//! The address of an intake other than the site's, in the forms that the Datadog Agent accepts: `host:port` or a URL.

use url::Url;

use crate::config::parse::{http_url, without_trailing_slash};
use crate::http::is_loopback;

/// The path that follows the intake's base address. An operator may have written it already.
const PATH: &str = "/api/v2/logs";

/// Reads a base address. As with the Agent, a scheme in `text` decides; without one it is `http` if `allow_http`, or
/// else `https`.
pub(super) fn parse(text: &str, allow_http: bool) -> Result<Url, String> {
    if !text.contains(['.', ':']) {
        // The Agent knows no form of a single word. It is more likely a key in the wrong variable.
        return Err("must be host:port or an address that begins with https://".to_owned());
    }
    let url = if text.contains("://") {
        http_url(text)?
    } else {
        let scheme = if allow_http { "http" } else { "https" };
        http_url(&format!("{scheme}://{text}"))?
    };
    if url.scheme() == "http" && !allow_http && !is_loopback(&url) {
        return Err("is plain http to another machine, where others may read the key and the entries; \
            write https://, or set DD_LOGS_CONFIG_LOGS_NO_SSL=true for a relay in your own network"
            .to_owned());
    }
    let mut url = without_trailing_slash(url);
    if let Some(base) = url.path().strip_suffix(PATH).map(str::to_owned) {
        url.set_path(&base);
    }
    Ok(without_trailing_slash(url))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_the_agent_is_taken() {
        for (text, allow_http, expected) in [
            ("intake.example.com:443", false, "https://intake.example.com/"),
            ("intake.example.com", false, "https://intake.example.com/"),
            ("https://intake.example.com", false, "https://intake.example.com/"),
            ("https://intake.example.com/", true, "https://intake.example.com/"),
            ("localhost:8080", false, "https://localhost:8080/"),
            ("localhost:8080", true, "http://localhost:8080/"),
            ("relay:8282", true, "http://relay:8282/"),
            ("http://relay:8282", true, "http://relay:8282/"),
            ("http://[::1]:8282", false, "http://[::1]:8282/"),
        ] {
            assert_eq!(parse(text, allow_http).unwrap().as_str(), expected, "{text}");
        }
    }

    #[test]
    fn the_intakes_own_path_is_taken_away_and_a_base_path_kept() {
        for (text, expected) in [
            ("https://intake.example.com/api/v2/logs", "https://intake.example.com/"),
            ("https://intake.example.com/api/v2/logs/", "https://intake.example.com/"),
            ("intake.example.com:8443/api/v2/logs", "https://intake.example.com:8443/"),
            ("https://proxy.example.com/dd/api/v2/logs", "https://proxy.example.com/dd"),
            ("https://proxy.example.com/dd//api/v2/logs", "https://proxy.example.com/dd"),
            ("https://proxy.example.com/dd/", "https://proxy.example.com/dd"),
        ] {
            assert_eq!(parse(text, false).unwrap().as_str(), expected, "{text}");
        }
    }

    #[test]
    fn plain_http_needs_this_machine_or_a_clear_word() {
        let rule = parse("http://relay.internal:8282", false).unwrap_err();
        assert!(rule.contains("DD_LOGS_CONFIG_LOGS_NO_SSL=true"), "{rule}");
        assert!(parse("http://127.0.0.1:8282", false).is_ok());
    }

    #[test]
    fn what_is_no_place_is_refused() {
        for text in ["me:pw@intake.example.com:443", "tcp://intake.example.com:10516", "a b:443", "host:port", ":443"] {
            assert!(parse(text, false).is_err(), "{text}");
            assert!(parse(text, true).is_err(), "{text}");
        }
    }
}
