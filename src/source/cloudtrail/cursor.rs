//! Decides how far a bucket is delivered, and what to deliver next, without I/O or a clock.
//!
//! Names do not come in order, so a "last name" proves nothing. What counts is `LastModified`, by the bucket's own
//! clock, and one assumption: a file appears in a listing at most [`SLACK`] after its `LastModified`.
//!
//! For each [class](Class) of files the cursor has a *place*: a time and a key. Every file up to the place, in the order of
//! (`LastModified`, key), is delivered. A listing that began at `B` shows every file up to `B` less the slack. Its files are delivered in that
//! order, so the place follows them up to `B` less the slack, and no further. Delivered files after the place are known by the hash of their
//! key, until the place has passed them. So a backlog needs no hashes, and the present needs those of ten minutes.
//!
//! The number of hashes is [bounded](MOST). If ten minutes have more files, the place follows more closely, so a file has less time to
//! appear. The place stays at least [`LEAST_SLACK`] before `B`: a folder is listed at some time from `B` on, and the listing
//! misses files written to it after that. If even the last minute has too many files, the rest [waits](Progress::has_room) for another
//! listing, whose `B` is later.
//!
//! A listing that covers a class is deep enough: an undelivered file is after the place, and its slot is at most the class's
//! [reach](Class::reach) before its `LastModified`. Very late files may be later than that. So until they are all delivered for the first
//! time, a listing that covers them starts at the first slot.

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashSet};

use jiff::{SignedDuration, Timestamp};
use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer, Serialize};

use super::key::Class;
use crate::fingerprint::{Fingerprint, Fingerprints};

/// How long after its `LastModified` a file may appear in a listing.
pub(super) const SLACK: SignedDuration = SignedDuration::from_mins(10);

/// The most hashes of one class. Each takes 11 bytes of the state, so all of them take 176 KiB. A store that takes 1 MiB has room for
/// three classes. Above this number the slack shrinks: from 27 files a second on, and at 100 a second to two minutes.
pub(super) const MOST: usize = 16_384;

/// The slack that always remains.
const LEAST_SLACK: SignedDuration = SignedDuration::from_mins(1);

/// The resolution of `LastModified`, which is in whole seconds.
const SECOND: SignedDuration = SignedDuration::from_secs(1);

/// A server's clock that went back by more makes a sweep due.
const BACK: SignedDuration = SignedDuration::from_mins(10);

/// The cursor of the bucket: how far files are delivered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Progress {
    /// The start. No record before it is delivered, and no file whose slot is more than an hour before it.
    pub(super) since: Timestamp,
    /// The end of a stretch; none without an end. No record at or after it is wanted, and no file whose slot is more than an hour after
    /// it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) until: Option<Timestamp>,
    #[serde(default)]
    classes: [Reached; 3],
    /// A file of which a part is delivered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) current: Option<Current>,
    /// The hashes of the newest files that sweeps delivered beside a queue.
    #[serde(default, skip_serializing_if = "Fingerprints::is_empty")]
    swept: Fingerprints,
    /// How far digest files are verified, which stands beside these members in the state. `known` reads and writes it.
    #[serde(default, skip_serializing, deserialize_with = "ignored")]
    verified: (),
}

fn ignored<'de, D: Deserializer<'de>>(deserializer: D) -> Result<(), D::Error> {
    IgnoredAny::deserialize(deserializer).map(|_| ())
}

/// How far the files of one class are delivered.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Reached {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    place: Option<Place>,
    /// The delivered files after the place, by the minute of their `LastModified`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    done: BTreeMap<i64, Fingerprints>,
    /// The start of the newest listing that covered the class and was delivered whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    swept: Option<Timestamp>,
}

/// A place in the order of (`LastModified`, key).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Place {
    at: Timestamp,
    /// None means after every key of that second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key: Option<String>,
}

/// A file of which a part is delivered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Current {
    pub(super) key: String,
    pub(super) modified: Timestamp,
    /// Its size as stored, in bytes.
    pub(super) size: u64,
    pub(super) class: Class,
    /// The number of its delivered records.
    pub(super) records: u64,
}

/// The files that a listing covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Coverage {
    /// This class, and those that are listed more often.
    pub(super) class: Class,
    /// The server's time when the listing began, or earlier.
    pub(super) began: Timestamp,
}

impl Coverage {
    /// Up to then the listing shows every file.
    pub(super) fn certain(&self) -> Timestamp {
        before(self.began, SLACK)
    }

    /// The last time to which the place may follow, when there is no room for another hash.
    fn limit(&self) -> Timestamp {
        before(self.began, LEAST_SLACK)
    }

    fn classes(&self) -> impl Iterator<Item = usize> + use<> {
        0..=self.class as usize
    }
}

fn before(time: Timestamp, by: SignedDuration) -> Timestamp {
    time.checked_sub(by).unwrap_or(Timestamp::MIN)
}

