//! What every state store promises, whatever it keeps the document in.
//!
//! A backend joins by a [`Place`] of its own and one line at the end; each promise is then a test of it.
#![allow(clippy::unwrap_used, clippy::panic, reason = "in a test, what cannot be is a failure")]

use std::sync::Arc;

use auditsync::source::sectigo;
use auditsync::state::localfs::LocalFs;
use auditsync::state::memory::Memory;
use auditsync::state::{Document, Error, Nonce, State, StateStore, Version};
use jiff::Timestamp;
use tempfile::TempDir;
use tokio::sync::Barrier;

/// Where one document is kept.
trait Place {
    type Store: StateStore + 'static;

    /// An empty place, no one else's.
    async fn fresh() -> Self;

    /// A handle of its own on the place, as another process would have it where the backend allows for others.
    fn open(&self) -> Arc<Self::Store>;

    /// How many rounds of a race are worth their time.
    const ROUNDS: usize;
}

struct InMemory(Arc<Memory>);

impl Place for InMemory {
    type Store = Memory;
    const ROUNDS: usize = 1000;

    async fn fresh() -> Self {
        Self(Arc::default())
    }

    fn open(&self) -> Arc<Memory> {
        // The place is the handle: memory is nobody else's.
        Arc::clone(&self.0)
    }
}

struct InAFolder(TempDir);

impl Place for InAFolder {
    type Store = LocalFs;
    /// Each save is written down to the disk, and those that wait for a lock look for it every few milliseconds.
    const ROUNDS: usize = 200;

    async fn fresh() -> Self {
        Self(TempDir::new().unwrap())
    }

    fn open(&self) -> Arc<LocalFs> {
        Arc::new(LocalFs::new(self.0.path().to_owned(), "x"))
    }
}

/// A state that is told from others by its place in time.
fn state(second: i64) -> State {
    let at = Timestamp::from_second(second).unwrap();
    State::new("sectigo", sectigo::cursor_at(at), Nonce::of_new_writer(), at)
}

fn document(second: i64) -> Document {
    Document::of(&state(second)).unwrap()
}

fn bytes(text: &[u8]) -> Document {
    Document::from_bytes(text.to_vec())
}

async fn held(store: &impl StateStore) -> (Document, Version) {
    store.load().await.unwrap().unwrap()
}

/// The save was refused, because the store holds another document.
#[track_caller]
fn conflicts(store: &impl StateStore, saved: Result<Version, Error>) {
    match saved {
        Err(Error::Conflict { place }) => assert_eq!(place, store.place(), "it names the place"),
        other => panic!("no conflict, but {other:?}"),
    }
}

async fn an_empty_place_has_no_document<P: Place>() {
    let place = P::fresh().await;
    assert!(place.open().load().await.unwrap().is_none());
}

async fn what_is_saved_is_read_back_byte_for_byte<P: Place>() {
    let place = P::fresh().await;
    let store = place.open();
    let mut version = None;
    // Also what is no state: a store keeps bytes.
    let large = vec![b'x'; 100_000];
    for text in [b"{}\n".as_slice(), b"", b"\0\xff\r\n", b"{\"version\": 1}", &large] {
        let saved = store.save(&bytes(text), version.as_ref()).await.unwrap();
        assert_eq!(held(&*store).await, (bytes(text), saved.clone()), "with the version that the save gave");
        version = Some(saved);
    }
    let written = state(7);
    store.save(&Document::of(&written).unwrap(), version.as_ref()).await.unwrap();
    assert_eq!(held(&*store).await.0.read(&store.place()).unwrap(), written);
}

async fn the_first_save_names_no_version<P: Place>() {
    let place = P::fresh().await;
    let store = place.open();
    let made_up = Version("1".to_owned());
    conflicts(&*store, store.save(&document(1), Some(&made_up)).await);
    assert!(store.load().await.unwrap().is_none(), "nothing was written");
    store.save(&document(1), None).await.unwrap();
    assert_eq!(held(&*store).await.0.read("").unwrap().cursor, state(1).cursor);
}

async fn a_save_without_a_version_replaces_nothing<P: Place>() {
    let place = P::fresh().await;
    let store = place.open();
    store.save(&document(1), None).await.unwrap();
    let before = held(&*store).await;
    conflicts(&*store, store.save(&document(2), None).await);
    assert_eq!(held(&*store).await, before);
}

async fn a_save_with_a_stale_version_replaces_nothing<P: Place>() {
    let place = P::fresh().await;
    let store = place.open();
    let first = store.save(&document(1), None).await.unwrap();
    let second = store.save(&document(2), Some(&first)).await.unwrap();
    assert_ne!(first, second);
    let before = held(&*store).await;
    conflicts(&*store, store.save(&document(3), Some(&first)).await);
    assert_eq!(held(&*store).await, before);
    store.save(&document(3), Some(&second)).await.unwrap();
}

