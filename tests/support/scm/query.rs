//! The query of a request for records, read strictly.

use jiff::Timestamp;
use url::form_urlencoded;

/// A parsed query, and its breaches of the protocol.
#[derive(Default)]
pub(super) struct RecordsQuery {
    pub(super) from: Option<Timestamp>,
    pub(super) to: Option<Timestamp>,
    pub(super) token: Option<String>,
    pub(super) breaches: Vec<String>,
}

impl RecordsQuery {
    pub(super) fn parse(query: &str) -> Self {
        let mut parsed = Self::default();
        let mut seen = Vec::new();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            if seen.contains(&name) {
                parsed.breaches.push(format!("`{name}` twice"));
            }
            match &*name {
                "from" => parsed.from = parsed.time("from", &value),
                "to" => parsed.to = parsed.time("to", &value),
                "token" => parsed.token = Some(value.into_owned()),
                _ => parsed.breaches.push(format!("unknown parameter `{name}`")),
            }
            seen.push(name);
        }
        let has = |name: &str| seen.iter().any(|seen| seen == name);
        if !has("to") {
            parsed.breaches.push("no `to`".into());
        }
        if has("from") == has("token") {
            parsed.breaches.push("not exactly one of `from` and `token`".into());
        }
        if let (Some(from), Some(to)) = (parsed.from, parsed.to)
            && from >= to
        {
            parsed.breaches.push(format!("`from` {from} is not before `to` {to}"));
        }
        parsed
    }

    fn time(&mut self, name: &str, value: &str) -> Option<Timestamp> {
        let time = rfc3339(value);
        if time.is_none() {
            self.breaches.push(format!("`{name}` is not RFC 3339: {value:?}"));
        }
        time
    }
}

/// Parses a time of RFC 3339. This is stricter than jiff, which also accepts other forms of ISO 8601.
fn rfc3339(text: &str) -> Option<Timestamp> {
    let shape: String = text.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    let rest = shape.strip_prefix("0000-00-00T00:00:00")?;
    let zone = match rest.strip_prefix('.') {
        Some(fraction) if fraction.starts_with('0') => fraction.trim_start_matches('0'),
        Some(_) => return None,
        None => rest,
    };
    if !matches!(zone, "Z" | "+00:00" | "-00:00") {
        return None;
    }
    text.parse().ok()
}
