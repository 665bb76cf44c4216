//! Reads one variable after the other: what was given, or its default, to its type; mistakes are collected.

use std::time::Duration;

use serde::de::DeserializeOwned;

use super::environment::Environment;
use super::mistakes::{Mistakes, Noted};
use super::parse::{self, Bounds};
use super::raw;
use super::variables;

/// Reads the variables of one prefix.
pub(super) struct Reader<'a> {
    prefix: &'static str,
    pub(super) mistakes: &'a mut Mistakes,
}

impl<'a> Reader<'a> {
    pub(super) fn new(prefix: &'static str, mistakes: &'a mut Mistakes) -> Self {
        Self { prefix, mistakes }
    }

    /// The variables that go on after this prefix with `part`, as text.
    #[cfg_attr(
        not(any(feature = "redis", feature = "s3", feature = "gcs")),
        expect(dead_code, reason = "for the backends that are left out")
    )]
    pub(super) fn read<T: DeserializeOwned>(&mut self, part: &str, environment: &Environment) -> Result<T, Noted> {
        raw::read(&self.name(part), environment, self.mistakes)
    }

    /// The whole name of the variable that ends in `suffix`.
    pub(super) fn name(&self, suffix: &str) -> String {
        format!("{}{suffix}", self.prefix)
    }

    /// What was given, else the default of the table, understood by `parse`; none without either.
    pub(super) fn optional<T>(
        &mut self,
        suffix: &str,
        given: Option<&str>,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<Option<T>, Noted> {
        let name = self.name(suffix);
        let default = || variables::find(&name).and_then(variables::Variable::default_value);
        let Some(value) = given.or_else(default) else { return Ok(None) };
        parse(value).map(Some).map_err(|rule| self.mistakes.refuse(&name, value, rule))
    }

    /// The same, for what there must be.
    pub(super) fn required<T>(
        &mut self,
        suffix: &str,
        given: Option<&str>,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<T, Noted> {
        match self.optional(suffix, given, parse)? {
            Some(value) => Ok(value),
            None => Err(self.missing(suffix)),
        }
    }

    /// A time inside `bounds`.
    pub(super) fn duration(&mut self, suffix: &str, given: Option<&str>, bounds: Bounds) -> Result<Duration, Noted> {
        self.required(suffix, given, |text| parse::duration(text, bounds))
    }

    fn missing(&mut self, suffix: &str) -> Noted {
        let name = self.name(suffix);
        let help = variables::find(&name).map_or("", |row| row.help);
        self.mistakes.missing(&name, format!("is required but not set. {help}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Result<String, String> {
        if text.is_empty() { Err("is empty".to_owned()) } else { Ok(text.to_owned()) }
    }

    #[test]
    fn what_is_given_comes_before_the_default() {
        let mut mistakes = Mistakes::default();
        let mut reader = Reader::new("DD_", &mut mistakes);
        assert_eq!(reader.optional("SITE", Some("x"), text).ok().flatten().as_deref(), Some("x"));
        assert_eq!(reader.optional("SITE", None, text).ok().flatten().as_deref(), Some("datadoghq.com"));
        assert_eq!(reader.optional("TAGS", None, text).ok().flatten(), None);
        assert!(mistakes.conclude(Ok(()), &[]).is_ok());
    }

    #[test]
    fn what_is_required_is_missed_with_its_help() {
        let mut mistakes = Mistakes::default();
        assert!(Reader::new("SECTIGO_AUDIT_", &mut mistakes).required("API_CLIENT_ID", None, text).is_err());
        let message = mistakes.conclude(Ok(()), &[]).unwrap_err().to_string();
        assert!(
            message.ends_with("SECTIGO_AUDIT_API_CLIENT_ID: is required but not set. Client id of the audit API key.")
        );
    }
}
