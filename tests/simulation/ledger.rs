//! The oracle: it records what was served, delivered and stored, and judges whether that was allowed.
//!
//! It knows nothing of how the engine works. It compares three things that it sees for itself: the pages of the source,
//! the events that the destination accepted, and the cursors that the store accepted.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use auditsync::destination::Shipment;
use auditsync::event::Event;
use auditsync::source::Cursor;

use crate::history::{Content, History};
use crate::plan::Knobs;

/// Pages in flight at a time, as promised.
const IN_FLIGHT: usize = 2;

/// The number of a page in the order of serving. The engine delivers pages in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Served(usize);

/// A number of pages, or the number of the next one.
pub(crate) type Pages = usize;

#[derive(Debug)]
pub(crate) struct Ledger {
    history: Arc<History>,
    knobs: Knobs,
    /// How often each content arrived.
    delivered: Vec<usize>,
    /// How many of these deliveries may be repeats.
    permitted: Vec<usize>,
    pages: Vec<ServedPage>,
    /// Pages before this one belong to earlier lives.
    life: Pages,
    /// The next page that the engine has to deliver.
    next: Pages,
    delivering: Option<(Pages, Arc<[Event]>)>,
    /// Pages before this one are before the newest stored cursor.
    committed: Pages,
    /// When the engine first tried to store what is not stored yet.
    storing_since: Option<Instant>,
    /// When the store last answered.
    heard: Option<Instant>,
    /// The very first position, and the newest one.
    first: Option<Timestamp>,
    /// Where the very first position has to be by the server's clock: the earliest that any life learnt, and what this
    /// life learnt.
    corrected: Option<Timestamp>,
    corrects: Option<Timestamp>,
    /// What this life learnt, once the store holds the position that follows from it.
    begins: Option<Timestamp>,
    position: Option<Timestamp>,
    /// The cursor that the source learnt of last.
    confirmed: Option<Cursor>,
    violation: Option<String>,
}

#[derive(Debug)]
struct ServedPage {
    contents: Vec<Content>,
    /// Which of them the destination has accepted.
    arrived: Vec<bool>,
    next: Cursor,
}

/// A cursor on its way into the store.
#[derive(Debug)]
pub(crate) struct Stored<'a> {
    pub(crate) cursor: &'a Cursor,
    pub(crate) position: Timestamp,
    /// The records of the range's pages before the one that the cursor leads to.
    pub(crate) before: Vec<Content>,
    /// The pages before the cursor of the document that is replaced.
    pub(crate) base: Pages,
}

impl Ledger {
    pub(crate) fn new(history: Arc<History>, knobs: Knobs) -> Self {
        let nothing = vec![0; history.contents()];
        Self {
            history,
            knobs,
            delivered: nothing.clone(),
            permitted: nothing,
            pages: Vec::new(),
            life: 0,
            next: 0,
            delivering: None,
            committed: 0,
            storing_since: None,
            heard: None,
            first: None,
            corrected: None,
            corrects: None,
            begins: None,
            position: None,
            confirmed: None,
            violation: None,
        }
    }

    /// Records a violation. Only the first one counts, because later ones follow from it.
    pub(crate) fn violated(&mut self, what: impl Into<String>) {
        self.violation.get_or_insert_with(|| what.into());
    }

    /// Fails if there was a violation.
    pub(crate) fn verdict(&self) -> Result<(), String> {
        self.violation.clone().map_or(Ok(()), Err)
    }

    /// Whether the store ever accepted a cursor.
    pub(crate) fn has_begun(&self) -> bool {
        self.first.is_some()
    }

    /// The engine's position according to the store.
    pub(crate) fn position(&self) -> Option<Timestamp> {
        self.position
    }

    /// The number of permitted repeats.
    pub(crate) fn permitted(&self) -> usize {
        self.permitted.iter().sum()
    }

    /// Records that the source returned a page to the engine.
    pub(crate) fn serve(&mut self, fresh: &[Event], next: Cursor) {
        let contents: Option<Vec<_>> = fresh.iter().map(|event| self.history.content(event.raw())).collect();
        let Some(contents) = contents else { return self.violated("a page holds what is no record") };
        let arrived = vec![false; contents.len()];
        let leads_to = (auditsync::source::sectigo::KIND.reached)(&next).ok();
        if leads_to < self.first {
            self.corrected = self.corrected.into_iter().chain(leads_to).min();
            self.corrects = self.corrects.or(leads_to);
        }
        self.pages.push(ServedPage { contents, arrived, next });
    }

