//! Tests the cursor against simulated buckets: no file is lost, and none is delivered twice without a crash.

use proptest::prelude::*;

use super::*;

const NOON: i64 = 1_795_000_000;

pub(super) fn at(second: i64) -> Timestamp {
    Timestamp::from_second(NOON + second).unwrap()
}

/// A file in a simulated bucket: times in seconds since noon.
#[derive(Debug, Clone)]
pub(super) struct File {
    pub(super) slot: i64,
    pub(super) modified: i64,
    pub(super) visible: i64,
    pub(super) key: String,
}

impl File {
    /// A file that is written at `written`, `behind` seconds after its slot, and visible `visible_after` seconds later.
    pub(super) fn new(n: usize, written: i64, behind: i64, visible_after: i64) -> Self {
        let slot = (written - behind).div_euclid(60) * 60;
        // The order of names says nothing.
        Self { slot, modified: written, visible: written + visible_after, key: format!("{:04}", (n * 7919) % 9973) }
    }

    /// Whether a sweep after the first one looks for it.
    fn is_in_reach(&self) -> bool {
        at(self.modified).duration_since(at(self.slot)) <= Class::VeryLate.reach()
    }
}

/// The files that one listing shows. Each file is looked for at a moment of its own during the listing.
pub(super) fn listed<'a>(
    files: impl IntoIterator<Item = &'a File>,
    progress: &Progress,
    class: Class,
    began: i64,
    lasts: i64,
    draw: u64,
) -> Vec<(&'a File, Class)> {
    let (selection, earliest) = (progress.selection(class), progress.earliest_slot(class));
    let mut found: Vec<_> = files
        .into_iter()
        .enumerate()
        .filter(|(n, file)| {
            let asked = began + i64::try_from((*n as u64 * 31 + draw) % 97).unwrap() * lasts / 97;
            file.visible <= asked && at(file.slot) >= earliest
        })
        .filter_map(|(_, file)| Some((file, selection.wants(at(file.slot), at(file.modified), &file.key)?)))
        .collect();
    found.sort_by(|(one, _), (other, _)| (one.modified, &one.key).cmp(&(other.modified, &other.key)));
    found
}

/// The events of one sync.
#[derive(Debug, Clone)]
struct Sync {
    /// The seconds since the sync before.
    after: i64,
    /// The seconds that the listing takes.
    lasts: i64,
    draw: u64,
    /// The most files of the plan.
    most: usize,
    /// The process is killed after this many files (first number); this many of the last cursors are not stored (second
    /// number).
    killed: Option<(usize, usize)>,
}

fn files() -> impl Strategy<Value = Vec<File>> {
    let behind = prop_oneof![
        6 => -300..3600_i64,
        2 => 3600..172_800_i64,
        1 => 172_800..2_500_000_i64,
        // Copied from an archive.
        1 => 2_592_000..9_000_000_i64,
    ];
    let file = (0..200_000_i64, behind, prop_oneof![3 => Just(0), 1 => 0..580_i64]);
    prop::collection::vec(file, 1..60).prop_map(|files| {
        files
            .into_iter()
            .enumerate()
            .map(|(n, (at, behind, after))| File::new(n, at / 40 * 40, behind, after))
            .collect()
    })
}

fn syncs() -> impl Strategy<Value = Vec<Sync>> {
    let killed = prop::option::weighted(0.2, (0..10_usize, 0..3_usize));
    let sync = (prop_oneof![4 => 60..900_i64, 1 => 3000..100_000_i64], prop_oneof![4 => 0..60_i64, 1 => 600..4000_i64]);
    let sync = (sync, any::<u64>(), prop_oneof![Just(2_usize), Just(7), Just(1000)], killed);
    let sync =
        sync.prop_map(|((after, lasts), draw, most, killed)| Sync { after, lasts, draw: draw % 97, most, killed });
    prop::collection::vec(sync, 1..25)
}

