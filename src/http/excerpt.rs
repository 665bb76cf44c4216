//! Makes text from a server safe to log: it hides secrets, escapes control characters and caps the length.

use std::fmt;

use secrecy::{ExposeSecret, SecretString};

mod spellings;

/// The longest excerpt, in bytes of the foreign text.
const LONGEST: usize = 300;

/// Secrets that a server may echo, in every likely spelling.
#[derive(Default)]
pub struct Redaction(Vec<SecretString>);

impl Redaction {
    /// Hides nothing, for calls without a secret.
    pub fn none() -> Self {
        Self::default()
    }

    /// Hides `secrets` as they are, form-encoded, percent-encoded, as JSON strings, in hex, and in base64, also inside a longer base64 text.
    pub fn of<'a>(secrets: impl IntoIterator<Item = &'a SecretString>) -> Self {
        let mut spellings = Vec::new();
        for secret in secrets {
            spellings.extend(spellings::of(secret.expose_secret()));
        }
        // The longest comes first, since a spelling that contains another must be hidden before it.
        spellings.sort_by(|one, other| other.len().cmp(&one.len()).then_with(|| one.cmp(other)));
        spellings.dedup();
        Self(spellings.into_iter().map(SecretString::from).collect())
    }

    pub(super) fn apply(&self, text: &str) -> String {
        self.0.iter().fold(text.to_owned(), |text, secret| text.replace(secret.expose_secret(), "[hidden]"))
    }
}

/// The beginning of a foreign text, safe to log and on one line; none if it must not be shown.
#[derive(Clone)]
pub struct Excerpt(Option<String>);

impl Excerpt {
    /// Makes an excerpt. It hides secrets before it cuts the text, so that no part of a secret stays at the cut.
    pub fn of(text: &[u8], redaction: &Redaction) -> Self {
        // No secret is longer than this, so a secret that begins later cannot reach into the excerpt.
        let near = &text[..text.len().min(64 * 1024)];
        let clean = redaction.apply(&String::from_utf8_lossy(near));
        let mut shown: String = clean.chars().take(LONGEST).flat_map(char::escape_debug).collect();
        if clean.chars().count() > LONGEST {
            shown.push('…');
        }
        Self(Some(shown))
    }

    /// Makes an excerpt of text that may hold records. With `is_redacting`, values of records must not leave the
    /// process. The excerpt then shows nothing, because no pointer reaches into unreadable text.
    pub fn of_records(text: &[u8], redaction: &Redaction, is_redacting: bool) -> Self {
        if is_redacting { Self(None) } else { Self::of(text, redaction) }
    }
}

impl fmt::Display for Excerpt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(text) if text.is_empty() => f.write_str("(nothing)"),
            Some(text) => write!(f, "\"{text}\""),
            None => f.write_str("(not shown, because values of records are redacted)"),
        }
    }
}

impl fmt::Debug for Excerpt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_echoed_secret_is_hidden_in_every_spelling() {
        let secret = SecretString::from("=m0 s\"fj");
        let redaction = Redaction::of([&secret]);
        let body = br#"plain ==m0 s"fj form %3Dm0+s%22fj json "=m0 s\"fj""#;
        let shown = Excerpt::of(body, &redaction).to_string();
        assert!(!shown.contains("m0"), "{shown}");
        assert_eq!(shown.matches("[hidden]").count(), 3, "{shown}");
    }

    #[test]
    fn a_secret_in_a_spelling_of_the_servers_own_shows_none_of_its_runs() {
        let redaction = Redaction::of([&SecretString::from("=m0sfj!RQZNp]d2C8DIf1qM8V6jjnAEy")]);
        for body in [
            "\\u003dm0sfj!RQZNp]d2C8DIf1qM8V6jjnAEy",
            "%3dm0sfj!RQZNp%5Dd2C8DIf1qM8V6jjnAEy",
            "&#61;m0sfj!RQZNp&#93;d2C8DIf1qM8V6jjnAEy",
        ] {
            let shown = Excerpt::of(body.as_bytes(), &redaction).to_string();
            assert!(!shown.contains("d2C8DI"), "{shown}");
        }
    }

    #[test]
    fn a_secret_at_the_cut_leaves_no_part_behind() {
        let secret = SecretString::from("0123456789");
        for lead in LONGEST - 12..LONGEST + 2 {
            let body = format!("{}0123456789", "x".repeat(lead));
            let shown = Excerpt::of(body.as_bytes(), &Redaction::of([&secret])).to_string();
            assert!(!shown.contains('0'), "{shown}");
        }
    }

    #[test]
    fn foreign_text_cannot_forge_a_log_line() {
        let shown = Excerpt::of(b"a\nINFO forged\x1b[2J\xff", &Redaction::none()).to_string();
        assert!(!shown.contains(['\n', '\x1b']), "{shown}");
    }

    #[test]
    fn an_excerpt_is_short() {
        assert!(Excerpt::of(&b"x".repeat(100_000), &Redaction::none()).to_string().len() < LONGEST + 10);
    }
}
