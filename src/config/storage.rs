//! Where the state is kept, and the file for rejected records beside it.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::environment::Environment;
use super::mistakes::Noted;
use super::raw::Shared;
use super::reader::Reader;
use crate::secret::Secret;

#[cfg(feature = "gcs")]
mod gcs;
#[cfg(feature = "redis")]
mod redis;
#[cfg(feature = "s3")]
mod s3;

/// Where the state is kept.
#[derive(Debug)]
pub enum Storage {
    /// In this process alone.
    Memory,
    /// In a folder of this machine.
    LocalFs {
        /// The folder, which exists.
        folder: PathBuf,
    },
    /// In Redis.
    #[cfg(feature = "redis")]
    Redis(crate::state::redis::Settings),
    /// In an S3 bucket.
    #[cfg(feature = "s3")]
    S3(crate::state::s3::Settings),
    /// In a Google Cloud Storage bucket.
    #[cfg(feature = "gcs")]
    Gcs(crate::state::gcs::Settings),
}

impl Storage {
    /// The secret that opens the store, where it has one of its own.
    pub fn secret(&self) -> Option<&Secret> {
        match self {
            #[cfg(feature = "redis")]
            Self::Redis(settings) => settings.password.as_ref(),
            _ => None,
        }
    }

    /// Whether the store is used such that two instances cannot undo each other's progress.
    pub fn is_conditional(&self) -> bool {
        match self {
            #[cfg(feature = "s3")]
            Self::S3(settings) => !settings.unconditional,
            _ => true,
        }
    }
}

/// Whether [`storage`] reads the variable.
pub(super) fn reads(name: &str) -> bool {
    const OF_ALL: [&str; 2] = ["STORAGE_BACKEND", "LOCAL_STORAGE_PATH"];
    const OF_ONE: [&str; 3] = ["REDIS_", "S3_", "GCS_"];
    name == EMULATOR
        || name
            .strip_prefix(super::sectigo::PREFIX)
            .is_some_and(|suffix| OF_ALL.contains(&suffix) || OF_ONE.iter().any(|backend| suffix.starts_with(backend)))
}

/// Where Google's own tools look for an emulator.
const EMULATOR: &str = "STORAGE_EMULATOR_HOST";

/// The names of the backends that this build has.
const BUILT: &[&str] = &[
    "localfs",
    "memory",
    #[cfg(feature = "redis")]
    "redis",
    #[cfg(feature = "s3")]
    "s3",
    #[cfg(feature = "gcs")]
    "gcs",
];

/// The backends that this build has: the three with large client libraries can be left out.
#[derive(Debug, Clone, Copy)]
enum Backend {
    Memory,
    LocalFs,
    #[cfg(feature = "redis")]
    Redis,
    #[cfg(feature = "s3")]
    S3,
    #[cfg(feature = "gcs")]
    Gcs,
}

#[allow(
    unreachable_patterns,
    reason = "what is left out is told from what does not exist; in a full build nothing is left out"
)]
fn backend(text: &str) -> Result<Backend, String> {
    let name = text.to_ascii_lowercase();
    match name.as_str() {
        "memory" => Ok(Backend::Memory),
        "localfs" => Ok(Backend::LocalFs),
        #[cfg(feature = "redis")]
        "redis" => Ok(Backend::Redis),
        #[cfg(feature = "s3")]
        "s3" => Ok(Backend::S3),
        #[cfg(feature = "gcs")]
        "gcs" => Ok(Backend::Gcs),
        "redis" | "s3" | "gcs" => Err(format!(
            "this build leaves out the backend {name} (the cargo feature {name}); it has {}",
            BUILT.join(", ")
        )),
        _ => Err("must be localfs, redis, s3, gcs or memory".to_owned()),
    }
}

/// The backend and what it needs.
#[cfg_attr(
    not(any(feature = "redis", feature = "s3", feature = "gcs")),
    expect(unused_variables, reason = "for the backends that are left out")
)]
pub(super) fn storage(raw: &Shared, environment: &Environment, reader: &mut Reader<'_>) -> Result<Storage, Noted> {
    match reader.required("STORAGE_BACKEND", raw.storage_backend.as_deref(), backend)? {
        Backend::Memory => Ok(Storage::Memory),
        Backend::LocalFs => {
            let given = raw.local_storage_path.as_deref();
            let folder = reader.required("LOCAL_STORAGE_PATH", given, |text| {
                existing_folder("it", Path::new(text))?;
                Ok(PathBuf::from(text))
            })?;
            Ok(Storage::LocalFs { folder })
        }
        #[cfg(feature = "redis")]
        Backend::Redis => redis::settings(reader.read("REDIS_", environment)?, reader).map(Storage::Redis),
        #[cfg(feature = "s3")]
        Backend::S3 => s3::settings(&reader.read("S3_", environment)?, reader).map(Storage::S3),
        #[cfg(feature = "gcs")]
        Backend::Gcs => gcs::settings(&reader.read("GCS_", environment)?, environment, reader).map(Storage::Gcs),
    }
}

/// The name of a bucket, without what people put around it.
#[cfg(any(feature = "s3", feature = "gcs"))]
fn bucket(text: &str) -> Result<String, String> {
    if text.contains("://") || text.contains('/') || text.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err("must be the name of a bucket alone, without scheme or path".to_owned());
    }
    Ok(text.to_owned())
}

