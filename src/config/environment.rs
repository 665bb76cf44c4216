//! The set variables, by name.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use super::variable::{FILE_SUFFIX, Spec};

/// The variable that names the folder with a service's systemd credentials (`systemd.exec(5)`, `LoadCredential=`).
const CREDENTIALS_FOLDER: &str = "CREDENTIALS_DIRECTORY";

/// The variables of the process, or of a test.
#[derive(Debug, Default)]
pub struct Environment(BTreeMap<String, OsString>);

/// The value is not UTF-8 text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NotText;

impl Environment {
    /// Makes an environment of `pairs`. The first of two values for one name counts.
    pub fn from_pairs(pairs: impl IntoIterator<Item = (OsString, OsString)>) -> Self {
        let mut values = BTreeMap::new();
        for (name, value) in pairs {
            if let Ok(name) = name.into_string() {
                values.entry(name).or_insert(value);
            }
        }
        Self(values)
    }

    /// Sets `name` to `value`, and replaces any earlier value.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.0.insert(name.to_owned(), value.into());
        self
    }

    /// The value of `name`, which `spec` describes. An empty value counts as not set. A secret keeps the blanks around it.
    pub(super) fn value(&self, name: &str, spec: &Spec) -> Option<Result<String, NotText>> {
        let Some(text) = self.0.get(name)?.to_str() else { return Some(Err(NotText)) };
        let text = if spec.secret { text } else { text.trim() };
        (!text.is_empty()).then(|| Ok(text.to_owned()))
    }

    /// The path that `name` gives for the file of a secret.
    pub(super) fn path(&self, name: &str) -> Option<Result<PathBuf, NotText>> {
        let Some(text) = self.0.get(name)?.to_str() else { return Some(Err(NotText)) };
        (!text.trim().is_empty()).then(|| Ok(text.trim().into()))
    }

    /// The file that systemd made for the secret `name`: `DD_API_KEY` is the credential `dd-api-key`.
    pub(super) fn credential(&self, name: &str) -> Option<PathBuf> {
        let folder: &OsStr = self.0.get(CREDENTIALS_FOLDER)?;
        let path = Path::new(folder).join(name.to_ascii_lowercase().replace('_', "-"));
        path.exists().then_some(path)
    }

    /// The value of `name` as it is set, for variables that libraries read.
    pub(super) fn raw(&self, name: &str) -> Option<&OsStr> {
        self.0.get(name).map(OsString::as_os_str)
    }

    /// The names of all variables.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }
}

/// The name of the variable for the file of the secret `name`.
pub(super) fn file_name(name: &str) -> String {
    format!("{name}{FILE_SUFFIX}")
}

#[cfg(test)]
mod tests {
    use super::super::variable::{Preset, Scope, SecretVariable, Variable};
    use super::*;

    const SITE: Spec = Variable::text(Scope::Destination, "DD_SITE", Preset::Nothing, "").spec;
    const KEY: Spec = SecretVariable::new(Scope::Destination, "DD_API_KEY", Preset::Nothing, "").spec;

    fn environment(pairs: &[(&str, &str)]) -> Environment {
        Environment::from_pairs(pairs.iter().map(|(name, value)| (name.into(), value.into())))
    }

    #[test]
    fn secrets_keep_every_byte_and_other_values_lose_blanks_around_them() {
        let environment = environment(&[("DD_API_KEY", " k \t"), ("DD_SITE", " datadoghq.eu\r\n")]);
        assert_eq!(environment.value("DD_API_KEY", &KEY), Some(Ok(" k \t".to_owned())));
        assert_eq!(environment.value("DD_SITE", &SITE), Some(Ok("datadoghq.eu".to_owned())));
    }

    #[test]
    fn an_empty_value_is_not_set() {
        let environment = environment(&[("DD_API_KEY", ""), ("DD_SITE", "  ")]);
        assert_eq!((environment.value("DD_API_KEY", &KEY), environment.value("DD_SITE", &SITE)), (None, None));
    }

    #[test]
    fn the_first_of_two_values_holds_even_if_it_is_empty() {
        let twice = environment(&[("DD_SITE", ""), ("DD_SITE", "two.example")]);
        assert_eq!(twice.value("DD_SITE", &SITE), None);
    }
}
