//! Remembers records that were delivered lately, because a second trail, or a file that is delivered twice, brings the
//! same record again.
//!
//! It lives in memory alone. In a busy organisation, storing the records of ten minutes would add a megabyte to each
//! save of the state.

use std::collections::{HashSet, VecDeque};

/// The number of remembered records.
const MOST: usize = 262_144;

/// The identities of the last records.
#[derive(Debug, Default)]
pub(super) struct Window {
    known: HashSet<u64>,
    order: VecDeque<u64>,
}

impl Window {
    /// Remembers a record. True if it is new.
    pub(super) fn is_new(&mut self, identity: u64) -> bool {
        if !self.known.insert(identity) {
            return false;
        }
        self.order.push_back(identity);
        if self.order.len() > MOST
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_new_once_and_again_when_it_is_long_ago() {
        let mut window = Window::default();
        let most = MOST as u64;
        for n in 0..most {
            assert!(window.is_new(n) && !window.is_new(n));
        }
        assert!(!window.is_new(0));
        assert!(window.is_new(most) && window.is_new(0) && !window.is_new(2));
        assert_eq!((window.known.len(), window.order.len()), (MOST, MOST));
    }
}
