//! Reads the entries in the body of a request.

use bytes::Bytes;
use serde_json::value::RawValue;

use crate::members::{Member, members};

/// The most entries of a request to Datadog's intake.
const MOST_ENTRIES: usize = 1000;

/// The form of a body, by its content type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Content {
    /// JSON: an array, an object, or several one after another.
    Json,
    /// One entry, whose message is the body.
    Text,
    /// A framed stream of syslog: a length, a blank and a text, repeated.
    Logplex,
}

/// A reason why a body's entries cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Malformed {
    #[error("the content type is none of application/json, application/x-ndjson, text/plain and application/logplex-1")]
    ContentType,
    #[error("the body is not JSON: {0}")]
    NotJson(String),
    #[error("an entry is not a JSON object")]
    NotAnObject,
    #[error("the body is no framed stream of syslog")]
    NotFramed,
    #[error("the body has more than {MOST_ENTRIES} entries")]
    TooMany,
}

/// Defaults in a query, for members that an entry lacks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Defaults(pub(super) Vec<(&'static str, String)>);

/// The members for which a query can hold a default.
pub(super) const DEFAULTS: [&str; 4] = ["ddsource", "ddtags", "service", "hostname"];

/// The form of `body`, by the content type `named`.
pub(super) fn content(named: Option<&str>, body: &[u8]) -> Result<Content, Malformed> {
    let bare = named.and_then(|named| named.split(';').next()).unwrap_or_default().trim().to_ascii_lowercase();
    let looks_like_json = matches!(body.trim_ascii_start().first(), None | Some(b'{' | b'['));
    match bare.as_str() {
        "application/json" | "application/x-ndjson" | "application/ndjson" | "application/jsonl" | "text/json" => {
            Ok(Content::Json)
        }
        "text/plain" => Ok(Content::Text),
        "application/logplex-1" => Ok(Content::Logplex),
        _ if looks_like_json => Ok(Content::Json),
        "" => Ok(Content::Text),
        _ => Err(Malformed::ContentType),
    }
}

/// Reads the records of a body for Datadog's intake, each a JSON object. Skips empty objects, which only show that a
/// sender is alive.
pub(super) fn entries(body: &Bytes, content: Content, defaults: &Defaults) -> Result<Vec<Bytes>, Malformed> {
    let records = match content {
        Content::Json => objects(body)?,
        Content::Text if body.is_empty() => Vec::new(),
        Content::Text => vec![message(body)],
        Content::Logplex => framed(body)?.into_iter().map(message).collect(),
    };
    if records.len() > MOST_ENTRIES {
        return Err(Malformed::TooMany);
    }
    Ok(records.into_iter().map(|record| defaults.complete(record)).collect())
}

/// Reads the records of a body for Fluentd.
pub(super) fn records(body: &Bytes) -> Result<Vec<Bytes>, Malformed> {
    objects(body)
}

fn objects(body: &Bytes) -> Result<Vec<Bytes>, Malformed> {
    let malformed = |cause: serde_json::Error| Malformed::NotJson(without_content(&cause));
    let mut found = Vec::new();
    for value in serde_json::Deserializer::from_slice(body).into_iter::<&RawValue>() {
        let value = value.map_err(malformed)?.get();
        match value.as_bytes().first() {
            Some(b'[') => {
                let elements: Vec<&RawValue> = serde_json::from_str(value).map_err(malformed)?;
                for element in elements {
                    take(body, element.get(), &mut found)?;
                }
            }
            _ => take(body, value, &mut found)?,
        }
    }
    Ok(found)
}

fn take(body: &Bytes, value: &str, found: &mut Vec<Bytes>) -> Result<(), Malformed> {
    if !value.starts_with('{') {
        return Err(Malformed::NotAnObject);
    }
    if !value[1..value.len() - 1].trim().is_empty() {
        found.push(body.slice_ref(value.as_bytes()));
    }
    Ok(())
}

/// Describes the position of a JSON error, without the text there.
fn without_content(cause: &serde_json::Error) -> String {
    let kind = match cause.classify() {
        serde_json::error::Category::Eof => "it ends too early",
        _ => "a syntax error",
    };
    format!("{kind} in line {}, column {}", cause.line(), cause.column())
}

fn message(text: impl AsRef<[u8]>) -> Bytes {
    let text = String::from_utf8_lossy(text.as_ref());
    // A string always has a JSON form.
    let message = serde_json::to_string(&text).unwrap_or_default();
    format!("{{\"message\":{message}}}").into()
}

/// Splits a body by octet counting (RFC 6587, 3.4.1).
fn framed(mut body: &[u8]) -> Result<Vec<&[u8]>, Malformed> {
    let mut texts = Vec::new();
    loop {
        body = body.trim_ascii_start();
        if body.is_empty() {
            return Ok(texts);
        }
        let blank = memchr::memchr(b' ', body).ok_or(Malformed::NotFramed)?;
        let (length, rest) = body.split_at(blank);
        let length: usize =
            std::str::from_utf8(length).ok().and_then(|digits| digits.parse().ok()).ok_or(Malformed::NotFramed)?;
        let rest = rest.get(1..).unwrap_or_default();
        let (text, behind) = rest.split_at_checked(length).ok_or(Malformed::NotFramed)?;
        texts.push(text.trim_ascii_end());
        body = behind;
    }
}