impl Place {
    fn includes(&self, modified: Timestamp, key: &str) -> bool {
        match modified.cmp(&self.at) {
            Ordering::Equal => self.key.as_deref().is_none_or(|own| key <= own),
            order => order == Ordering::Less,
        }
    }

    fn is_before(&self, other: &Self) -> bool {
        match (self.at.cmp(&other.at), &self.key, &other.key) {
            (Ordering::Equal, Some(_), None) => true,
            (Ordering::Equal, Some(own), Some(other)) => own < other,
            (order, ..) => order == Ordering::Less,
        }
    }
}

impl Reached {
    fn raise(&mut self, to: Place) {
        if self.place.as_ref().is_some_and(|place| !place.is_before(&to)) {
            return;
        }
        // A minute's hashes stay until the place is after all of it.
        let minute = minute(to.at);
        self.done.retain(|known, _| *known >= minute);
        self.place = Some(to);
    }

    fn hashes(&self) -> usize {
        self.hashes_since(i64::MIN)
    }

    fn hashes_since(&self, minute: i64) -> usize {
        self.done.range(minute..).map(|(_, hashes)| hashes.len()).sum()
    }

    /// Raises the place past the oldest hashes, minute by minute and at most to `limit`, until there is room for another hash. Every file
    /// up to `limit` must be delivered.
    fn make_room(&mut self, most: usize, limit: Timestamp) {
        while self.hashes() >= most
            && let Some((oldest, _)) = self.done.first_key_value()
        {
            let oldest = *oldest;
            let to = end_of(oldest).min(limit);
            self.raise(Place { at: to, key: None });
            if minute(to) <= oldest {
                return;
            }
            self.done.remove(&oldest);
        }
    }
}

fn minute(time: Timestamp) -> i64 {
    time.as_second().div_euclid(60)
}

fn end_of(minute: i64) -> Timestamp {
    Timestamp::from_second(minute.saturating_add(1).saturating_mul(60)).unwrap_or(Timestamp::MAX)
}

fn hash(key: &str) -> Fingerprint {
    Fingerprint::of_parts([key.as_bytes()])
}

impl Progress {
    /// Nothing is delivered, and records since then are wanted.
    pub(super) fn since(since: Timestamp) -> Self {
        Self::between(since, None)
    }

    /// Nothing is delivered. Records from `since` on and before `until` are wanted.
    pub(super) fn between(since: Timestamp, until: Option<Timestamp>) -> Self {
        Self { since, until, classes: Default::default(), current: None, swept: Fingerprints::default(), verified: () }
    }

    /// The time up to which every file is delivered by its `LastModified`, except files that came over an hour after
    /// their slot.
    pub(super) fn reached(&self) -> Timestamp {
        let [regular, ..] = &self.classes;
        regular.place.as_ref().map_or(self.since, |place| place.at.max(self.since))
    }

    /// A time after the `LastModified` of each delivered file; none if no file is delivered.
    pub(super) fn behind_all(&self) -> Option<Timestamp> {
        let minutes = self.classes.iter().filter_map(|class| {
            let place = class.place.as_ref().map(|place| minute(place.at));
            place.max(class.done.last_key_value().map(|(minute, _)| *minute))
        });
        minutes.max().map(end_of)
    }

    /// The time up to which every record is delivered, if its slot is at most an hour later, and its file came at most an hour after the
    /// slot. It depends on the start of the newest listing that covered every class and was delivered whole. It does not depend on
    /// `LastModified`: in a copied bucket, that is the time of the copy.
    pub(super) fn settled(&self) -> Timestamp {
        let [.., very_late] = &self.classes;
        let Some(began) = very_late.swept.filter(|_| self.current.is_none()) else { return self.since };
        let reach = Class::Regular.reach();
        before(before(before(began, SLACK), reach), reach).max(self.since)
    }

    /// The class that a listing must cover at `now`, by the server's clock.
    pub(super) fn due(&self, now: Timestamp) -> Class {
        // A stretch needs only a few listings, so each of them looks for every file.
        if self.until.is_some() {
            return Class::VeryLate;
        }
        let is_due = |class: &&Class| {
            let Some(swept) = self.classes[**class as usize].swept else { return true };
            let passed = now.duration_since(swept);
            class
                .period()
                .is_some_and(|period| passed >= SignedDuration::try_from(period).unwrap_or_default() || -passed > BACK)
        };
        let sweeps = Class::ALL.iter().filter(|class| class.period().is_some());
        sweeps.rev().find(is_due).copied().unwrap_or(Class::Regular)
    }

    /// The slot at which a listing that covers `class` must start.
    pub(super) fn earliest_slot(&self, class: Class) -> Timestamp {
        let first = self.first_slot();
        // Until every file has been listed and delivered once, a place says nothing of the slots: the files of a copied archive are all
        // written at about the same time.
        let is_first = self.until.is_some() || self.classes[Class::VeryLate as usize].swept.is_none();
        let of = |class: Class| {
            let place = self.classes[class as usize].place.as_ref().filter(|_| class != Class::VeryLate || !is_first);
            place.map_or(first, |place| before(place.at, class.reach()))
        };
        let earliest = Class::ALL.into_iter().filter(|other| *other <= class).map(of).min();
        earliest.unwrap_or(first).max(first)
    }

