//! State in a folder.

use std::sync::Arc;

use auditsync::state::localfs::LocalFs;
use auditsync::state::{Claim, Error, StateStore, Version};
use tempfile::TempDir;
use tokio::sync::Barrier;

use crate::suite::{Location, TASKS, bytes, conformance, document, held};

struct InAFolder(TempDir);

impl Location for InAFolder {
    type Store = LocalFs;
    /// Each save is written through to the disk, and processes that wait for a lock check it every few milliseconds.
    const ROUNDS: usize = 200;

    async fn fresh() -> Self {
        Self(TempDir::new().unwrap())
    }

    fn open(&self) -> Arc<LocalFs> {
        Arc::new(LocalFs::new(self.0.path().to_owned(), &"sectigo:datadog".into()))
    }
}

conformance!(InAFolder);

/// If only one process at a time may work on the state, another cannot even save.
mod while_it_is_claimed {
    use super::*;

    #[tokio::test]
    async fn another_handle_on_a_folder_cannot_save() {
        let location = InAFolder::fresh().await;
        let (holder, other) = (location.open(), location.open());
        assert_eq!(holder.claim().await.unwrap(), Claim::Granted);
        let version = holder.save(&document(1), None).await.unwrap();
        let before = held(&*holder).await;
        let refused = other.save(&document(2), Some(&version)).await;
        assert!(matches!(&refused, Err(Error::Busy { .. })), "{refused:?}");
        let refused = other.probe().await;
        assert!(matches!(&refused, Err(Error::Busy { .. })), "{refused:?}");
        assert_eq!(held(&*other).await, before, "but it can read");
        drop(holder);
        other.save(&document(2), Some(&version)).await.unwrap();
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn saves_of_one_handle_at_the_same_time_have_one_winner_too() {
        let location = InAFolder::fresh().await;
        let store = location.open();
        store.claim().await.unwrap();
        let mut version: Option<Version> = None;
        for round in 0..100 {
            let start = Arc::new(Barrier::new(TASKS));
            let tasks: Vec<_> = (0..TASKS)
                .map(|task| {
                    let (store, start, version) = (Arc::clone(&store), Arc::clone(&start), version.clone());
                    tokio::spawn(async move {
                        start.wait().await;
                        store.save(&bytes(format!("{round} {task}").as_bytes()), version.as_ref()).await.ok()
                    })
                })
                .collect();
            let mut winners = Vec::new();
            for task in tasks {
                winners.extend(task.await.unwrap());
            }
            assert_eq!(winners.len(), 1, "round {round}");
            version = winners.pop();
        }
    }
}
