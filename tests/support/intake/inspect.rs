//! Checks one request against the documented rules.
//!
//! It reads entries in place in the body, and only the parts that a rule is about. So a drain of a hundred thousand
//! entries measures the sender and not this check.

use std::ops::RangeInclusive;

use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use bytes::Bytes;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::super::encoding;
use super::super::fault::Fault;
use super::IntakeOptions;

pub(super) const MAX_BODY_BYTES: usize = 5_000_000;
const MAX_ENTRIES: usize = 1000;
const MAX_ENTRY_BYTES: usize = 1_000_000;

const HOUR_MS: i64 = 60 * 60 * 1000;
/// How far an event's time may lie from the present.
const ACCEPTED_AGE_MS: RangeInclusive<i64> = -2 * HOUR_MS..=18 * HOUR_MS;

/// Datadog reads a status by its first letters, so that `FAILURE` becomes an emergency. It reads these as they are
/// meant.
const STATUSES: [&str; 10] =
    ["emergency", "alert", "critical", "error", "warning", "warn", "notice", "info", "debug", "ok"];

pub(super) struct Inspection {
    /// The uncompressed body.
    pub(super) body: Bytes,
    pub(super) sent_bytes: usize,
    pub(super) encoding: String,
    pub(super) entries: usize,
    /// The number of entries outside the times that the intake keeps.
    pub(super) dropped: usize,
    /// The `evt.id` of each kept entry that has one.
    pub(super) ids: Vec<String>,
    pub(super) violations: Vec<String>,
    /// The status and the reason of a refusal, which applies even with a valid key.
    pub(super) refusal: Option<(u16, String)>,
    /// The fault with which a firewall meets the request.
    pub(super) fault: Option<Fault>,
}

/// Checks a request against the rules, by a clock that is `ahead` seconds ahead of the real one.
pub(super) fn inspect(headers: &HeaderMap, sent: Bytes, options: &IntakeOptions, ahead: i64) -> Inspection {
    let mut inspection = Inspection {
        body: Bytes::new(),
        sent_bytes: sent.len(),
        encoding: text(headers, &header::CONTENT_ENCODING).unwrap_or_else(|| "identity".into()),
        entries: 0,
        dropped: 0,
        ids: Vec::new(),
        violations: header_violations(headers),
        refusal: None,
        fault: None,
    };
    match encoding::decode(&inspection.encoding, sent) {
        Ok(body) => inspection.read_body(&body, options, ahead),
        Err(error) => inspection.breach(400, format!("the body cannot be decoded: {error}")),
    }
    inspection
}

impl Inspection {
    fn read_body(&mut self, body: &Bytes, options: &IntakeOptions, ahead: i64) {
        self.body = body.clone();
        let entries: Vec<&RawValue> = match serde_json::from_slice(body) {
            Ok(entries) => entries,
            Err(error) => {
                return self.breach(400, format!("the body is not a JSON array: {error}"));
            }
        };
        self.entries = entries.len();
        if body.len() > MAX_BODY_BYTES {
            self.breach(413, format!("the body has {} bytes", body.len()));
        } else if body.len() > options.max_body_bytes {
            self.refusal = Some((413, "Payload too large".into()));
        }
        match entries.len() {
            0 => self.breach(400, "no entries".into()),
            1..=MAX_ENTRIES => {}
            n => self.breach(413, format!("{n} entries")),
        }
        let ahead = if options.is_relay { 0 } else { ahead };
        let now = Timestamp::now().as_millisecond() + ahead * 1000;
        for (i, entry) in entries.iter().enumerate() {
            let mut wrong = |text: String| self.violations.push(format!("entry {i}: {text}"));
            if entry.get().len() > MAX_ENTRY_BYTES {
                wrong(format!("{} bytes, would be cut", entry.get().len()));
            }
            match serde_json::from_str::<Entry<'_>>(entry.get()) {
                Ok(entry) => {
                    let is_kept = entry.is_kept(now);
                    // A client that has not seen this clock yet cannot follow it.
                    if !is_kept && ahead == 0 {
                        wrong(format!("`timestamp` {:?} lies outside what is kept", entry.timestamp));
                    }
                    entry.check(wrong);
                    self.dropped += usize::from(!is_kept);
                    self.ids.extend(entry.id().filter(|_| is_kept));
                }
                Err(error) => wrong(format!("not an entry: {error}")),
            }
        }
        if let Some((dislikes, fault)) = &options.firewall
            && entries
                .iter()
                .any(|entry| dislikes.holds(&serde_json::from_str(entry.get()).expect("was parsed before")))
        {
            self.fault = Some(fault.clone());
        }
        if self.refusal.is_none() && is_poisonous(&entries, options) {
            self.refusal = Some((400, "Invalid payload".into()));
        }
    }

    fn breach(&mut self, status: u16, text: String) {
        self.violations.push(text.clone());
        self.refusal.get_or_insert((status, text));
    }
}