/// Runs the syncs, with room for `most` hashes. Returns the delivered keys in order, and the most deliveries that a crash repeated.
fn run(files: &[File], syncs: &[Sync], since: i64, most: usize) -> (Vec<String>, usize) {
    let (mut progress, mut now) = (Progress::since(at(since)), 0);
    let (mut delivered, mut repeated) = (Vec::new(), 0);
    // The last one begins after every file is visible.
    let final_one = Sync { after: 101_000, lasts: 0, draw: 0, most: 1000, killed: None };
    for sync in syncs.iter().chain([&final_one, &final_one]) {
        now += sync.after;
        'listings: loop {
            let class = progress.due(at(now));
            let coverage = Coverage { class, began: at(now) };
            let mut found = listed(files, &progress, class, now, sync.lasts, sync.draw);
            let newest = files
                .iter()
                .filter(|file| file.visible <= now + sync.lasts && at(file.slot) >= progress.earliest_slot(class));
            let newest = newest.map(|file| at(file.modified)).max();
            let mut is_cut = found.len() > sync.most;
            found.truncate(sync.most);
            let mut history = vec![progress.clone()];
            for (n, (file, class)) in found.iter().enumerate() {
                if let Some((after, lost)) = sync.killed.filter(|(after, _)| *after == n) {
                    let lost = lost.min(history.len() - 1).min(after);
                    progress = history[history.len() - 1 - lost].clone();
                    repeated += lost;
                    break 'listings;
                }
                if !progress.has_room_of(most, coverage, *class, at(file.modified)) {
                    (is_cut, now) = (true, now + 30);
                    break;
                }
                delivered.push(file.key.clone());
                progress.delivered_of(most, coverage, *class, at(file.modified), &file.key);
                assert!(progress.classes.iter().all(|class| class.hashes() <= most), "{most} hashes");
                history.push(progress.clone());
            }
            if !is_cut {
                progress.finished(coverage, newest);
            }
            now += sync.lasts;
            let text = serde_json::to_string(&progress).unwrap();
            assert_eq!(serde_json::from_str::<Progress>(&text).unwrap(), progress, "it survives the document");
            if !is_cut {
                break;
            }
        }
    }
    (delivered, repeated)
}

proptest! {
    #[test]
    fn every_file_is_delivered_and_twice_only_after_a_crash(files in files(), syncs in syncs()) {
        let (delivered, repeated) = run(&files, &syncs, -10_000_000, MOST);
        let found: HashSet<_> = delivered.iter().cloned().collect();
        for file in &files {
            // What is copied after the first sync is outside the reach.
            let is_found = file.is_in_reach() || file.visible <= syncs[0].after;
            prop_assert!(!is_found || found.contains(&file.key), "never: {file:?}");
        }
        prop_assert!(delivered.len() <= files.len() + repeated, "{} of {}", delivered.len(), files.len());
    }

    /// A folder may be listed long before a newer file is written to another folder.
    #[test]
    fn with_too_few_hashes_every_file_is_delivered_too_and_none_twice(
        written in prop::collection::vec((0..4000_i64, 0..300_i64), 20..60),
        syncs in syncs(),
        most in 1..12_usize,
    ) {
        // These files are visible as soon as they are written.
        let file = |(n, (written, behind))| File::new(n, written, behind, 0);
        let files: Vec<_> = written.into_iter().enumerate().map(file).collect();
        let (delivered, repeated) = run(&files, &syncs, -3_000_000, most);
        let mut found = delivered.clone();
        found.sort();
        found.dedup();
        prop_assert_eq!(found.len(), files.len());
        prop_assert!(delivered.len() <= files.len() + repeated, "{} of {}", delivered.len(), files.len());
    }

    #[test]
    fn no_file_is_delivered_whose_slot_is_long_before_the_start(files in files(), syncs in syncs(), since in 0..200_000_i64) {
        let (delivered, _) = run(&files, &syncs, since, MOST);
        for file in files.iter().filter(|file| file.is_in_reach()) {
            prop_assert_eq!(delivered.contains(&file.key), file.slot >= since - 3600, "{:?}", file);
        }
    }
}

#[test]
fn an_archive_that_was_copied_lately_is_delivered_whole_although_plans_are_cut_and_the_process_is_killed() {
    // A file for each ten days of a year, all written on one day.
    let files: Vec<_> = (0..36).zip(0_i64..).map(|(n, nth)| File::new(n, 1000 + nth * 40, nth * 864_000, 0)).collect();
    let sync = Sync { after: 100_000, lasts: 0, draw: 0, most: 2, killed: None };
    let killed = Sync { most: 1000, killed: Some((3, 1)), ..sync.clone() };
    for first in [sync, killed] {
        let (delivered, repeated) = run(&files, &[first], -366 * 86_400, MOST);
        assert_eq!(delivered.len(), files.len() + repeated);
        assert!(files.iter().all(|file| delivered.contains(&file.key)));
    }
    let mut stretch = Progress::between(at(-366 * 86_400), Some(at(0)));
    let coverage = Coverage { class: Class::VeryLate, began: at(100_000) };
    stretch.delivered(coverage, Class::VeryLate, at(1000), "key");
    stretch.finished(coverage, None);
    assert_eq!(
        stretch.earliest_slot(Class::VeryLate),
        stretch.first_slot(),
        "each listing of a stretch shows all of it"
    );
}

