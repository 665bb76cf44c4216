//! Classifies failed calls to Google Cloud Storage, and puts them into words.

use std::error::Error as StdError;

use google_cloud_auth::errors::CredentialsError;
use google_cloud_gax::error::Error as CallError;
use google_cloud_storage::error::ReadError;

use crate::failure::Chain;
use crate::http::{Excerpt, Redaction};

/// Why a call failed. The texts are safe to log.
#[derive(Debug)]
pub(super) enum Failure {
    /// The server answered with this HTTP status.
    Status { code: u16, text: String },
    /// There are no credentials, or no access token could be had for them.
    Credentials(String),
    /// No whole answer or no access token arrived. The call may work later.
    Unavailable(String),
    /// The answer does not say which generation the object has.
    NoGeneration(Side),
    /// The object is larger than `most` bytes.
    TooLarge { most: usize },
}

/// The kind of a call.
#[derive(Debug, Clone, Copy)]
pub(super) enum Side {
    Read,
    Write,
}

impl Failure {
    /// Classifies the error of a call.
    pub(super) fn of(error: &CallError) -> Self {
        if let Some(code) = error.http_status_code() {
            return Self::Status { code, text: answered(code, error) };
        }
        if error.is_authentication() {
            return Self::of_credentials(error);
        }
        match causes::<ReadError>(error).next() {
            Some(ReadError::MissingHeader("x-goog-generation")) => Self::NoGeneration(Side::Read),
            _ => Self::Unavailable(told(error)),
        }
    }

    /// Classifies the error of getting an access token.
    pub(super) fn of_credentials(error: &(dyn StdError + 'static)) -> Self {
        let refusal = causes::<CredentialsError>(error).last();
        let text = told(refusal.map_or(error, |refusal| refusal));
        let passing = refusal.is_some_and(CredentialsError::is_transient);
        // The library tries the metadata server last. If its name does not resolve, this is not one of Google's machines, and there
        // are no credentials. If it resolves and does not answer, it may only be starting.
        let told = Chain(error).to_string();
        let found = !told.contains("dns error") || told.contains("googleapis.com");
        if passing && found { Self::Unavailable(text) } else { Self::Credentials(text) }
    }

    /// Whether the object has another generation than the call named, or is missing.
    pub(super) fn says_that_the_condition_failed(&self) -> bool {
        match self {
            Self::Status { code: 412, .. } => true,
            Self::Status { code: 404, text } => text.contains("No such object"),
            _ => false,
        }
    }

    /// Whether the bucket, and not only the object, is missing.
    pub(super) fn says_that_the_bucket_is_missing(&self) -> bool {
        matches!(self, Self::Status { code: 404, text } if text.contains("bucket does not exist"))
    }
}

/// The write permission that Google calls missing, if `text` names one.
pub(super) fn permission_in(text: &str) -> Option<&'static str> {
    ["storage.objects.create", "storage.objects.delete"].into_iter().find(|permission| text.contains(permission))
}

fn answered(code: u16, error: &CallError) -> String {
    let said = match (error.status(), error.http_payload()) {
        (Some(status), _) => status.message.clone(),
        (None, Some(body)) => String::from_utf8_lossy(body).into_owned(),
        (None, None) => String::new(),
    };
    format!("it answered {code}: {}", excerpt(&said))
}

/// The error's text, without what the library says that it will do next. The client drops the session, so the library does not do it.
fn told(error: &(dyn StdError + 'static)) -> String {
    const FORETOLD: [&str; 2] = [" and future attempts will not succeed", " but future attempts may succeed"];
    let text = FORETOLD.iter().fold(Chain(error).to_string(), |text, foretold| text.replace(foretold, ""));
    excerpt(&text).to_string()
}

/// Those of the error and its causes that have the type `T`, the deepest last.
fn causes<'a, T: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a T> {
    std::iter::successors(Some(error), |&error| error.source()).filter_map(|error| error.downcast_ref())
}

/// An excerpt without anything that looks like a token or a key. Only Google's library knows the credentials, so an echo of them cannot
/// be recognised exactly.
fn excerpt(text: &str) -> Excerpt {
    Excerpt::of(without_tokens(text).as_bytes(), &Redaction::none())
}

/// Hides each run of twenty or more token characters that has small letters, capital letters and digits. That covers refresh and access
/// tokens, parts of a JWT and client secrets. Words, addresses and names of permissions are not such runs.
fn without_tokens(text: &str) -> String {
    const SHORTEST: usize = 20;
    let is_of_a_token = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    let hide = |run: &str| {
        let has = |kind: fn(&char) -> bool| run.chars().any(|c| kind(&c));
        let telling = has(char::is_ascii_digit) && has(char::is_ascii_lowercase) && has(char::is_ascii_uppercase);
        run.len() >= SHORTEST && telling
    };
    let mut clean = String::with_capacity(text.len());
    let mut rest = text;
    while !rest.is_empty() {
        let run = &rest[..rest.find(|c| !is_of_a_token(c)).unwrap_or(rest.len())];
        clean.push_str(if hide(run) { "[hidden]" } else { run });
        rest = &rest[run.len()..];
        let between = &rest[..rest.find(is_of_a_token).unwrap_or(rest.len())];
        clean.push_str(between);
        rest = &rest[between.len()..];
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_looks_like_a_token_is_hidden() {
        for token in [
            "ya29.a0AfH6SMBx-3kq9Zc_1hTtVb8",
            "1//0gLx7Qw5mN2pRCgYIARAAGBASNwF-L9IrXyZ",
            "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",
            "eyJhbGciOiJSUzI1NiIsInR5cCI6IkpXVCJ9",
        ] {
            let clean = without_tokens(&format!("refused: <{token}>, and more"));
            assert!(clean.starts_with("refused: <") && clean.ends_with(">, and more"), "{clean}");
            let longest = token.split(['.', '/']).max_by_key(|part| part.len()).unwrap();
            assert!(clean.contains("[hidden]") && !clean.contains(longest), "{clean}");
        }
    }

    #[test]
    fn words_and_addresses_stay() {
        let text = "unsupported_grant_type: my-audit-sync-account-2@my-project-123456.iam.gserviceaccount.com does not have \
                    storage.objects.create access; see https://cloud.google.com/storage/docs/gcs429 (é, 20260101T000000Z)";
        assert_eq!(without_tokens(text), text);
    }
}