/// The parts of an entry that the rules are about. Values stay raw, because their type is part of the rules.
#[derive(Deserialize)]
struct Entry<'a> {
    #[serde(borrow)]
    ddsource: Option<&'a RawValue>,
    #[serde(borrow)]
    ddtags: Option<&'a RawValue>,
    #[serde(borrow)]
    service: Option<&'a RawValue>,
    #[serde(borrow)]
    hostname: Option<&'a RawValue>,
    #[serde(borrow)]
    message: Option<&'a RawValue>,
    #[serde(borrow)]
    status: Option<&'a RawValue>,
    #[serde(borrow)]
    timestamp: Option<&'a RawValue>,
    #[serde(borrow)]
    evt: Option<EventAttributes<'a>>,
}

/// The attributes under `evt`.
#[derive(Deserialize)]
struct EventAttributes<'a> {
    #[serde(borrow)]
    id: Option<&'a RawValue>,
}

impl Entry<'_> {
    /// Whether the intake keeps its time `now`; an unreadable time is another matter.
    fn is_kept(&self, now: i64) -> bool {
        let time = self.timestamp.and_then(|time| time.get().parse::<i64>().ok());
        time.is_none_or(|time| ACCEPTED_AGE_MS.contains(&(now.saturating_sub(time))))
    }

    fn check(&self, mut wrong: impl FnMut(String)) {
        let required = [
            ("ddsource", self.ddsource),
            ("service", self.service),
            ("hostname", self.hostname),
            ("message", self.message),
            ("status", self.status),
        ];
        for (key, value) in required {
            if !value.is_some_and(is_string) {
                wrong(format!("`{key}` is missing or not a string"));
            }
        }
        if self.ddtags.is_some_and(|tags| !is_string(tags)) {
            wrong("`ddtags` is not one string".into());
        }
        if let Some(source) = self.ddsource.filter(|source| source.get().contains(char::is_uppercase)) {
            wrong(format!("`ddsource` is not in lower case: {source}"));
        }
        if let Some(status) = self.status.filter(|status| !STATUSES.contains(&status.get().trim_matches('"'))) {
            wrong(format!("`status` would be misread: {status}"));
        }
        match self.timestamp.map(|time| time.get().parse::<i64>()) {
            Some(Ok(_)) => {}
            Some(Err(_)) => wrong("`timestamp` is not an integer".into()),
            None => wrong("`timestamp` is missing".into()),
        }
    }

    /// The id as text, from a string or a number.
    fn id(&self) -> Option<String> {
        let raw = self.evt.as_ref()?.id?.get();
        Some(serde_json::from_str(raw).unwrap_or_else(|_| raw.to_owned()))
    }
}

fn is_string(value: &RawValue) -> bool {
    value.get().starts_with('"')
}

fn is_poisonous(entries: &[&RawValue], options: &IntakeOptions) -> bool {
    let IntakeOptions { poison, poison_text, .. } = options;
    if poison.is_none() && poison_text.is_none() {
        return false;
    }
    entries.iter().any(|entry| {
        let entry: Value = serde_json::from_str(entry.get()).expect("was parsed before");
        [poison, poison_text].into_iter().flatten().any(|asks| asks.holds(&entry))
    })
}

fn header_violations(headers: &HeaderMap) -> Vec<String> {
    let mut violations = Vec::new();
    if text(headers, &header::USER_AGENT).is_none_or(|agent| agent.is_empty()) {
        violations.push("no User-Agent".into());
    }
    let content_type = text(headers, &header::CONTENT_TYPE).unwrap_or_default();
    if content_type.split(';').next() != Some("application/json") {
        violations.push(format!("Content-Type {content_type:?}"));
    }
    if headers.contains_key("dd-protocol") {
        violations.push("DD-PROTOCOL is not for us".into());
    }
    violations
}

fn text(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    let value = headers.get(name).map(HeaderValue::as_bytes)?;
    Some(String::from_utf8_lossy(value).into_owned())
}
