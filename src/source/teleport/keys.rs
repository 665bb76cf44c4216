//! Decides whether the server refuses a request because of the key of its page.
//!
//! A server that cannot read a key says so in several ways. Only one of them is certainly about the request. So a key
//! is dropped at once, or after several refusals in a row.
//!
//! This module computes only: it makes no call.

use crate::fingerprint::Fingerprint;

/// The refusals of the key that was used last.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    key: Option<Fingerprint>,
    times: u32,
    is_given_up: bool,
}

impl Refusals {
    /// Notes that a request with `key` was refused. Returns whether the key is at fault: after `most` such refusals in
    /// a row.
    pub(super) fn refused(&mut self, key: &str, most: u32) -> bool {
        let print = print(key);
        let times = if self.key == Some(print) { self.times.saturating_add(1) } else { 1 };
        *self = Self { key: Some(print), times, is_given_up: false };
        if times < most {
            return false;
        }
        *self = Self::default();
        true
    }

    /// Notes that `key` is given up: its window was already read again because of a refused key. The next call leaves
    /// `key` out.
    pub(super) fn give_up(&mut self, key: &str) {
        *self = Self { key: Some(print(key)), times: 0, is_given_up: true };
    }

    /// Whether `key` was given up. This forgets it, because the window may lead to the same key again.
    pub(super) fn was_given_up(&mut self, key: &str) -> bool {
        let is_given_up = self.is_given_up && self.key == Some(print(key));
        if is_given_up {
            *self = Self::default();
        }
        is_given_up
    }
}

fn print(key: &str) -> Fingerprint {
    Fingerprint::of_parts([key.as_bytes()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_at_fault_after_so_many_refusals_in_a_row() {
        let mut refusals = Refusals::default();
        assert!(refusals.refused("a", 1));
        assert_eq!([1, 2, 3].map(|_| refusals.refused("a", 3)), [false, false, true]);
        assert!(!refusals.refused("a", 3), "it counts from the start");
        assert_eq!(["b", "a", "b"].map(|key| refusals.refused(key, 2)), [false; 3], "not in a row");
    }

    #[test]
    fn a_key_that_is_given_up_is_left_out_once() {
        let mut refusals = Refusals::default();
        assert!(!refusals.was_given_up("a"));
        refusals.give_up("a");
        assert!(!refusals.was_given_up("b"));
        assert_eq!([1, 2].map(|_| refusals.was_given_up("a")), [true, false]);
        refusals.give_up("a");
        assert!(!refusals.refused("a", 2) && !refusals.was_given_up("a"));
    }
}
