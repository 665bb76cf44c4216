//! The promises of every state store, wherever it keeps the document.
//!
//! A backend joins with a [`Location`] of its own and one line, [`conformance!`]; each promise is then a test of it.

use std::net::SocketAddr;
use std::sync::Arc;

use auditsync::source::sectigo;
use auditsync::state::{Document, Error, Nonce, State, StateStore, Version};
use jiff::Timestamp;
use tokio::sync::Barrier;

use crate::support::{Proxy, Way};

/// Where one document is kept.
pub(crate) trait Location {
    type Store: StateStore + 'static;

    /// Returns an empty location that no other test uses.
    async fn fresh() -> Self;

    /// Opens another handle on the location, as another process would if the backend supports several.
    fn open(&self) -> Arc<Self::Store>;

    /// The number of rounds of a race; slow backends have fewer.
    const ROUNDS: usize;
}

/// A state with a cursor of its own.
pub(crate) fn state(second: i64) -> State {
    let at = Timestamp::from_second(second).unwrap();
    State::new("sectigo:datadog".into(), (sectigo::KIND.cursor_at)(at, None, None).unwrap(), Nonce::of_new_writer(), at)
}

pub(crate) fn document(second: i64) -> Document {
    Document::of(&state(second)).unwrap()
}

pub(crate) fn bytes(text: &[u8]) -> Document {
    Document::from_bytes(text.to_vec())
}

pub(crate) async fn held(store: &impl StateStore) -> (Document, Version) {
    store.load().await.unwrap().unwrap()
}

/// Asserts that the store refused the save because it holds another document.
#[track_caller]
pub(crate) fn conflicts(store: &impl StateStore, saved: Result<Version, Error>) {
    match saved {
        Err(Error::Conflict { location, .. }) => assert_eq!(location, store.location(), "it names the location"),
        other => panic!("no conflict, but {other:?}"),
    }
}

pub(crate) async fn an_empty_location_has_no_document<P: Location>() {
    let location = P::fresh().await;
    assert!(location.open().load().await.unwrap().is_none());
}

pub(crate) async fn what_is_saved_is_read_back_byte_for_byte<P: Location>() {
    let location = P::fresh().await;
    let store = location.open();
    let mut version = None;
    // A store keeps bytes, so it also accepts a document that is not a state.
    let large = vec![b'x'; 100_000];
    for text in [b"{}\n".as_slice(), b"", b"\0\xff\r\n", b"{\"version\": 1}", &large] {
        let saved = store.save(&bytes(text), version.as_ref()).await.unwrap();
        assert_eq!(held(&*store).await, (bytes(text), saved.clone()), "with the version that the save gave");
        version = Some(saved);
    }
    let written = state(7);
    store.save(&Document::of(&written).unwrap(), version.as_ref()).await.unwrap();
    assert_eq!(held(&*store).await.0.read(&store.location()).unwrap(), written);
}

pub(crate) async fn the_first_save_names_no_version<P: Location>() {
    let location = P::fresh().await;
    let store = location.open();
    let made_up = Version("1".to_owned());
    conflicts(&*store, store.save(&document(1), Some(&made_up)).await);
    assert!(store.load().await.unwrap().is_none(), "nothing was written");
    store.save(&document(1), None).await.unwrap();
    assert_eq!(held(&*store).await.0.read("").unwrap().cursor, state(1).cursor);
}

pub(crate) async fn a_save_without_a_version_replaces_nothing<P: Location>() {
    let location = P::fresh().await;
    let store = location.open();
    store.save(&document(1), None).await.unwrap();
    let before = held(&*store).await;
    conflicts(&*store, store.save(&document(2), None).await);
    assert_eq!(held(&*store).await, before);
}

