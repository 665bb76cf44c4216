//! The variables that choose the state store, and the stores to choose from.

use std::path::{Path, PathBuf};

use crate::config::{Noted, Preset, Reader, Scope, Spec, Variable, parse};
use crate::secret::Secret;

/// Where the state is kept.
pub(crate) const BACKEND: Variable<Backend> = Variable::new(
    Scope::Shared,
    "AUDITSYNC_STORAGE_BACKEND",
    Preset::Value("localfs"),
    |text, _| backend(text),
    "Where the state is kept: localfs (a folder), redis, s3, gcs, or memory (forgotten at the end).",
);

/// The folder of the state on this machine.
pub(crate) const LOCAL_STORAGE_PATH: Variable<PathBuf> = Variable::new(
    Scope::Shared,
    "AUDITSYNC_LOCAL_STORAGE_PATH",
    Preset::Value("."),
    |text, _| parse::existing_folder("it", Path::new(text)).map(|()| PathBuf::from(text)),
    "Folder for the state with localfs. It must exist.",
);

/// Those that every build has, for the tables.
pub(crate) const VARIABLES: &[&Spec] = &[&BACKEND.spec, &LOCAL_STORAGE_PATH.spec];

/// Where the state is kept.
#[derive(Debug)]
pub(crate) enum Storage {
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
    pub(crate) fn secret(&self) -> Option<&Secret> {
        match self {
            #[cfg(feature = "redis")]
            Self::Redis(settings) => settings.password.as_ref(),
            _ => None,
        }
    }
}

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
pub(crate) enum Backend {
    /// This process.
    Memory,
    /// A folder of this machine.
    LocalFs,
    /// A Redis server.
    #[cfg(feature = "redis")]
    Redis,
    /// An S3 bucket.
    #[cfg(feature = "s3")]
    S3,
    /// A Google Cloud Storage bucket.
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

/// The store that was chosen, with what it needs.
pub(crate) fn settings(reader: &mut Reader<'_>) -> Result<Storage, Noted> {
    match reader.get(&BACKEND)? {
        Backend::Memory => Ok(Storage::Memory),
        Backend::LocalFs => Ok(Storage::LocalFs { folder: reader.get(&LOCAL_STORAGE_PATH)? }),
        #[cfg(feature = "redis")]
        Backend::Redis => super::redis::variables::settings(reader).map(Storage::Redis),
        #[cfg(feature = "s3")]
        Backend::S3 => super::s3::variables::settings(reader).map(Storage::S3),
        #[cfg(feature = "gcs")]
        Backend::Gcs => super::gcs::variables::settings(reader).map(Storage::Gcs),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::read_pairs;

    const FOLDER: &str = LOCAL_STORAGE_PATH.spec.name;

    #[test]
    fn the_current_folder_is_the_default() {
        assert!(matches!(read_pairs(&[], settings), Ok(Storage::LocalFs { folder }) if folder == Path::new(".")));
    }

    #[test]
    fn a_folder_that_does_not_exist_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let (absent, file) = (folder.path().join("absent"), folder.path().join("file"));
        std::fs::write(&file, "").unwrap();
        let message = read_pairs(&[(FOLDER, absent.to_str().unwrap())], settings).unwrap_err();
        assert!(message.contains(&format!("{FOLDER}={absent:?}: it does not exist")), "{message}");
        let message = read_pairs(&[(FOLDER, file.to_str().unwrap())], settings).unwrap_err();
        assert!(message.contains("it is not a folder"), "{message}");
    }

    #[test]
    fn memory_does_not_look_at_the_folder() {
        let pairs = [(BACKEND.spec.name, "Memory"), (FOLDER, "/no/such/folder")];
        assert!(matches!(read_pairs(&pairs, settings), Ok(Storage::Memory)));
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
        assert_eq!(backend("floppy").err().as_deref(), Some("must be localfs, redis, s3, gcs or memory"));
    }
}
