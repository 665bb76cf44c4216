//! Keeps track of the messages in flight, and of the next step for each, without I/O or a clock.
//!
//! A message is in flight from its receipt until the engine has committed all records of its objects. During that time
//! its visibility is extended. It is deleted after that, and not before.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

/// The number given to a received message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct MessageNumber(u64);

/// The messages in flight.
#[derive(Debug)]
pub(super) struct Flight {
    /// How long the queue hides a message from others.
    visibility: Duration,
    next: u64,
    held: BTreeMap<MessageNumber, Held>,
}

#[derive(Debug)]
struct Held {
    receipt: String,
    /// The time of the last request to hide it.
    hidden_at: Instant,
    /// The number of its objects that are not completely in pages.
    unread: usize,
    /// The last page with a record of it.
    last_page: u64,
}

/// A message, in the form that requests to the queue need.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Handle {
    pub(super) message: MessageNumber,
    pub(super) receipt: String,
}

impl Flight {
    pub(super) fn new(visibility: Duration) -> Self {
        Self { visibility, next: 0, held: BTreeMap::new() }
    }

    /// The number of messages in flight.
    pub(super) fn len(&self) -> usize {
        self.held.len()
    }

    /// Adds a message, received by a request at `asked`. The number of its objects is not known yet.
    pub(super) fn received(&mut self, receipt: String, asked: Instant) -> MessageNumber {
        let message = MessageNumber(self.next);
        self.next += 1;
        self.held.insert(message, Held { receipt, hidden_at: asked, unread: 1, last_page: 0 });
        message
    }

    /// Notes that `message` names this many objects, and that none of them is read. Returns false if the message is no longer in flight.
    pub(super) fn names(&mut self, message: MessageNumber, objects: usize) -> bool {
        self.held.get_mut(&message).map(|held| held.unread = objects).is_some()
    }

    /// Notes that `page` holds a part of `message`.
    pub(super) fn in_page(&mut self, message: MessageNumber, page: u64) {
        if let Some(held) = self.held.get_mut(&message) {
            held.last_page = page;
        }
    }

    /// Notes that one object of `message` was read to its end; its last records, if any, are in `page`.
    pub(super) fn object_read(&mut self, message: MessageNumber, page: u64) {
        if let Some(held) = self.held.get_mut(&message) {
            held.unread = held.unread.saturating_sub(1);
            held.last_page = page;
        }
    }

    /// Removes `message`, because it is left to the queue, or gone.
    pub(super) fn forget(&mut self, message: MessageNumber) {
        self.held.remove(&message);
    }

    /// The messages that are completely in pages up to `page`.
    pub(super) fn deletable(&self, page: u64) -> Vec<Handle> {
        let is_done = |held: &Held| held.unread == 0 && held.last_page <= page;
        self.handles(is_done)
    }

    /// All messages.
    pub(super) fn all(&self) -> Vec<Handle> {
        self.handles(|_| true)
    }

    /// The messages with a part that is in no page yet.
    pub(super) fn unread(&self) -> Vec<Handle> {
        self.handles(|held| held.unread > 0)
    }

    /// The messages of which a part is in no page, or in a page after `page`.
    pub(super) fn behind(&self, page: u64) -> Vec<Handle> {
        self.handles(|held| held.unread > 0 || held.last_page > page)
    }

    /// The messages to hide again at `now`, because half of their time has passed.
    pub(super) fn due(&self, now: Instant) -> Vec<Handle> {
        let half = self.visibility / 2;
        self.handles(|held| now.saturating_duration_since(held.hidden_at) >= half)
    }

    /// The time at which the first message is due.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.held.values().map(|held| held.hidden_at + self.visibility / 2).min()
    }

    /// Notes that the queue hid `message` for the whole time, by a request at `asked`.
    pub(super) fn hidden(&mut self, message: MessageNumber, asked: Instant) {
        if let Some(held) = self.held.get_mut(&message) {
            held.hidden_at = asked;
        }
    }

    fn handles(&self, is_wanted: impl Fn(&Held) -> bool) -> Vec<Handle> {
        let wanted = self.held.iter().filter(|(_, held)| is_wanted(held));
        wanted.map(|(message, held)| Handle { message: *message, receipt: held.receipt.clone() }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VISIBILITY: Duration = Duration::from_secs(60);

    fn receipts(handles: &[Handle]) -> Vec<&str> {
        handles.iter().map(|handle| handle.receipt.as_str()).collect()
    }

    #[test]
    fn a_message_is_deleted_only_when_all_of_it_is_accepted() {
        let (mut flight, now) = (Flight::new(VISIBILITY), Instant::now());
        let two = flight.received("two".to_owned(), now);
        let one = flight.received("one".to_owned(), now);
        let empty = flight.received("empty".to_owned(), now);
        assert!(flight.names(two, 2) && flight.names(one, 1) && flight.names(empty, 0));
        flight.in_page(empty, 1);
        flight.object_read(two, 1);
        flight.in_page(one, 1);
        assert_eq!(receipts(&flight.deletable(0)), [""; 0]);
        assert_eq!(receipts(&flight.deletable(1)), ["empty"]);
        flight.object_read(one, 2);
        flight.object_read(two, 3);
        assert_eq!(receipts(&flight.deletable(1)), ["empty"], "page 2 is not accepted");
        assert_eq!(receipts(&flight.deletable(2)), ["one", "empty"]);
        assert_eq!(receipts(&flight.deletable(3)), ["two", "one", "empty"]);
        flight.forget(one);
        assert_eq!((receipts(&flight.deletable(9)), flight.len()), (vec!["two", "empty"], 2));
        assert!(!flight.names(one, 1), "it is not in flight any more");
    }

    #[test]
    fn half_of_its_time_later_a_message_is_hidden_again() {
        let (mut flight, start) = (Flight::new(VISIBILITY), Instant::now());
        assert_eq!(flight.next_due(), None);
        let first = flight.received("first".to_owned(), start);
        flight.received("second".to_owned(), start + Duration::from_secs(5));
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!((flight.next_due(), receipts(&flight.due(at(29)))), (Some(at(30)), vec![]));
        assert_eq!(receipts(&flight.due(at(30))), ["first"]);
        flight.hidden(first, at(30));
        assert_eq!((flight.next_due(), receipts(&flight.due(at(35)))), (Some(at(35)), vec!["second"]));
    }

    #[test]
    fn what_is_in_no_page_yet_can_be_given_back() {
        let (mut flight, now) = (Flight::new(VISIBILITY), Instant::now());
        let (read, begun) = (flight.received("read".to_owned(), now), flight.received("begun".to_owned(), now));
        flight.received("unread".to_owned(), now);
        flight.object_read(read, 1);
        flight.in_page(begun, 1);
        assert_eq!(receipts(&flight.unread()), ["begun", "unread"]);
        assert_eq!(receipts(&flight.behind(1)), ["begun", "unread"]);
        assert_eq!(receipts(&flight.behind(0)), ["read", "begun", "unread"]);
    }
}