/// A path in a bucket. Slashes around it do not count: no name begins with one, and one follows in any case.
#[cfg(any(feature = "s3", feature = "gcs"))]
fn prefix(text: &str) -> Result<String, String> {
    const LONGEST: usize = 900;
    let prefix = text.trim_matches('/');
    if prefix.len() > LONGEST || prefix.chars().any(char::is_control) {
        return Err(format!("must be a path of at most {LONGEST} bytes without control characters"));
    }
    Ok(prefix.to_owned())
}

/// The file for rejected records: the one that is named, or `name` in the state's folder, if there is one.
pub(super) fn rejected_path(
    raw: &Shared,
    storage: Option<&Storage>,
    name: &str,
    reader: &mut Reader<'_>,
) -> Result<Option<PathBuf>, Noted> {
    let given = reader.optional("REJECTED_PATH", raw.rejected_path.as_deref(), |text| {
        let path = PathBuf::from(text);
        if path.is_dir() || text.ends_with('/') {
            return Err("must be a file, not a folder".to_owned());
        }
        match path.parent() {
            Some(folder) if folder != Path::new("") => existing_folder("its folder", folder)?,
            _ => {}
        }
        Ok(path)
    })?;
    Ok(given.or_else(|| match storage {
        Some(Storage::LocalFs { folder }) => Some(folder.join(name)),
        _ => None,
    }))
}

/// Says what is wrong with the folder as `which`, for its name may have to be hidden.
fn existing_folder(which: &str, path: &Path) -> Result<(), String> {
    match path.metadata() {
        Ok(found) if found.is_dir() => Ok(()),
        Ok(_) => Err(format!("{which} is not a folder")),
        Err(cause) if cause.kind() == ErrorKind::NotFound => {
            Err(format!("{which} does not exist; create the folder or name another"))
        }
        Err(cause) => Err(format!("{which} cannot be used: {cause}")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{config_with, message_with};
    use super::*;

    const BACKEND: &str = "SECTIGO_AUDIT_STORAGE_BACKEND";
    const FOLDER: &str = "SECTIGO_AUDIT_LOCAL_STORAGE_PATH";
    const REJECTED: &str = "SECTIGO_AUDIT_REJECTED_PATH";

    #[test]
    fn the_current_folder_is_the_default() {
        let config = config_with(&[]);
        assert!(matches!(config.storage, Storage::LocalFs { folder } if folder == Path::new(".")));
        assert_eq!(config.datadog.rejected_path, Some(PathBuf::from("./sectigo-audit-rejected.ndjson")));
    }

    #[test]
    fn rejected_records_are_kept_beside_the_state_or_where_one_says() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_str().unwrap();
        let beside = folder.path().join("sectigo-audit-rejected.ndjson");
        assert_eq!(config_with(&[(FOLDER, path)]).datadog.rejected_path, Some(beside));
        assert_eq!(config_with(&[(BACKEND, "memory")]).datadog.rejected_path, None);
        let elsewhere = folder.path().join("refused");
        for backend in ["memory", "localfs"] {
            let config = config_with(&[(BACKEND, backend), (REJECTED, elsewhere.to_str().unwrap())]);
            assert_eq!(config.datadog.rejected_path.as_ref(), Some(&elsewhere));
        }
        assert_eq!(config_with(&[(REJECTED, "refused")]).datadog.rejected_path, Some(PathBuf::from("refused")));
    }

    #[test]
    fn a_folder_that_is_not_there_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let absent = folder.path().join("absent");
        let message = message_with(&[(FOLDER, absent.to_str().unwrap())]);
        assert!(message.contains(&format!("{FOLDER}={absent:?}: it does not exist")), "{message}");
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        let message = message_with(&[(FOLDER, file.to_str().unwrap())]);
        assert!(message.contains("it is not a folder"), "{message}");
        let message = message_with(&[(REJECTED, absent.join("file").to_str().unwrap())]);
        assert!(
            message.contains(&format!("{REJECTED}=")) && message.contains("its folder does not exist"),
            "{message}"
        );
        let message = message_with(&[(REJECTED, folder.path().to_str().unwrap())]);
        assert!(message.contains("must be a file, not a folder"), "{message}");
    }

    #[test]
    fn memory_does_not_look_at_the_folder() {
        let config = config_with(&[(BACKEND, "Memory"), (FOLDER, "/no/such/folder")]);
        assert!(matches!(config.storage, Storage::Memory));
    }

    #[test]
    fn a_backend_that_was_left_out_is_told_from_one_that_does_not_exist() {
        for name in ["localfs", "redis", "s3", "gcs", "memory"] {
            match backend(&name.to_ascii_uppercase()) {
                Ok(_) => assert!(BUILT.contains(&name)),
                Err(rule) => {
                    let said = format!(
                        "this build leaves out the backend {name} (the cargo feature {name}); it has localfs, "
                    );
                    assert!(rule.starts_with(&said) && !BUILT.contains(&name), "{rule}");
                }
            }
        }
        let message = message_with(&[(BACKEND, "floppy")]);
        assert!(message.contains("must be localfs, redis, s3, gcs or memory"), "{message}");
    }
}
