//! Secrets, which are never shown. They come from a variable or a file, and a file is read again when a server rejects its secret.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::RwLock;

use secrecy::{ExposeSecret, SecretString};

use crate::variable_name::VariableName;

/// A secret, and the variable that carries it.
///
/// `Debug` shows the variable, never the value. A secret from a file can be read again, so that a rotated key needs no restart. Clones
/// share the value.
#[derive(Clone)]
pub struct Secret {
    variable: VariableName,
    file: Option<PathBuf>,
    rule: fn(&str) -> Result<(), String>,
    value: Arc<RwLock<SecretString>>,
}

/// Why there is no secret in a file.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The file could not be read.
    #[error("cannot read {}", path.display())]
    Unreadable {
        /// The file that the variable names.
        path: PathBuf,
        /// The error of the operating system.
        #[source]
        cause: io::Error,
    },
    /// The file is empty, or contains only a line end.
    #[error("{} is empty", path.display())]
    Empty {
        /// The file that the variable names.
        path: PathBuf,
    },
    /// A pipe or the like gives its content once.
    #[error("{} is not a regular file", path.display())]
    Passing {
        /// What the variable names.
        path: PathBuf,
    },
    /// The secret breaks the rule of its variable.
    #[error("the secret in {} {rule}", path.display())]
    Unfit {
        /// The file that the variable names.
        path: PathBuf,
        /// The rule that the secret breaks.
        rule: String,
    },
}

/// What the file of a rejected secret shows, unless it still has that secret.
#[derive(Debug, thiserror::Error)]
pub enum Outdated {
    /// The file that this variable names has another secret by now.
    #[error("{0} names a newer one, which is tried next")]
    Rotated(VariableName),
    /// The file that this variable names cannot be read again.
    #[error("{0} cannot be read again")]
    Gone(VariableName, #[source] SecretError),
}

impl Secret {
    /// Makes a secret from the value of `variable`.
    pub fn from_value(variable: impl Into<VariableName>, value: SecretString) -> Self {
        Self { variable: variable.into(), file: None, rule: |_| Ok(()), value: Arc::new(RwLock::new(value)) }
    }

    /// Reads a secret from the file that `variable` (`…_FILE`) names. One line end at the end of the file is not part of the secret.
    pub fn from_file(variable: impl Into<VariableName>, path: PathBuf) -> Result<Self, SecretError> {
        let value = read(&path)?;
        Ok(Self { file: Some(path), ..Self::from_value(variable, value) })
    }

    /// Applies `rule` to the secret, and to each that [`Self::reload`] reads later. Returns the rule that it breaks, without the secret.
    pub fn checked(self, rule: fn(&str) -> Result<(), String>) -> Result<Self, String> {
        rule(self.current().expose_secret())?;
        Ok(Self { rule, ..self })
    }

    /// The variable that an operator has to correct when this secret is rejected.
    pub fn variable(&self) -> &VariableName {
        &self.variable
    }

    /// The value that was last read.
    pub fn current(&self) -> SecretString {
        self.value.read().clone()
    }

    /// Reads the file again after a server rejected `rejected`. None if that secret itself is at fault.
    pub fn after_rejection(&self, rejected: &SecretString) -> Option<Outdated> {
        if let Err(cause) = self.reload() {
            return Some(Outdated::Gone(self.variable.clone(), cause));
        }
        let is_another = self.current().expose_secret() != rejected.expose_secret();
        is_another.then(|| Outdated::Rotated(self.variable.clone()))
    }

    /// Whether the secret came from a file.
    pub fn is_from_file(&self) -> bool {
        self.file.is_some()
    }

