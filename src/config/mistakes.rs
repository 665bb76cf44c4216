//! Collects the mistakes in the configuration, so that one run shows them all, without any secret.

use std::fmt::{self, Write as _};

use super::variable::Spec;
use crate::variable_name::VariableName;

/// The longest value that a message shows, in characters. A longer one is cut.
const SHOWN: usize = 120;

/// Stands for a value that is not shown.
const HIDDEN: &str = "[hidden]";

/// A mistake in one variable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    variable: VariableName,
    shown: Option<String>,
    rule: String,
}

impl Mistake {
    /// The variable to correct.
    pub fn variable(&self) -> &str {
        self.variable.as_str()
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

/// Every mistake in the configuration, one a line.
#[derive(Debug, thiserror::Error)]
#[error("{}", self.text())]
pub struct ConfigError {
    mistakes: Vec<Mistake>,
    notes: Vec<String>,
}

impl ConfigError {
    /// The mistakes, in the order in which the variables are read.
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

/// Proves that a mistake was collected. It takes the place of the value that could not be made.
#[derive(Debug, Clone, Copy)]
pub struct Noted(());

/// Collects mistakes.
#[derive(Debug, Default)]
pub struct Mistakes(Vec<Mistake>);

impl Mistakes {
    /// Notes that the value of the variable breaks `rule`.
    pub(super) fn refuse(&mut self, name: &VariableName, spec: &Spec, value: &str, rule: impl Into<String>) -> Noted {
        if spec.secret { self.refuse_hidden(name, rule) } else { self.refuse_shown(name, value, rule) }
    }

    /// Notes that the value of a variable without a secret breaks `rule`. A value that looks like a misplaced secret is hidden all the same, in
    /// the rule as well.
    pub(super) fn refuse_shown(&mut self, name: &VariableName, value: &str, rule: impl Into<String>) -> Noted {
        if may_be_secret(value) {
            return self.refuse_hidden(name, rule.into().replace(value, HIDDEN));
        }
        self.add(name, Some(quoted(value)), rule.into())
    }

    /// Notes that the value of the variable breaks `rule`, and hides the value.
    pub(super) fn refuse_hidden(&mut self, name: &VariableName, rule: impl Into<String>) -> Noted {
        self.add(name, Some(HIDDEN.to_owned()), rule.into())
    }

    /// Notes that the variable breaks `rule`, and shows no value.
    pub(super) fn refuse_name(&mut self, name: &VariableName, rule: impl Into<String>) -> Noted {
        self.add(name, None, rule.into())
    }

    fn add(&mut self, name: &VariableName, shown: Option<String>, rule: String) -> Noted {
        let mistake = Mistake { variable: name.clone(), shown, rule };
        // Two pipelines that share a variable find the same mistake.
        if !self.0.contains(&mistake) {
            self.0.push(mistake);
        }
        Noted(())
    }

    /// Returns what was `built` if there is no mistake. Otherwise the error shows the `notes`, which help to understand the mistakes.
    pub(crate) fn conclude<T>(self, built: Result<T, Noted>, notes: &[String]) -> Result<T, ConfigError> {
        match built {
            Ok(built) if self.0.is_empty() => Ok(built),
            _ => Err(ConfigError { mistakes: self.0, notes: notes.to_vec() }),
        }
    }
}

/// Whether a message must hide `value`: an address with a password or parameters, or a misplaced key.
fn may_be_secret(value: &str) -> bool {
    let address = value.contains('@') || (value.contains("://") && value.contains(['?', '#']));
    let key = value.len() >= 24
        && !value.contains(['.', '/', ':', ',', ' '])
        && value.contains(|c: char| c.is_ascii_digit())
        && value.contains(|c: char| c.is_ascii_alphabetic());
    address || key
}

/// Quotes `value` on one line, and cuts a long one.
fn quoted(value: &str) -> String {
    let cut: String = value.chars().take(SHOWN).collect();
    let more = if cut.len() < value.len() { "…" } else { "" };
    format!("{cut:?}{more}")
}

#[cfg(test)]
mod tests {
    use super::super::variable::{Preset, Scope, SecretVariable, Variable};
    use super::*;

    const SITE: Spec = Variable::text(Scope::Destination, "DD_SITE", Preset::Nothing, "").spec;
    const KEY: Spec = SecretVariable::new(Scope::Destination, "DD_API_KEY", Preset::Nothing, "").spec;

    fn shown(spec: &Spec, value: &str) -> String {
        let mut mistakes = Mistakes::default();
        let noted = mistakes.refuse(&spec.name.into(), spec, value, "is wrong");
        mistakes.conclude(Err::<(), _>(noted), &[]).unwrap_err().to_string()
    }

    #[test]
    fn a_message_names_variable_value_and_rule() {
        assert_eq!(shown(&SITE, "3s"), "the configuration has a mistake:\n  DD_SITE=\"3s\": is wrong");
    }

    #[test]
    fn what_may_be_a_secret_is_hidden() {
        for (spec, value) in [
            (KEY, "short"),
            (KEY, "a b"),
            (SITE, "https://me:hunter2@audit.example.com"),
            (SITE, "https://audit.example.com?key=hunter2"),
            (SITE, "me:hunter2@datadoghq.com"),
            (SITE, "0123456789abcdef0123456789abcdef"),
        ] {
            assert!(shown(&spec, value).ends_with(&format!("{}=[hidden]: is wrong", spec.name)), "{value}");
        }
    }

    #[test]
    fn a_value_stays_on_one_line_and_is_cut() {
        assert!(shown(&SITE, "a\nb").contains(r#"="a\nb":"#));
        let long = shown(&SITE, &"a.".repeat(500));
        assert!(long.contains("\"…: is wrong") && long.len() < 300, "{long}");
    }

    #[test]
    fn a_mistake_that_two_pipelines_share_is_reported_once() {
        let mut mistakes = Mistakes::default();
        mistakes.refuse_name(&"DD_SITE".into(), "is wrong");
        mistakes.refuse_name(&"DD_SITE".into(), "is wrong");
        mistakes.refuse_name(&"DD_API_KEY".into(), "is wrong");
        assert_eq!(mistakes.conclude(Ok(()), &[]).unwrap_err().mistakes().len(), 2);
    }
}