    /// Records that a delivery begins or continues. Returns its page.
    pub(crate) fn deliver(&mut self, shipment: &Shipment) -> Served {
        let events = &shipment.events;
        if let Some((page, known)) = &self.delivering
            && Arc::ptr_eq(known, events)
        {
            return Served(*page);
        }
        let page = (self.next..self.pages.len()).find(|page| !self.pages[*page].contents.is_empty());
        let Some(page) = page else {
            self.violated("a page was delivered that was not served");
            return Served(self.pages.len().saturating_sub(1));
        };
        let same = self.pages[page]
            .contents
            .iter()
            .copied()
            .map(Some)
            .eq(events.iter().map(|event| self.history.content(event.raw())));
        if !same {
            self.violated(format!("page {page} did not arrive as it was served"));
        }
        self.check_nothing_waits_for_the_store(page);
        self.next = page + 1;
        self.delivering = Some((page, Arc::clone(events)));
        Served(page)
    }

    /// Besides the page at hand, only one page may be accepted and not stored, unless the store or the destination
    /// needs time.
    fn check_nothing_waits_for_the_store(&mut self, page: Pages) {
        let waits = (self.committed.max(self.life)..page).filter(|page| self.has_arrived(*page)).count() >= IN_FLIGHT;
        let excused = self.knobs.buffer.is_some() || (self.knobs.paced && self.storing_since.is_none());
        if waits && !excused {
            self.violated(format!("page {page} was delivered before the last but one was stored"));
        }
    }

    fn has_arrived(&self, page: Pages) -> bool {
        self.pages[page].arrived.contains(&true)
    }

    /// Records that the destination accepted an event, or refused it as a dead letter.
    pub(crate) fn arrived(&mut self, Served(page): Served, index: usize) {
        let page = &mut self.pages[page];
        self.delivered[page.contents[index]] += 1;
        page.arrived[index] = true;
    }

    /// Records that an event arrived and the engine could not learn of it.
    pub(crate) fn unanswered(&mut self, page: Served, index: usize) {
        self.arrived(page, index);
        self.permitted[self.pages[page.0].contents[index]] += 1;
    }

    /// Permits one repeat of each of these.
    pub(crate) fn permit(&mut self, contents: &[Content]) {
        for content in contents {
            self.permitted[*content] += 1;
        }
    }

    /// Permits one repeat of each record that was served of this stretch of time.
    pub(crate) fn permit_all_of(&mut self, from: Timestamp, until: Timestamp) {
        let mut served: Vec<_> = self.pages.iter().flat_map(|page| page.contents.iter().copied()).collect();
        served.sort_unstable();
        served.dedup();
        served.retain(|content| (from..=until).contains(&self.history.time(*content)));
        for content in served {
            self.permitted[content] += self.history.equal(content);
        }
    }

    /// The time from which every record has to arrive.
    fn begins(&self) -> Option<Timestamp> {
        self.begins.or(self.first)
    }

    /// Records that the engine requests to store a cursor.
    pub(crate) fn storing(&mut self) {
        self.storing_since.get_or_insert_with(Instant::now);
    }

    /// Records that the store answered in some way.
    pub(crate) fn heard(&mut self) {
        self.heard = Some(Instant::now());
    }

    /// Records that the store accepted a cursor. Returns the number of pages before it.
    pub(crate) fn stored(&mut self, stored: &Stored<'_>) -> Pages {
        let page = (self.life..self.pages.len()).rev().find(|page| self.pages[*page].next == *stored.cursor);
        let behind = page.map_or(stored.base, |page| page + 1);
        if let Some(page) = (self.life..behind).find(|page| self.pages[*page].arrived.contains(&false)) {
            self.violated(format!("the cursor behind page {} was stored before page {page} was accepted", behind - 1));
        }
        if self.position.is_some_and(|position| stored.position < position) {
            // A clock that was ahead may have determined the very first position.
            if self.first == self.position && self.corrects.is_some_and(|corrects| corrects <= stored.position) {
                self.begins = self.corrects;
            } else {
                self.violated(format!("the stored cursor went back to {}", stored.position));
            }
        }
        self.first.get_or_insert(stored.position);
        let first = self.begins().unwrap_or(stored.position);
        self.position = Some(stored.position);
        self.committed = self.committed.max(behind);
        self.storing_since = None;
        let delay = Duration::from_secs(self.knobs.delay.into());
        let records = self.history.records.iter();
        let due: Vec<_> = records
            .filter(|record| record.visible <= record.at + delay)
            .filter(|record| record.at > first && record.at <= stored.position)
            .map(|record| record.content)
            .collect();
        self.check_arrived(&due, stored.position);
        self.check_arrived(&stored.before, stored.position);
        behind
    }