async fn a_conflict_can_be_followed_by_a_save_with_the_right_version<P: Place>() {
    let place = P::fresh().await;
    let store = place.open();
    let mut version = store.save(&document(0), None).await.unwrap();
    for second in 1..10 {
        conflicts(&*store, store.save(&document(second), None).await);
        version = store.save(&document(second), Some(&version)).await.unwrap();
    }
    assert_eq!(held(&*store).await.1, version);
}

async fn another_handle_sees_what_was_written<P: Place>() {
    let place = P::fresh().await;
    let (one, other) = (place.open(), place.open());
    let mut version: Option<Version> = None;
    for second in 0..6 {
        let (writer, reader) = if second % 2 == 0 { (&one, &other) } else { (&other, &one) };
        // The version that one handle gave is good with the other.
        let saved = writer.save(&document(second), version.as_ref()).await.unwrap();
        let (seen, seen_version) = held(&**reader).await;
        assert_eq!(seen.read("").unwrap().cursor, state(second).cursor);
        assert_eq!(seen_version, saved);
        version = Some(saved);
    }
    assert_eq!(one.place(), other.place());
}

async fn another_handles_save_makes_ours_stale<P: Place>() {
    let place = P::fresh().await;
    let (one, other) = (place.open(), place.open());
    let known = one.save(&document(1), None).await.unwrap();
    other.save(&document(2), Some(&known)).await.unwrap();
    let before = held(&*other).await;
    conflicts(&*one, one.save(&document(3), Some(&known)).await);
    conflicts(&*one, one.save(&document(3), None).await);
    assert_eq!(held(&*one).await, before);
}

async fn what_is_no_state_is_given_back_and_refused_when_read<P: Place>() {
    let place = P::fresh().await;
    let store = place.open();
    let mut version = None;
    for text in ["", "{", "null", "{\"version\":1}", "{\"version\":\"1\"}", "[1]", "\u{feff}{}"] {
        version = Some(store.save(&bytes(text.as_bytes()), version.as_ref()).await.unwrap());
        let (document, _) = held(&*store).await;
        assert_eq!(document.as_bytes(), text.as_bytes());
        let error = document.read("the place").unwrap_err();
        assert!(matches!(&error, Error::Corrupt { place, .. } if place == "the place"), "{text:?}: {error:?}");
    }
}

async fn a_newer_document_is_given_back_and_refused_when_read<P: Place>() {
    let place = P::fresh().await;
    let store = place.open();
    let text = br#"{"version":2,"cursors":[]}"#;
    store.save(&bytes(text), None).await.unwrap();
    let (document, _) = held(&*store).await;
    assert_eq!(document.as_bytes(), text);
    let error = document.read("the place").unwrap_err();
    assert!(matches!(&error, Error::OtherLayout { version: 2, .. }), "{error:?}");
}

async fn a_probe_leaves_the_document_alone<P: Place>() {
    let place = P::fresh().await;
    let store = place.open();
    store.probe().await.unwrap();
    assert!(store.load().await.unwrap().is_none(), "not even an empty one");
    let version = store.save(&document(1), None).await.unwrap();
    let before = held(&*store).await;
    store.probe().await.unwrap();
    assert_eq!(held(&*store).await, before);
    store.save(&document(2), Some(&version)).await.unwrap();
}

async fn a_claim_leaves_the_document_alone<P: Place>() {
    let place = P::fresh().await;
    let store = place.open();
    store.claim().await.unwrap();
    assert!(store.load().await.unwrap().is_none());
    let version = store.save(&document(1), None).await.unwrap();
    let before = held(&*store).await;
    store.claim().await.unwrap();
    assert_eq!(held(&*store).await, before);
    store.save(&document(2), Some(&version)).await.unwrap();
}

/// Eight tasks, half of them with one handle and half with another.
const TASKS: usize = 8;

/// In each round every task has read the same document and tries to replace it with its own at the same time.
async fn of_saves_at_the_same_time_exactly_one_wins<P: Place>() {
    let place = P::fresh().await;
    let handles = [place.open(), place.open()];
    let start = Arc::new(Barrier::new(TASKS));
    let mut version: Option<Version> = None;
    for round in 0..P::ROUNDS {
        let tasks: Vec<_> = (0..TASKS)
            .map(|task| {
                let (store, start, version) = (Arc::clone(&handles[task % 2]), Arc::clone(&start), version.clone());
                let mine = bytes(format!("round {round}, task {task}").as_bytes());
                tokio::spawn(async move {
                    start.wait().await;
                    let saved = store.save(&mine, version.as_ref()).await;
                    let settled = matches!(&saved, Ok(_) | Err(Error::Conflict { .. }));
                    assert!(settled, "neither won nor lost: {saved:?}");
                    saved.ok().map(|version| (mine, version))
                })
            })
            .collect();
        let mut winners = Vec::new();
        for task in tasks {
            winners.extend(task.await.unwrap());
        }
        assert_eq!(winners.len(), 1, "round {round}: {winners:?}");
        let (document, version_of_winner) = winners.remove(0);
        for handle in &handles {
            assert_eq!(held(&**handle).await, (document.clone(), version_of_winner.clone()), "round {round}");
        }
        version = Some(version_of_winner);
    }
}

