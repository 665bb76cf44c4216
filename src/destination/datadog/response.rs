//! What the intake's answers mean.

use reqwest::StatusCode;
use reqwest::header::{CONTENT_TYPE, HeaderMap};

/// The meaning of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meaning {
    /// Every entry is accepted.
    Accepted,
    /// A success that the intake would not give, such as a web page: a portal or proxy answered in its place.
    NotTheIntake,
    /// Something in the body is not acceptable: it is to be found by halving.
    BadPayload,
    /// The body, or one entry, is too large.
    TooLarge,
    /// The key is refused.
    KeyRefused,
    /// It may work later.
    Unavailable,
    /// The intake does not take such requests at all.
    Refused,
}

/// Reads an answer, redirects excepted. The codes are those of `docs.datadoghq.com/api/latest/logs` (send logs); the others by
/// the sense of RFC 9110.
pub fn meaning(status: StatusCode, headers: &HeaderMap) -> Meaning {
    match status.as_u16() {
        // What relays answer with, besides the documented 202.
        200 | 201 | 202 | 204 if !is_web_page(headers) => Meaning::Accepted,
        200..300 => Meaning::NotTheIntake,
        400 | 422 => Meaning::BadPayload,
        413 => Meaning::TooLarge,
        401 | 403 => Meaning::KeyRefused,
        408 | 425 | 429 | 500.. => Meaning::Unavailable,
        _ => Meaning::Refused,
    }
}

fn is_web_page(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    kind.trim_start().get(..9).is_some_and(|start| start.eq_ignore_ascii_case("text/html"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_documented_answer_is_understood() {
        for (status, expected) in [
            (202, Meaning::Accepted),
            (200, Meaning::Accepted),
            (400, Meaning::BadPayload),
            (401, Meaning::KeyRefused),
            (403, Meaning::KeyRefused),
            (408, Meaning::Unavailable),
            (413, Meaning::TooLarge),
            (429, Meaning::Unavailable),
            (500, Meaning::Unavailable),
            (503, Meaning::Unavailable),
            (404, Meaning::Refused),
            (407, Meaning::Refused),
        ] {
            assert_eq!(meaning(StatusCode::from_u16(status).unwrap(), &HeaderMap::new()), expected, "{status}");
        }
    }

    #[test]
    fn a_portals_page_is_no_acceptance() {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, "Text/HTML; charset=utf-8".parse().unwrap());
        assert_eq!(meaning(StatusCode::OK, &headers), Meaning::NotTheIntake);
        assert_eq!(meaning(StatusCode::PARTIAL_CONTENT, &HeaderMap::new()), Meaning::NotTheIntake);
        headers.insert(CONTENT_TYPE, "application/json".parse().unwrap());
        assert_eq!(meaning(StatusCode::OK, &headers), Meaning::Accepted);
    }
}