    fn check_arrived(&mut self, contents: &[Content], position: Timestamp) {
        let missing = count(contents).into_iter().find(|(content, due)| self.delivered[*content] < *due);
        if let Some((content, due)) = missing {
            let had = self.delivered[content];
            self.violated(format!(
                "a cursor at {position} was stored, but of r{content} only {had} of {due} had arrived"
            ));
        }
    }

    /// The number of events that arrived and are after the stored cursor.
    pub(crate) fn uncertain(&self) -> usize {
        let pages = self.committed.max(self.life)..self.pages.len();
        pages.map(|page| self.pages[page].arrived.iter().filter(|arrived| **arrived).count()).sum()
    }

    /// Records that the source learnt that everything before this cursor is stored.
    pub(crate) fn confirmed(&mut self, cursor: &Cursor) {
        self.confirmed = Some(cursor.clone());
    }

    /// Checks that the source knows of the stored `cursor` at the end of a healthy run.
    pub(crate) fn check_confirmed(&mut self, cursor: &Cursor) {
        if self.confirmed.as_ref() != Some(cursor) {
            self.violated("the source was not informed of the stored cursor");
        }
    }

    /// Records that a run ended without a shutdown, or not in time.
    pub(crate) fn broke_off(&mut self) {
        if self.knobs.buffer.is_some() {
            return;
        }
        let waiting: Vec<_> =
            (self.committed.max(self.life)..self.pages.len()).filter(|page| self.has_arrived(*page)).collect();
        let pace = Duration::from_secs(self.knobs.paced.into());
        let now = self.storing_since.unwrap_or_else(Instant::now);
        // A store that requires a second between writes may lack what was delivered in that second.
        let overdue = !self.knobs.paced || self.heard.is_none_or(|heard| now > heard + pace);
        if overdue && waiting.len() > IN_FLIGHT {
            self.violated(format!("pages {waiting:?} were delivered and not stored when the run broke off"));
        }
    }

    /// Records that a run ended well.
    pub(crate) fn ended_well(&mut self) {
        let uncertain = self.uncertain();
        if uncertain > 0 {
            self.violated(format!("{uncertain} events arrived that a clean end did not write down"));
        }
    }

    /// Records that the next run starts with a document at `position`, with `behind` pages before its cursor.
    pub(crate) fn begin_life(&mut self, behind: Pages, position: Option<Timestamp>) {
        let mut again = HashMap::<Content, usize>::new();
        for page in &self.pages[behind..] {
            for (content, arrived) in page.contents.iter().zip(&page.arrived) {
                *again.entry(*content).or_default() += usize::from(*arrived);
            }
        }
        for (content, times) in again {
            self.permitted[content] += times.min(self.history.equal(content));
        }
        self.life = self.pages.len();
        self.next = self.life;
        self.committed = behind;
        self.delivering = None;
        self.storing_since = None;
        self.position = position;
        self.corrects = None;
        if position == self.first {
            // The store may have gone back to a time before the very first cursor was corrected. This run corrects it
            // by its own time.
            self.begins = None;
        }
    }

    /// Checks that everything up to `end` has arrived, and no more often than permitted.
    pub(crate) fn settle(&mut self, end: Timestamp) {
        let Some(first) = self.begins() else { return };
        let after = |from: Timestamp| {
            let records = self.history.records.iter();
            let records = records.filter(|record| record.at > from && record.at <= end);
            count(&records.map(|record| record.content).collect::<Vec<_>>())
        };
        let due = after(first);
        // The engine delivered from where it should have begun, though it crashed before it stored that.
        let there = after(self.corrected.map_or(first, |corrected| corrected.min(first)));
        for content in 0..self.delivered.len() {
            let (had, due) = (self.delivered[content], due.get(&content).copied().unwrap_or_default());
            if had < due {
                self.violated(format!("lost: of r{content} {had} of {due} arrived"));
            }
            let there = there.get(&content).copied().unwrap_or_default();
            let most = there + self.permitted[content];
            if had > most && !(there > 0 && self.history.is_misleading(content)) {
                self.violated(format!(
                    "repeated: r{content} arrived {had} times, {there} are there, at most {most} were permitted"
                ));
            }
        }
    }
}

fn count(contents: &[Content]) -> HashMap<Content, usize> {
    let mut counts = HashMap::new();
    for content in contents {
        *counts.entry(*content).or_default() += 1;
    }
    counts
}
