//! Stores the state in a local folder: a document that each save replaces atomically, and a file that the process locks for its life.
//!
//! The lock needs a file of its own. A lock belongs to a file, not to its name, and every save replaces the document by a new file.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustix::fs::OFlags;
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};

use super::{Claim, Document, Error, Kind, StateStore, Version};
use crate::component::Configured;
use crate::config::{Preset, Scope, Variable, parse};
use crate::pipeline_name::PipelineName;

/// The store in the registry.
pub const KIND: Kind = Kind {
    name: "localfs",
    variables: &[&LOCAL_STORAGE_PATH.spec],
    is_lasting: true,
    folder: |reader| reader.get(&LOCAL_STORAGE_PATH).ok(),
    read: |reader, pipeline| {
        let (folder, pipeline) = (reader.get(&LOCAL_STORAGE_PATH)?, pipeline.clone());
        Ok(Configured::new(move |()| -> Arc<dyn StateStore> { Arc::new(LocalFs::new(folder.clone(), &pipeline)) }))
    },
};

/// The folder of the state on this machine.
const LOCAL_STORAGE_PATH: Variable<PathBuf> = Variable::new(
    Scope::Shared,
    "AUDITSYNC_LOCAL_STORAGE_PATH",
    Preset::Value("."),
    |text, _| parse::existing_folder("it", Path::new(text)).map(|()| PathBuf::from(text)),
    "Folder for the state with localfs. It must exist.",
);

/// How long to wait for another process's lock. A lock held for longer is not just for one save.
const PASSING: Duration = Duration::from_secs(2);

/// Keeps the document as a file.
#[derive(Debug, Clone)]
pub struct LocalFs {
    folder: PathBuf,
    document: PathBuf,
    staging: PathBuf,
    lock_file: PathBuf,
    lock: Arc<Mutex<Option<File>>>,
}

impl LocalFs {
    /// Makes the store of `pipeline` in `folder`, which must exist before the first save: `auditsync-sectigo-datadog.json`.
    pub fn new(folder: PathBuf, pipeline: &PipelineName) -> Self {
        let file = |ending: &str| folder.join(format!("{}.{ending}", pipeline.file_stem()));
        let (document, staging, lock_file) = (file("json"), file("json.new"), file("lock"));
        Self { folder, document, staging, lock_file, lock: Arc::default() }
    }

    fn error(&self, action: &'static str) -> impl FnOnce(io::Error) -> Error + use<> {
        let location = self.location();
        move |cause| Error::Io { action, location, cause }
    }

