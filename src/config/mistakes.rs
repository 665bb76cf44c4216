//! Mistakes in the configuration: collected, so that one run shows them all, and shown without any secret.

use std::fmt::{self, Write as _};

use super::variables::{self, VARIABLES};

/// The longest value that a message shows; what is longer is cut.
const SHOWN: usize = 120;

/// What stands for a value that is not shown.
const HIDDEN: &str = "[hidden]";

/// One variable that cannot be used as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    variable: String,
    shown: Option<String>,
    rule: String,
}

impl Mistake {
    /// The variable to correct.
    pub fn variable(&self) -> &str {
        &self.variable
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.shown {
            Some(shown) => write!(f, "{}={shown}: {}", self.variable, self.rule),
            None => write!(f, "{}: {}", self.variable, self.rule),
        }
    }
}

/// Why there is no configuration: every mistake, one a line.
#[derive(Debug, thiserror::Error)]
#[error("{}", self.text())]
pub struct ConfigError {
    mistakes: Vec<Mistake>,
    notes: Vec<String>,
}

impl ConfigError {
    /// The mistakes, in the order of the table of variables.
    pub fn mistakes(&self) -> &[Mistake] {
        &self.mistakes
    }

    fn text(&self) -> String {
        let mut text = match self.mistakes.len() {
            1 => "the configuration has a mistake:".to_owned(),
            count => format!("the configuration has {count} mistakes:"),
        };
        for mistake in &self.mistakes {
            let _ = write!(text, "\n  {mistake}");
        }
        for note in &self.notes {
            let _ = write!(text, "\n  note: {note}");
        }
        text
    }
}

/// A proof that a mistake has been collected: what comes instead of the value that could not be made.
#[derive(Debug, Clone, Copy)]
pub(super) struct Noted(());

/// Collects mistakes.
#[derive(Debug, Default)]
pub(super) struct Mistakes(Vec<Mistake>);

impl Mistakes {
    /// The value of `variable` breaks `rule`.
    pub(super) fn refuse(&mut self, variable: &str, value: &str, rule: impl Into<String>) -> Noted {
        let shown = if may_be_secret(variable, value) { HIDDEN.to_owned() } else { quoted(value) };
        self.add(variable, Some(shown), rule.into())
    }

    /// The value of `variable` breaks `rule` and is better not shown.
    pub(super) fn refuse_hidden(&mut self, variable: &str, rule: impl Into<String>) -> Noted {
        self.add(variable, Some(HIDDEN.to_owned()), rule.into())
    }

    /// `variable` breaks `rule` whatever its value.
    pub(super) fn refuse_name(&mut self, variable: &str, rule: impl Into<String>) -> Noted {
        self.add(variable, None, rule.into())
    }

    /// `variable` is needed and not there. One that is there and already refused is not reported again.
    pub(super) fn missing(&mut self, variable: &str, rule: impl Into<String>) -> Noted {
        if self.0.iter().any(|mistake| mistake.variable == variable) {
            return Noted(());
        }
        self.add(variable, None, rule.into())
    }

    fn add(&mut self, variable: &str, shown: Option<String>, rule: String) -> Noted {
        self.0.push(Mistake { variable: variable.to_owned(), shown, rule });
        Noted(())
    }

    /// What was `built`, if there is no mistake. The `notes` help to understand the mistakes.
    pub(super) fn conclude<T>(self, built: Result<T, Noted>, notes: &[String]) -> Result<T, ConfigError> {
        match built {
            Ok(built) if self.0.is_empty() => Ok(built),
            _ => {
                let mut mistakes = self.0;
                mistakes.sort_by_key(|mistake| VARIABLES.iter().position(|row| row.name == mistake.variable));
                Err(ConfigError { mistakes, notes: notes.to_vec() })
            }
        }
    }
}

/// Whether a message about `variable` must not show `value`: a secret, an address with a password or parameters, or
/// what looks like a key that was put in the wrong place.
fn may_be_secret(variable: &str, value: &str) -> bool {
    let secret = variables::find(variable).is_none_or(|row| row.secret);
    let address = value.contains('@') || (value.contains("://") && value.contains(['?', '#']));
    let key = value.len() >= 24
        && !value.contains(['.', '/', ':', ',', ' '])
        && value.contains(|c: char| c.is_ascii_digit())
        && value.contains(|c: char| c.is_ascii_alphabetic());
    secret || address || key
}

/// `value` on one line, cut where it is long.
fn quoted(value: &str) -> String {
    let cut: String = value.chars().take(SHOWN).collect();
    let more = if cut.len() < value.len() { "…" } else { "" };
    format!("{cut:?}{more}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(variable: &str, value: &str) -> String {
        let mut mistakes = Mistakes::default();
        let noted = mistakes.refuse(variable, value, "is wrong");
        mistakes.conclude(Err::<(), _>(noted), &[]).unwrap_err().to_string()
    }

    #[test]
    fn a_message_names_variable_value_and_rule() {
        let message = shown("SECTIGO_AUDIT_SYNC_INTERVAL", "3s");
        assert_eq!(message, "the configuration has a mistake:\n  SECTIGO_AUDIT_SYNC_INTERVAL=\"3s\": is wrong");
    }

    #[test]
    fn what_may_be_a_secret_is_hidden() {
        for (variable, value) in [
            ("DD_API_KEY", "short"),
            ("SECTIGO_AUDIT_API_CLIENT_SECRET", "a b"),
            ("SECTIGO_AUDIT_API_URL", "https://me:hunter2@audit.example.com"),
            ("SECTIGO_AUDIT_API_URL", "https://audit.example.com?key=hunter2"),
            ("DD_SITE", "me:hunter2@datadoghq.com"),
            ("DD_SITE", "0123456789abcdef0123456789abcdef"),
            ("NO_SUCH_VARIABLE", "hunter2"),
        ] {
            assert!(shown(variable, value).ends_with(&format!("{variable}=[hidden]: is wrong")), "{variable} {value}");
        }
    }

    #[test]
    fn a_value_stays_on_one_line_and_is_cut() {
        assert!(shown("DD_SITE", "a\nb").contains(r#"="a\nb":"#));
        let long = shown("DD_SITE", &"a.".repeat(500));
        assert!(long.contains("\"…: is wrong") && long.len() < 300, "{long}");
    }

    #[test]
    fn mistakes_come_in_the_order_of_the_table() {
        let mut mistakes = Mistakes::default();
        for row in VARIABLES.iter().rev() {
            mistakes.refuse_name(row.name, "is wrong");
        }
        let error = mistakes.conclude(Ok(()), &[]).unwrap_err();
        let names: Vec<_> = error.mistakes().iter().map(Mistake::variable).collect();
        assert_eq!(names, VARIABLES.iter().map(|row| row.name).collect::<Vec<_>>());
    }

    #[test]
    fn what_is_refused_is_not_also_missing() {
        let mut mistakes = Mistakes::default();
        mistakes.refuse_name("DD_API_KEY", "is wrong");
        mistakes.missing("DD_API_KEY", "is not set");
        mistakes.missing("DD_SITE", "is not set");
        assert_eq!(mistakes.conclude(Ok(()), &[]).unwrap_err().mistakes().len(), 2);
    }
}
