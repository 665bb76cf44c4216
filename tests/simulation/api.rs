//! The server: ranges, pages and page tokens.
//!
//! A range is fixed when its first page is requested: what becomes visible later is in none of its pages.

use std::ops::Range;
use std::sync::Arc;

use bytes::{BufMut as _, Bytes, BytesMut};
use jiff::Timestamp;

use crate::history::{Content, History};
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
    ranges: Vec<Snapshot>,
    /// Tokens of ranges before this one are refused.
    expired: usize,
}

#[derive(Debug)]
struct Snapshot {
    contents: Vec<Content>,
    pages: Vec<Range<usize>>,
}

impl Api {
    pub(crate) fn new(history: Arc<History>, paging: Paging, seed: u64, rewrites: bool) -> Self {
        Self { history, paging, seed, rewrites, ranges: Vec::new(), expired: 0 }
    }

    /// The first page of (`from`, `until`], as it is `now`.
    pub(crate) fn first_page(&mut self, from: Timestamp, until: Timestamp, now: Timestamp) -> Answer {
        let records = self.history.records.iter().enumerate();
        let mut found: Vec<_> =
            records.filter(|(_, record)| record.at > from && record.at <= until && record.visible <= now).collect();
        match self.paging.order {
            Order::Ascending => found.sort_by_key(|(index, record)| (record.at, *index)),
            Order::Descending => found.sort_by_key(|(index, record)| std::cmp::Reverse((record.at, *index))),
            Order::Shuffled => found.sort_by_key(|(index, _)| shuffled(*index, self.seed)),
        }
        let contents: Vec<_> = found.into_iter().map(|(_, record)| record.content).collect();
        let mut pages = Vec::new();
        let mut sizes = self.paging.sizes.iter().cycle();
        let mut start = 0;
        while start < contents.len() {
            let end = contents.len().min(start + sizes.next().map_or(1, |size| usize::from(*size)));
            pages.push(start..end);
            start = end;
        }
        if pages.is_empty() || self.paging.last != LastPage::NoToken {
            pages.push(start..start);
        }
        self.ranges.push(Snapshot { contents, pages });
        self.page(self.ranges.len() - 1, 0)
    }

    /// The page behind `token`; none where it is refused.
    pub(crate) fn page_behind(&self, token: &str) -> Option<Answer> {
        let (range, page) = Self::read(token)?;
        (range >= self.expired).then(|| self.page(range, page))
    }

    /// From now on, all tokens given out so far are refused.
    pub(crate) fn expire(&mut self) {
        self.expired = self.ranges.len();
    }

    /// The records of the pages before the one behind `token`.
    pub(crate) fn before(&self, token: &str) -> Vec<Content> {
        let Some((range, page)) = Self::read(token) else { return Vec::new() };
        let range = &self.ranges[range];
        range.contents[..range.pages[page].start].to_vec()
    }

    fn page(&self, number: usize, page: usize) -> Answer {
        let range = &self.ranges[number];
        let contents = &range.contents[range.pages[page].clone()];
        let spelling = if self.rewrites { number } else { 0 };
        let mut body = BytesMut::from("[");
        for (index, content) in contents.iter().enumerate() {
            body.put_slice(if index == 0 { b"\n" } else { b",\n " });
            body.put_slice(self.history.text(*content, spelling));
        }
        body.put_slice(b"]");
        let more = page + 1 < range.pages.len() || self.paging.last == LastPage::EmptyWithToken;
        // The page behind the last one is empty as well; nobody should ask for it.
        let next = (page + 1).min(range.pages.len() - 1);
        Answer { body: body.freeze(), token: more.then(|| format!("{number}.{next}")) }
    }

    fn read(token: &str) -> Option<(usize, usize)> {
        let (range, page) = token.split_once('.')?;
        Some((range.parse().ok()?, page.parse().ok()?))
    }
}

/// An order that has nothing to do with the records' times.
fn shuffled(index: usize, seed: u64) -> u64 {
    fastrand::Rng::with_seed(seed ^ (index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)).u64(..)
}
