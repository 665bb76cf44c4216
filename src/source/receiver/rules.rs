//! Rules that give the meaning of a known sender's events, by the service and one attribute.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, LazyLock};

use serde::Deserialize;

use crate::event::Severity;

/// The rules for EZCA, a file of the same form.
const BUILT_IN: &str = include_str!("ezca.toml");

/// The parsed built-in rules; a test proves that they parse.
static KNOWN: LazyLock<Vec<Sender>> = LazyLock::new(|| parse(BUILT_IN).unwrap_or_default());

/// The most bytes of a file.
const LARGEST_FILE: usize = 1024 * 1024;

/// The operator's rules, which come before the built-in ones.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rules(Arc<Vec<Sender>>);

/// The format of a file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    sender: Vec<Sender>,
}

/// The events of one sender.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sender {
    /// The `service` of its entries, in any case.
    service: String,
    /// The attribute that distinguishes its events.
    attribute: String,
    /// The meaning of each value of the attribute.
    events: BTreeMap<String, Meaning>,
}

/// The meaning of an event.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Meaning {
    /// The action.
    pub(super) name: Option<String>,
    /// The severity.
    #[serde(default)]
    pub(super) status: Status,
    /// The kind of object that it concerns.
    pub(super) category: Option<String>,
    /// The outcome.
    pub(super) outcome: Option<String>,
}

/// A status, under its name in Datadog and syslog.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Status {
    #[default]
    Info,
    Notice,
    Warn,
    Error,
}

impl From<Status> for Severity {
    fn from(status: Status) -> Self {
        match status {
            Status::Info => Self::Info,
            Status::Notice => Self::Notice,
            Status::Warn => Self::Warn,
            Status::Error => Self::Error,
        }
    }
}

/// The rules' result for an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ruling<'r> {
    /// The event has this meaning.
    Known(&'r Meaning),
    /// The sender is known, but not the event.
    Unknown,
    /// No rule is for this sender.
    Stranger,
}

impl Rules {
    /// Reads the rules in the file at `path`.
    pub(crate) fn read(path: &Path) -> Result<Self, String> {
        let text = std::fs::read_to_string(path).map_err(|cause| format!("the file cannot be read: {cause}"))?;
        if text.len() > LARGEST_FILE {
            return Err(format!("the file is larger than {LARGEST_FILE} bytes"));
        }
        let senders = parse(&text).map_err(|cause| format!("the file cannot be understood: {}", one_line(&cause)))?;
        if senders.iter().any(|sender| sender.events.is_empty()) {
            return Err("the file has a sender without events".to_owned());
        }
        Ok(Self(Arc::new(senders)))
    }

    /// The number of events in the operator's rules, without the built-in ones.
    pub(super) fn events(&self) -> usize {
        self.0.iter().map(|sender| sender.events.len()).sum()
    }

    /// Applies the rules to an entry of `service`, whose attributes `attribute` reads as text.
    pub(super) fn ruling<'e>(&self, service: &str, attribute: impl Fn(&str) -> Option<Cow<'e, str>>) -> Ruling<'_> {
        let mut ruling = Ruling::Stranger;
        for sender in self.0.iter().chain(KNOWN.iter()) {
            if !sender.service.eq_ignore_ascii_case(service) {
                continue;
            }
            let value = attribute(&sender.attribute);
            match value.and_then(|value| sender.events.get(value.as_ref())) {
                Some(meaning) => return Ruling::Known(meaning),
                None => ruling = Ruling::Unknown,
            }
        }
        ruling
    }
}

fn parse(text: &str) -> Result<Vec<Sender>, toml::de::Error> {
    toml::from_str::<File>(text).map(|file| file.sender)
}

/// Puts a parser error on one line; the parser's own form has several, with a piece of the file.
fn one_line(cause: &toml::de::Error) -> String {
    cause.message().split('\n').collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of<'r>(rules: &'r Rules, service: &str, id: &str) -> Ruling<'r> {
        rules.ruling(service, |name| (name == "EventID").then(|| id.to_owned().into()))
    }

    /// The vendor's table, as the built-in file must have it.
    #[test]
    fn all_eleven_events_of_ezca_have_the_severity_of_its_table() {
        let rules = Rules::default();
        for (id, status, outcome, category) in [
            ("4882", Status::Error, "success", "ca"),
            ("92", Status::Error, "failure", "ca"),
            ("23", Status::Error, "failure", "ca"),
            ("19", Status::Error, "success", "ca"),
            ("28", Status::Warn, "success", "ca"),
            ("22", Status::Warn, "success", "ca"),
            ("12", Status::Info, "success", "ca"),
            ("4888", Status::Error, "failure", "certificate"),
            ("4870", Status::Warn, "success", "certificate"),
            ("4872", Status::Info, "success", "certificate"),
            ("4887", Status::Info, "success", "certificate"),
        ] {
            let Ruling::Known(meaning) = of(&rules, "EZCA", id) else { panic!("{id} is unknown") };
            assert_eq!(
                (meaning.status, meaning.outcome.as_deref(), meaning.category.as_deref()),
                (status, Some(outcome), Some(category)),
                "{id}"
            );
        }
        assert_eq!(KNOWN.iter().map(|sender| sender.events.len()).sum::<usize>(), 11);
    }

    #[test]
    fn an_unknown_event_of_a_known_sender_is_told_from_a_stranger() {
        let rules = Rules::default();
        assert_eq!(of(&rules, "EZCA", "5000"), Ruling::Unknown);
        assert_eq!(rules.ruling("EZCA", |_| None), Ruling::Unknown);
        assert_eq!(of(&rules, "other", "4888"), Ruling::Stranger);
    }

    #[test]
    fn an_operators_file_comes_first_and_leaves_the_rest_to_what_is_built_in() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rules.toml");
        let text = "[[sender]]\nservice = \"ezca\"\nattribute = \"EventID\"\n[sender.events]\n4887 = { status = \"notice\" }\n\
                    [[sender]]\nservice = \"vault\"\nattribute = \"type\"\n[sender.events]\n\"request\" = { name = \"request\" }\n";
        std::fs::write(&path, text).unwrap();
        let rules = Rules::read(&path).unwrap();
        assert_eq!(rules.events(), 2);
        let Ruling::Known(meaning) = of(&rules, "EZCA", "4887") else { panic!("known") };
        assert_eq!(meaning.status, Status::Notice);
        assert!(matches!(of(&rules, "EZCA", "4888"), Ruling::Known(_)));
        for (text, rule) in [
            ("[[sender]]\nservice = \"a\"", "missing field"),
            (
                "[[sender]]\nservice=\"a\"\nattribute=\"b\"\n[sender.events]\n1 = { status = \"loud\" }",
                "unknown variant",
            ),
            ("[[sender]]\nservice=\"a\"\nattribute=\"b\"\nvalue=1\n[sender.events]\n", "unknown field"),
            ("x", "cannot be understood"),
        ] {
            std::fs::write(&path, text).unwrap();
            let message = Rules::read(&path).unwrap_err();
            assert!(message.contains(rule) && !message.contains('\n'), "{message}");
        }
    }
}
