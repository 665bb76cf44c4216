//! The meaning of the intake's answers.

use reqwest::StatusCode;
use reqwest::header::HeaderMap;
use serde::Deserialize;
use serde_json::Value;
use url::Url;

use crate::http::is_web_page;

/// Whose intake takes the entries, which decides what answers accept them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Intake {
    /// Datadog's own intake. It accepts with 202 and nothing else.
    Datadog,
    /// A relay or another vendor's intake. It accepts with 200, 201, 202 or 204, and a body that is empty or JSON.
    Other,
}

impl Intake {
    /// Classifies the intake at `url`, for an account of `site`. Any host in one of Datadog's domains is Datadog's own,
    /// however the operator configured it.
    pub fn at(url: &Url, site: &str) -> Self {
        let host = url.host_str().unwrap_or_default().trim_end_matches('.');
        let is_below =
            |domain: &str| host.strip_suffix(domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
        let is_datadogs = DOMAINS.iter().any(|domain| is_below(domain));
        if is_datadogs || host.strip_prefix("http-intake.logs.") == Some(site) { Self::Datadog } else { Self::Other }
    }
}

/// The domains of all Datadog sites (`docs.datadoghq.com/getting_started/site`).
pub(super) const DOMAINS: [&str; 3] = ["datadoghq.com", "datadoghq.eu", "ddog-gov.com"];

/// The meaning of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meaning {
    /// The intake accepted every entry.
    Accepted,
    /// A success that this intake would not give, such as a web page: a portal or proxy answered instead.
    NotTheIntake,
    /// A success whose body broke off before it showed who sent it.
    Unfinished,
    /// The intake refuses something in the body, which halving has to find.
    BadPayload,
    /// The body, or one entry, is too large.
    TooLarge,
    /// The intake rejects the key.
    KeyRejected,
    /// A later attempt may work.
    Unavailable,
    /// The intake does not take such requests at all.
    Refused,
}