    /// Reads the file again, if there is one. True if the value has changed. After an error the old value stays.
    pub fn reload(&self) -> Result<bool, SecretError> {
        let Some(path) = &self.file else { return Ok(false) };
        if fs::metadata(path).is_ok_and(|metadata| !metadata.is_file()) {
            // To read a pipe again could block for ever.
            return Err(SecretError::Passing { path: path.clone() });
        }
        let new = read(path)?;
        (self.rule)(new.expose_secret()).map_err(|rule| SecretError::Unfit { path: path.clone(), rule })?;
        let mut value = self.value.write();
        let is_changed = value.expose_secret() != new.expose_secret();
        *value = new;
        Ok(is_changed)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({})", self.variable)
    }
}

fn read(path: &Path) -> Result<SecretString, SecretError> {
    let text = fs::read_to_string(path).map_err(|cause| SecretError::Unreadable { path: path.to_owned(), cause })?;
    let line = text.strip_suffix('\n').map_or(text.as_str(), |line| line.strip_suffix('\r').unwrap_or(line));
    if line.is_empty() {
        return Err(SecretError::Empty { path: path.to_owned() });
    }
    Ok(SecretString::from(line))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_names_the_variable_and_not_the_value() {
        let secret = Secret::from_value("DD_API_KEY", SecretString::from("hunter2"));
        assert_eq!(format!("{secret:?}"), "Secret(DD_API_KEY)");
    }

    #[test]
    fn only_the_last_line_end_of_a_file_is_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        for (content, expected) in [("a b\n", "a b"), ("a\r\n", "a"), ("a\n\n", "a\n"), (" =a", " =a")] {
            std::fs::write(&path, content).unwrap();
            let secret = Secret::from_file("DD_API_KEY_FILE", path.clone()).unwrap();
            assert_eq!(secret.current().expose_secret(), expected);
        }
        std::fs::write(&path, "\n").unwrap();
        assert!(matches!(Secret::from_file("DD_API_KEY_FILE", path), Err(SecretError::Empty { .. })));
    }

    #[test]
    fn a_rotated_file_is_taken_up() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        std::fs::write(&path, "old").unwrap();
        let secret = Secret::from_file("DD_API_KEY_FILE", path.clone()).unwrap();
        let old = secret.current();
        let is_rotated = || matches!(secret.after_rejection(&old), Some(Outdated::Rotated(_)));
        assert!(secret.after_rejection(&old).is_none());
        std::fs::write(&path, "new\n").unwrap();
        assert!(is_rotated());
        assert!(is_rotated(), "for each request that was refused with the old one");
        assert_eq!(secret.current().expose_secret(), "new");
    }

    #[test]
    fn what_the_start_would_refuse_does_not_replace_the_secret() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("salt");
        std::fs::write(&path, "0123456789abcdef").unwrap();
        let rule = |salt: &str| if salt.len() < 16 { Err("is too short".to_owned()) } else { Ok(()) };
        let secret = || Secret::from_file("AUDITSYNC_REDACT_SALT_FILE", path.clone()).unwrap();
        let in_use = secret().checked(rule).unwrap();
        std::fs::write(&path, "x").unwrap();
        assert_eq!(secret().checked(rule).unwrap_err(), "is too short");
        let error = in_use.reload().unwrap_err().to_string();
        assert!(error.ends_with("salt is too short") && error.starts_with("the secret in "), "{error}");
        let old = in_use.current();
        assert!(matches!(in_use.after_rejection(&old), Some(Outdated::Gone(_, SecretError::Unfit { .. }))));
        assert_eq!(old.expose_secret(), "0123456789abcdef");
    }

    #[test]
    fn a_pipe_is_not_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        std::fs::write(&path, "old").unwrap();
        let secret = Secret::from_file("DD_API_KEY_FILE", path.clone()).unwrap();
        std::fs::remove_file(&path).unwrap();
        // Nobody writes into it.
        assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
        assert!(matches!(secret.reload(), Err(SecretError::Passing { .. })));
        assert_eq!(secret.current().expose_secret(), "old");
    }

    #[test]
    fn a_reload_tells_whether_the_value_changed_and_a_file_that_is_gone_leaves_the_old_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        std::fs::write(&path, "old").unwrap();
        let secret = Secret::from_file("DD_API_KEY_FILE", path.clone()).unwrap();
        let in_use = secret.clone();
        assert!(!secret.reload().unwrap());
        std::fs::write(&path, "new\n").unwrap();
        assert!(secret.reload().unwrap());
        assert_eq!(in_use.current().expose_secret(), "new", "wherever it is used");
        std::fs::remove_file(&path).unwrap();
        assert!(secret.reload().is_err());
        assert_eq!(in_use.current().expose_secret(), "new");
        assert!(!Secret::from_value("DD_API_KEY", SecretString::from("x")).reload().unwrap());
    }
}
