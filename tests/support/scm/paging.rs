//! Ranges in pages, and the opaque tokens that lead from one page to the next.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use jiff::Timestamp;

use super::{FinalPage, ScmOptions};

pub(super) struct Paging {
    page_size: usize,
    short_pages: bool,
    final_page: FinalPage,
    tokens: HashMap<String, Position>,
    expired: HashSet<String>,
    refusals: usize,
    repeating: bool,
    going_round: bool,
    rng: fastrand::Rng,
}

/// The target of a token.
#[derive(Clone)]
struct Position {
    /// The whole range, as indices of records.
    snapshot: Arc<[usize]>,
    next: usize,
    to: Timestamp,
}

pub(super) struct Page {
    /// Indices of records.
    pub(super) records: Vec<usize>,
    pub(super) token: Option<String>,
}

/// A reason why a page token leads nowhere.
pub(super) enum Refusal {
    /// The test wanted it.
    OnPurpose,
    /// The client made a mistake.
    Mistake(&'static str),
}

impl Paging {
    pub(super) fn new(options: &ScmOptions) -> Self {
        Self {
            page_size: options.page_size,
            short_pages: options.short_pages,
            final_page: options.final_page,
            tokens: HashMap::new(),
            expired: HashSet::new(),
            refusals: 0,
            repeating: false,
            going_round: false,
            rng: fastrand::Rng::new(),
        }
    }

    pub(super) fn set_page_size(&mut self, page_size: usize) {
        self.page_size = page_size;
    }

    pub(super) fn refuse(&mut self, n: usize) {
        self.refusals += n;
    }

    pub(super) fn expire(&mut self) {
        self.expired.extend(self.tokens.drain().map(|(token, _)| token));
    }

    pub(super) fn repeat(&mut self, repeat: bool) {
        self.repeating = repeat;
    }

    pub(super) fn go_round(&mut self, going_round: bool) {
        self.going_round = going_round;
    }

    /// The first page of a range.
    pub(super) fn open(&mut self, snapshot: Vec<usize>, to: Timestamp) -> Page {
        self.page(Position { snapshot: snapshot.into(), next: 0, to })
    }

    /// The page that a token leads to. A token may be used again, and leads to the same page.
    pub(super) fn resume(&mut self, token: &str, to: Timestamp) -> Result<Page, Refusal> {
        if self.expired.contains(token) {
            return Err(Refusal::OnPurpose);
        }
        if self.refusals > 0 {
            self.refusals -= 1;
            self.expired.insert(token.to_owned());
            return Err(Refusal::OnPurpose);
        }
        let Some(position) = self.tokens.get(token).cloned() else {
            return Err(Refusal::Mistake("a page token that was never issued"));
        };
        if position.to != to {
            return Err(Refusal::Mistake("a page token with another `to` than it was issued for"));
        }
        let mut page = self.page(position.clone());
        if self.repeating {
            page.token = Some(token.to_owned());
        } else if self.going_round {
            page.token = Some(self.issue(position));
        }
        Ok(page)
    }

    fn page(&mut self, position: Position) -> Page {
        let Position { snapshot, next, to } = position;
        let size = if self.short_pages { self.rng.usize(1..=self.page_size) } else { self.page_size };
        let end = snapshot.len().min(next + size);
        let records = snapshot[next..end].to_vec();
        let more = match self.final_page {
            FinalPage::EmptyArray => !records.is_empty(),
            FinalPage::EmptyArrayWithToken => true,
            FinalPage::NoTokenOnLast => end < snapshot.len(),
        };
        let token = more.then(|| self.issue(Position { snapshot, next: end, to }));
        Page { records, token }
    }

    fn issue(&mut self, position: Position) -> String {
        // The token has every character that a query must escape, so that the fake detects a client that does not
        // escape.
        let token = format!("{:032x}/+&=#%41==", self.rng.u128(..));
        self.tokens.insert(token.clone(), position);
        token
    }
}
