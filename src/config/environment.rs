//! The variables that were given: ours by name, and the names that look as if they were meant for us.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::Path;

use super::mistakes::Mistakes;
use super::proxy::Proxies;
use super::variables::{self, VARIABLES, Variable};

/// Where systemd says in which folder it put the credentials of a service (`systemd.exec(5)`, `LoadCredential=`).
const CREDENTIALS_FOLDER: &str = "CREDENTIALS_DIRECTORY";

/// What is set, by name. No value is empty.
#[derive(Default)]
pub(super) struct Environment {
    values: BTreeMap<&'static str, String>,
    strangers: BTreeSet<String>,
    proxies: Proxies,
}

impl Environment {
    /// Takes the variables of the table that are `wanted` out of `pairs`. Of a name given twice the first one holds,
    /// so that what has precedence comes first.
    pub(super) fn gather(
        pairs: impl IntoIterator<Item = (OsString, OsString)>,
        wanted: impl Fn(&Variable) -> bool,
        mistakes: &mut Mistakes,
    ) -> Self {
        let mut environment = Self::default();
        let mut seen = BTreeSet::new();
        let mut credentials = None;
        for (name, value) in pairs {
            let Ok(name) = name.into_string() else { continue };
            if name == CREDENTIALS_FOLDER {
                credentials.get_or_insert(value);
                continue;
            }
            let Some(row) = variables::find(&name) else {
                environment.proxies.take(&name, &value);
                environment.strangers.insert(name);
                continue;
            };
            if wanted(row) && seen.insert(row.name) {
                environment.take(row, value, mistakes);
            }
        }
        if let Some(folder) = credentials {
            environment.take_credentials(Path::new(&folder), wanted);
        }
        environment
    }

    /// Names the files of `folder`, one for each secret that is given in no other way, as if by `…_FILE`.
    fn take_credentials(&mut self, folder: &Path, wanted: impl Fn(&Variable) -> bool) {
        for row in VARIABLES.iter().filter(|row| row.secret && wanted(row)) {
            let Some(file) = variables::find(&format!("{}_FILE", row.name)) else { continue };
            let path = folder.join(credential(row.name));
            let is_given = self.values.contains_key(row.name) || self.values.contains_key(file.name);
            if let (false, true, Some(path)) = (is_given, path.exists(), path.to_str()) {
                self.values.insert(file.name, path.to_owned());
            }
        }
    }

    fn take(&mut self, row: &Variable, value: OsString, mistakes: &mut Mistakes) {
        let value = match value.into_string() {
            // A secret is what it is, blanks included.
            Ok(value) if row.secret => value,
            Ok(value) => value.trim().to_owned(),
            Err(_) => {
                mistakes.refuse_name(row.name, "its value is not text in UTF-8");
                return;
            }
        };
        if !value.is_empty() {
            self.values.insert(row.name, value);
        }
    }

    /// The value of the variable `name`, if it is set.
    #[cfg(feature = "gcs")]
    pub(super) fn value(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }

    /// What is set, for envy.
    pub(super) fn pairs(&self) -> impl Iterator<Item = (String, String)> {
        self.values.iter().map(|(name, value)| ((*name).to_owned(), value.clone()))
    }

    /// The variables that say which proxy to use.
    pub(super) fn proxies(&self) -> &Proxies {
        &self.proxies
    }

    /// The names that are not in the table.
    pub(super) fn strangers(&self) -> impl Iterator<Item = &str> {
        self.strangers.iter().map(String::as_str)
    }
}

/// The name of the credential for the secret `variable`: `DD_API_KEY` is `dd-api-key`.
fn credential(variable: &str) -> String {
    variable.to_ascii_lowercase().replace('_', "-")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gather(pairs: &[(&str, &str)]) -> Environment {
        let pairs = pairs.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
        Environment::gather(pairs, |_| true, &mut Mistakes::default())
    }

    #[test]
    fn secrets_keep_every_byte_and_other_values_lose_blanks_around_them() {
        let environment = gather(&[("DD_API_KEY", " k \t"), ("DD_SITE", " datadoghq.eu\r\n")]);
        assert_eq!(environment.values["DD_API_KEY"], " k \t");
        assert_eq!(environment.values["DD_SITE"], "datadoghq.eu");
    }

    #[test]
    fn an_empty_value_is_not_set() {
        assert!(gather(&[("DD_API_KEY", ""), ("DD_SITE", ""), ("DD_ENV", "  ")]).values.is_empty());
    }

    #[test]
    fn the_first_of_two_values_holds_even_if_it_is_empty() {
        assert_eq!(gather(&[("DD_SITE", "one.example"), ("DD_SITE", "two.example")]).values["DD_SITE"], "one.example");
        assert!(gather(&[("DD_SITE", ""), ("DD_SITE", "two.example")]).values.is_empty());
    }

    #[test]
    fn a_credential_of_systemd_stands_in_for_a_secret_that_is_not_given_otherwise() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["dd-api-key", "sectigo-audit-api-client-secret", "sectigo-audit-redis-password", "dd-site"] {
            std::fs::write(folder.path().join(name), "x").unwrap();
        }
        let credentials = ("CREDENTIALS_DIRECTORY", folder.path().to_str().unwrap());
        let file = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        let environment =
            gather(&[("DD_API_KEY", "k"), ("SECTIGO_AUDIT_REDIS_PASSWORD_FILE", "/elsewhere"), credentials]);
        let expected = [
            ("DD_API_KEY", "k".to_owned()),
            ("SECTIGO_AUDIT_API_CLIENT_SECRET_FILE", file("sectigo-audit-api-client-secret")),
            ("SECTIGO_AUDIT_REDIS_PASSWORD_FILE", "/elsewhere".to_owned()),
        ];
        assert_eq!(environment.values, BTreeMap::from(expected));
        let environment = gather(&[("DD_API_KEY", ""), credentials]);
        assert_eq!(environment.values.get("DD_API_KEY_FILE"), Some(&file("dd-api-key")), "empty is not given");
    }

    #[cfg(unix)]
    #[test]
    fn bytes_that_are_not_text_are_a_mistake_in_our_variables_alone() {
        use std::os::unix::ffi::OsStringExt;
        let broken = || OsString::from_vec(vec![b'a', 0xff]);
        let mut mistakes = Mistakes::default();
        let pairs = [("DD_SITE".into(), broken()), ("LANG".into(), broken()), (broken(), "x".into())];
        Environment::gather(pairs, |_| true, &mut mistakes);
        let message = mistakes.conclude(Ok(()), &[]).unwrap_err().to_string();
        assert_eq!(message, "the configuration has a mistake:\n  DD_SITE: its value is not text in UTF-8");
    }
}
