//! The server: ranges, pages and page tokens.
//!
//! The first request of a range fixes its records: a record that becomes visible later is on none of its pages.

use std::sync::Arc;

use bytes::{BufMut as _, Bytes, BytesMut};
use jiff::Timestamp;

use crate::history::{Content, History, Record};
use crate::plan::{LastPage, Order, Paging};

/// A page as the server sends it.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) body: Bytes,
    pub(crate) token: Option<String>,
}

/// The server's memory of the requested ranges.
#[derive(Debug)]
pub(crate) struct Api {
    history: Arc<History>,
    paging: Paging,
    seed: u64,
    rewrites: bool,
    /// The records of each range that was requested.
    ranges: Vec<Vec<Content>>,
    /// The number of pages that the server returned.
    given: usize,
    /// The server refuses the tokens of ranges before this one.
    expired: usize,
}

impl Api {
    pub(crate) fn new(history: Arc<History>, paging: Paging, seed: u64, rewrites: bool) -> Self {
        Self { history, paging, seed, rewrites, ranges: Vec::new(), given: 0, expired: 0 }
    }

    /// The records of (`from`, `until`] that are visible `now`.
    fn visible(&self, from: Timestamp, until: Timestamp, now: Timestamp) -> impl Iterator<Item = (usize, &Record)> {
        let is_in = move |record: &Record| record.at > from && record.at <= until && record.visible <= now;
        self.history.records.iter().enumerate().filter(move |(_, record)| is_in(record))
    }

    /// The records that a server leaves out if it has forgotten everything up to `since`.
    pub(crate) fn forgotten(&self, from: Timestamp, since: Timestamp, now: Timestamp) -> Vec<Content> {
        self.visible(from, since, now).map(|(_, record)| record.content).collect()
    }

    /// The first page of (`from`, `until`], as the server knows it `now`.
    pub(crate) fn first_page(&mut self, from: Timestamp, until: Timestamp, now: Timestamp) -> Answer {
        let mut found: Vec<_> = self.visible(from, until, now).collect();
        match self.paging.order {
            Order::Ascending => found.sort_by_key(|(index, record)| (record.at, *index)),
            Order::Descending => found.sort_by_key(|(index, record)| std::cmp::Reverse((record.at, *index))),
            Order::Shuffled => found.sort_by_key(|(index, _)| shuffled(*index, self.seed)),
        }
        let contents = found.into_iter().map(|(_, record)| record.content).collect();
        self.ranges.push(contents);
        self.page(self.ranges.len() - 1, 0)
    }

    /// The page that `token` leads to; none if the server refuses the token.
    pub(crate) fn page_behind(&mut self, token: &str) -> Option<Answer> {
        let (range, start) = Self::read(token)?;
        (range >= self.expired).then(|| self.page(range, start))
    }

    /// Makes the server refuse all tokens that it has returned so far.
    pub(crate) fn expire(&mut self) {
        self.expired = self.ranges.len();
    }

    /// The records of the pages before the one after `token`.
    pub(crate) fn before(&self, token: &str) -> Vec<Content> {
        let Some((range, start)) = Self::read(token) else { return Vec::new() };
        self.ranges[range][..start].to_vec()
    }

    /// The next page: as many records as it holds, from the one at `start`.
    fn page(&mut self, number: usize, start: usize) -> Answer {
        let range = &self.ranges[number];
        let size = self.paging.sizes[self.given % self.paging.sizes.len()];
        self.given += 1;
        let end = range.len().min(start + usize::from(size));
        let spelling = if self.rewrites { number } else { 0 };
        let mut body = BytesMut::from("[");
        for (index, content) in range[start..end].iter().enumerate() {
            body.put_slice(if index == 0 { b"\n" } else { b",\n " });
            body.put_slice(self.history.text(*content, spelling));
        }
        body.put_slice(b"]");
        let more = match self.paging.last {
            LastPage::NoToken => end < range.len(),
            LastPage::Empty => start < end,
            // The page after an empty one is empty as well; the source should not request it.
            LastPage::EmptyWithToken => true,
        };
        Answer { body: body.freeze(), token: more.then(|| format!("{number}.{end}")) }
    }

    fn read(token: &str) -> Option<(usize, usize)> {
        let (range, start) = token.split_once('.')?;
        Some((range.parse().ok()?, start.parse().ok()?))
    }
}

/// An order that has nothing to do with the records' times.
fn shuffled(index: usize, seed: u64) -> u64 {
    fastrand::Rng::with_seed(seed ^ (index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)).u64(..)
}
