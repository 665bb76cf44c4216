//! Adds a queue to the cursor: the queue delivers the files that messages name, and a sweep delivers the files that no message named.
//!
//! One [`Progress`] notes both. A sweep leaves out the files that the queue delivered. A message is deleted if a sweep delivered its
//! file. The hashes of the files that the queue delivered stay until a sweep has passed them, so many hashes make a sweep due.

use jiff::Timestamp;

use super::{Class, Coverage, Place, Progress, SLACK, hash};

/// The most hashes of delivered files. At this number, no message is taken from the queue until a sweep has passed some of them.
pub(in super::super) const MOST: usize = 16_384;

/// The number of hashes that makes a sweep due.
const MANY: usize = MOST / 4 * 3;

/// The number of hashes in one class that makes a sweep cover that class.
const MANY_OF_A_CLASS: usize = MOST / 8;

/// The most hashes of files that sweeps delivered. The newest are kept.
const MOST_SWEPT: usize = 4096;

/// A file that a message names.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Announced<'a> {
    pub(in super::super) key: &'a str,
    pub(in super::super) slot: Timestamp,
    /// Its `LastModified`, by the bucket's clock.
    pub(in super::super) modified: Timestamp,
    /// The time at which the message was sent, by the queue's clock.
    pub(in super::super) sent: Timestamp,
    /// Whether a listing shows the file.
    pub(in super::super) is_listed: bool,
}

impl Progress {
    /// Notes that a sweep delivered a file whose message may still come.
    pub(in super::super) fn swept(&mut self, key: &str) {
        self.swept.push(hash(key));
        self.swept.keep_newest(MOST_SWEPT);
    }

    /// Whether a file is delivered, or the sweep has begun to deliver it.
    ///
    /// A listing misses a file only if the file is not visible yet. Such a file appears long after its `LastModified`, and its message is
    /// sent when it appears. So the queue delivers it unless its hash is known.
    pub(in super::super) fn has(&self, file: Announced<'_>) -> bool {
        let Announced { key, slot, modified, sent, is_listed } = file;
        if self.current.as_ref().is_some_and(|current| current.key == key) {
            return true;
        }
        let hash = hash(key);
        let mut hashes = self.classes.iter().flat_map(|class| class.done.values()).chain([&self.swept]);
        if hashes.any(|hashes| hashes.iter().any(|known| known == hash)) {
            return true;
        }
        let is_wanted = is_listed && slot >= self.first_slot();
        let is_in_time = sent.duration_since(modified) <= SLACK;
        let is_in_reach = modified.duration_since(slot) <= Class::VeryLate.reach();
        let place = self.classes[Class::of(slot, modified) as usize].place.as_ref();
        is_wanted && is_in_time && is_in_reach && place.is_some_and(|place| place.includes(modified, key))
    }

    /// Whether a sweep is due at `now`, by the server's clock: once a day, or when there are many hashes.
    pub(in super::super) fn is_sweep_due(&self, now: Timestamp) -> bool {
        self.due(now) == Class::VeryLate || self.known() >= MANY
    }

    /// The class that a sweep must cover.
    pub(in super::super) fn sweep(&self, now: Timestamp) -> Class {
        let many = Class::ALL.into_iter().rev().find(|class| self.classes[*class as usize].hashes() >= MANY_OF_A_CLASS);
        self.due(now).max(many.unwrap_or(Class::Regular))
    }

    /// Whether there is no room for another hash.
    pub(in super::super) fn is_full(&self) -> bool {
        self.known() >= MOST
    }

    /// Makes room after a sweep, if there are still many hashes. The places follow to the last time that the sweep's listing shows for
    /// sure, because newer files may never come.
    pub(in super::super) fn make_room(&mut self, coverage: Coverage) {
        if self.known() >= MANY {
            for class in coverage.classes() {
                self.classes[class].raise(Place { at: coverage.certain(), key: None });
            }
        }
    }

    fn known(&self) -> usize {
        self.classes.iter().map(super::Reached::hashes).sum()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::super::tests::{File, at, listed};
    use super::*;

    impl File {
        fn announced(&self, sent: i64) -> Announced<'_> {
            let (slot, modified, sent) = (at(self.slot), at(self.modified), at(sent));
            Announced { key: &self.key, slot, modified, sent, is_listed: true }
        }

        fn class(&self) -> Class {
            Class::of(at(self.slot), at(self.modified))
        }

        /// Whether a sweep must find it.
        fn is_listed_in_time(&self) -> bool {
            self.visible - self.modified <= 600 && self.modified - self.slot <= 30 * 86_400
        }
    }

    /// Files, and the times at which their messages are sent; none for a message that is lost.
    fn files() -> impl Strategy<Value = Vec<(File, Option<i64>)>> {
        let behind = prop_oneof![6 => -300..3600_i64, 2 => 3600..172_800_i64, 1 => 172_800..9_000_000_i64];
        // At once, within the slack, and like a copy that took long.
        let appears = prop_oneof![6 => Just(0), 3 => 0..580_i64, 1 => 601..20_000_i64];
        let sent = prop_oneof![6 => (0..60_i64).prop_map(Some), 2 => (0..90_000_i64).prop_map(Some), 2 => Just(None)];
        let file = (0..200_000_i64, behind, appears, sent);
        prop::collection::vec(file, 1..60).prop_map(|files| {
            let file = |(n, (written, behind, appears, sent)): (usize, (i64, i64, i64, Option<i64>))| {
                let file = File::new(n, written / 40 * 40, behind, appears);
                let sent = sent.map(|after| file.visible + after);
                (file, sent)
            };
            files.into_iter().enumerate().map(file).collect()
        })
    }

