//! The files that a listing found, in the order of delivery. A plan is bounded and lives in memory alone, because the
//! cursor is enough to make it again.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use super::cursor::Coverage;
use super::key::{Class, Folder};

/// The most files of a plan. When they are delivered, the bucket is listed again.
pub(super) const MOST: usize = 20_000;

/// The most that a slot can be ahead of its file's `LastModified`. For files that `CloudTrail` wrote, it is ahead by
/// minutes at most.
const AHEAD: SignedDuration = SignedDuration::from_hours(2);

/// A file to deliver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Planned {
    pub(super) modified: Timestamp,
    /// The number of its folder, in the order of the folders.
    folder: u32,
    /// Its key after the folder's path.
    name: Box<str>,
    /// Its size as stored, in bytes.
    pub(super) size: u64,
    pub(super) class: Class,
}

impl Ord for Planned {
    fn cmp(&self, other: &Self) -> Ordering {
        let order = |file: &Self| (file.modified, file.folder);
        // No folder's path begins with another's path, so this is the order of the keys.
        order(self).cmp(&order(other)).then_with(|| self.name.cmp(&other.name))
    }
}

impl PartialOrd for Planned {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// A plan in the making: the first files in the order of delivery.
#[derive(Debug, Default)]
pub(super) struct Gathering {
    files: BinaryHeap<Planned>,
    is_cut: bool,
    newest: Option<Timestamp>,
}

impl Gathering {
    /// Notes that a listing showed a file with this `LastModified`, wanted or not.
    pub(super) fn show(&mut self, modified: Timestamp) {
        self.newest = self.newest.max(Some(modified));
    }

    /// Adds a file to deliver, in the folder of this number.
    pub(super) fn add(&mut self, folder: u32, name: &str, size: u64, modified: Timestamp, class: Class) {
        self.files.push(Planned { modified, folder, name: name.into(), size, class });
        if self.files.len() > MOST {
            self.files.pop();
            self.is_cut = true;
        }
    }

    /// Whether no file whose slot is `slot` or later can still be among the first ones.
    pub(super) fn is_beyond(&mut self, slot: Timestamp) -> bool {
        let last = self.files.peek().filter(|_| self.files.len() >= MOST);
        let is_beyond = last.is_some_and(|last| slot.duration_since(last.modified) > AHEAD);
        self.is_cut |= is_beyond;
        is_beyond
    }

    /// Makes the plan.
    pub(super) fn into_plan(self, folders: Arc<[Folder]>, coverage: Coverage) -> Plan {
        let Self { files, is_cut, newest } = self;
        Plan { folders, files: files.into_sorted_vec().into(), coverage, is_cut, newest, scheduled: 0 }
    }
}

/// The files that a listing found.
#[derive(Debug)]
pub(super) struct Plan {
    folders: Arc<[Folder]>,
    files: VecDeque<Planned>,
    pub(super) coverage: Coverage,
    /// Whether the bucket has more files.
    pub(super) is_cut: bool,
    /// The newest `LastModified` that the listing showed.
    pub(super) newest: Option<Timestamp>,
    /// The number of files that are fetched ahead.
    scheduled: usize,
}

impl Plan {
    /// The number of files left.
    pub(super) fn len(&self) -> usize {
        self.files.len()
    }

    /// The next file.
    pub(super) fn first(&self) -> Option<&Planned> {
        self.files.front()
    }

    /// The file after the next one.
    pub(super) fn second(&self) -> Option<&Planned> {
        self.files.get(1)
    }

    /// The newest file.
    pub(super) fn last(&self) -> Option<&Planned> {
        self.files.back()
    }

    /// Drops the files that were written after `last`.
    pub(super) fn end_at(&mut self, last: Timestamp) {
        let count = self.files.partition_point(|file| file.modified <= last);
        // The files that were cut off were written even later.
        self.is_cut &= count == self.files.len();
        self.files.truncate(count);
        self.scheduled = self.scheduled.min(count);
    }

    /// The next file is delivered.
    pub(super) fn pop(&mut self) {
        self.files.pop_front();
        self.scheduled = self.scheduled.saturating_sub(1);
    }

    /// The next file to fetch ahead.
    pub(super) fn next_ahead(&mut self) -> Option<&Planned> {
        let next = self.files.get(self.scheduled)?;
        self.scheduled += 1;
        Some(next)
    }

    pub(super) fn key(&self, file: &Planned) -> String {
        let folder = usize::try_from(file.folder).ok().and_then(|number| self.folders.get(number));
        format!("{}{}", folder.map(Folder::path).unwrap_or_default(), file.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_790_000_000 + second).unwrap()
    }

    fn plan(gathering: Gathering) -> Plan {
        let folder = |n| Folder::at(format!("AWSLogs/11112222333{n}/CloudTrail/us-east-1/")).unwrap();
        gathering.into_plan([folder(1), folder(2)].into(), Coverage { class: Class::Regular, began: at(0) })
    }

    #[test]
    fn a_plan_has_the_first_files_in_the_order_of_time_and_key() {
        let mut gathering = Gathering::default();
        let total = i64::try_from(MOST).unwrap() + 10;
        for n in (0..total).rev() {
            let (folder, name) = (u32::try_from(n % 2).unwrap(), format!("{:09}", (n * 7919) % total));
            gathering.show(at(n / 100));
            gathering.add(folder, &name, 1, at(n / 100), Class::Regular);
        }
        let mut plan = plan(gathering);
        assert!(plan.is_cut && plan.len() == MOST);
        assert_eq!(plan.newest, Some(at((total - 1) / 100)));
        let mut before = None;
        while let Some(file) = plan.first().cloned() {
            let place = Some((file.modified, plan.key(&file)));
            assert!(place > before, "{place:?} after {before:?}");
            before = place;
            plan.pop();
        }
        assert!(before < Some((at(total / 100), String::new())), "the last ones are cut");
    }

    #[test]
    fn a_folder_is_left_where_no_file_can_be_among_the_first_any_more() {
        let mut gathering = Gathering::default();
        for n in 0..MOST {
            assert!(!gathering.is_beyond(at(1_000_000)));
            gathering.add(0, &n.to_string(), 1, at(0), Class::Regular);
        }
        assert!(!gathering.is_cut && !gathering.is_beyond(at(7200)) && gathering.is_beyond(at(7201)));
        assert!(plan(gathering).is_cut);
    }
}
