//! Where the state is kept, and the file for rejected records beside it.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::mistakes::Noted;
use super::raw::Shared;
use super::reader::Reader;

/// Where the state is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Storage {
    /// In this process alone.
    Memory,
    /// In a folder of this machine.
    LocalFs {
        /// The folder, which exists.
        folder: PathBuf,
    },
}

/// Backends that this build does not have, with what their variables begin with.
const ABSENT: [(&str, &str); 3] = [("redis", "REDIS_"), ("s3", "S3_"), ("gcs", "GCS_")];

/// The variables that [`storage`] reads, without their prefix.
pub(super) const READ: [&str; 2] = ["STORAGE_BACKEND", "LOCAL_STORAGE_PATH"];

/// Whether the variable that ends in `suffix` belongs to a backend outside of the table.
pub(super) fn reads(suffix: &str) -> bool {
    ABSENT.iter().any(|(_, prefix)| suffix.starts_with(prefix))
}

#[derive(Clone, Copy)]
enum Backend {
    Memory,
    LocalFs,
}

fn backend(text: &str) -> Result<Backend, String> {
    let name = text.to_ascii_lowercase();
    match name.as_str() {
        "memory" => Ok(Backend::Memory),
        "localfs" => Ok(Backend::LocalFs),
        _ if ABSENT.iter().any(|(absent, _)| *absent == name) => {
            Err(format!("this build does not have the backend {name}; it has localfs and memory"))
        }
        _ => Err("must be localfs or memory".to_owned()),
    }
}

/// The backend and what it needs.
pub(super) fn storage(raw: &Shared, reader: &mut Reader<'_>) -> Result<Storage, Noted> {
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
    }
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
        Some(Storage::Memory) | None => None,
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
        assert_eq!(config.storage, Storage::LocalFs { folder: PathBuf::from(".") });
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
        assert_eq!(config_with(&[(BACKEND, "Memory"), (FOLDER, "/no/such/folder")]).storage, Storage::Memory);
    }

    #[test]
    fn a_backend_that_this_build_lacks_is_told_from_one_that_does_not_exist() {
        for backend in ["redis", "s3", "GCS"] {
            let message = message_with(&[(BACKEND, backend)]);
            assert!(message.contains(&format!("{BACKEND}={backend:?}: this build does not have")), "{message}");
        }
        let message = message_with(&[(BACKEND, "floppy")]);
        assert!(message.contains("must be localfs or memory"), "{message}");
    }
}