/// Tasks that read, add one and write, and begin again after a conflict: a lost update would be missing in the sum.
async fn no_update_is_lost<P: Place>() {
    let place = P::fresh().await;
    let handles = [place.open(), place.open()];
    let read = Arc::new(Barrier::new(TASKS));
    let each = P::ROUNDS / TASKS;
    let tasks: Vec<_> = (0..TASKS)
        .map(|task| {
            let (store, read) = (Arc::clone(&handles[task % 2]), Arc::clone(&read));
            tokio::spawn(async move {
                let mut conflicts = 0;
                for _ in 0..each {
                    // All have read before anyone writes, so all but one of them will have to read again.
                    let mut first = true;
                    while !added_one(&*store, first.then_some(&*read)).await {
                        conflicts += 1;
                        first = false;
                    }
                }
                conflicts
            })
        })
        .collect();
    let mut conflicts = 0;
    for task in tasks {
        conflicts += task.await.unwrap();
    }
    let (document, _) = held(&*handles[0]).await;
    assert_eq!(document.as_bytes(), (TASKS * each).to_string().as_bytes());
    assert!(conflicts >= (TASKS - 1) * each, "{conflicts} conflicts");
}

/// One attempt to add one to the number that the document is; false after a conflict.
async fn added_one(store: &impl StateStore, all_have_read: Option<&Barrier>) -> bool {
    let (sum, version) = match store.load().await.unwrap() {
        None => (0, None),
        Some((document, version)) => {
            (std::str::from_utf8(document.as_bytes()).unwrap().parse::<usize>().unwrap(), Some(version))
        }
    };
    if let Some(barrier) = all_have_read {
        barrier.wait().await;
    }
    match store.save(&bytes((sum + 1).to_string().as_bytes()), version.as_ref()).await {
        Ok(_) => true,
        Err(Error::Conflict { .. }) => false,
        Err(other) => panic!("{other:?}"),
    }
}

/// Whoever reads while others write sees whole documents only, and never an older one after a newer one.
async fn a_reader_sees_whole_documents_in_order<P: Place>() {
    let place = P::fresh().await;
    let (writer, reader) = (place.open(), place.open());
    let last = P::ROUNDS / 2;
    let padding = "x".repeat(20_000);
    let writing = {
        let padding = padding.clone();
        tokio::spawn(async move {
            let mut version = None;
            for number in 0..=last {
                let document = bytes(format!("{number} {padding} {number}").as_bytes());
                version = Some(writer.save(&document, version.as_ref()).await.unwrap());
            }
        })
    };
    let mut newest = 0;
    while newest < last {
        let Some((document, _)) = reader.load().await.unwrap() else { continue };
        let text = String::from_utf8(document.as_bytes().to_vec()).unwrap();
        let number: usize = text.split(' ').next().unwrap().parse().unwrap();
        assert_eq!(text, format!("{number} {padding} {number}"));
        assert!(number >= newest, "{number} after {newest}");
        newest = number;
        tokio::task::yield_now().await;
    }
    writing.await.unwrap();
}

/// Makes a test of each promise for a place.
macro_rules! conformance {
    ($backend:ident, $place:ty: $($promise:ident),+ $(,)?) => {
        mod $backend {
            use super::*;

            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
                async fn $promise() {
                    super::$promise::<$place>().await;
                }
            )+
        }
    };
    ($($backend:ident: $place:ty),+ $(,)?) => {
        $(
            conformance!(
                $backend, $place:
                an_empty_place_has_no_document,
                what_is_saved_is_read_back_byte_for_byte,
                the_first_save_names_no_version,
                a_save_without_a_version_replaces_nothing,
                a_save_with_a_stale_version_replaces_nothing,
                a_conflict_can_be_followed_by_a_save_with_the_right_version,
                another_handle_sees_what_was_written,
                another_handles_save_makes_ours_stale,
                what_is_no_state_is_given_back_and_refused_when_read,
                a_newer_document_is_given_back_and_refused_when_read,
                a_probe_leaves_the_document_alone,
                a_claim_leaves_the_document_alone,
                of_saves_at_the_same_time_exactly_one_wins,
                no_update_is_lost,
                a_reader_sees_whole_documents_in_order,
            );
        )+
    };
}

conformance!(memory: InMemory, localfs: InAFolder);

/// Where one process at a time may work on the state, another cannot even save.
mod while_it_is_claimed {
    use auditsync::state::Claim;

    use super::*;

    #[tokio::test]
    async fn another_handle_on_a_folder_cannot_save() {
        let place = InAFolder::fresh().await;
        let (holder, other) = (place.open(), place.open());
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
        let place = InAFolder::fresh().await;
        let store = place.open();
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
