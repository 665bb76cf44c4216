//! The mechanism of the configuration: from variables to values, or to every mistake in one message.
//!
//! A component declares its variables as constants ([`Variable`], [`SecretVariable`]) and reads them with a [`Reader`]. Nothing here knows a
//! component, and nothing here reads the process environment: whoever starts the program passes it.

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
pub use variable::{Preset, Scope, SecretVariable, Spec, Variable};

/// A component, as the tables show it.
#[derive(Debug, Clone, Copy)]
pub struct Component {
    /// A heading for people.
    pub title: &'static str,
    /// Its variables, in the order of the tables; a component may take them from several modules.
    pub variables: &'static [&'static [&'static Spec]],
}

impl Component {
    /// Its variables, in order.
    pub fn specs(&self) -> impl Iterator<Item = &'static Spec> {
        self.variables.iter().copied().flatten().copied()
    }
}

/// Reads with `read` what `environment` says for `owner`. The `notes` stand below the mistakes, if there are any.
pub fn read<T>(
    environment: &Environment,
    owner: &Owner,
    notes: &[String],
    read: impl FnOnce(&mut Reader<'_>) -> Result<T, Noted>,
) -> Result<T, ConfigError> {
    let mut mistakes = Mistakes::default();
    let built = read(&mut Reader::new(environment, owner, &mut mistakes));
    mistakes.conclude(built, notes)
}

/// What to say about variables that are set, that nothing reads, and that look as if they were meant for us.
pub fn strangers(environment: &Environment, owner: &Owner, components: &[Component]) -> Vec<String> {
    let names: Vec<_> = components.iter().flat_map(Component::specs).flat_map(|spec| names(owner, spec)).collect();
    let prefixes: Vec<_> = owner.prefixes().collect();
    let unknown = environment.names().filter(|name| !names.iter().any(|known| known == name));
    unknown.filter_map(|name| typos::warning(name, &names, &prefixes)).collect()
}

/// The names under which `owner` reads the variable, those for its file included.
fn names(owner: &Owner, spec: &Spec) -> Vec<String> {
    let names = owner.names(spec);
    let files: Vec<_> =
        if spec.secret { names.iter().map(|name| environment::file_name(name)).collect() } else { Vec::new() };
    [names, files].concat()
}

/// What the variable `name` is to us, for the vetting of `.env`.
pub fn known(name: &str, owner: &Owner, components: &[Component]) -> Option<dotenv::Known> {
    let spec =
        components.iter().flat_map(Component::specs).find(|spec| names(owner, spec).iter().any(|each| each == name))?;
    let is_secret = spec.secret && !name.ends_with(variable::FILE_SUFFIX);
    Some(if is_secret { dotenv::Known::Secret } else { dotenv::Known::Variable })
}

/// What `read` makes of these variables, or the message about them; for the tests of components.
#[cfg(test)]
pub(crate) fn read_pairs<T>(
    pairs: &[(&str, &str)],
    read: impl FnOnce(&mut Reader<'_>) -> Result<T, Noted>,
) -> Result<T, String> {
    let environment = Environment::from_pairs(pairs.iter().map(|(name, value)| (name.into(), value.into())));
    let owner = Owner { kind: "sectigo", label: None };
    self::read(&environment, &owner, &[], read).map_err(|error| error.to_string())
}
