//! Secrets: in a variable, or in the file that its `…_FILE` names.

use std::path::{Component, Path, PathBuf};

use secrecy::{ExposeSecret, SecretString};

use super::mistakes::{Mistakes, Noted};
use crate::secret::{Secret, SecretError};

/// The two variables that may carry one secret.
#[derive(Debug, Clone, Copy)]
pub(super) struct Names {
    /// Carries the secret itself.
    pub(super) value: &'static str,
    /// Names the file that holds it.
    pub(super) file: &'static str,
}

/// The secret that is given in one of two ways and passes `check`, whose answer must not quote it.
pub(super) fn read(
    names: Names,
    value: Option<String>,
    file: Option<String>,
    check: impl FnOnce(&str) -> Result<(), String>,
    mistakes: &mut Mistakes,
) -> Result<Secret, Noted> {
    let secret = match (value, file) {
        (Some(_), Some(_)) => {
            return Err(mistakes.refuse_hidden(names.value, format!("{} is set too; keep one of the two", names.file)));
        }
        (Some(value), None) => Secret::from_value(names.value, SecretString::from(value)),
        (None, Some(path)) => from_file(names.file, &path, mistakes)?,
        (None, None) => {
            let rule = format!("is required but not set, and neither is {}", names.file);
            return Err(mistakes.missing(names.value, rule));
        }
    };
    check(secret.current().expose_secret()).map_err(|rule| mistakes.refuse_hidden(secret.variable(), rule))?;
    Ok(secret)
}

/// The same, where there need not be one.
#[cfg(feature = "redis")]
pub(super) fn optional(
    names: Names,
    value: Option<String>,
    file: Option<String>,
    mistakes: &mut Mistakes,
) -> Result<Option<Secret>, Noted> {
    if value.is_none() && file.is_none() {
        return Ok(None);
    }
    read(names, value, file, |_| Ok(()), mistakes).map(Some)
}

fn from_file(variable: &'static str, path: &str, mistakes: &mut Mistakes) -> Result<Secret, Noted> {
    Secret::from_file(variable, PathBuf::from(path)).map_err(|error| {
        let rule = match error {
            SecretError::Unreadable { cause, .. } => format!("the file cannot be read: {cause}"),
            SecretError::Empty { .. } => "the file is empty".to_owned(),
        };
        if is_surely_a_path(Path::new(path)) {
            mistakes.refuse(variable, path, rule)
        } else {
            mistakes.refuse_hidden(variable, format!("{rule} (the value must be a path, not the secret itself)"))
        }
    })
}

/// Whether `path` is one, and not a secret in the wrong variable: it, or a folder on the way to it, exists.
fn is_surely_a_path(path: &Path) -> bool {
    let named = |folder: &&Path| folder.components().any(|part| matches!(part, Component::Normal(_)));
    path.ancestors().filter(named).any(Path::exists)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: Names = Names { value: "DD_API_KEY", file: "DD_API_KEY_FILE" };

    fn secret(value: Option<&str>, file: Option<&str>) -> Result<Secret, String> {
        let mut mistakes = Mistakes::default();
        let built = read(NAMES, value.map(str::to_owned), file.map(str::to_owned), |_| Ok(()), &mut mistakes);
        mistakes.conclude(built, &[]).map_err(|error| error.to_string())
    }

    #[test]
    fn a_secret_comes_from_its_variable_or_its_file_and_knows_which() {
        let given = secret(Some(" a#b$c "), None).unwrap();
        assert_eq!((given.variable(), given.current().expose_secret()), ("DD_API_KEY", " a#b$c "));
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "=a'b\"\n").unwrap();
        let stored = secret(None, file.path().to_str()).unwrap();
        assert_eq!((stored.variable(), stored.current().expose_secret()), ("DD_API_KEY_FILE", "=a'b\""));
    }

    #[test]
    fn a_secret_given_in_both_ways_is_a_mistake() {
        let message = secret(Some("hunter2"), Some("/etc/hostname")).unwrap_err();
        assert!(message.contains("DD_API_KEY=[hidden]: DD_API_KEY_FILE is set too"), "{message}");
    }

    #[test]
    fn a_secret_given_in_no_way_is_missed_under_both_names() {
        let message = secret(None, None).unwrap_err();
        assert!(message.contains("DD_API_KEY: is required but not set, and neither is DD_API_KEY_FILE"), "{message}");
    }

    #[test]
    fn a_file_that_gives_no_secret_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep").join("key");
        let message = secret(None, path.to_str()).unwrap_err();
        assert!(message.contains(&format!("{path:?}: the file cannot be read")), "{message}");
        let message = secret(None, folder.path().to_str()).unwrap_err();
        assert!(message.contains("the file cannot be read"), "{message}");
        let empty = tempfile::NamedTempFile::new().unwrap();
        let message = secret(None, empty.path().to_str()).unwrap_err();
        assert!(message.contains("the file is empty"), "{message}");
    }

    #[test]
    fn a_secret_put_into_the_file_variable_is_not_shown() {
        for value in ["hunter2", "hunter2/x", "/hunter2/x", "=m0sfj!RQZNp]d2C8DIf1qM8V6jjnAEy"] {
            let message = secret(None, Some(value)).unwrap_err();
            assert!(message.contains("DD_API_KEY_FILE=[hidden]") && !message.contains(value), "{message}");
        }
    }

    #[test]
    fn a_refused_secret_is_named_by_the_variable_that_carried_it() {
        let mut mistakes = Mistakes::default();
        let built = read(NAMES, Some("hunter2".into()), None, |_| Err("must be longer".into()), &mut mistakes);
        let message = mistakes.conclude(built, &[]).unwrap_err().to_string();
        assert!(message.ends_with("DD_API_KEY=[hidden]: must be longer"), "{message}");
    }
}
