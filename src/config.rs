//! The mechanism of the configuration. It turns variables into values, or reports every mistake in one message.
//!
//! A component declares its variables as constants ([`Variable`], [`SecretVariable`]) and reads them with a [`Reader`]. This module knows
//! no component, and it does not read the process environment: the caller passes it.

pub mod dotenv;
mod environment;
mod mistakes;
pub(crate) mod parse;
mod proxy;
mod reader;
mod render;
mod typos;
mod variable;

pub use environment::Environment;
pub use mistakes::{ConfigError, Mistake, Mistakes, Noted};
pub use parse::Bounds;
pub use reader::{Owner, Reader};
pub use render::{env_example, help_text, tables};
pub use variable::{Alias, Becomes, Preset, Scope, SecretVariable, Spec, Variable};

/// A section of the tables: the variables of a component, or the shared ones.
#[derive(Debug, Clone)]
pub struct Section {
    /// The name of the section in commands.
    pub name: &'static str,
    /// The heading of the section.
    pub title: &'static str,
    /// The variables, in order.
    pub variables: Vec<&'static Spec>,
}

impl Section {
    /// Makes a section of the variables in `lists`, one list after another.
    pub fn of(name: &'static str, title: &'static str, lists: &[&'static [&'static Spec]]) -> Self {
        Self { name, title, variables: lists.concat() }
    }
}

/// Reads the variables of `owner` from `environment` with `read`.
pub fn read<T>(
    environment: &Environment,
    owner: &Owner,
    read: impl FnOnce(&mut Reader<'_>) -> Result<T, Noted>,
) -> Result<T, ConfigError> {
    let mut mistakes = Mistakes::default();
    let built = read(&mut Reader::new(environment, owner, &mut mistakes));
    mistakes.conclude(built, &[])
}

/// Warns about variables that are set and that no `owner` reads, although they look like ours.
pub fn strangers(environment: &Environment, owners: &[Owner], sections: &[Section]) -> Vec<String> {
    let all_names = |spec: &&'static Spec| owners.iter().flat_map(|owner| names(owner, spec)).collect::<Vec<_>>();
    let names: Vec<_> = sections.iter().flat_map(|section| &section.variables).flat_map(all_names).collect();
    let prefixes: Vec<_> = owners.iter().flat_map(Owner::prefixes).map(str::to_owned).collect();
    let unknown = environment.names().filter(|name| !names.iter().any(|known| known == name));
    unknown.filter_map(|name| typos::warning(name, &names, &prefixes)).collect()
}

/// The names under which `owner` reads the variable, including those for its file.
fn names(owner: &Owner, spec: &Spec) -> Vec<String> {
    let names = owner.names(spec);
    let files: Vec<_> =
        if spec.secret { names.iter().map(|name| environment::file_name(name)).collect() } else { Vec::new() };
    let aliases = owner.alias_names(spec).map(str::to_owned).collect();
    [names, files, aliases].concat()
}

/// Tells whether `name` is one of our variables, and whether it carries a secret. It helps to vet `.env`.
pub fn known(name: &str, sections: &[Section]) -> Option<dotenv::Known> {
    let bare = name.strip_suffix(variable::FILE_SUFFIX).unwrap_or(name);
    let is_meant = |spec: &&&'static Spec| {
        // A source's prefix, with or without a label, does not change what a variable means.
        let own = bare.split_once(variable::SOURCE_INFIX).map(|(_, own)| own);
        spec.name == bare || own.is_some_and(|own| spec.suffix() == Some(own))
    };
    let spec = sections.iter().flat_map(|section| &section.variables).find(is_meant)?;
    let is_secret = spec.secret && !name.ends_with(variable::FILE_SUFFIX);
    Some(if is_secret { dotenv::Known::Secret } else { dotenv::Known::Variable })
}

/// Reads these variables with `read`. Returns the value or the error message, for tests of components.
#[cfg(test)]
pub(crate) fn read_pairs<T>(
    pairs: &[(&str, &str)],
    read: impl FnOnce(&mut Reader<'_>) -> Result<T, Noted>,
) -> Result<T, String> {
    read_pairs_of("here", pairs, read)
}

/// The same for a source of this `kind`.
#[cfg(test)]
pub(crate) fn read_pairs_of<T>(
    kind: &str,
    pairs: &[(&str, &str)],
    read: impl FnOnce(&mut Reader<'_>) -> Result<T, Noted>,
) -> Result<T, String> {
    let environment = Environment::from_pairs(pairs.iter().map(|(name, value)| (name.into(), value.into())));
    self::read(&environment, &Owner::source(kind, None), read).map_err(|error| error.to_string())
}