#[test]
fn sweeps_are_due_at_the_start_and_then_once_an_hour_and_once_a_day() {
    let mut progress = Progress::since(at(0));
    let mut due = Vec::new();
    for minute in (0..=48 * 60).step_by(5) {
        let now = at(minute * 60);
        let class = progress.due(now);
        if class != Class::Regular {
            due.push((minute, class));
        }
        progress.finished(Coverage { class, began: now }, None);
    }
    let hours = |class| due.iter().filter(|(_, of)| *of == class).map(|(minute, _)| minute / 60).collect::<Vec<_>>();
    assert_eq!(hours(Class::VeryLate), [0, 24, 48]);
    assert_eq!(hours(Class::Late).len(), 46);
}

#[test]
fn a_stretch_is_settled_by_a_whole_listing_that_shows_all_of_its_files_and_by_no_time_of_a_file() {
    let hour = 3600;
    let mut progress = Progress::between(at(0), Some(at(hour)));
    let selection = progress.selection(progress.due(at(9 * hour)));
    let wants = |slot: i64| selection.wants(at(slot), at(100 * hour), "key").is_some();
    assert_eq!([-hour - 60, -hour, 2 * hour, 2 * hour + 60].map(wants), [false, true, true, false]);
    let coverage = |began| Coverage { class: progress.due(at(began)), began: at(began) };
    // Files may come up to an hour after the last slot, and are listed at most ten minutes later.
    let (early, late) = (coverage(3 * hour + 599), coverage(3 * hour + 600));
    progress.delivered(late, Class::VeryLate, at(100 * hour), "key");
    assert_eq!(progress.settled(), at(0), "a part of a listing says nothing");
    progress.finished(early, Some(at(100 * hour)));
    assert_eq!(progress.settled(), at(hour - 1));
    progress.finished(late, None);
    assert_eq!(progress.settled(), at(hour));
    let (key, class) = ("key".to_owned(), Class::Regular);
    progress.current = Some(Current { key, modified: at(0), size: 1, class, records: 1 });
    assert_eq!(progress.settled(), at(0), "a file is delivered in part");
}

#[test]
fn a_backlog_needs_no_hashes_and_the_present_few() {
    let mut progress = Progress::since(at(-1_000_000));
    let coverage = Coverage { class: Class::VeryLate, began: at(0) };
    for n in 0..50_000_i64 {
        progress.delivered(coverage, Class::Regular, at(-900_000 + n * 18), &format!("{n:09}"));
    }
    let [regular, ..] = &progress.classes;
    assert_eq!(regular.hashes(), 50_000 - 899_400 / 18 - 1);
    assert!(serde_json::to_string(&progress).unwrap().len() < 2000);
}

#[test]
fn hashes_are_bounded_and_what_shrinks_is_the_slack() {
    let mut progress = Progress::since(at(-1000));
    let coverage = Coverage { class: Class::Regular, began: at(0) };
    let most = i64::try_from(MOST).unwrap();
    let mut shrunk = 0;
    for n in 0..2 * most {
        shrunk +=
            i64::from(progress.delivered(coverage, Class::Regular, at(n * 600 / 2 / most - 590), &format!("{n:09}")));
    }
    assert!((1..most).contains(&shrunk), "{shrunk}");
    assert!(progress.classes[0].hashes() <= MOST);
    let place = progress.classes[0].place.clone().unwrap();
    assert!(place.at > at(-600) && place.at <= at(-60), "{place:?}");
    let selection = progress.selection(Class::Regular);
    for n in 0..2 * most {
        let modified = at(n * 600 / 2 / most - 590);
        assert_eq!(selection.wants(modified, modified, &format!("{n:09}")), None, "{n} again");
    }
}

#[test]
fn where_the_last_minute_has_too_many_files_the_rest_waits_for_another_listing() {
    let mut progress = Progress::since(at(-1000));
    let coverage = Coverage { class: Class::Regular, began: at(0) };
    let mut n = 0;
    while n <= MOST && progress.has_room(coverage, Class::Regular, at(-30)) {
        progress.delivered(coverage, Class::Regular, at(-30), &n.to_string());
        n += 1;
    }
    assert_eq!(n, MOST);
    assert!(progress.has_room(coverage, Class::Regular, at(-60)), "a file that needs no hash has room");
    assert!(progress.has_room(coverage, Class::Late, at(-30)), "another class has room of its own");
    let mut pressed = progress.clone();
    pressed.delivered(coverage, Class::Regular, at(-20), "one more all the same");
    assert!(
        pressed.classes[0].place.as_ref().is_some_and(|place| place.at <= at(-60)),
        "{:?}",
        pressed.classes[0].place
    );
    let later = Coverage { began: at(120), ..coverage };
    assert!(progress.has_room(later, Class::Regular, at(30)));
    assert!(progress.delivered(later, Class::Regular, at(30), "next"));
    let selection = progress.selection(Class::Regular);
    assert!((0..n).all(|n| selection.wants(at(-30), at(-30), &n.to_string()).is_none()), "none is delivered again");
    assert_eq!(selection.wants(at(-30), at(61), "new"), Some(Class::Regular));
}
