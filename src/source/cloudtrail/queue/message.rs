//! Reads a message of the queue: finds the new objects that it names.
//!
//! Forms: S3's event notifications, directly or wrapped by SNS
//! (<https://docs.aws.amazon.com/AmazonS3/latest/userguide/notification-content-structure.html>), `EventBridge`'s
//! (<https://docs.aws.amazon.com/AmazonS3/latest/userguide/ev-events.html>), and `CloudTrail`'s own, which always come through SNS
//! (<https://docs.aws.amazon.com/awscloudtrail/latest/userguide/configure-sns-notifications-for-cloudtrail.html>).

use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;

use super::super::ahead::Wanted;
use crate::http::{Excerpt, Redaction};

/// The most wrappers around a message. SNS and `EventBridge` may wrap one another, but no deeper.
const MOST_WRAPPERS: usize = 3;

/// The most objects that one message may name. A message has at most 1 MiB.
const MOST_OBJECTS: usize = 2_000;

/// The content of a message.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// These objects were written.
    Objects(Vec<Wanted>),
    /// No object for us, but this, in words for the log.
    Nothing(&'static str),
}

/// A test by S3 or `CloudTrail` whether it can write to the queue.
const TEST: Content = Content::Nothing("a test event");

/// A request of SNS to confirm a subscription, or the notice that one has ended.
const SUBSCRIPTION: Content = Content::Nothing("a message about a subscription");

/// Another event of an object.
const NOT_CREATED: Content = Content::Nothing("no event about a new object");

const EMPTY: Content = Content::Nothing("an empty list of events");

/// A message that may name an object, but in no known form. It must not be deleted.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotUnderstood {
    /// It is not JSON.
    #[error("it is not JSON; it begins with {beginning}")]
    NotJson {
        /// The beginning of the message.
        beginning: Excerpt,
    },
    /// It has no known form.
    #[error("it is none of the known notifications; it begins with {beginning}")]
    UnknownForm {
        /// The beginning of the message.
        beginning: Excerpt,
    },
    /// S3 has changed the format of its events.
    #[error(
        "its event has the version {version}, and this version of auditsync knows versions 2.x; a newer auditsync may know it"
    )]
    NewVersion {
        /// The version.
        version: Excerpt,
    },
    /// A key is not encoded as S3 encodes it.
    #[error("the key {key} in it is not URL-encoded UTF-8")]
    BadKey {
        /// The key.
        key: Excerpt,
    },
    /// It names more objects than any notification does.
    #[error("it names more than {MOST_OBJECTS} objects")]
    TooMany,
}

/// Reads the body of a message.
pub(super) fn read(body: &str) -> Result<Content, NotUnderstood> {
    let mut text = std::borrow::Cow::Borrowed(body);
    for _ in 0..MOST_WRAPPERS {
        if is_validation(&text) {
            return Ok(TEST);
        }
        let Ok(value) = serde_json::from_str::<Value>(&text) else {
            return Err(NotUnderstood::NotJson { beginning: excerpt(&text) });
        };
        match unwrapped(value) {
            Unwrapped::Inner(inner) => text = inner.into(),
            Unwrapped::Read(content) => return content,
            Unwrapped::Unknown => break,
        }
    }
    Err(NotUnderstood::UnknownForm { beginning: excerpt(body) })
}

/// Whether it is the message that `CloudTrail` sends when a trail gets a topic.
fn is_validation(text: &str) -> bool {
    text.trim().trim_matches('"').trim_end_matches('.').eq_ignore_ascii_case("CloudTrail validation message")
}

fn excerpt(text: &str) -> Excerpt {
    Excerpt::of(text.as_bytes(), &Redaction::none())
}

enum Unwrapped {
    /// The content of a wrapper, such as SNS's.
    Inner(String),
    /// A notification, which may name objects.
    Read(Result<Content, NotUnderstood>),
    Unknown,
}

fn unwrapped(value: Value) -> Unwrapped {
    // A message that is a JSON string with JSON in it.
    if let Value::String(inner) = value {
        return Unwrapped::Inner(inner);
    }
    let text = |name: &str| value.get(name).and_then(Value::as_str);
    match text("Type") {
        Some("Notification") => {
            return text("Message").map_or(Unwrapped::Unknown, |inner| Unwrapped::Inner(inner.to_owned()));
        }
        Some("SubscriptionConfirmation" | "UnsubscribeConfirmation") => {
            return Unwrapped::Read(Ok(SUBSCRIPTION));
        }
        _ => {}
    }
    if text("Event") == Some("s3:TestEvent") {
        return Unwrapped::Read(Ok(TEST));
    }
    if let (Some("aws.s3"), Some(kind)) = (text("source"), text("detail-type")) {
        return if kind == "Object Created" { event_bridge(&value) } else { Unwrapped::Read(Ok(NOT_CREATED)) };
    }
    if value.get("s3ObjectKey").is_some() {
        return own_notification(value);
    }
    match value.get("Records") {
        Some(Value::Array(records)) => Unwrapped::Read(s3_events(records, &value)),
        _ => Unwrapped::Unknown,
    }
}

