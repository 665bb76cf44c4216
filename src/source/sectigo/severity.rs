//! The severity of an event, by the words of its action and the beginning of its outcome.

use std::borrow::Cow;

use crate::event::{Event, Field, Severity, Verbatim};

/// Beginnings of outcomes, in any case, that make an event an error, whatever its action.
pub const FAILED_OUTCOMES: &[&str] = &["fail", "err", "den", "rej"];

/// Severities by the words of an action; the first row that fits counts. A `*` stands for any ending.
pub const ACTIONS: &[(Severity, &[&str])] = &[
    (Severity::Warn, &["revo*", "delet*", "remov*", "purg*", "destroy*"]),
    (Severity::Warn, &["role*", "permission*", "privilege*", "grant*"]),
    (Severity::Warn, &["ca", "authority", "authorities", "root", "intermediate", "issuer"]),
    (Severity::Notice, &["disabl*", "enabl*", "suspend*", "lock*", "unlock*", "block*", "expir*"]),
    (Severity::Notice, &["password*", "credential*", "secret*", "key", "keys", "mfa", "escrow*", "export*"]),
    (Severity::Notice, &["fail*", "error*", "reject*", "declin*", "den*"]),
];

/// The severity of `event`.
pub fn of(event: &Event) -> Severity {
    let text = |field| match event.verbatim(field) {
        Some(Verbatim::Plain(text)) => Some(Cow::Borrowed(text)),
        _ => event.text(field).map(|text| Cow::Owned(text.into_owned().into_bytes())),
    };
    severity(text(Field::Action).as_deref(), text(Field::Outcome).as_deref())
}

/// The severity of an event with this action and outcome, as text.
fn severity(action: Option<&[u8]>, outcome: Option<&[u8]>) -> Severity {
    let failed = |outcome: &[u8]| FAILED_OUTCOMES.iter().any(|beginning| begins(outcome, beginning.as_bytes()));
    if outcome.is_some_and(failed) {
        return Severity::Error;
    }
    let Some(action) = action else { return Severity::Info };
    words(action).filter_map(row).min().map_or(Severity::Info, |first| ACTIONS[first].0)
}

/// The first row of [`ACTIONS`] that `word` fits.
fn row(word: &[u8]) -> Option<usize> {
    let rows = ROWS[usize::from(*word.first()?)];
    let fits = |row: &usize| rows & (1 << row) != 0 && ACTIONS[*row].1.iter().any(|pattern| matches(word, pattern));
    (0..ACTIONS.len()).find(fits)
}

/// For each letter, a bit for each row of [`ACTIONS`] with a pattern that begins with it. So most words skip the other
/// rows.
const ROWS: [u8; 256] = {
    let mut rows = [0; 256];
    let mut row = 0;
    while row < ACTIONS.len() {
        let mut pattern = 0;
        while pattern < ACTIONS[row].1.len() {
            let first = ACTIONS[row].1[pattern].as_bytes()[0];
            rows[first.to_ascii_lowercase() as usize] |= 1 << row;
            rows[first.to_ascii_uppercase() as usize] |= 1 << row;
            pattern += 1;
        }
        row += 1;
    }
    rows
};

fn begins(text: &[u8], beginning: &[u8]) -> bool {
    text.get(..beginning.len()).is_some_and(|start| start.eq_ignore_ascii_case(beginning))
}

fn matches(word: &[u8], pattern: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(beginning) => begins(word, beginning.as_bytes()),
        None => word.eq_ignore_ascii_case(pattern.as_bytes()),
    }
}

/// Splits `certificate_revoked`, `certificateRevoked` or `Certificate revoked` into words.
fn words(action: &[u8]) -> impl Iterator<Item = &[u8]> {
    action.split(|byte| !byte.is_ascii_alphanumeric()).flat_map(|part| {
        let mut rest = part;
        std::iter::from_fn(move || {
            let is_hump = |pair: &[u8]| pair[0].is_ascii_lowercase() && pair[1].is_ascii_uppercase();
            let hump = rest.windows(2).position(is_hump);
            let (word, behind) = rest.split_at(hump.map_or(rest.len(), |before| before + 1));
            rest = behind;
            (!word.is_empty()).then_some(word)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_outcome_is_an_error_whatever_the_action() {
        for outcome in ["FAILURE", "failed", "Error", "DENIED", "rejected"] {
            assert_eq!(severity(Some(b"login"), Some(outcome.as_bytes())), Severity::Error, "{outcome}");
        }
        assert_eq!(severity(Some(b"login"), Some(b"SUCCESS")), Severity::Info);
        assert_eq!(severity(Some(b"login"), Some("é".as_bytes())), Severity::Info);
    }

    #[test]
    fn the_words_of_an_action_decide() {
        for (action, expected) in [
            ("certificate_revoked", Severity::Warn),
            ("certificateRevoked", Severity::Warn),
            ("Delete domain", Severity::Warn),
            ("roleChanged", Severity::Warn),
            ("CA_CREATED", Severity::Warn),
            ("webhook_send_failure", Severity::Notice),
            ("PasswordReset", Severity::Notice),
            ("schedule", Severity::Info),
            ("certificate_issued", Severity::Info),
            ("enrolled", Severity::Info),
            ("", Severity::Info),
        ] {
            assert_eq!(severity(Some(action.as_bytes()), None), expected, "{action}");
        }
        assert_eq!(severity(None, None), Severity::Info);
    }

    #[test]
    fn the_document_of_the_events_shows_the_table() {
        let row = |(severity, patterns): &(Severity, &[&str])| {
            let patterns: Vec<_> = patterns.iter().map(|pattern| format!("`{pattern}`")).collect();
            format!("| `{}` | {} |\n", severity.name(), patterns.join(" "))
        };
        let rows: Vec<_> = ACTIONS.iter().map(row).collect();
        let table = format!("| status | words |\n|---|---|\n{}| `info` | all others |\n", rows.concat());
        let document = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/EVENTS.md")).unwrap();
        let shown =
            document.split("<!-- severities -->\n").nth(1).and_then(|rest| rest.split("<!-- /severities -->").next());
        assert_eq!(shown, Some(table.as_str()), "put this between the marks in docs/EVENTS.md:\n{table}");
    }

    #[test]
    fn words_are_cut_at_humps_and_separators() {
        assert_eq!(words(b"aB__cDe-F g").collect::<Vec<_>>(), [&b"a"[..], b"B", b"c", b"De", b"F", b"g"]);
        assert_eq!(words(b"CAKey").collect::<Vec<_>>(), [b"CAKey"]);
    }
}
