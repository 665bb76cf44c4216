//! Filters: conditions on the normalised fields of an event.
//!
//! ```text
//! filter      = alternative *( ";" alternative )     matches if one alternative matches
//! alternative = condition *( "," condition )         matches if every condition matches
//! condition   = field ( "=" | "!=" ) pattern
//! field       = "action" | "actor" | "category" | "outcome" | "service" | "severity"
//! pattern     = any text without "," and ";", in which "*" stands for any text and "?" for one character
//! ```
//!
//! Blanks around each part do not count. `=` matches if the field has a value that matches the pattern, and `!=` if it has none.

use std::str::FromStr;

use wildmatch::WildMatch;

use crate::event::{Event, Field, Severity};

/// Conditions on an event.
#[derive(Debug, Clone, PartialEq)]
pub struct Filter(Vec<Vec<Condition>>);

#[derive(Debug, Clone, PartialEq)]
struct Condition {
    what: What,
    is_negated: bool,
    pattern: WildMatch,
}

/// The part of an event that a condition tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    /// Any of these fields.
    Fields(&'static [Field]),
    Severity,
}

/// The fields by their names in a filter.
const FIELDS: [(&str, What); 6] = [
    ("action", What::Fields(&[Field::Action])),
    ("actor", What::Fields(&[Field::ActorId, Field::ActorName, Field::ActorEmail])),
    ("category", What::Fields(&[Field::Category])),
    ("outcome", What::Fields(&[Field::Outcome])),
    ("service", What::Fields(&[Field::Service])),
    ("severity", What::Severity),
];

/// The severities that a condition can name.
const SEVERITIES: [Severity; 4] = [Severity::Error, Severity::Warn, Severity::Notice, Severity::Info];

/// The rule that a text breaks, so that it is not a filter. A message shows only the number of a condition, from 1,
/// since its text may be a misplaced secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// A condition is empty.
    #[error("has nothing as condition {0}: a condition is a field, = or !=, and a pattern")]
    Empty(usize),
    /// A condition has no `=`.
    #[error("has no = or != in condition {0}")]
    Operator(usize),
    /// A condition names another field.
    #[error("names an unknown field in condition {0}; known are {known}", known = FIELDS.map(|(name, _)| name).join(", "))]
    Field(usize),
    /// A pattern begins with `=`, as in `action==login`.
    #[error("has == in condition {0}; write = or !=, and ? for an = at the beginning of a pattern")]
    Doubled(usize),
    /// A pattern matches no severity.
    #[error("names an unknown severity in condition {0}; known are {names}", names = SEVERITIES.map(Severity::name).join(", "))]
    Severity(usize),
    /// A condition has no pattern.
    #[error("has no pattern in condition {0}; * stands for any value")]
    Pattern(usize),
}

impl Filter {
    /// Whether `event` matches the filter.
    pub fn holds(&self, event: &Event) -> bool {
        self.0.iter().any(|conditions| conditions.iter().all(|condition| condition.holds(event)))
    }
}

impl Condition {
    fn holds(&self, event: &Event) -> bool {
        let matches = match self.what {
            What::Severity => self.pattern.matches(event.severity().name()),
            What::Fields(fields) => {
                fields.iter().any(|field| event.text(*field).is_some_and(|text| self.pattern.matches(&text)))
            }
        };
        matches != self.is_negated
    }
}

impl FromStr for Filter {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let mut number = 0;
        let mut condition = |text: &str| {
            number += 1;
            Condition::parse(text.trim(), number)
        };
        text.split(';').map(|all| all.split(',').map(&mut condition).collect()).collect::<Result<_, _>>().map(Self)
    }
}

