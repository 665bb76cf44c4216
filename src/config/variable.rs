//! The declaration of a variable, as one constant beside the code that reads it.
//!
//! A [`Variable`] has its name, default, bounds and help, and the function that parses its text. The help, the tables, `.env.example`,
//! the search for misspelt names and the list of secret files all come from these constants.

use std::time::Duration;

use super::parse::{self, Bounds};

/// A variable with a value of the type `T`.
#[derive(Debug, Clone, Copy)]
pub struct Variable<T: 'static> {
    /// The part of the declaration that the tables show.
    pub spec: Spec,
    parse: fn(&str, &Spec) -> Result<T, String>,
}

/// A variable that carries a secret, itself or in the file that `<NAME>_FILE` names.
#[derive(Debug, Clone, Copy)]
pub struct SecretVariable {
    /// The part of the declaration that the tables show.
    pub spec: Spec,
    pub(super) check: fn(&str) -> Result<(), String>,
}

/// The part of a variable's declaration that the tables show.
#[derive(Debug, Clone, Copy)]
pub struct Spec {
    /// The whole name, without a source's prefix.
    pub name: &'static str,
    /// The scope, which decides whether a source's prefix may override it.
    pub scope: Scope,
    /// The value if the variable is not set.
    pub preset: Preset,
    /// Whether the value is never shown and may come from a file.
    pub secret: bool,
    /// When auditsync reads the file of a secret again, as a sentence.
    pub renewal: &'static str,
    /// The bounds of a time.
    pub bounds: Option<Bounds>,
    /// One or two sentences for an operator.
    pub help: &'static str,
}

/// Another software's name for one of our variables. It counts if ours is not set, and only for the source that declares it. A time
/// without a unit is in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Alias {
    /// The other software's name.
    pub theirs: &'static str,
    /// The whole name of our variable.
    pub ours: &'static str,
    /// How our value follows from theirs.
    pub becomes: Becomes,
}

/// The value of our variable if the other software's is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Becomes {
    /// The same value.
    Same,
    /// The folder part of the object key in theirs; empty if it has none.
    ItsFolder,
    /// This value, regardless of theirs.
    Fixed(&'static str),
}

impl Alias {
    /// An alias with the same value.
    pub const fn same(theirs: &'static str, ours: &'static str) -> Self {
        Self { theirs, ours, becomes: Becomes::Same }
    }
}

/// The scope of a variable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// A variable of one kind of source: `<SOURCE>_AUDIT_…`.
    Source,
    /// A variable for every pipeline: `AUDITSYNC_…`, or with a source's prefix only for that source's pipelines.
    Shared,
    /// A variable for the process: `AUDITSYNC_…`, or with the source's prefix if only one source runs.
    Process,
    /// A variable of a destination, under its own name, or with a source's prefix only for that source's pipelines.
    Destination,
    /// A variable of another program, read only under this name.
    Foreign,
}

/// The value of a variable that is not set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preset {
    /// None: the value is required.
    Required,
    /// None: the value is optional.
    Nothing,
    /// This text, as if the variable were set to it.
    Value(&'static str),
    /// A value that the program finds out at the start. The text describes it.
    Derived(&'static str),
}

/// The beginning of the names of shared variables.
pub(super) const SHARED_PREFIX: &str = "AUDITSYNC_";

/// The part between the name of a source and the name of its variable.
pub(super) const SOURCE_INFIX: &str = "_AUDIT_";

/// The end of the name of the variable for a secret's file.
pub(super) const FILE_SUFFIX: &str = "_FILE";

/// The sentence for the secrets that a server can reject.
const RENEWED_WHEN_REJECTED: &str = "auditsync re-reads it on SIGHUP and when a server rejects the secret.";

impl Spec {
    const fn new(scope: Scope, name: &'static str, preset: Preset, help: &'static str) -> Self {
        Self { name, scope, preset, secret: false, renewal: RENEWED_WHEN_REJECTED, bounds: None, help }
    }

    /// The part of the name that follows a source's prefix; none if it takes no prefix.
    pub fn suffix(&self) -> Option<&'static str> {
        match self.scope {
            Scope::Source => self.name.split_once(SOURCE_INFIX).map(|(_, suffix)| suffix),
            Scope::Shared | Scope::Process => self.name.strip_prefix(SHARED_PREFIX),
            Scope::Destination => Some(self.name),
            Scope::Foreign => None,
        }
    }

    /// The default text.
    pub const fn default_value(&self) -> Option<&'static str> {
        match self.preset {
            Preset::Value(value) => Some(value),
            Preset::Required | Preset::Nothing | Preset::Derived(_) => None,
        }
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
    /// A variable that `parse` parses. Its error is the rule that the text breaks.
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

    /// Checks whether `text` is a value of the variable. The error is the rule that it breaks.
    pub fn check(&self, text: &str) -> Result<(), String> {
        self.parse(text).map(drop)
    }
}

impl Variable<String> {
    /// A variable with any text.
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
    /// A variable with a time within `bounds`, which the help shows.
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
    /// A secret with any text.
    pub const fn new(scope: Scope, name: &'static str, preset: Preset, help: &'static str) -> Self {
        Self::checked(scope, name, preset, |_| Ok(()), help)
    }

    /// A secret that must pass `check`. The error of `check` must not quote the secret.
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

    /// Replaces the sentence about the secret's file, for a secret that auditsync presents to no server.
    #[must_use]
    pub const fn renewed(mut self, sentence: &'static str) -> Self {
        self.spec.renewal = sentence;
        self
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
            "must be a time from 15s to 10m, with its unit, such as 90s, 5m or 1h30m"
        );
    }
}