    /// Runs blocking file work away from the async threads, since disks stall.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let this = self.clone();
        match tokio::task::spawn_blocking(move || work(&this)).await {
            Ok(done) => done,
            Err(stopped) => Err(self.error("work on")(io::Error::other(stopped))),
        }
    }

    fn claim_now(&self) -> Result<Claim, Error> {
        let mut held = self.lock.lock();
        if held.is_none() {
            *held = self.take_lock()?;
        }
        Ok(if held.is_some() { Claim::Granted } else { Claim::Busy { holder: self.holder() } })
    }

    /// Takes the lock at its path and writes this process's number into it; none if another process holds it.
    fn take_lock(&self) -> Result<Option<File>, Error> {
        let mut file = self.open_lock()?;
        if !self.try_lock(&file)? {
            return Ok(None);
        }
        // A second instance shows this holder. If the write fails, only that is lost.
        let _ = file.set_len(0).and_then(|()| writeln!(file, "process {}", std::process::id()));
        // A file that was removed between opening and locking would keep nobody out.
        Ok(self.is_at_path(&file)?.then_some(file))
    }

    fn confirm_now(&self) -> Result<(), Error> {
        let mut held = self.lock.lock();
        if held.is_some() {
            return self.confirm_held(&mut held);
        }
        *held = self.take_lock()?;
        if held.is_some() { Ok(()) } else { Err(self.busy()) }
    }

    fn busy(&self) -> Error {
        Error::Busy { location: self.location(), holder: self.holder() }
    }

    /// Takes a held lock again if its file was removed or replaced. Otherwise another process could lock the new file at that path.
    fn confirm_held(&self, held: &mut Option<File>) -> Result<(), Error> {
        let Some(file) = held else { return Ok(()) };
        if self.is_at_path(file)? {
            return Ok(());
        }
        let taken = self.take_lock()?;
        // If another process holds the lock now, this clears ours, and the next claim tries to take it.
        *held = taken;
        if held.is_none() {
            return Err(self.busy());
        }
        let path = self.lock_file.display();
        tracing::warn!(%path, "the lock file was removed or replaced; this instance has locked it again and continues");
        Ok(())
    }

    /// Whether the lock's path still leads to this file.
    fn is_at_path(&self, file: &File) -> Result<bool, Error> {
        let held = file.metadata().map_err(self.error("lock"))?;
        match std::fs::symlink_metadata(&self.lock_file) {
            Ok(found) => Ok((found.dev(), found.ino()) == (held.dev(), held.ino())),
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(cause) => Err(self.error("lock")(cause)),
        }
    }

    /// Opens the lock file, but follows no symbolic link. Someone who can place a link there must not choose its target.
    fn open_lock(&self) -> Result<File, Error> {
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        options.custom_flags(flags.bits().cast_signed());
        let refused = |finding: &str| {
            let path = self.lock_file.display();
            self.error("lock")(io::Error::other(format!("the lock file {path} is {finding}; remove it")))
        };
        let file = options.open(&self.lock_file).map_err(|cause| match cause.raw_os_error() {
            Some(code) if code == Errno::LOOP.raw_os_error() => refused("a symbolic link, which is not followed"),
            _ => self.error("lock")(cause),
        })?;
        if file.metadata().map_err(self.error("lock"))?.is_file() {
            return Ok(file);
        }
        Err(refused("not a regular file"))
    }

    fn try_lock(&self, file: &File) -> Result<bool, Error> {
        match file.try_lock() {
            Ok(()) => Ok(true),
            Err(TryLockError::WouldBlock) => Ok(false),
            Err(TryLockError::Error(cause)) => {
                Err(Error::NoLocks { location: self.lock_file.display().to_string(), cause })
            }
        }
    }

    fn holder(&self) -> String {
        let holder = std::fs::read_to_string(&self.lock_file).unwrap_or_default();
        let holder: String = holder.chars().filter(|c| c.is_ascii_alphanumeric() || *c == ' ').take(40).collect();
        if holder.is_empty() { "another process".to_owned() } else { holder }
    }

    /// Does `work` under the lock: the one that this process holds, or one taken only for this work. It waits for another process's brief
    /// lock.
    fn locked<T>(&self, work: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
        let mut held = self.lock.lock();
        self.confirm_held(&mut held)?;
        if held.is_some() {
            return work();
        }
        let file = self.open_lock()?;
        let begun = Instant::now();
        while !self.try_lock(&file)? {
            if begun.elapsed() > PASSING {
                return Err(self.busy());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        work()
    }

    fn load_now(&self) -> Result<Option<(Document, Version)>, Error> {
        match std::fs::read(&self.document) {
            Ok(bytes) => {
                let version = version(&bytes);
                Ok(Some((Document::from_bytes(bytes), version)))
            }
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(cause) => Err(self.error("read")(cause)),
        }
    }

    fn probe_now(&self) -> Result<(), Error> {
        self.locked(|| {
            let probed = self.stage(b"").and_then(|()| std::fs::remove_file(&self.staging));
            probed.map_err(self.error("write"))
        })
    }

    fn save_now(&self, document: &Document, expected: Option<&Version>) -> Result<Version, Error> {
        self.locked(|| {
            if self.load_now()?.map(|(_, version)| version).as_ref() != expected {
                return Err(Error::Conflict { location: self.location(), cause: None });
            }
            self.replace(document.as_bytes()).map_err(self.error("write"))?;
            Ok(version(document.as_bytes()))
        })
    }

    /// Replaces the document atomically: after any crash, the whole old or the whole new document is there. The new one is on disk before it
    /// takes the name, and the name is on disk before this returns.
    fn replace(&self, bytes: &[u8]) -> io::Result<()> {
        self.stage(bytes)?;
        std::fs::rename(&self.staging, &self.document)?;
        File::open(&self.folder)?.sync_all()
    }

    /// Writes a new file beside the document and syncs it to disk.
    fn stage(&self, bytes: &[u8]) -> io::Result<()> {
        match std::fs::remove_file(&self.staging) {
            Err(cause) if cause.kind() != io::ErrorKind::NotFound => return Err(cause),
            _ => {}
        }
        // A new file has our mode, and `create_new` follows no link in its place.
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&self.staging)?;
        file.write_all(bytes)?;
        file.sync_all()
    }
}

#[async_trait]
impl StateStore for LocalFs {
    fn location(&self) -> String {
        self.document.display().to_string()
    }

    async fn claim(&self) -> Result<Claim, Error> {
        self.blocking(Self::claim_now).await
    }

    async fn confirm(&self) -> Result<(), Error> {
        self.blocking(Self::confirm_now).await
    }

