//! What a variable is: declared once, as a constant beside the code that reads it.
//!
//! A [`Variable`] knows its name, its default, its bounds, its help, and how its text becomes a value. The help, the tables, `.env.example`, the
//! search for misspelt names and the list of secret files all come from these constants.

use std::time::Duration;

use super::parse::{self, Bounds};

/// A variable whose value is a `T`.
#[derive(Debug, Clone, Copy)]
pub struct Variable<T: 'static> {
    /// What the tables show of it.
    pub spec: Spec,
    parse: fn(&str, &Spec) -> Result<T, String>,
}

/// A variable that carries a secret, here or in the file that `<NAME>_FILE` names.
#[derive(Debug, Clone, Copy)]
pub struct SecretVariable {
    /// What the tables show of it.
    pub spec: Spec,
    pub(super) check: fn(&str) -> Result<(), String>,
}

/// What the tables show of a variable.
#[derive(Debug, Clone, Copy)]
pub struct Spec {
    /// Its whole name, where nothing overrides it.
    pub name: &'static str,
    /// Who may override it.
    pub scope: Scope,
    /// What holds where it is not set.
    pub preset: Preset,
    /// Whether its value is never shown, and may come from a file.
    pub secret: bool,
    /// What a time may be.
    pub bounds: Option<Bounds>,
    /// What it does, for an operator: a sentence or two.
    pub help: &'static str,
}

/// A name under which other software has the value of one of our variables. It counts where ours is not set, and only for the source that
/// declares it. A time without a unit is in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Alias {
    /// The other software's name.
    pub theirs: &'static str,
    /// The whole name of our variable.
    pub ours: &'static str,
    /// What ours becomes.
    pub becomes: Becomes,
}

/// The value of our variable where the other software's is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Becomes {
    /// The same.
    Same,
    /// The folder of the key that theirs names; empty where it has none.
    ItsFolder,
    /// This one, whatever theirs is.
    Fixed(&'static str),
}

impl Alias {
    /// Their variable has the value of ours.
    pub const fn same(theirs: &'static str, ours: &'static str) -> Self {
        Self { theirs, ours, becomes: Becomes::Same }
    }
}

/// Whose variable it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// One kind of source: `<SOURCE>_AUDIT_…`.
    Source,
    /// Every pipeline: `AUDITSYNC_…`, or with a source's prefix for its pipelines alone.
    Shared,
    /// The process: `AUDITSYNC_…`, or with the source's prefix where only one source runs.
    Process,
    /// A destination, under its own name, or with a source's prefix for its pipelines alone.
    Destination,
    /// Another program: read under this name alone.
    Foreign,
}

/// What holds where a variable is not set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preset {
    /// Nothing works without a value.
    Required,
    /// Nothing.
    Nothing,
    /// This text, as if it had been given.
    Value(&'static str),
    /// A value that is found at the start, in words.
    Derived(&'static str),
}

/// What the names of shared variables begin with.
pub(super) const SHARED_PREFIX: &str = "AUDITSYNC_";

/// What stands between the name of a source and the name of its variable.
pub(super) const SOURCE_INFIX: &str = "_AUDIT_";

/// What follows the name of a secret in the name of the variable for its file.
pub(super) const FILE_SUFFIX: &str = "_FILE";

impl Spec {
    const fn new(scope: Scope, name: &'static str, preset: Preset, help: &'static str) -> Self {
        Self { name, scope, preset, secret: false, bounds: None, help }
    }

    /// The part of the name that a source's prefix is put before; none where no prefix is.
    pub fn suffix(&self) -> Option<&'static str> {
        match self.scope {
            Scope::Source => self.name.split_once(SOURCE_INFIX).map(|(_, suffix)| suffix),
            Scope::Shared | Scope::Process => self.name.strip_prefix(SHARED_PREFIX),
            Scope::Destination => Some(self.name),
            Scope::Foreign => None,
        }
    }

    /// The text that holds where it is not set.
    pub const fn default_value(&self) -> Option<&'static str> {
        match self.preset {
            Preset::Value(value) => Some(value),
            Preset::Required | Preset::Nothing | Preset::Derived(_) => None,
        }
    }

    /// Whether nothing works without it.
    pub const fn is_required(&self) -> bool {
        matches!(self.preset, Preset::Required)
    }

    /// The name of the variable for its file, where it is a secret.
    pub fn file(&self) -> Option<String> {
        self.secret.then(|| format!("{}{FILE_SUFFIX}", self.name))
    }

    /// The help and the bounds.
    pub fn description(&self) -> String {
        match self.bounds {
            Some(bounds) => format!("{} {}.", self.help, capitalised(&bounds.to_string())),
            None => self.help.to_owned(),
        }
    }
}