pub(crate) async fn a_save_with_a_stale_version_replaces_nothing<P: Location>() {
    let location = P::fresh().await;
    let store = location.open();
    let first = store.save(&document(1), None).await.unwrap();
    let second = store.save(&document(2), Some(&first)).await.unwrap();
    assert_ne!(first, second);
    let before = held(&*store).await;
    conflicts(&*store, store.save(&document(3), Some(&first)).await);
    assert_eq!(held(&*store).await, before);
    store.save(&document(3), Some(&second)).await.unwrap();
}

pub(crate) async fn a_conflict_can_be_followed_by_a_save_with_the_right_version<P: Location>() {
    let location = P::fresh().await;
    let store = location.open();
    let mut version = store.save(&document(0), None).await.unwrap();
    for second in 1..10 {
        conflicts(&*store, store.save(&document(second), None).await);
        version = store.save(&document(second), Some(&version)).await.unwrap();
    }
    assert_eq!(held(&*store).await.1, version);
}

pub(crate) async fn another_handle_sees_what_was_written<P: Location>() {
    let location = P::fresh().await;
    let (one, other) = (location.open(), location.open());
    let mut version: Option<Version> = None;
    for second in 0..6 {
        let (writer, reader) = if second % 2 == 0 { (&one, &other) } else { (&other, &one) };
        // A version from one handle is valid with the other.
        let saved = writer.save(&document(second), version.as_ref()).await.unwrap();
        let (seen, seen_version) = held(&**reader).await;
        assert_eq!(seen.read("").unwrap().cursor, state(second).cursor);
        assert_eq!(seen_version, saved);
        version = Some(saved);
    }
    assert_eq!(one.location(), other.location());
}

pub(crate) async fn another_handles_save_makes_ours_stale<P: Location>() {
    let location = P::fresh().await;
    let (one, other) = (location.open(), location.open());
    let known = one.save(&document(1), None).await.unwrap();
    other.save(&document(2), Some(&known)).await.unwrap();
    let before = held(&*other).await;
    conflicts(&*one, one.save(&document(3), Some(&known)).await);
    conflicts(&*one, one.save(&document(3), None).await);
    assert_eq!(held(&*one).await, before);
}

pub(crate) async fn what_is_no_state_is_given_back_and_refused_when_read<P: Location>() {
    let location = P::fresh().await;
    let store = location.open();
    let mut version = None;
    for text in ["", "{", "null", "{\"version\":1}", "{\"version\":\"1\"}", "[1]", "\u{feff}{}"] {
        version = Some(store.save(&bytes(text.as_bytes()), version.as_ref()).await.unwrap());
        let (document, _) = held(&*store).await;
        assert_eq!(document.as_bytes(), text.as_bytes());
        let error = document.read("the location").unwrap_err();
        assert!(matches!(&error, Error::Corrupt { location, .. } if location == "the location"), "{text:?}: {error:?}");
    }
}

pub(crate) async fn a_newer_document_is_given_back_and_refused_when_read<P: Location>() {
    let location = P::fresh().await;
    let store = location.open();
    let text = br#"{"version":2,"cursors":[]}"#;
    store.save(&bytes(text), None).await.unwrap();
    let (document, _) = held(&*store).await;
    assert_eq!(document.as_bytes(), text);
    let error = document.read("the location").unwrap_err();
    assert!(matches!(&error, Error::OtherLayout { version: 2, .. }), "{error:?}");
}

pub(crate) async fn a_probe_leaves_the_document_alone<P: Location>() {
    let location = P::fresh().await;
    let store = location.open();
    store.probe().await.unwrap();
    assert!(store.load().await.unwrap().is_none(), "not even an empty one");
    let version = store.save(&document(1), None).await.unwrap();
    let before = held(&*store).await;
    store.probe().await.unwrap();
    assert_eq!(held(&*store).await, before);
    store.save(&document(2), Some(&version)).await.unwrap();
}

pub(crate) async fn a_claim_leaves_the_document_alone<P: Location>() {
    let location = P::fresh().await;
    let store = location.open();
    store.claim().await.unwrap();
    assert!(store.load().await.unwrap().is_none());
    let version = store.save(&document(1), None).await.unwrap();
    let before = held(&*store).await;
    store.claim().await.unwrap();
    assert_eq!(held(&*store).await, before);
    store.save(&document(2), Some(&version)).await.unwrap();
}

