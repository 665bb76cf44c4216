//! Which pages are in flight, and which cursor to store next: bookkeeping without I/O.
//!
//! A destination acknowledges pages in order, at once or late. The engine commits the newest acknowledged cursor while it delivers the
//! next page. At most two pages are uncommitted, apart from those that a destination still gathers.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::commit::Delivered;
use crate::destination::{Acknowledged, Mark, PageNumber};
use crate::source::Cursor;

/// How many pages may be uncommitted while a commit is due or under way.
const MOST_UNCOMMITTED: u64 = 2;

/// The pages since this instance became active.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// The cursor after the newest page that the destination has taken, acknowledged or not. The source is read from
    /// here.
    front: Cursor,
    /// The mark of the destination's last acknowledgement, to be stored beside the cursor.
    mark: Option<Mark>,
    /// Uncommitted pages, the oldest first.
    pages: VecDeque<Entry>,
    last: PageNumber,
    committed: PageNumber,
    acknowledged: Option<ToCommit>,
    to_confirm: Option<Cursor>,
    /// Whether the last confirmation failed or takes long. Nothing waits for the next one then.
    confirmation_failed: bool,
    /// The shortest time between two saves that the store wants.
    pace: Duration,
    saved_at: Option<Instant>,
}

#[derive(Debug)]
struct Entry {
    /// The page, or the newest of the empty pages right after it.
    page: PageNumber,
    /// The page whose acknowledgement covers the entry.
    awaited: PageNumber,
    to: Cursor,
    events: usize,
    /// Whether the destination has, or may have, a part of the page.
    is_begun: bool,
    /// Whether the destination has the whole page, in a buffer or for good.
    is_taken: bool,
}

/// A cursor to store.
#[derive(Debug, Clone)]
pub(super) struct ToCommit {
    /// The newest page before the cursor.
    pub(super) page: PageNumber,
    /// The cursor, and the mark beside it.
    pub(super) delivered: Delivered,
}

impl Ledger {
    /// Begins after `delivered` with no page in flight. Two saves are at least one `pace` apart.
    pub(super) fn starting_at(delivered: Delivered, pace: Duration, saved_at: Option<Instant>) -> Self {
        let Delivered { cursor, mark } = delivered;
        Self { to_confirm: Some(cursor.clone()), front: cursor, mark, pace, saved_at, ..Self::default() }
    }

    /// The cursor from which to read the source.
    pub(super) fn front(&self) -> Cursor {
        self.front.clone()
    }

    /// How far delivery had got when this instance became active.
    pub(super) fn start(&self) -> Delivered {
        Delivered { cursor: self.front.clone(), mark: self.mark.clone() }
    }

    /// Notes that the destination already has everything up to `delivered`, which must be stored.
    pub(super) fn adopt(&mut self, delivered: Delivered) {
        self.mark = delivered.mark;
        let page = self.open(delivered.cursor, 0);
        self.taken(page);
    }

    /// Adds a page with this number of `events`, which ends at the cursor `to`.
    pub(super) fn open(&mut self, to: Cursor, events: usize) -> PageNumber {
        self.last = self.last.next();
        self.pages.push_back(Entry {
            page: self.last,
            awaited: self.last,
            to,
            events,
            is_begun: false,
            is_taken: false,
        });
        self.last
    }

    /// Whether the delivery of `page` may begin. At most two pages may be uncommitted while a commit is due.
    pub(super) fn may_begin(&self, page: PageNumber) -> bool {
        !self.is_due() || page.0 <= self.committed.0.saturating_add(MOST_UNCOMMITTED)
    }

    /// Notes whether the destination may have a part of `page`.
    pub(super) fn set_begun(&mut self, page: PageNumber, is_begun: bool) {
        if let Some(entry) = self.entry(page) {
            entry.is_begun = is_begun;
        }
    }

    /// Notes that the destination has taken the whole of `page`, or that the page is empty.
    pub(super) fn taken(&mut self, page: PageNumber) {
        if let Some(entry) = self.entry(page) {
            entry.is_taken = true;
            self.front = entry.to.clone();
        }
        self.absorb();
        self.acknowledge(Acknowledged::default());
    }

    /// Joins an empty page with the gathered one before it. A destination may gather for a day, and each cursor takes memory.
    fn absorb(&mut self) {
        let acknowledged = self.newest_acknowledged();
        let [.., before, last] = self.pages.make_contiguous() else { return };
        if last.is_taken && last.events == 0 && before.is_taken && before.awaited > acknowledged {
            before.page = last.page;
            std::mem::swap(&mut before.to, &mut last.to);
            self.pages.pop_back();
        }
    }

