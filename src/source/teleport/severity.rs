//! The outcome and the severity of an event.

use crate::event::Severity;

/// Severities by the type of an event; the first row that fits counts. A `*` stands for any beginning or any ending.
///
/// An event that failed is an error, whatever its type.
pub(super) const TYPES: &[(Severity, &[&str])] = &[
    (Severity::Warn, &["role.*", "lock.*", "user.create", "user.update", "user.delete", "bot.create", "bot.delete"]),
    (Severity::Warn, &["github.*", "oidc.*", "saml.*", "trusted_cluster.*", "join_token.*", "access_list.*"]),
    (Severity::Warn, &["auth_preference.*", "cluster_networking_config.*", "session_recording_config.*"]),
    (Severity::Notice, &["access_request.*", "session.join", "session_recording.access", "privilege_token.*"]),
    (Severity::Notice, &["mfa.*", "device.*", "user.password_change", "reset_password_token.*", "recovery_code.*"]),
    (Severity::Notice, &["*.create", "*.created", "*.update", "*.updated", "*.delete", "*.deleted"]),
];

/// Types that are `Info` although a row fits: a cluster issues certificates all the time.
const ORDINARY: &[&str] = &["cert.create"];

/// The outcome of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Success,
    Failure,
}

impl Outcome {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failure => "failure",
        }
    }
}

/// Reads the outcome of an event from its member `success`, or else from the last letter of its code. `T1000I` is
/// information, `T1000W` a warning and `T3002E` an error. Warnings and errors are of attempts that failed or were
/// refused.
pub(super) fn outcome(success: Option<&[u8]>, code: Option<&str>) -> Option<Outcome> {
    match (success, code) {
        (Some(b"true"), _) => Some(Outcome::Success),
        (Some(b"false"), _) => Some(Outcome::Failure),
        (_, Some(code)) if code.starts_with('T') => match code.bytes().last() {
            Some(b'I') => Some(Outcome::Success),
            Some(b'W' | b'E') => Some(Outcome::Failure),
            _ => None,
        },
        _ => None,
    }
}

/// The severity of an event of the type `kind` with this outcome.
pub(super) fn of(kind: &str, outcome: Option<Outcome>) -> Severity {
    if outcome == Some(Outcome::Failure) {
        return Severity::Error;
    }
    let fits = |pattern: &&str| match (pattern.strip_prefix('*'), pattern.strip_suffix('*')) {
        (Some(ending), _) => kind.ends_with(ending),
        (_, Some(beginning)) => kind.starts_with(beginning),
        _ => kind == *pattern,
    };
    if ORDINARY.contains(&kind) {
        return Severity::Info;
    }
    let row = TYPES.iter().find(|(_, patterns)| patterns.iter().any(fits));
    row.map_or(Severity::Info, |(severity, _)| *severity)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn success_comes_before_the_code() {
        assert_eq!(outcome(Some(b"false"), Some("T1000I")), Some(Outcome::Failure));
        assert_eq!(outcome(Some(b"true"), Some("T1000W")), Some(Outcome::Success));
        assert_eq!(outcome(Some(b"null"), Some("T1000W")), Some(Outcome::Failure));
        for (code, expected) in [
            ("TJT00I", Some(Outcome::Success)),
            ("T3002E", Some(Outcome::Failure)),
            ("T1", None),
            ("", None),
            ("XI", None),
        ] {
            assert_eq!(outcome(None, Some(code)), expected, "{code}");
        }
        assert_eq!(outcome(None, None), None);
    }

    #[test]
    fn the_type_and_the_outcome_decide_the_severity() {
        for (kind, outcome, expected) in [
            ("user.login", Some(Outcome::Failure), Severity::Error),
            ("user.login", Some(Outcome::Success), Severity::Info),
            ("role.created", None, Severity::Warn),
            ("lock.created", Some(Outcome::Success), Severity::Warn),
            ("user.create", None, Severity::Warn),
            ("access_request.create", Some(Outcome::Success), Severity::Notice),
            ("access_request.review", Some(Outcome::Failure), Severity::Error),
            ("session.join", None, Severity::Notice),
            ("session.start", None, Severity::Info),
            ("cert.create", Some(Outcome::Success), Severity::Info),
            ("db.delete", None, Severity::Notice),
            ("something.new", None, Severity::Info),
            ("", None, Severity::Info),
        ] {
            assert_eq!(of(kind, outcome), expected, "{kind}");
        }
    }

    #[test]
    fn the_document_shows_the_table() {
        let row = |(severity, patterns): &(Severity, &[&str])| {
            let patterns: Vec<_> = patterns.iter().map(|pattern| format!("`{pattern}`")).collect();
            format!("| `{}` | {} |\n", severity.name(), patterns.join(" "))
        };
        let rows: Vec<_> = TYPES.iter().map(row).collect();
        let table =
            format!("| severity | types |\n|---|---|\n{}| `info` | all others, and `cert.create` |\n", rows.concat());
        let document = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/TELEPORT.md")).unwrap();
        let shown =
            document.split("<!-- severities -->\n").nth(1).and_then(|rest| rest.split("<!-- /severities -->").next());
        assert_eq!(shown, Some(table.as_str()), "put this between the marks in docs/TELEPORT.md:\n{table}");
    }
}