    /// The earliest slot of a file to deliver.
    pub(super) fn first_slot(&self) -> Timestamp {
        before(self.since, Class::Regular.reach())
    }

    /// The last slot of a wanted file; none without an end.
    fn last_slot(&self) -> Option<Timestamp> {
        Some(self.until?.checked_add(Class::Regular.reach()).unwrap_or(Timestamp::MAX))
    }

    /// The files that a listing that covers `class` must deliver.
    pub(super) fn selection(&self, class: Class) -> Selection {
        let [regular, late, very_late] = &self.classes;
        Selection {
            class,
            first_slot: self.first_slot(),
            last_slot: self.last_slot(),
            places: [&regular.place, &late.place, &very_late.place].map(Clone::clone),
            done: self.classes.iter().flat_map(|class| class.done.values()).flat_map(Fingerprints::iter).collect(),
        }
    }

    /// Whether there is room to deliver the first undelivered file in the listing of `coverage`. If not, the bucket must be listed again
    /// first: too many files were written since shortly before this listing began.
    pub(super) fn has_room(&self, coverage: Coverage, class: Class, modified: Timestamp) -> bool {
        self.has_room_of(MOST, coverage, class, modified)
    }

    fn has_room_of(&self, most: usize, coverage: Coverage, class: Class, modified: Timestamp) -> bool {
        let limit = coverage.limit();
        modified <= limit || self.classes[class as usize].hashes_since(minute(limit)) < most
    }

    /// A file is delivered whole, the first of those that the listing of `coverage` showed and are not delivered. True if the slack had to
    /// shrink for it.
    pub(super) fn delivered(&mut self, coverage: Coverage, class: Class, modified: Timestamp, key: &str) -> bool {
        self.delivered_of(MOST, coverage, class, modified, key)
    }

    fn delivered_of(&mut self, most: usize, coverage: Coverage, class: Class, modified: Timestamp, key: &str) -> bool {
        let place = |limit: Timestamp| {
            let is_up_to_the_file = modified <= limit;
            Place { at: modified.min(limit), key: is_up_to_the_file.then(|| key.to_owned()) }
        };
        for class in coverage.classes() {
            self.classes[class].raise(place(coverage.certain()));
        }
        let reached = &mut self.classes[class as usize];
        let is_shrinking = modified > coverage.certain() && reached.hashes() >= most;
        if is_shrinking {
            // Every file in the listing up to the second before this file is delivered.
            reached.make_room(most, coverage.limit().min(before(modified, SECOND)));
            if reached.hashes() >= most {
                reached.raise(place(coverage.limit()));
            }
        }
        if !reached.place.as_ref().is_some_and(|place| place.includes(modified, key)) {
            reached.done.entry(minute(modified)).or_default().push(hash(key));
        }
        is_shrinking
    }

    /// Notes that a file is delivered whole, even if earlier ones are not.
    pub(super) fn delivered_alone(&mut self, class: Class, modified: Timestamp, key: &str) {
        self.classes[class as usize].done.entry(minute(modified)).or_default().push(hash(key));
    }

    /// Everything that the listing of `coverage` showed is delivered. The newest `LastModified` in it was `newest`.
    pub(super) fn finished(&mut self, coverage: Coverage, newest: Option<Timestamp>) {
        for class in coverage.classes() {
            let reached = &mut self.classes[class];
            reached.swept = (class > 0).then_some(coverage.began);
            // By the files' own clock, in case the server's differs from it.
            if let Some(newest) = newest {
                reached.raise(Place { at: before(newest.min(coverage.began), SLACK), key: None });
            }
        }
    }
}

/// Selects the files that a listing must deliver.
#[derive(Debug)]
pub(super) struct Selection {
    class: Class,
    first_slot: Timestamp,
    last_slot: Option<Timestamp>,
    places: [Option<Place>; 3],
    done: HashSet<Fingerprint>,
}

impl Selection {
    /// Whether `slot` is after the last slot of a wanted file.
    pub(super) fn is_behind(&self, slot: Timestamp) -> bool {
        self.last_slot.is_some_and(|last| slot > last)
    }

    /// The class of a file, if it must be delivered.
    pub(super) fn wants(&self, slot: Timestamp, modified: Timestamp, key: &str) -> Option<Class> {
        let class = Class::of(slot, modified);
        let is_before = |place: &Option<Place>| place.as_ref().is_some_and(|place| place.includes(modified, key));
        let is_outside = slot < self.first_slot || self.is_behind(slot);
        if class > self.class || is_outside || is_before(&self.places[class as usize]) {
            return None;
        }
        (!self.done.contains(&hash(key))).then_some(class)
    }
}

pub(super) mod announced;
#[cfg(test)]
mod tests;