fn capitalised(text: &str) -> String {
    let mut characters = text.chars();
    characters.next().map_or_else(String::new, |first| first.to_uppercase().chain(characters).collect())
}

impl<T> Variable<T> {
    /// A variable that is read by `parse`, whose error is the rule that the text breaks.
    pub const fn new(
        scope: Scope,
        name: &'static str,
        preset: Preset,
        parse: fn(&str, &Spec) -> Result<T, String>,
        help: &'static str,
    ) -> Self {
        Self { spec: Spec::new(scope, name, preset, help), parse }
    }

    pub(super) fn parse(&self, text: &str) -> Result<T, String> {
        (self.parse)(text, &self.spec)
    }
}

impl Variable<String> {
    /// A variable that takes any text.
    pub const fn text(scope: Scope, name: &'static str, preset: Preset, help: &'static str) -> Self {
        Self::new(scope, name, preset, |text, _| Ok(text.to_owned()), help)
    }
}

impl Variable<bool> {
    /// A variable that is true or false.
    pub const fn flag(scope: Scope, name: &'static str, preset: Preset, help: &'static str) -> Self {
        Self::new(scope, name, preset, |text, _| parse::flag(text), help)
    }
}

impl Variable<Duration> {
    /// A time within `bounds`, which the help shows.
    pub const fn time(
        scope: Scope,
        name: &'static str,
        preset: &'static str,
        bounds: Bounds,
        help: &'static str,
    ) -> Self {
        let parse = |text: &str, spec: &Spec| match spec.bounds {
            Some(bounds) => parse::duration(text, bounds),
            None => Err("has no bounds".to_owned()),
        };
        let mut variable = Self::new(scope, name, Preset::Value(preset), parse, help);
        variable.spec.bounds = Some(bounds);
        variable
    }
}

impl SecretVariable {
    /// A secret of any text.
    pub const fn new(scope: Scope, name: &'static str, preset: Preset, help: &'static str) -> Self {
        Self::checked(scope, name, preset, |_| Ok(()), help)
    }

    /// A secret that passes `check`, whose answer must not quote it.
    pub const fn checked(
        scope: Scope,
        name: &'static str,
        preset: Preset,
        check: fn(&str) -> Result<(), String>,
        help: &'static str,
    ) -> Self {
        let mut spec = Spec::new(scope, name, preset, help);
        spec.secret = true;
        Self { spec, check }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sources_prefix_goes_before_the_rest_of_a_name() {
        for (scope, name, suffix) in [
            (Scope::Source, "SECTIGO_AUDIT_API_URL", Some("API_URL")),
            (Scope::Shared, "AUDITSYNC_SYNC_LOOP", Some("SYNC_LOOP")),
            (Scope::Destination, "DD_TAGS", Some("DD_TAGS")),
            (Scope::Foreign, "STORAGE_EMULATOR_HOST", None),
        ] {
            assert_eq!(Spec::new(scope, name, Preset::Nothing, "").suffix(), suffix);
        }
    }

    #[test]
    fn the_description_of_a_time_ends_in_its_bounds() {
        const TTL: Variable<Duration> =
            Variable::time(Scope::Shared, "AUDITSYNC_X", "1m", Bounds::seconds(15, 600), "How long it is.");
        assert_eq!(TTL.spec.description(), "How long it is. From 15s to 10m.");
        assert_eq!(
            TTL.parse("14s").unwrap_err(),
            "must be a time from 15s to 10m, with its unit, such as 90s, 5m or 1h 30m"
        );
    }
}
