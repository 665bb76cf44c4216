//! Which pages are on their way, and which cursor is to be stored next: bookkeeping alone, without I/O.
//!
//! A destination acknowledges pages in order, at once or late. The newest acknowledged cursor is committed while the next page is delivered,
//! and never more than two pages are uncommitted, those apart that a destination still gathers.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::commit::Delivered;
use crate::destination::{Acknowledged, Mark, PageNumber};
use crate::source::Cursor;

/// So many pages may be uncommitted while a commit is due or under way.
const MOST_UNCOMMITTED: u64 = 2;

/// The pages since this instance became active.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// The cursor behind the newest page that the destination has taken, acknowledged or not: the source is read from here.
    front: Cursor,
    /// What the destination's last acknowledgement wants to find in the state.
    mark: Option<Mark>,
    /// Pages that are not committed, the oldest first.
    pages: VecDeque<Entry>,
    last: PageNumber,
    committed: PageNumber,
    acknowledged: Option<ToCommit>,
    to_confirm: Option<Cursor>,
    /// Whether the last confirmation failed, or takes long: then nothing waits for the next one.
    confirmation_failed: bool,
    /// How long the store wants to be left alone after a save.
    pace: Duration,
    saved_at: Option<Instant>,
}

#[derive(Debug)]
struct Entry {
    page: PageNumber,
    to: Cursor,
    events: usize,
    /// Whether the destination has, or may have, anything of it.
    is_begun: bool,
    /// Whether the destination has all of it: in a buffer, or for good.
    is_taken: bool,
}

/// A cursor to be stored.
#[derive(Debug, Clone)]
pub(super) struct ToCommit {
    /// The newest page before it.
    pub(super) page: PageNumber,
    /// What is stored.
    pub(super) delivered: Delivered,
}

impl Ledger {
    /// Nothing is on its way, behind `delivered`. The store is to be saved to at this `pace`.
    pub(super) fn starting_at(delivered: Delivered, pace: Duration, saved_at: Option<Instant>) -> Self {
        let Delivered { cursor, mark } = delivered;
        Self { to_confirm: Some(cursor.clone()), front: cursor, mark, pace, saved_at, ..Self::default() }
    }

    /// The cursor from which the source is read.
    pub(super) fn front(&self) -> Cursor {
        self.front.clone()
    }

    /// Where this instance became active.
    pub(super) fn start(&self) -> Delivered {
        Delivered { cursor: self.front.clone(), mark: self.mark.clone() }
    }

    /// The destination already has everything up to `delivered`, which is to be stored.
    pub(super) fn adopt(&mut self, delivered: Delivered) {
        self.mark = delivered.mark;
        let page = self.open(delivered.cursor, 0);
        self.taken(page);
    }

    /// A page with so many events was read up to `to`.
    pub(super) fn open(&mut self, to: Cursor, events: usize) -> PageNumber {
        self.last = self.last.next();
        self.pages.push_back(Entry { page: self.last, to, events, is_begun: false, is_taken: false });
        self.last
    }

    /// Whether the delivery of `page` may begin: at most two pages are uncommitted while a commit is due.
    pub(super) fn may_begin(&self, page: PageNumber) -> bool {
        !self.is_due() || page.0 <= self.committed.0.saturating_add(MOST_UNCOMMITTED)
    }

    /// The destination may have something of `page`, or has nothing of it after all.
    pub(super) fn set_begun(&mut self, page: PageNumber, is_begun: bool) {
        if let Some(entry) = self.entry(page) {
            entry.is_begun = is_begun;
        }
    }

    /// The destination has taken all of `page`, or there is nothing in it to take.
    pub(super) fn taken(&mut self, page: PageNumber) {
        if let Some(entry) = self.entry(page) {
            entry.is_taken = true;
            self.front = entry.to.clone();
        }
        self.acknowledge(Acknowledged::default());
    }

    fn entry(&mut self, page: PageNumber) -> Option<&mut Entry> {
        self.pages.iter_mut().find(|entry| entry.page == page)
    }

    /// The destination acknowledged pages. Empty pages right behind them need no acknowledgement of their own.
    pub(super) fn acknowledge(&mut self, Acknowledged { up_to, mark }: Acknowledged) {
        let before = self.acknowledged.as_ref().map_or(self.committed, |to_commit| to_commit.page);
        let up_to = up_to.unwrap_or_default().max(before);
        let is_acknowledged = |entry: &&Entry| entry.page <= up_to || (entry.events == 0 && entry.is_taken);
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

    /// The cursor to be stored, if there is one.
    pub(super) fn to_commit(&self) -> Option<&ToCommit> {
        self.acknowledged.as_ref()
    }

    /// Whether the destination still gathers pages that it has taken.
    pub(super) fn is_gathering(&self) -> bool {
        let acknowledged = self.acknowledged.as_ref().map_or(self.committed, |to_commit| to_commit.page);
        self.pages.iter().any(|entry| entry.is_taken && entry.page > acknowledged)
    }

    /// The state was saved, with the cursor behind this page if there is one.
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

    /// How long the store is still to be left alone.
    pub(super) fn due_in(&self) -> Duration {
        self.saved_at.map_or(Duration::ZERO, |saved| self.pace.saturating_sub(saved.elapsed()))
    }

    fn is_due(&self) -> bool {
        self.acknowledged.is_some() && self.due_in().is_zero()
    }

    /// The stored cursor that the source has not confirmed yet.
    pub(super) fn to_confirm(&self) -> Option<&Cursor> {
        self.to_confirm.as_ref()
    }

    /// Whether every acknowledged page is committed, and the source has confirmed that, or failed to.
    pub(super) fn is_settled(&self) -> bool {
        self.acknowledged.is_none() && (self.to_confirm.is_none() || self.confirmation_failed)
    }

    /// The source failed to confirm a cursor, or takes long. Nothing waits for it until it succeeds.
    pub(super) fn not_confirmed(&mut self) {
        self.confirmation_failed = true;
    }

    /// The source has confirmed `cursor`.
    pub(super) fn confirmed(&mut self, cursor: &Cursor) {
        self.confirmation_failed = false;
        if self.to_confirm.as_ref() == Some(cursor) {
            self.to_confirm = None;
        }
    }

    /// How many events the destination has, or may have, of pages that are not committed.
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

    /// A page of one event, taken whole.
    fn take(ledger: &mut Ledger) -> PageNumber {
        let page = ledger.open(cursor(ledger.last.0 + 1), 1);
        ledger.set_begun(page, true);
        ledger.taken(page);
        page
    }

    fn to_commit(ledger: &Ledger) -> Option<u64> {
        ledger.to_commit().map(|to_commit| to_commit.page.0)
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