    async fn load(&self) -> Result<Option<(Document, Version)>, Error> {
        self.blocking(Self::load_now).await
    }

    async fn save(&self, document: &Document, expected: Option<&Version>) -> Result<Version, Error> {
        let (document, expected) = (document.clone(), expected.cloned());
        self.blocking(move |this| this.save_now(&document, expected.as_ref())).await
    }

    async fn probe(&self) -> Result<(), Error> {
        self.blocking(Self::probe_now).await
    }
}

fn version(bytes: &[u8]) -> Version {
    Version(URL_SAFE_NO_PAD.encode(Sha256::digest(bytes)))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn document(text: &str) -> Document {
        Document::from_bytes(text.as_bytes().to_vec())
    }

    #[tokio::test]
    async fn the_document_is_for_its_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let store = LocalFs::new(folder.path().to_owned(), &"x:y".into());
        store.save(&document("{}"), None).await.unwrap();
        store.claim().await.unwrap();
        for name in ["auditsync-x-y.json", "auditsync-x-y.lock"] {
            let mode = std::fs::metadata(folder.path().join(name)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }
    }

    #[tokio::test]
    async fn what_a_crash_left_behind_does_no_harm() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("elsewhere");
        std::fs::write(&target, "precious").unwrap();
        std::os::unix::fs::symlink(&target, folder.path().join("auditsync-x-y.json.new")).unwrap();
        let store = LocalFs::new(folder.path().to_owned(), &"x:y".into());
        store.save(&document("{}"), None).await.unwrap();
        assert_eq!(std::fs::read_to_string(&target).unwrap(), "precious");
        assert_eq!(store.load().await.unwrap().unwrap().0, document("{}"));
    }

    #[tokio::test]
    async fn one_process_at_a_time_holds_the_state() {
        let folder = tempfile::tempdir().unwrap();
        let (first, second) = (
            LocalFs::new(folder.path().to_owned(), &"x:y".into()),
            LocalFs::new(folder.path().to_owned(), &"x:y".into()),
        );
        assert_eq!(first.claim().await.unwrap(), Claim::Granted);
        assert_eq!(first.claim().await.unwrap(), Claim::Granted, "the holder itself always gets it");
        let holder = format!("process {}", std::process::id());
        assert_eq!(second.claim().await.unwrap(), Claim::Busy { holder });
        drop(first);
        assert_eq!(second.claim().await.unwrap(), Claim::Granted);
    }

    #[tokio::test]
    async fn a_removed_lock_is_taken_again_or_stops_the_work() {
        let folder = tempfile::tempdir().unwrap();
        let lock = folder.path().join("auditsync-x-y.lock");
        let new = || LocalFs::new(folder.path().to_owned(), &"x:y".into());
        let (first, second) = (new(), new());
        first.claim().await.unwrap();
        std::fs::remove_file(&lock).unwrap();
        first.confirm().await.unwrap();
        assert!(matches!(second.claim().await.unwrap(), Claim::Busy { .. }), "the first has taken it again");

        std::fs::remove_file(&lock).unwrap();
        assert_eq!(second.claim().await.unwrap(), Claim::Granted);
        assert!(matches!(first.confirm().await, Err(Error::Busy { .. })));
        assert!(matches!(first.save(&document("{}"), None).await, Err(Error::Busy { .. })));
        second.confirm().await.unwrap();
        std::fs::remove_dir_all(folder.path()).unwrap();
        assert!(matches!(second.confirm().await, Err(Error::Io { .. })));
    }

    #[tokio::test]
    async fn a_link_in_place_of_the_lock_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (target, lock) = (folder.path().join("elsewhere"), folder.path().join("auditsync-x-y.lock"));
        std::fs::write(&target, "precious").unwrap();
        std::os::unix::fs::symlink(&target, &lock).unwrap();
        let error = LocalFs::new(folder.path().to_owned(), &"x:y".into()).claim().await.unwrap_err();
        assert!(crate::failure::Chain(&error).to_string().contains(lock.to_str().unwrap()), "{error}");
        assert_eq!(std::fs::read_to_string(&target).unwrap(), "precious");
    }

    #[tokio::test]
    async fn a_folder_that_cannot_be_written_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let missing = folder.path().join("missing");
        let store = LocalFs::new(missing.clone(), &"x:y".into());
        for error in [store.claim().await.unwrap_err(), store.save(&document("{}"), None).await.unwrap_err()] {
            assert!(error.to_string().contains(missing.to_str().unwrap()), "{error}");
        }
    }
}