impl Defaults {
    /// Reads the defaults in a query, percent-decoded.
    pub(super) fn of(query: &str) -> Self {
        let pairs = url::form_urlencoded::parse(query.as_bytes());
        let known = pairs.filter_map(|(name, value)| {
            let name = DEFAULTS.into_iter().find(|known| *known == name)?;
            (!value.is_empty()).then(|| (name, value.into_owned()))
        });
        let mut kept: Vec<(&'static str, String)> = Vec::new();
        for (name, value) in known {
            if kept.iter().all(|(other, _)| *other != name) {
                kept.push((name, value));
            }
        }
        Self(kept)
    }

    /// Puts the defaults that `record` lacks before its members. `record` must be an object with members.
    fn complete(&self, record: Bytes) -> Bytes {
        if self.0.is_empty() {
            return record;
        }
        let has = |name: &str| {
            members(&record).any(|Member { key, .. }| {
                let key = key.get(1..key.len().saturating_sub(1)).unwrap_or_default();
                key == name.as_bytes() || (name == "hostname" && key == b"host")
            })
        };
        let mut completed = vec![b'{'];
        for (name, value) in self.0.iter().filter(|(name, _)| !has(name)) {
            let value = serde_json::to_string(value).unwrap_or_default();
            completed.extend_from_slice(format!("\"{name}\":{value},").as_bytes());
        }
        completed.extend_from_slice(record.get(1..).unwrap_or_default());
        completed.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &str) -> Result<Vec<String>, Malformed> {
        let body = Bytes::copy_from_slice(body.as_bytes());
        let records = entries(&body, Content::Json, &Defaults::default())?;
        Ok(records.iter().map(|record| String::from_utf8_lossy(record).into_owned()).collect())
    }

    #[test]
    fn an_array_an_object_and_several_in_a_row_are_taken_as_they_are() {
        for (body, expected) in [
            (r#"[{"a":1}, {"b": 2}]"#, vec![r#"{"a":1}"#, r#"{"b": 2}"#]),
            (r#" {"a":1} "#, vec![r#"{"a":1}"#]),
            ("{\"a\":1}\n{\"b\":2}\n", vec![r#"{"a":1}"#, r#"{"b":2}"#]),
            (r#"{"a":1}{"b":2}"#, vec![r#"{"a":1}"#, r#"{"b":2}"#]),
            ("", vec![]),
            ("{ }", vec![]),
            ("[]", vec![]),
        ] {
            assert_eq!(read(body).unwrap(), expected, "{body}");
        }
    }

    #[test]
    fn what_is_not_json_is_refused_without_being_quoted() {
        for body in
            ["{\"secret\":", "[1]", "\"secret\"", "[{\"a\":1},2]", "{\"a\":1} secret", "[[{\"a\":1}]]", "\u{feff}{}"]
        {
            let error = read(body).unwrap_err().to_string();
            assert!(!error.contains("secret"), "{error}");
        }
        let broken = Bytes::from_static(b"{\"a\":\"\xff\"}");
        assert!(entries(&broken, Content::Json, &Defaults::default()).is_err());
    }

    #[test]
    fn a_thousand_entries_are_the_most() {
        let many = |n: usize| format!("[{}]", vec![r#"{"a":1}"#; n].join(","));
        assert_eq!(read(&many(1000)).unwrap().len(), 1000);
        assert_eq!(read(&many(1001)), Err(Malformed::TooMany));
    }

    #[test]
    fn a_query_gives_what_an_entry_lacks() {
        let defaults = Defaults::of("ddtags=env%3Aprod,team:a%2Bb&service=EZCA&hostname=h&x=y&service=other");
        let complete = |record: &'static str| {
            serde_json::from_slice::<serde_json::Value>(&defaults.complete(Bytes::from_static(record.as_bytes())))
                .unwrap()
        };
        assert_eq!(
            complete(r#"{"message":"m"}"#),
            serde_json::json!({"ddtags":"env:prod,team:a+b","service":"EZCA","hostname":"h","message":"m"})
        );
        assert_eq!(
            complete(r#"{"service":"own","host":"x"}"#),
            serde_json::json!({"ddtags":"env:prod,team:a+b","service":"own","host":"x"})
        );
    }

    #[test]
    fn a_text_is_one_entry_and_a_framed_stream_one_for_each_frame() {
        let text = entries(&Bytes::from_static(b"a \"b\"\n"), Content::Text, &Defaults::default()).unwrap();
        assert_eq!(&text[0][..], br#"{"message":"a \"b\"\n"}"#);
        let body = Bytes::from_static(b"7 <1>1 a\n5 <2> b");
        let two = entries(&body, Content::Logplex, &Defaults::default()).unwrap();
        assert_eq!(
            two.iter().map(|record| &record[..]).collect::<Vec<_>>(),
            [&br#"{"message":"<1>1 a"}"#[..], br#"{"message":"<2> b"}"#]
        );
        assert!(entries(&Bytes::from_static(b"900 <1>"), Content::Logplex, &Defaults::default()).is_err());
    }

    #[test]
    fn a_content_type_is_looked_up_in_the_body_where_it_is_missing() {
        for (named, body, expected) in [
            (Some("application/json; charset=utf-8"), "x", Ok(Content::Json)),
            (Some("application/json;simple"), "{}", Ok(Content::Json)),
            (Some("application/x-ndjson"), "{}", Ok(Content::Json)),
            (Some("text/plain"), "{}", Ok(Content::Text)),
            (None, " [", Ok(Content::Json)),
            (None, "text", Ok(Content::Text)),
            (Some("application/x-www-form-urlencoded"), "{\"a\":1}", Ok(Content::Json)),
            (Some("application/msgpack"), "\u{81}", Err(Malformed::ContentType)),
        ] {
            assert_eq!(content(named, body.as_bytes()), expected, "{named:?} {body}");
        }
    }
}