    fn newest_acknowledged(&self) -> PageNumber {
        self.acknowledged.as_ref().map_or(self.committed, |to_commit| to_commit.page)
    }

    fn entry(&mut self, page: PageNumber) -> Option<&mut Entry> {
        self.pages.iter_mut().find(|entry| entry.page == page)
    }

    /// Notes an acknowledgement. It also covers the empty pages right after the acknowledged ones.
    pub(super) fn acknowledge(&mut self, Acknowledged { up_to, mark }: Acknowledged) {
        let before = self.newest_acknowledged();
        let up_to = up_to.unwrap_or_default().max(before);
        let is_acknowledged = |entry: &&Entry| entry.awaited <= up_to || (entry.events == 0 && entry.is_taken);
        if mark.is_some() {
            self.mark = mark;
        }
        if let Some(newest) = self.pages.iter().take_while(is_acknowledged).last()
            && newest.page > before
        {
            let delivered = Delivered { cursor: newest.to.clone(), mark: self.mark.clone() };
            self.acknowledged = Some(ToCommit { page: newest.page, delivered });
        }
    }

    /// The cursor to store, if there is one.
    pub(super) fn to_commit(&self) -> Option<&ToCommit> {
        self.acknowledged.as_ref()
    }

    /// Whether the destination still gathers pages that it has taken.
    pub(super) fn is_gathering(&self) -> bool {
        let acknowledged = self.newest_acknowledged();
        self.pages.iter().any(|entry| entry.is_taken && entry.page > acknowledged)
    }

    /// Notes a save of the state, with the cursor after `page` if there is one.
    pub(super) fn saved(&mut self, page: Option<PageNumber>) {
        self.saved_at = Some(Instant::now());
        let Some(page) = page.filter(|page| *page > self.committed) else { return };
        while self.pages.front().is_some_and(|entry| entry.page <= page) {
            self.to_confirm = self.pages.pop_front().map(|entry| entry.to);
        }
        self.committed = page;
        if self.acknowledged.as_ref().is_some_and(|to_commit| to_commit.page <= page) {
            self.acknowledged = None;
        }
    }

    /// How long the pace of the store still forbids a save.
    pub(super) fn due_in(&self) -> Duration {
        self.saved_at.map_or(Duration::ZERO, |saved| self.pace.saturating_sub(saved.elapsed()))
    }

    fn is_due(&self) -> bool {
        self.acknowledged.is_some() && self.due_in().is_zero()
    }

    /// The stored cursor that the source still has to confirm.
    pub(super) fn to_confirm(&self) -> Option<&Cursor> {
        self.to_confirm.as_ref()
    }

    /// Whether every acknowledged page is committed, and the source has confirmed that or failed to.
    pub(super) fn is_settled(&self) -> bool {
        self.acknowledged.is_none() && (self.to_confirm.is_none() || self.confirmation_failed)
    }

    /// Whether the source failed to confirm the stored cursor, or takes long.
    pub(super) fn is_unconfirmed(&self) -> bool {
        self.to_confirm.is_some() && self.confirmation_failed
    }

    /// Notes that the source failed to confirm a cursor, or takes long. Nothing waits for it until it succeeds.
    pub(super) fn not_confirmed(&mut self) {
        self.confirmation_failed = true;
    }

    /// Notes that the source has confirmed `cursor`.
    pub(super) fn confirmed(&mut self, cursor: &Cursor) {
        self.confirmation_failed = false;
        if self.to_confirm.as_ref() == Some(cursor) {
            self.to_confirm = None;
        }
    }

