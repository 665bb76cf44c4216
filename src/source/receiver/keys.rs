//! The keys of senders.

use std::time::Duration;

use parking_lot::Mutex;
use secrecy::ExposeSecret as _;
use sha2::{Digest as _, Sha256};
use subtle::{Choice, ConstantTimeEq as _};
use tokio::time::Instant;

use super::variables;
use crate::failure::Chain;
use crate::secret::Secret;

/// The shortest time between two looks at the file of the keys, however many requests come.
const RELOAD_EVERY: Duration = Duration::from_secs(1);

/// The keys, as one text with commas, which may be in a file.
///
/// The receiver reads a file again when a request comes, so that a key that was added or removed counts from then on.
/// If the file breaks the rules for keys, the keys in use stay. Otherwise one mistake in the file would refuse every
/// sender.
#[derive(Debug)]
pub(super) struct Keys {
    secret: Secret,
    held: Mutex<Held>,
}

/// The keys in use.
#[derive(Debug, Default)]
struct Held {
    digests: Vec<Digest>,
    /// The digest of the text that was read last.
    text: Option<Digest>,
    looked: Option<Instant>,
    /// The reason that was logged last why the file cannot be used.
    warned: Option<String>,
}

/// Digests have one length, so that a comparison takes the same time for all keys.
type Digest = [u8; 32];

fn digest(bytes: &[u8]) -> Digest {
    Sha256::digest(bytes).into()
}

impl Keys {
    pub(super) fn new(secret: Secret) -> Self {
        let keys = Self { secret, held: Mutex::default() };
        keys.adopt(&mut keys.held.lock());
        keys
    }

    /// Whether `key` is one of the keys. The time that this takes reveals nothing about them.
    pub(super) fn accept(&self, key: &[u8]) -> bool {
        let wanted = digest(key);
        let mut held = self.held.lock();
        self.look(&mut held);
        held.digests.iter().fold(Choice::from(0), |found, known| found | known.ct_eq(&wanted)).into()
    }

    /// Reads the file again if that is due.
    fn look(&self, held: &mut Held) {
        if self.secret.is_from_file() && held.looked.is_none_or(|at| at.elapsed() >= RELOAD_EVERY) {
            held.looked = Some(Instant::now());
            if let Err(error) = self.secret.reload() {
                self.warn(held, Chain(&error).to_string());
                return;
            }
        }
        self.adopt(held);
    }

    /// Uses the keys of the present text if the text has changed and every key in it is allowed.
    fn adopt(&self, held: &mut Held) {
        let current = self.secret.current();
        let text = digest(current.expose_secret().as_bytes());
        if held.text == Some(text) {
            return;
        }
        let is_first = held.text.replace(text).is_none();
        match variables::keys(current.expose_secret()) {
            Ok(keys) => {
                held.digests = keys.into_iter().map(|key| digest(key.as_bytes())).collect();
                held.warned = None;
                if !is_first {
                    let variable = self.secret.variable();
                    tracing::info!(%variable, keys = held.digests.len(), "the keys changed; only those in the file are accepted from now on");
                }
            }
            Err(reason) => self.warn(held, reason),
        }
    }

    /// Warns about the file, once for each reason.
    fn warn(&self, held: &mut Held, reason: String) {
        if held.warned.as_ref() != Some(&reason) {
            let variable = self.secret.variable();
            tracing::warn!(%variable, %reason, "the file with the keys cannot be used; the keys in use stay until you correct it");
            held.warned = Some(reason);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_of_several_keys_is_taken_and_a_part_of_one_is_not() {
        let secret = Secret::from_value(
            "RECEIVER_AUDIT_API_KEYS",
            "first-key-0123456789, second-key-0123456789".to_owned().into(),
        );
        let keys = Keys::new(secret);
        for (key, expected) in
            [("first-key-0123456789", true), ("second-key-0123456789", true), ("first-key", false), ("", false)]
        {
            assert_eq!(keys.accept(key.as_bytes()), expected, "{key}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_that_was_added_to_the_file_is_taken_and_one_that_was_removed_is_not() {
        let (_folder, path, keys) = in_a_file("first-key-0123456789\n");
        assert!(keys.accept(b"first-key-0123456789"));
        std::fs::write(&path, "second-key-0123456789\n").unwrap();
        assert!(!keys.accept(b"second-key-0123456789"), "the file was read a moment ago");
        tokio::time::advance(RELOAD_EVERY).await;
        assert!(!keys.accept(b"first-key-0123456789"));
        assert!(keys.accept(b"second-key-0123456789"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_that_breaks_the_rules_or_is_gone_leaves_the_keys_in_use() {
        let (_folder, path, keys) = in_a_file("first-key-0123456789\n");
        for broken in ["first-key-0123456789\nshort\n", "\n", ","] {
            std::fs::write(&path, broken).unwrap();
            tokio::time::advance(RELOAD_EVERY).await;
            assert!(keys.accept(b"first-key-0123456789"), "{broken:?}");
            assert!(!keys.accept(b"short"), "{broken:?}");
        }
        std::fs::remove_file(&path).unwrap();
        tokio::time::advance(RELOAD_EVERY).await;
        assert!(keys.accept(b"first-key-0123456789"));
        std::fs::write(&path, "second-key-0123456789\n").unwrap();
        tokio::time::advance(RELOAD_EVERY).await;
        assert!(keys.accept(b"second-key-0123456789"));
    }

    fn in_a_file(text: &str) -> (tempfile::TempDir, std::path::PathBuf, Keys) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        std::fs::write(&path, text).unwrap();
        let keys = Keys::new(Secret::from_file("RECEIVER_AUDIT_API_KEYS_FILE", path.clone()).unwrap());
        (folder, path, keys)
    }
}