/// The part of an answer's body that was read.
#[derive(Debug, Clone, Copy)]
pub enum Content<'a> {
    /// All of it.
    Whole(&'a [u8]),
    /// The beginning: the connection broke off, or the time limit passed.
    Beginning(&'a [u8]),
    /// More than any intake sends.
    TooMuch,
}

/// Classifies an answer that is not a redirect. Codes that `docs.datadoghq.com/api/latest/logs` (send logs) lists mean
/// what it says; the others follow RFC 9110.
pub fn meaning(intake: Intake, status: StatusCode, headers: &HeaderMap, content: Content<'_>) -> Meaning {
    match (status.as_u16(), intake) {
        (202, Intake::Datadog) if !is_web_page(headers) => Meaning::Accepted,
        (200 | 201 | 202 | 204, Intake::Other) if !is_web_page(headers) => of_another(status, content),
        (200..300, _) => Meaning::NotTheIntake,
        (400 | 422, _) => Meaning::BadPayload,
        (413, _) => Meaning::TooLarge,
        (401 | 403, _) => Meaning::KeyRejected,
        (408 | 425 | 429 | 500.., _) => Meaning::Unavailable,
        _ => Meaning::Refused,
    }
}

/// Classifies a success of another intake. A proxy's page is never empty and never JSON.
fn of_another(status: StatusCode, content: Content<'_>) -> Meaning {
    match content {
        Content::Whole(body) if is_confirmation(status, body) => Meaning::Accepted,
        Content::Whole(_) | Content::TooMuch => Meaning::NotTheIntake,
        Content::Beginning(body) if !begins_as_confirmation(body) => Meaning::NotTheIntake,
        // 202 is the documented acceptance, which no proxy answers of its own accord. Sending the entries again would
        // only make duplicates.
        Content::Beginning(_) if status == StatusCode::ACCEPTED => Meaning::Accepted,
        Content::Beginning(_) => Meaning::Unfinished,
    }
}

/// Whether a body is empty or JSON. With any status but the documented one, the JSON must list no errors.
fn is_confirmation(status: StatusCode, body: &[u8]) -> bool {
    if body.trim_ascii().is_empty() {
        return true;
    }
    let Ok(body) = serde_json::from_slice::<Value>(body) else { return false };
    if status == StatusCode::ACCEPTED {
        return true;
    }
    match body.get("errors") {
        None | Some(Value::Null | Value::Bool(false)) => true,
        Some(Value::Array(errors)) => errors.is_empty(),
        Some(_) => false,
    }
}

/// Whether the missing end could make the body empty, or JSON.
fn begins_as_confirmation(body: &[u8]) -> bool {
    body.trim_ascii().is_empty() || serde_json::from_slice::<Value>(body).err().is_none_or(|error| error.is_eof())
}

/// Whether an answer to the key check (`docs.datadoghq.com/api/latest/authentication`) says that the key is valid.
pub fn is_valid_key(status: StatusCode, body: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Validation {
        valid: bool,
    }
    status == StatusCode::OK && serde_json::from_slice::<Validation>(body).is_ok_and(|answer| answer.valid)
}

/// Whether a failure with this status may be about the entries, and not about the intake, its load or the key.
///
/// Web application firewalls answer with almost any status when they dislike a text. Only these are about the sender
/// alone: a missing key (401), a proxy's credentials (407), a replay (425) and load (429).
pub fn may_be_about_content(status: u16) -> bool {
    !matches!(status, 401 | 407 | 425 | 429)
}

#[cfg(test)]
mod tests {
    use reqwest::header::CONTENT_TYPE;

    use super::*;

    const BOTH: [Intake; 2] = [Intake::Datadog, Intake::Other];

    fn read(intake: Intake, status: u16, content: Content<'_>) -> Meaning {
        meaning(intake, StatusCode::from_u16(status).unwrap(), &HeaderMap::new(), content)
    }

    #[test]
    fn every_documented_answer_is_understood() {
        for (status, expected) in [
            (202, Meaning::Accepted),
            (400, Meaning::BadPayload),
            (401, Meaning::KeyRejected),
            (403, Meaning::KeyRejected),
            (408, Meaning::Unavailable),
            (413, Meaning::TooLarge),
            (429, Meaning::Unavailable),
            (500, Meaning::Unavailable),
            (503, Meaning::Unavailable),
            (404, Meaning::Refused),
            (407, Meaning::Refused),
        ] {
            for intake in BOTH {
                assert_eq!(read(intake, status, Content::Whole(b"{}")), expected, "{intake:?} {status}");
            }
        }
    }

    #[test]
    fn an_intake_of_datadogs_accepts_with_202_alone() {
        for status in (200..300).filter(|status| *status != 202) {
            for body in [&b""[..], b"{}"] {
                assert_eq!(read(Intake::Datadog, status, Content::Whole(body)), Meaning::NotTheIntake, "{status}");
            }
        }
        for content in [Content::Whole(b"{}"), Content::Whole(b""), Content::Beginning(b"{"), Content::TooMuch] {
            assert_eq!(read(Intake::Datadog, 202, content), Meaning::Accepted, "{content:?}");
        }
    }

    #[test]
    fn another_intake_accepts_with_nothing_or_with_json() {
        for status in [200, 201, 202, 204] {
            for body in ["", " \r\n", "{}", "{\"status\":\"ok\"}", "[]", "\"ok\"", "{\"errors\":[]}"] {
                assert_eq!(read(Intake::Other, status, Content::Whole(body.as_bytes())), Meaning::Accepted, "{body}");
            }
            for body in [
                "ok",
                "Access denied by policy",
                "{blocked}",
                "{} <p>blocked</p>",
                "<?xml version=\"1.0\"?><html/>",
                "\u{feff}{}",
                "{",
            ] {
                let content = Content::Whole(body.as_bytes());
                assert_eq!(read(Intake::Other, status, content), Meaning::NotTheIntake, "{status} {body}");
            }
            assert_eq!(read(Intake::Other, status, Content::TooMuch), Meaning::NotTheIntake);
            assert_eq!(read(Intake::Other, status, Content::Beginning(b"<htm")), Meaning::NotTheIntake);
        }
        let errors = Content::Whole(br#"{"errors":[{"status":"403"}]}"#);
        assert_eq!(read(Intake::Other, 200, errors), Meaning::NotTheIntake);
        assert_eq!(read(Intake::Other, 202, errors), Meaning::Accepted);
        assert_eq!(read(Intake::Other, 206, Content::Whole(b"")), Meaning::NotTheIntake);
    }

    #[test]
    fn an_acceptance_that_breaks_off_counts_with_the_documented_status_alone() {
        for beginning in [&b""[..], b"{", b"{\"stat", b"{}"] {
            assert_eq!(read(Intake::Other, 202, Content::Beginning(beginning)), Meaning::Accepted);
            assert_eq!(read(Intake::Other, 200, Content::Beginning(beginning)), Meaning::Unfinished);
        }
    }

    #[test]
    fn a_portals_page_is_no_acceptance() {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, "Text/HTML; charset=utf-8".parse().unwrap());
        for intake in BOTH {
            for status in [StatusCode::OK, StatusCode::ACCEPTED] {
                let page = meaning(intake, status, &headers, Content::Whole(b"{}"));
                assert_eq!(page, Meaning::NotTheIntake, "{intake:?} {status}");
            }
        }
    }

    #[test]
    fn an_intake_in_a_domain_of_datadogs_is_datadogs_own() {
        for (url, expected) in [
            ("https://http-intake.logs.datadoghq.com", Intake::Datadog),
            ("https://http-intake.logs.us5.datadoghq.com:443/", Intake::Datadog),
            ("https://HTTP-intake.logs.datadoghq.eu./", Intake::Datadog),
            ("https://http-intake.logs.xy9.example.org", Intake::Datadog),
            ("https://http-intake.logs.relay.example.org", Intake::Other),
            ("https://http-intake.logs.notdatadoghq.com", Intake::Other),
            ("https://datadoghq.com.example.org", Intake::Other),
            ("http://127.0.0.1:8282", Intake::Other),
        ] {
            assert_eq!(Intake::at(&url.parse().unwrap(), "xy9.example.org"), expected, "{url}");
        }
    }

    #[test]
    fn only_the_documented_answer_says_that_a_key_is_valid() {
        assert!(is_valid_key(StatusCode::OK, br#"{"valid":true}"#));
        for body in ["", "{}", "blocked", r#"{"valid":false}"#, "<html>"] {
            assert!(!is_valid_key(StatusCode::OK, body.as_bytes()), "{body}");
        }
        assert!(!is_valid_key(StatusCode::ACCEPTED, br#"{"valid":true}"#));
    }
}