impl Condition {
    fn parse(text: &str, number: usize) -> Result<Self, Invalid> {
        if text.is_empty() {
            return Err(Invalid::Empty(number));
        }
        let (field, pattern) = text.split_once('=').ok_or(Invalid::Operator(number))?;
        let (field, is_negated) = field.strip_suffix('!').map_or((field, false), |field| (field, true));
        let (field, pattern) = (field.trim(), pattern.trim());
        let (_, what) = FIELDS.iter().find(|(name, _)| *name == field).ok_or(Invalid::Field(number))?;
        if pattern.is_empty() {
            return Err(Invalid::Pattern(number));
        }
        if pattern.starts_with('=') {
            return Err(Invalid::Doubled(number));
        }
        let pattern = WildMatch::new(pattern);
        if *what == What::Severity && !SEVERITIES.iter().any(|severity| pattern.matches(severity.name())) {
            return Err(Invalid::Severity(number));
        }
        Ok(Self { what: *what, is_negated, pattern })
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use bytes::Bytes;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::*;
    use crate::event::Fields;

    fn event(fields: &[(Field, &str)]) -> Event {
        let fields = fields.iter().map(|(field, text)| (*field, Cow::Owned((*text).to_owned()))).collect();
        Event::new(Bytes::from_static(b"{}"), None, Fields::default()).with_derived(fields)
    }

    fn holds(filter: &str, event: &Event) -> bool {
        filter.parse::<Filter>().unwrap().holds(event)
    }

    #[test]
    fn all_conditions_of_one_alternative_have_to_hold() {
        let revoked = event(&[(Field::Action, "certificate.revoke"), (Field::Outcome, "success")]);
        for (filter, expected) in [
            ("action=certificate.revoke", true),
            ("action=certificate.*", true),
            (" action = certificate.* , outcome != success ", false),
            ("action=certificate.*,outcome=succes?", true),
            ("action=login;action=certificate.*", true),
            ("action=login,outcome=success;action=logout", false),
            ("action=Certificate.*", false),
            ("action=certificate", false),
            ("action=*=*;outcome=s*s", true),
        ] {
            assert_eq!(holds(filter, &revoked), expected, "{filter}");
        }
    }

    #[test]
    fn a_field_without_a_value_matches_nothing_and_differs_from_everything() {
        let bare = event(&[]);
        assert!(!holds("category=*", &bare) && holds("category!=*", &bare));
    }

    #[test]
    fn an_actor_is_whatever_names_one() {
        let by_mail = event(&[(Field::ActorId, "17"), (Field::ActorEmail, "ann@example.org")]);
        for filter in ["actor=17", "actor=*@example.org", "actor!=root"] {
            assert!(holds(filter, &by_mail), "{filter}");
        }
        assert!(!holds("actor!=17", &by_mail));
    }

    #[test]
    fn severity_is_compared_by_its_name() {
        let error = event(&[]).with_severity(Severity::Error);
        assert!(holds("severity=error", &error) && !holds("severity=info;severity=notice;severity=warn", &error));
        assert!(holds("severity=e*;severity=????", &error));
    }

    #[test]
    fn a_mistake_is_named() {
        for (filter, mistake) in [
            ("", "nothing as condition 1"),
            ("action=a,,outcome=b", "nothing as condition 2"),
            ("action=a;", "nothing as condition 2"),
            ("action=a;action", "no = or != in condition 2"),
            ("colour=red", "unknown field in condition 1; known are action, actor, category"),
            ("action!", "no = or != in condition 1"),
            ("action=a,actor=b;actor=", "no pattern in condition 3"),
            ("action=a;outcome==failure", "has == in condition 2"),
            ("outcome!= =failure", "has == in condition 1"),
            ("severity=warning", "unknown severity in condition 1; known are error, warn, notice, info"),
            ("action=a,severity!=ERROR", "unknown severity in condition 2"),
        ] {
            let message = filter.parse::<Filter>().unwrap_err().to_string();
            assert!(message.contains(mistake), "{filter}: {message}");
        }
    }

    fn conditions() -> impl Strategy<Value = (usize, bool, String)> {
        (0..FIELDS.len() - 1, any::<bool>(), "[a-z*?.!@é][a-z*?.=!@ é]{0,7}")
    }

    proptest! {
        #[test]
        fn what_is_written_is_what_is_read(alternatives in vec(vec(conditions(), 1..4), 1..4)) {
            let text = |(field, is_negated, pattern): &(usize, bool, String)| {
                format!("{}{}{pattern}", FIELDS[*field].0, if *is_negated { "!=" } else { "=" })
            };
            let texts = alternatives.iter().map(|all| all.iter().map(text).collect::<Vec<_>>().join(","));
            let text = texts.collect::<Vec<_>>().join(";");
            let condition = |(field, is_negated, pattern): (usize, bool, String)| Condition {
                what: FIELDS[field].1,
                is_negated,
                pattern: WildMatch::new(pattern.trim()),
            };
            let filter = Filter(alternatives.into_iter().map(|all| all.into_iter().map(condition).collect()).collect());
            prop_assert_eq!(text.parse::<Filter>(), Ok(filter));
        }

        #[test]
        fn no_text_makes_it_panic(text in "[a-z=!,;*? ]{0,40}", action in "[a-z]{0,6}") {
            if let Ok(filter) = text.parse::<Filter>() {
                let _ = filter.holds(&event(&[(Field::Action, &action)]));
            }
        }

        #[test]
        fn a_condition_and_its_opposite_never_agree(field in select(vec!["action", "actor", "category"]), pattern in "[a-z*?]{1,6}", text in "[a-z]{0,6}") {
            let event = event(&[(Field::Action, &text), (Field::ActorName, &text)]);
            prop_assert_ne!(holds(&format!("{field}={pattern}"), &event), holds(&format!("{field}!={pattern}"), &event));
        }
    }
}