/// Reads an event of `EventBridge`, whose key is not encoded.
fn event_bridge(value: &Value) -> Unwrapped {
    let at = |path: &str| value.pointer(path).and_then(Value::as_str).filter(|text| !text.is_empty());
    match (at("/detail/bucket/name"), at("/detail/object/key")) {
        (Some(bucket), Some(key)) => Unwrapped::Read(objects([Wanted {
            bucket: bucket.into(),
            key: key.to_owned(),
            size: size(value, "/detail/object/size"),
        }])),
        _ => Unwrapped::Unknown,
    }
}

/// Reads `CloudTrail`'s own notification: several keys of one bucket, not encoded.
fn own_notification(value: Value) -> Unwrapped {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Own {
        s3_bucket: Arc<str>,
        s3_object_key: Keys,
    }
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Keys {
        One(String),
        Several(Vec<String>),
    }
    let Ok(Own { s3_bucket: bucket, s3_object_key }) = serde_json::from_value(value) else { return Unwrapped::Unknown };
    let keys = match s3_object_key {
        Keys::One(key) => vec![key],
        Keys::Several(keys) => keys,
    };
    Unwrapped::Read(objects(keys.into_iter().map(|key| Wanted { bucket: Arc::clone(&bucket), key, size: 0 })))
}

/// Reads S3's own events, of which a message may hold several. Errors quote `whole`.
fn s3_events(records: &[Value], whole: &Value) -> Result<Content, NotUnderstood> {
    let unknown = || NotUnderstood::UnknownForm { beginning: excerpt(&whole.to_string()) };
    if records.is_empty() {
        return Ok(EMPTY);
    }
    let mut created = Vec::new();
    for record in records {
        let at = |path: &str| record.pointer(path).and_then(Value::as_str);
        // Compatible stores name themselves: minio:s3, ceph:s3.
        if !at("/eventSource").is_some_and(|source| source.ends_with(":s3")) {
            return Err(unknown());
        }
        if let Some(version) = at("/eventVersion").filter(|version| !version.starts_with("2.")) {
            return Err(NotUnderstood::NewVersion { version: excerpt(version) });
        }
        let event = at("/eventName").ok_or_else(unknown)?;
        if !event.trim_start_matches("s3:").starts_with("ObjectCreated:") {
            continue;
        }
        let (Some(bucket), Some(key)) = (at("/s3/bucket/name"), at("/s3/object/key")) else { return Err(unknown()) };
        let key = decoded(key).ok_or_else(|| NotUnderstood::BadKey { key: excerpt(key) })?;
        created.push(Wanted { bucket: bucket.into(), key, size: size(record, "/s3/object/size") });
    }
    if created.is_empty() { Ok(NOT_CREATED) } else { objects(created) }
}

fn size(value: &Value, path: &str) -> u64 {
    value.pointer(path).and_then(Value::as_u64).unwrap_or_default()
}

fn objects(named: impl IntoIterator<Item = Wanted>) -> Result<Content, NotUnderstood> {
    let named: Vec<_> = named.into_iter().take(MOST_OBJECTS + 1).collect();
    match named.len() {
        0 => Ok(EMPTY),
        1..=MOST_OBJECTS => Ok(Content::Objects(named)),
        _ => Err(NotUnderstood::TooMany),
    }
}