    /// One step: a wait, the number of messages to read, and the sweep that follows, if any, with the number of files after which it
    /// ends.
    type Turn = (i64, usize, Option<usize>);

    fn turns() -> impl Strategy<Value = Vec<Turn>> {
        let sweep = prop_oneof![2 => Just(None), 1 => Just(Some(1000)), 1 => (0..5_usize).prop_map(Some)];
        let after = prop_oneof![4 => 10..900_i64, 1 => 3000..100_000_i64];
        prop::collection::vec((after, prop_oneof![3 => Just(1000_usize), 1 => 0..4_usize], sweep), 1..30)
    }

    /// Returns how often each file was delivered.
    fn run(files: &[(File, Option<i64>)], turns: &[Turn], since: i64) -> HashMap<String, usize> {
        let (mut progress, mut now) = (Progress::since(at(since)), 0);
        let mut waiting: Vec<_> = files.iter().filter_map(|(file, sent)| Some(((*sent)?, file))).collect();
        waiting.sort_by_key(|(sent, _)| *sent);
        let mut delivered = HashMap::new();
        for (after, messages, sweep) in turns.iter().chain([&(400_000, 1000, Some(1000)), &(100_000, 1000, Some(1000))])
        {
            now += after;
            let mut read = 0;
            waiting.retain(|(sent, file)| {
                if *sent > now || read == *messages {
                    return true;
                }
                read += 1;
                if !progress.has(file.announced(*sent)) {
                    *delivered.entry(file.key.clone()).or_default() += 1;
                    progress.delivered_alone(file.class(), at(file.modified), &file.key);
                }
                false
            });
            let Some(most) = sweep else { continue };
            let class = progress.sweep(at(now));
            let (coverage, earliest) = (Coverage { class, began: at(now) }, progress.earliest_slot(class));
            let files = || files.iter().map(|(file, _)| file);
            let shown = |file: &&File| file.visible <= now && at(file.slot) >= earliest;
            let newest = files().filter(shown).map(|file| at(file.modified)).max();
            let mut found = listed(files(), &progress, class, now, 0, 0);
            found.retain(|(file, _)| at(file.modified) <= coverage.certain());
            let is_whole = found.len() <= *most;
            for (file, class) in found.into_iter().take(*most) {
                *delivered.entry(file.key.clone()).or_default() += 1;
                progress.delivered(coverage, class, at(file.modified), &file.key);
                progress.swept(&file.key);
            }
            if is_whole {
                progress.finished(coverage, newest);
            }
            let text = serde_json::to_string(&progress).unwrap();
            assert_eq!(serde_json::from_str::<Progress>(&text).unwrap(), progress, "it survives the document");
        }
        delivered
    }

    proptest! {
        #[test]
        fn with_a_queue_and_sweeps_every_file_is_delivered_once(files in files(), turns in turns()) {
            let delivered = run(&files, &turns, -10_000_000);
            for (file, sent) in &files {
                let times = delivered.get(&file.key).copied().unwrap_or_default();
                prop_assert!(times <= 1, "{times} times: {file:?}");
                prop_assert!(times == 1 || (sent.is_none() && !file.is_listed_in_time()), "never: {file:?}");
            }
        }

        #[test]
        fn what_is_announced_is_delivered_however_old_it_is(files in files(), turns in turns(), since in 0..200_000_i64) {
            let delivered = run(&files, &turns, since);
            for (file, _) in files.iter().filter(|(_, sent)| sent.is_some()) {
                prop_assert_eq!(delivered.get(&file.key), Some(&1), "{:?}", file);
            }
        }
    }

    #[test]
    fn many_hashes_make_a_sweep_due_and_the_class_is_covered_that_has_them() {
        let swept = |hour: i64| {
            let mut progress = Progress::since(at(0));
            progress.finished(Coverage { class: Class::VeryLate, began: at(hour * 3600) }, Some(at(hour * 3600)));
            progress
        };
        assert!(Progress::since(at(0)).is_sweep_due(at(0)));
        assert!(!swept(10).is_sweep_due(at(33 * 3600)) && swept(10).is_sweep_due(at(34 * 3600)));
        for class in Class::ALL {
            let (mut progress, now) = (swept(10), at(10 * 3600 + 1000));
            for n in 0..MANY {
                assert!(!progress.is_sweep_due(now));
                progress.delivered_alone(class, at(10 * 3600), &n.to_string());
            }
            assert!(progress.is_sweep_due(now) && !progress.is_full());
            let covered = progress.sweep(now);
            assert_eq!(covered, class);
            (MANY..MOST).for_each(|n| progress.delivered_alone(class, at(10 * 3600), &n.to_string()));
            assert!(progress.is_full());
            assert!(serde_json::to_string(&progress).unwrap().len() < 11 * MOST + 1024);
            // No newer file has come since.
            let coverage = Coverage { class: covered, began: now };
            progress.finished(coverage, Some(at(10 * 3600)));
            assert!(progress.is_full());
            progress.make_room(coverage);
            assert!(!progress.is_full() && !progress.is_sweep_due(now));
        }
    }

    #[test]
    fn a_file_that_no_listing_shows_is_delivered_by_its_message() {
        let mut progress = Progress::since(at(-3600));
        progress.finished(Coverage { class: Class::VeryLate, began: at(1200) }, Some(at(600)));
        let file = Announced { key: "k", slot: at(-900), modified: at(-600), sent: at(-599), is_listed: true };
        assert!(progress.has(file));
        assert!(!progress.has(Announced { is_listed: false, ..file }));
        assert!(!progress.has(Announced { sent: at(1), ..file }));
        assert!(!progress.has(Announced { slot: at(-40 * 86_400), ..file }));
    }
}
