//! The pages of a range so far, to notice that the server repeats them.
//!
//! A server may send a fresh token with every page and still lead in a circle, so pages are compared by content. One
//! equal page proves nothing: records may be equal, and with one record a page, equal pages follow. Proof of a circle
//! is a run of pages that repeats an earlier run in the same order. It must have more distinct records than equal
//! records plausibly explain.

use serde::{Deserialize, Serialize};

use crate::event::Event;
use crate::fingerprint::{Fingerprint, Fingerprints};

/// The number of distinct records that prove a circle, when the same pages repeat them in the same order. Fewer are
/// delivered again.
const PROOF: usize = 16;

/// The number of remembered pages. A circle of at most this length is noticed as soon as it closes.
const MOST_PAGES: usize = 256;

/// A bounded memory of a range's pages, whatever the server sends.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trail {
    /// The newest pages, oldest first.
    recent: Fingerprints,
    /// The number of distinct records on each of the newest pages; at most [`PROOF`] pages.
    weights: Vec<u8>,
    /// For circles of any length (Brent's algorithm): the pages from the last one whose number was a power of two.
    marked: Fingerprints,
    /// The number of pages since the first of those.
    since_mark: u32,
}

impl Trail {
    /// Adds the page `number`, counted from 1. False if it closes a circle. `same_token` means that the page names the
    /// token that it was requested with.
    pub fn step(&mut self, number: u32, records: &[Event], same_token: bool) -> bool {
        let (page, weight) = summary(records);
        if same_token && self.recent.iter().next_back() == Some(page) {
            return false;
        }
        self.recent.push(page);
        self.recent.keep_newest(MOST_PAGES);
        self.weights.push(weight);
        let surplus = self.weights.len().saturating_sub(PROOF);
        self.weights.drain(..surplus);
        if number.is_power_of_two() {
            (self.marked, self.since_mark) = (Fingerprints::from_iter([page]), 0);
        } else {
            self.since_mark = self.since_mark.saturating_add(1);
            if self.marked.len() < PROOF && usize::try_from(self.since_mark) == Ok(self.marked.len()) {
                self.marked.push(page);
            }
        }
        !self.is_circle()
    }

    fn is_circle(&self) -> bool {
        let pages: Vec<_> = self.recent.iter().collect();
        // The number of the newest pages that the proof needs.
        let mut proof = 0;
        let mut distinct = 0;
        for weight in self.weights.iter().rev() {
            (proof, distinct) = (proof + 1, distinct + usize::from(*weight));
            if distinct >= PROOF {
                break;
            }
        }
        let Some(run) = pages.len().checked_sub(proof).and_then(|start| pages.get(start..)) else { return false };
        if distinct < PROOF {
            return false;
        }
        let earlier = pages.get(..pages.len() - 1).unwrap_or_default();
        let repeats_recent = earlier.windows(proof).any(|window| window == run);
        let marked: Vec<_> = self.marked.iter().take(proof).collect();
        let is_behind_mark = usize::try_from(self.since_mark).is_ok_and(|since| since >= proof);
        repeats_recent || (is_behind_mark && marked == run)
    }
}

/// Makes a fingerprint of a page that depends neither on the order of its records nor on that of their members. Also
/// returns the number of its distinct records.
fn summary(records: &[Event]) -> (Fingerprint, u8) {
    let mut sums: Vec<_> = records.iter().map(|event| sum(event.raw())).collect();
    sums.sort_unstable();
    let written: Vec<_> = sums.iter().flat_map(|sum| sum.to_be_bytes()).collect();
    let page = Fingerprint::of_parts([written.as_slice()]);
    sums.dedup();
    (page, u8::try_from(sums.len()).unwrap_or(u8::MAX))
}