/// Decodes a key in S3's events, which are encoded like a form: a `+` is a space.
fn decoded(key: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(key.len());
    let mut rest = key.as_bytes();
    while let [first, behind @ ..] = rest {
        rest = behind;
        match first {
            b'+' => bytes.push(b' '),
            b'%' => {
                let ([high, low], behind) = behind.split_first_chunk::<2>()?;
                let digit = |byte: &u8| char::from(*byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
                bytes.push(digit(high)? << 4 | digit(low)?);
                rest = behind;
            }
            other => bytes.push(*other),
        }
    }
    String::from_utf8(bytes).ok().filter(|key| !key.is_empty())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const KEY: &str = "AWSLogs/123456789012/CloudTrail/us-east-1/2026/11/29/a b+c=é.json.gz";
    const ENCODED: &str = "AWSLogs/123456789012/CloudTrail/us-east-1/2026/11/29/a+b%2Bc%3D%C3%A9.json.gz";

    fn named(key: &str, size: u64) -> Wanted {
        Wanted { bucket: "trail".into(), key: key.to_owned(), size }
    }

    fn s3_event(version: &str, name: &str, key: &str) -> Value {
        json!({
            "eventVersion": version, "eventSource": "aws:s3", "awsRegion": "us-east-1", "eventName": name,
            "s3": {"s3SchemaVersion": "1.0", "bucket": {"name": "trail"}, "object": {"key": key, "size": 1024, "sequencer": "0A"}},
        })
    }

    fn sns(message: &str) -> String {
        json!({"Type": "Notification", "MessageId": "1", "TopicArn": "arn:aws:sns:us-east-1:1:t", "Message": message})
            .to_string()
    }

    #[test]
    fn every_form_names_its_object() {
        let direct = json!({"Records": [s3_event("2.1", "ObjectCreated:Put", ENCODED)]}).to_string();
        let bridge = json!({
            "version": "0", "source": "aws.s3", "detail-type": "Object Created",
            "detail": {"version": "0", "bucket": {"name": "trail"}, "object": {"key": KEY, "size": 5}, "reason": "PutObject"},
        })
        .to_string();
        let own = json!({"s3Bucket": "trail", "s3ObjectKey": [KEY]}).to_string();
        for (body, size) in [(direct, 1024), (bridge, 5), (own, 0)] {
            let objects = || Content::Objects(vec![named(KEY, size)]);
            assert_eq!(read(&body).unwrap(), objects(), "{body}");
            assert_eq!(read(&sns(&body)).unwrap(), objects(), "through SNS: {body}");
        }
    }

    #[test]
    fn every_event_of_the_second_version_is_read_and_one_of_the_third_is_refused_aloud() {
        for version in ["2.0", "2.1", "2.6", "2.99"] {
            let body =
                json!({"Records": [s3_event(version, "ObjectCreated:CompleteMultipartUpload", "k")]}).to_string();
            assert_eq!(read(&body).unwrap(), Content::Objects(vec![named("k", 1024)]));
        }
        for version in ["3.0", "20.1"] {
            let body = json!({"Records": [s3_event(version, "ObjectCreated:Put", "k")]}).to_string();
            let error = read(&body).unwrap_err().to_string();
            assert!(error.contains(&format!("version {version:?}")), "{error}");
        }
    }

    #[test]
    fn several_objects_of_one_message_are_all_named() {
        let created = |key| s3_event("2.1", "ObjectCreated:Put", key);
        let removed = s3_event("2.1", "ObjectRemoved:Delete", "gone");
        let body = json!({"Records": [created("1"), removed, created("2")]}).to_string();
        let own = json!({"s3Bucket": "trail", "s3ObjectKey": ["1", "2"]}).to_string();
        for (body, size) in [(body, 1024), (own, 0)] {
            assert_eq!(read(&body).unwrap(), Content::Objects(vec![named("1", size), named("2", size)]));
        }
    }

    #[test]
    fn what_names_no_new_object_is_known_by_its_reason() {
        let test = json!({"Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": "trail"}).to_string();
        let removed = json!({"Records": [s3_event("2.1", "ObjectRemoved:Delete", "k")]}).to_string();
        let tagged = json!({"source": "aws.s3", "detail-type": "Object Tags Added", "detail": {}}).to_string();
        for (body, reason) in [
            (test.clone(), TEST),
            (sns(&test), TEST),
            ("CloudTrail validation message.".to_owned(), TEST),
            (sns("CloudTrail validation message."), TEST),
            (json!({"Type": "SubscriptionConfirmation", "Token": "t"}).to_string(), SUBSCRIPTION),
            (removed, NOT_CREATED),
            (tagged, NOT_CREATED),
            (json!({"Records": []}).to_string(), EMPTY),
            (json!({"s3Bucket": "trail", "s3ObjectKey": []}).to_string(), EMPTY),
        ] {
            assert_eq!(read(&body).unwrap(), reason, "{body}");
        }
    }

    #[test]
    fn what_may_name_an_object_in_an_unknown_form_is_never_taken_for_nothing() {
        let log_file = json!({"Records": [{"eventVersion": "1.08", "eventSource": "ec2.amazonaws.com", "eventName": "RunInstances"}]});
        for body in [
            "",
            "hello",
            "null",
            "[]",
            "{}",
            "{\"Records\":{}}",
            "{\"Type\":\"Notification\"}",
            &log_file.to_string(),
            &json!({"source": "aws.s3", "detail-type": "Object Created", "detail": {"bucket": {}}}).to_string(),
            &json!({"Records": [s3_event("2.1", "ObjectCreated:Put", "%zz")]}).to_string(),
            &json!({"Records": [s3_event("2.1", "ObjectCreated:Put", "%ff")]}).to_string(),
            &json!({"s3Bucket": "trail", "s3ObjectKey": vec!["k"; MOST_OBJECTS + 1]}).to_string(),
            &sns(&sns(&sns(&sns("{}")))),
        ] {
            assert!(read(body).is_err(), "{body}");
        }
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(body in ".{0,200}") {
            let _ = read(&body);
        }

        #[test]
        fn each_key_survives_the_encoding_of_s3(key in ".{1,40}") {
            let encoded: String = url::form_urlencoded::byte_serialize(key.as_bytes()).collect();
            prop_assert_eq!(decoded(&encoded), Some(key));
        }
    }
}