    /// How many events of uncommitted pages the destination has or may have.
    pub(super) fn uncertain(&self) -> usize {
        self.pages.iter().filter(|entry| entry.is_begun).map(|entry| entry.events).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cursor(n: u64) -> Cursor {
        Cursor::encode(&n).unwrap()
    }

    fn ledger(pace: u64) -> Ledger {
        let delivered = Delivered { cursor: cursor(0), mark: None };
        Ledger::starting_at(delivered, Duration::from_secs(pace), None)
    }

    /// Opens a page of one event, which the destination takes.
    fn take(ledger: &mut Ledger) -> PageNumber {
        let page = ledger.open(cursor(ledger.last.0 + 1), 1);
        ledger.set_begun(page, true);
        ledger.taken(page);
        page
    }

    fn to_commit(ledger: &Ledger) -> Option<u64> {
        ledger.to_commit().map(|to_commit| to_commit.page.0)
    }

    #[test]
    fn empty_pages_behind_gathered_ones_take_no_room_and_are_committed_with_them() {
        let mut ledger = ledger(0);
        let gathered = take(&mut ledger);
        for n in 2..1000 {
            let empty = ledger.open(cursor(n), 0);
            ledger.taken(empty);
        }
        assert_eq!((ledger.pages.len(), ledger.front()), (1, cursor(999)));
        let next = take(&mut ledger);
        ledger.acknowledge(Acknowledged::up_to(gathered));
        assert_eq!(to_commit(&ledger), Some(999), "the pages behind it are empty");
        ledger.saved(Some(PageNumber(999)));
        assert_eq!((ledger.to_confirm(), ledger.is_gathering()), (Some(&cursor(999)), true));
        ledger.acknowledge(Acknowledged::up_to(next));
        assert_eq!(to_commit(&ledger), Some(1000));
    }

    #[tokio::test(start_paused = true)]
    async fn at_most_two_pages_are_uncommitted_while_a_commit_is_due() {
        let mut ledger = ledger(0);
        let first = take(&mut ledger);
        ledger.acknowledge(Acknowledged::up_to(first));
        let second = ledger.open(cursor(2), 1);
        assert!(ledger.may_begin(second), "it overlaps the commit of the first");
        ledger.taken(second);
        ledger.acknowledge(Acknowledged::up_to(second));
        let third = ledger.open(cursor(3), 1);
        assert!(!ledger.may_begin(third));
        ledger.saved(Some(first));
        assert!(ledger.may_begin(third));
        assert_eq!(to_commit(&ledger), Some(2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_paced_store_holds_up_no_delivery_before_its_save_is_due() {
        let mut ledger = ledger(1);
        ledger.saved(None);
        for _ in 0..5 {
            let page = take(&mut ledger);
            assert!(ledger.may_begin(page));
            ledger.acknowledge(Acknowledged::up_to(page));
        }
        tokio::time::advance(Duration::from_secs(1)).await;
        let sixth = ledger.open(cursor(6), 1);
        assert!(!ledger.may_begin(sixth));
        ledger.saved(Some(PageNumber(5)));
        assert!(ledger.may_begin(sixth));
    }

    #[test]
    fn what_a_destination_gathers_is_read_past_and_not_committed() {
        let mut ledger = ledger(0);
        for n in 1..=10 {
            let page = take(&mut ledger);
            assert!(ledger.may_begin(page) && ledger.is_gathering(), "{n}");
        }
        assert_eq!((to_commit(&ledger), ledger.front()), (None, cursor(10)));
        let mark = Mark(serde_json::json!({"object": 1}));
        ledger.acknowledge(Acknowledged { up_to: Some(PageNumber(7)), mark: Some(mark.clone()) });
        let committed = ledger.to_commit().unwrap().delivered.clone();
        assert_eq!((committed.cursor, committed.mark), (cursor(7), Some(mark)));
        assert_eq!(ledger.uncertain(), 10);
        ledger.saved(Some(PageNumber(7)));
        assert_eq!((ledger.uncertain(), ledger.to_confirm()), (3, Some(&cursor(7))));
        assert!(ledger.is_gathering());
    }

    #[test]
    fn an_empty_page_is_committed_with_the_page_before_it_and_never_earlier() {
        let mut ledger = ledger(0);
        let first = take(&mut ledger);
        let empty = ledger.open(cursor(2), 0);
        ledger.taken(empty);
        assert_eq!(to_commit(&ledger), None, "the first page is still being gathered");
        ledger.acknowledge(Acknowledged::up_to(first));
        assert_eq!(to_commit(&ledger), Some(empty.0));
        ledger.saved(Some(empty));
        let next = ledger.open(cursor(3), 0);
        ledger.taken(next);
        assert_eq!(to_commit(&ledger), Some(next.0), "nothing is gathered before it");
    }

    #[test]
    fn a_mark_stays_until_the_destination_sets_another() {
        let mut ledger = ledger(0);
        let mark = Some(Mark(serde_json::json!(1)));
        let first = take(&mut ledger);
        ledger.acknowledge(Acknowledged { up_to: Some(first), mark: mark.clone() });
        ledger.saved(Some(first));
        let second = take(&mut ledger);
        ledger.acknowledge(Acknowledged::up_to(second));
        assert_eq!(ledger.to_commit().unwrap().delivered.mark, mark);
    }

    #[test]
    fn a_page_of_which_nothing_left_is_not_uncertain() {
        let mut ledger = ledger(0);
        let page = ledger.open(cursor(1), 5);
        ledger.set_begun(page, true);
        assert_eq!(ledger.uncertain(), 5);
        ledger.set_begun(page, false);
        assert_eq!(ledger.uncertain(), 0);
    }
}