/// A hash of a record that costs far less than its [`Fingerprint`]: the sum of its members' hashes, without blanks. Every
/// comma and brace counts as the end of a member, also one in a text.
fn sum(raw: &[u8]) -> u64 {
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
    let (mut sum, mut member) = (0_u64, 0_u64);
    for byte in raw {
        match byte {
            b',' | b'{' | b'}' => {
                sum = sum.wrapping_add((member ^ (member >> 32)).wrapping_mul(FACTOR));
                member = 0;
            }
            b' ' | b'\t' | b'\n' | b'\r' => {}
            other => member = (member.rotate_left(5) ^ u64::from(*other)).wrapping_mul(FACTOR),
        }
    }
    sum.wrapping_add(member)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::source::sectigo::page;

    fn records(ids: impl IntoIterator<Item = usize>) -> Vec<Event> {
        let records: Vec<_> = ids.into_iter().map(|id| format!(r#"{{"id":{id},"action":"login"}}"#)).collect();
        page::records(&Bytes::from(format!("[{}]", records.join(",")))).unwrap()
    }

    /// Takes pages that all have fresh tokens, and returns the number of the page that was refused.
    fn closes_at(pages: impl IntoIterator<Item = Vec<Event>>) -> Option<usize> {
        let mut trail = Trail::default();
        for (number, page) in (1..).zip(pages) {
            // The state document is written and read between any two pages.
            let written = serde_json::to_string(&trail).unwrap();
            assert!(written.len() < 11 * (MOST_PAGES + PROOF) + 200, "{}", written.len());
            trail = serde_json::from_str(&written).unwrap();
            if !trail.step(number, &page, false) {
                return Some(usize::try_from(number).unwrap());
            }
        }
        None
    }

    #[test]
    fn the_same_page_with_fresh_tokens_is_not_taken_twice() {
        assert_eq!(closes_at(std::iter::repeat_with(|| records(0..150))), Some(2));
        assert_eq!(closes_at((0..).map(|page| records(page.min(30) * 150..page.min(30) * 150 + 150))), Some(32));
    }

    #[test]
    fn the_same_records_in_another_order_are_the_same_page() {
        for count in [1, 2, 13, 16, 17, 150, 1000] {
            let mut random = fastrand::Rng::with_seed(7);
            let shuffled = std::iter::repeat_with(|| {
                let mut ids: Vec<_> = (0..count).collect();
                random.shuffle(&mut ids);
                records(ids)
            });
            let closed = closes_at(shuffled.take(1000)).expect("a circle of one page");
            assert!(closed <= 1 + PROOF.div_ceil(count), "{count}: {closed}");
        }
    }

    #[test]
    fn a_circle_of_any_length_and_any_start_is_found() {
        for start in [0, 1, 5, 40] {
            for circle in [1, 2, 3, 7, 64, 200] {
                let page = |n: usize| if n < start { n } else { start + (n - start) % circle };
                let closed = closes_at((0..2000).map(|n| records(page(n) * 20..page(n) * 20 + 20)));
                assert_eq!(closed, Some(start + circle + 1), "{circle} from {start}: at the first page that repeats");
                let closed = closes_at((0..2000).map(|n| records([page(n)]))).unwrap();
                assert!(closed <= start + circle + PROOF, "{circle} from {start}: {closed}");
            }
        }
        for circle in [257, 700] {
            for size in [1, 20] {
                let closed = closes_at((0..5000).map(|n| records(n % circle * size..(n % circle + 1) * size))).unwrap();
                assert!(closed <= 4 * circle, "{circle} of {size}: {closed}");
            }
        }
    }

    #[test]
    fn pages_within_a_circle_may_be_equal() {
        let word = [0, 0, 1, 0, 0, 1, 0, 2];
        let closed = closes_at((0..2000).map(|n: usize| records([word[n % word.len()]]))).unwrap();
        assert!(closed <= word.len() + PROOF, "{closed}");
    }

    #[test]
    fn equal_records_are_no_circle() {
        assert_eq!(closes_at((0..3000).map(|n| records([n / 10]))), None, "ten of each, one a page");
        assert_eq!(closes_at((0..16).map(|_| records([7]))), None, "sixteen of one");
        assert_eq!(closes_at((0..12).map(|_| records([7; 500]))), None, "thousands of one");
        assert_eq!(closes_at((0..9).map(|n| records([n % 2, 50]))), None, "two by two");
    }

    #[test]
    fn pages_that_differ_in_one_record_are_others() {
        let pages = (1..20).map(|n| records((0..100).map(|id| if id == 53 { 10_usize.pow(n) } else { id })));
        assert_eq!(closes_at(pages), None);
        let anagrams = [123, 132, 213, 231, 312, 321].map(|id| records((1000..1100).chain([id])));
        assert_eq!(closes_at(anagrams), None, "of the same bytes");
    }

    #[test]
    fn a_page_that_names_its_own_token_is_not_taken_twice() {
        let mut trail = Trail::default();
        assert!(trail.step(1, &records([1]), true));
        assert!(trail.step(2, &records([2]), true), "one handle for many pages");
        assert!(!trail.step(3, &records([2]), true));
    }

    #[test]
    fn members_in_another_order_make_the_same_page() {
        let page = |text: &'static str| page::records(&Bytes::from_static(text.as_bytes())).unwrap();
        let one = summary(&page(r#"[{"a":1,"b":2}]"#));
        assert_eq!(one, summary(&page(r#"[{"b" : 2, "a":1} ]"#)));
        assert_ne!(one, summary(&page(r#"[{"b":1,"a":2}]"#)));
        assert_ne!(summary(&page(r"[1,2]")), summary(&page(r"[12]")));
    }
}