/// Eight tasks, half of them with one handle and half with another.
pub(crate) const TASKS: usize = 8;

/// In each round every task has read the same document, and all try to replace it with their own at the same time.
pub(crate) async fn of_saves_at_the_same_time_exactly_one_wins<P: Location>() {
    let location = P::fresh().await;
    let handles = [location.open(), location.open()];
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
                    // A handle on a folder waits for the other one's lock, but not for long.
                    let settled = matches!(&saved, Ok(_) | Err(Error::Conflict { .. } | Error::Busy { .. }));
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

/// Tasks read the number, add one and write it, and begin again after a conflict: a lost update would be missing in the
/// sum.
pub(crate) async fn no_update_is_lost<P: Location>() {
    let location = P::fresh().await;
    let handles = [location.open(), location.open()];
    let read = Arc::new(Barrier::new(TASKS));
    let each = P::ROUNDS / TASKS;
    let tasks: Vec<_> = (0..TASKS)
        .map(|task| {
            let (store, read) = (Arc::clone(&handles[task % 2]), Arc::clone(&read));
            tokio::spawn(async move {
                let mut conflicts = 0;
                for _ in 0..each {
                    // All tasks read before any of them writes, so all but one have to read again.
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

/// Tries once to add one to the number in the document; returns false after a conflict, and if another handle has the
/// lock for too long.
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
        Err(Error::Conflict { .. } | Error::Busy { .. }) => false,
        Err(other) => panic!("{other:?}"),
    }
}

/// A reader beside writers sees whole documents only, and never an older one after a newer one.
pub(crate) async fn a_reader_sees_whole_documents_in_order<P: Location>() {
    let location = P::fresh().await;
    let (writer, reader) = (location.open(), location.open());
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
        let is_complete = writing.is_finished();
        let loaded = reader.load().await.unwrap();
        assert!(loaded.is_some() || !is_complete, "the writer wrote nothing");
        let Some((document, _)) = loaded else { continue };
        let text = String::from_utf8(document.as_bytes().to_vec()).unwrap();
        let number: usize = text.split(' ').next().unwrap().parse().unwrap();
        assert_eq!(text, format!("{number} {padding} {number}"));
        assert!(number >= newest, "{number} after {newest}");
        assert!(number == last || !is_complete, "{number}, but the writer ended");
        newest = number;
        tokio::task::yield_now().await;
    }
    writing.await.unwrap();
}

/// A location on the network.
pub(crate) trait Remote: Location {
    /// The address of the server.
    fn address(&self) -> SocketAddr;

    /// Opens a handle that uses another address of the server.
    fn open_at(&self, address: SocketAddr) -> Arc<Self::Store>;
}

/// A location with users and permissions.
pub(crate) trait Guarded: Location {
    /// Opens a handle for a user without any permission.
    async fn open_as_stranger(&self) -> Arc<Self::Store>;
}

async fn through_a_proxy<P: Remote>(location: &P) -> (Proxy, Arc<P::Store>) {
    let proxy = Proxy::to(location.address()).await;
    let store = location.open_at(proxy.address());
    (proxy, store)
}

#[track_caller]
fn is_unavailable<T: std::fmt::Debug>(answer: &Result<T, Error>) {
    assert!(matches!(answer, Err(Error::Unavailable { .. })), "{answer:?}");
}

pub(crate) async fn a_save_whose_answer_is_lost_can_be_found_out<P: Remote>() {
    let location = P::fresh().await;
    let (proxy, store) = through_a_proxy(&location).await;
    let first = store.save(&document(1), None).await.unwrap();
    proxy.set(Way::AnswersAreLost);
    is_unavailable(&store.save(&document(2), Some(&first)).await);
    proxy.set(Way::Open);
    let (found, second) = held(&*store).await;
    assert_eq!(found.read("").unwrap().cursor, state(2).cursor, "it was made");
    conflicts(&*store, store.save(&document(3), Some(&first)).await);
    store.save(&document(3), Some(&second)).await.unwrap();
}

pub(crate) async fn a_store_that_was_away_is_used_again<P: Remote>() {
    let location = P::fresh().await;
    let (proxy, store) = through_a_proxy(&location).await;
    let mut version = store.save(&document(0), None).await.unwrap();
    for round in 1..4 {
        proxy.set(Way::Cut);
        is_unavailable(&store.load().await);
        is_unavailable(&store.save(&document(round), Some(&version)).await);
        is_unavailable(&store.probe().await);
        proxy.set(Way::Open);
        let before = held(&*store).await;
        assert_eq!(before.1, version, "nothing was written");
        version = store.save(&document(round), Some(&version)).await.unwrap();
    }
}

pub(crate) async fn a_store_that_does_not_answer_is_not_waited_for<P: Remote>() {
    let location = P::fresh().await;
    let (proxy, store) = through_a_proxy(&location).await;
    let version = store.save(&document(1), None).await.unwrap();
    proxy.set(Way::Silent);
    is_unavailable(&store.load().await);
    is_unavailable(&store.save(&document(2), Some(&version)).await);
    proxy.set(Way::Open);
    // The request from the silent period arrives now or never; neither does harm.
    held(&*store).await;
}

pub(crate) async fn a_call_that_is_broken_off_spoils_nothing<P: Remote>() {
    let location = P::fresh().await;
    let (proxy, store) = through_a_proxy(&location).await;
    let first = store.save(&document(1), None).await.unwrap();
    proxy.set(Way::Silent);
    for _ in 0..10 {
        let begun = store.load();
        // The pause comes first. After a standstill of this process, the call may be late as well.
        tokio::select! {
            biased;
            () = tokio::time::sleep(std::time::Duration::from_millis(5)) => {}
            answer = begun => panic!("{answer:?}"),
        }
    }
    proxy.set(Way::Open);
    assert_eq!(held(&*store).await.1, first);
}

pub(crate) async fn a_stranger_learns_what_to_do<P: Guarded>() {
    let location = P::fresh().await;
    let version = location.open().save(&document(1), None).await.unwrap();
    let before = held(&*location.open()).await;
    let stranger = location.open_as_stranger().await;
    for refused in [
        stranger.save(&document(2), Some(&version)).await.map(drop),
        stranger.save(&document(2), None).await.map(drop),
        stranger.probe().await,
    ] {
        let Err(error @ Error::Refused { .. }) = &refused else { panic!("{refused:?}") };
        assert!(error.to_string().contains(&stranger.location()), "{error}");
    }
    assert_eq!(held(&*location.open()).await, before);
}

/// Defines a test of each promise for a location.
macro_rules! conformance {
    ($location:ty: $($promise:ident),+ $(,)?) => {
        mod conformance {
            use super::*;

            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
                async fn $promise() {
                    crate::suite::$promise::<$location>().await;
                }
            )+
        }
    };
    ($location:ty) => {
        conformance!(
            $location:
            an_empty_location_has_no_document,
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
    };
}
pub(crate) use conformance;

/// Defines a test of each promise of a location on the network.
macro_rules! remote_conformance {
    ($location:ty: $($promise:ident),+ $(,)?) => {
        mod remote_conformance {
            use super::*;

            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
                async fn $promise() {
                    crate::suite::$promise::<$location>().await;
                }
            )+
        }
    };
    ($location:ty) => {
        remote_conformance!(
            $location:
            a_save_whose_answer_is_lost_can_be_found_out,
            a_store_that_was_away_is_used_again,
            a_store_that_does_not_answer_is_not_waited_for,
            a_call_that_is_broken_off_spoils_nothing,
        );
    };
}
pub(crate) use remote_conformance;
