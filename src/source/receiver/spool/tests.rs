use std::os::unix::fs::{FileExt as _, PermissionsExt as _};

use tempfile::TempDir;

use super::*;

/// Keeps what the spool reports.
#[derive(Debug, Default, Clone)]
pub(in super::super) struct Heard {
    refusals: Arc<Mutex<Vec<Option<Refusal>>>>,
    damage: Arc<Mutex<Vec<Damage>>>,
}

impl Notify for Heard {
    fn backlog(&self, _: Backlog) {}
    fn unheard(&self, _: [u8; 32]) {}
    fn refuses(&self, refusal: Option<Refusal>) {
        self.refusals.lock().push(refusal);
    }
    fn damaged(&self, damage: Damage) {
        self.damage.lock().push(damage);
    }
}

const SIZE: u64 = 1024 * 1024;

fn open(folder: &TempDir) -> Spool {
    open_with(folder, &Heard::default())
}

fn open_with(folder: &TempDir, heard: &Heard) -> Spool {
    Spool::open(&folder.path().join("spool"), SIZE, Box::new(heard.clone())).unwrap()
}

fn batch(records: impl IntoIterator<Item = String>) -> Batch {
    let records = records.into_iter().map(Bytes::from).collect();
    Batch { shape: Arc::new(Shape::Entry), arrived: 7, records, digest: [0; 32], memory: None }
}

fn numbered(numbers: std::ops::Range<usize>) -> Batch {
    batch(numbers.map(|n| format!("{{\"n\":{n},\"x\":\"{}\"}}", "x".repeat(400))))
}

/// The folder of a spool of ten entries, and its segment.
async fn ten() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    open(&folder).append(numbered(0..10)).await.unwrap();
    let segment = files(&folder, "spool").remove(0);
    (folder, segment)
}

/// Reads everything after the position, and the damage on the way.
fn read(spool: &Spool) -> (Vec<u64>, Vec<Damage>) {
    let (mut after, mut numbers, mut damage) = (spool.position().sequence, Vec::new(), Vec::new());
    loop {
        let page = spool.page(after, u64::MAX).unwrap();
        for stored in &page.entries {
            let record: serde_json::Value = serde_json::from_slice(&stored.record).unwrap();
            numbers.push(record["n"].as_u64().unwrap());
            after = stored.sequence;
        }
        damage.extend(page.damage);
        if page.is_end {
            return (numbers, damage);
        }
    }
}

fn files(folder: &TempDir, ending: &str) -> Vec<PathBuf> {
    let entries = folder.path().join("spool").read_dir().unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = entries.filter(|path| path.extension().is_some_and(|found| found == ending)).collect();
    files.sort();
    files
}

#[tokio::test]
async fn what_was_stored_is_read_in_order_until_it_is_delivered() {
    let folder = tempfile::tempdir().unwrap();
    let spool = open(&folder);
    let mode = folder.path().join("spool").metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    for first in [0, 100, 200] {
        spool.append(numbered(first..first + 100)).await.unwrap();
    }
    assert_eq!(read(&spool).0, (0..300).collect::<Vec<_>>());
    spool.committed(150, 7).unwrap();
    drop(spool);
    let spool = open(&folder);
    assert_eq!(spool.shared.state.lock().backlog.entries, 150);
    assert_eq!(read(&spool).0, (150..300).collect::<Vec<_>>());
    spool.append(numbered(300..301)).await.unwrap();
    assert_eq!(read(&spool).0, (150..301).collect::<Vec<_>>(), "numbers go on behind those from before");
}

#[tokio::test]
async fn a_full_spool_refuses_and_has_room_again_when_pages_are_committed() {
    let folder = tempfile::tempdir().unwrap();
    let spool = open(&folder);
    let mut stored = 0;
    let refused = loop {
        match spool.append(numbered(stored..stored + 100)).await {
            Ok(()) => stored += 100,
            Err(refused) => break refused,
        }
    };
    assert!(matches!(refused, Refused::Full), "{refused}");
    assert!(stored > 2000 && stored * 400 < usize::try_from(SIZE).unwrap(), "{stored}");
    let huge = batch((0..3000).map(|_| format!("{{\"x\":\"{}\"}}", "x".repeat(400))));
    assert!(matches!(spool.append(huge).await, Err(Refused::TooLarge)));
    let page = spool.page(0, u64::MAX).unwrap();
    let last = page.entries.last().unwrap();
    spool.committed(last.sequence, 7).unwrap();
    spool.append(numbered(stored..stored + 100)).await.unwrap();
    let rest = read(&spool).0;
    assert_eq!(rest.len(), stored + 100 - page.entries.len());
    assert!(files(&folder, "spool").len() < 6, "delivered segments go");
}

#[tokio::test]
async fn damage_in_the_middle_costs_what_it_covers_and_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let spool = open(&folder);
    for first in (0..1000).step_by(100) {
        spool.append(numbered(first..first + 100)).await.unwrap();
    }
    drop(spool);
    let segment = files(&folder, "spool").remove(0);
    let file = File::options().write(true).open(&segment).unwrap();
    file.write_all_at(&[0xAA; 64], 100_000).unwrap();
    let spool = open(&folder);
    let (numbers, damage) = read(&spool);
    assert!(numbers.len() >= 998, "{}", numbers.len());
    assert_eq!(damage.len(), 1);
    assert!(damage[0].file == segment && damage[0].range.contains(&100_032), "{damage:?}");
    assert_eq!(damage[0].entries, 1000 - numbers.len() as u64);
    spool.committed(1000, 7).unwrap();
    assert_eq!(files(&folder, "damaged").len(), 1, "it is kept for whoever wants to look into it");
}

#[tokio::test]
async fn a_torn_tail_is_cut_and_what_stands_before_it_stays() {
    let (folder, segment) = ten().await;
    let whole = std::fs::read(&segment).unwrap();
    for cut in [1, 27, 28, 200, 430] {
        std::fs::write(&segment, [&whole[..], &whole[..cut]].concat()).unwrap();
        let spool = open(&folder);
        assert_eq!(segment.metadata().unwrap().len(), whole.len() as u64, "{cut}");
        let (numbers, damage) = read(&spool);
        assert_eq!((numbers, damage), ((0..10).collect(), Vec::new()), "{cut}");
        let kept = files(&folder, "damaged");
        assert_eq!(std::fs::read(&kept[0]).unwrap(), &whole[..cut], "what is cut off is kept");
    }
}

#[tokio::test]
async fn a_last_entry_that_the_disk_damaged_is_counted_and_its_bytes_are_kept() {
    for flip in [10, 200] {
        let ((folder, segment), heard) = (ten().await, Heard::default());
        let mut bytes = std::fs::read(&segment).unwrap();
        let last = bytes.len() / 10 * 9;
        bytes[last + flip] ^= 1;
        std::fs::write(&segment, &bytes).unwrap();
        let spool = open_with(&folder, &heard);
        assert_eq!(read(&spool), ((0..9).collect(), Vec::new()), "{flip}");
        let damage = heard.damage.lock().clone();
        assert_eq!(damage.iter().map(|damage| damage.entries).collect::<Vec<_>>(), [1], "{flip}");
        assert_eq!(std::fs::read(&damage[0].file).unwrap(), &bytes[last..], "{flip}");
    }
}

#[tokio::test]
async fn a_damaged_last_entry_that_was_delivered_is_not_called_lost() {
    let (folder, heard) = (tempfile::tempdir().unwrap(), Heard::default());
    let spool = open(&folder);
    spool.append(numbered(0..10)).await.unwrap();
    spool.committed(10, 7).unwrap();
    drop(spool);
    let segment = files(&folder, "spool").remove(0);
    let mut bytes = std::fs::read(&segment).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&segment, &bytes).unwrap();
    let spool = open_with(&folder, &heard);
    assert_eq!(*heard.damage.lock(), Vec::new());
    spool.append(numbered(10..11)).await.unwrap();
    assert_eq!(read(&spool).0, [10]);
}

#[tokio::test]
async fn a_damaged_layout_of_the_first_entry_costs_that_entry_alone() {
    let (folder, segment) = ten().await;
    let file = File::options().write(true).open(&segment).unwrap();
    file.write_all_at(&[frame::LAYOUT ^ 64], 3).unwrap();
    let (numbers, damage) = read(&open(&folder));
    assert_eq!((numbers, damage.len()), ((1..10).collect(), 1));
    // Where every entry has it, another version wrote them.
    let bytes = std::fs::read(&segment).unwrap();
    let all = bytes.chunks(bytes.len() / 10).flat_map(|frame| [&frame[..3], &[65], &frame[4..]].concat());
    std::fs::write(&segment, all.collect::<Vec<_>>()).unwrap();
    let opened = Spool::open(&folder.path().join("spool"), SIZE, Box::<Heard>::default());
    assert!(matches!(opened, Err(OpenError::OtherLayout { layout: 65, .. })), "{opened:?}");
}

#[tokio::test]
async fn a_damaged_file_is_kept_even_if_it_was_read_before_a_restart() {
    let (folder, segment) = ten().await;
    let file = File::options().write(true).open(&segment).unwrap();
    file.write_all_at(&[0xAA; 64], 1000).unwrap();
    let spool = open(&folder);
    assert_eq!(read(&spool).1.len(), 1);
    spool.committed(9, 7).unwrap();
    drop(spool);
    // The next process reads nothing of it but the last entry.
    let spool = open(&folder);
    assert_eq!(read(&spool), (vec![9], Vec::new()));
    spool.append(numbered(10..11)).await.unwrap();
    spool.committed(10, 7).unwrap();
    assert_eq!(files(&folder, "damaged"), [segment.with_extension("damaged")]);
}

#[tokio::test]
async fn a_spool_tells_once_that_it_is_full_and_once_that_it_has_room() {
    let (folder, heard) = (tempfile::tempdir().unwrap(), Heard::default());
    let spool = open_with(&folder, &heard);
    let mut stored = 0;
    while spool.append(numbered(stored..stored + 100)).await.is_ok() {
        stored += 100;
    }
    assert!(spool.append(numbered(stored..stored + 100)).await.is_err());
    spool.append(numbered(stored..stored + 1)).await.unwrap();
    assert_eq!(*heard.refusals.lock(), [Some(Refusal::Full)]);
    // Little room more would change it back and forth.
    spool.committed(spool.page(0, 100).unwrap().entries.last().unwrap().sequence, 7).unwrap();
    assert_eq!(heard.refusals.lock().len(), 1);
    spool.committed(spool.page(100, u64::MAX).unwrap().entries.last().unwrap().sequence, 7).unwrap();
    assert_eq!(*heard.refusals.lock(), [Some(Refusal::Full), None]);
}

#[tokio::test]
async fn a_disk_that_refused_entries_works_again_only_when_it_takes_as_much() {
    let (folder, heard) = (tempfile::tempdir().unwrap(), Heard::default());
    let spool = open_with(&folder, &heard);
    let in_the_way = folder.path().join("spool").join(format!("{:020}.spool", 1));
    std::fs::create_dir(&in_the_way).unwrap();
    assert!(matches!(spool.append(numbered(0..10)).await, Err(Refused::Unsafe(_))));
    spool.append(numbered(10..11)).await.unwrap();
    assert_eq!(*heard.refusals.lock(), [Some(Refusal::Unsafe)]);
    assert!(spool.is_failing());
    spool.append(batch([])).await.unwrap();
    assert_eq!(*heard.refusals.lock(), [Some(Refusal::Unsafe), None]);
    assert!(!spool.is_failing());
}

/// A full disk takes the first commit only if its slot is not a hole.
#[test]
fn both_slots_of_the_position_are_written_before_the_first_entry_is_taken() {
    let folder = tempfile::tempdir().unwrap();
    let position = open(&folder).position();
    let path = folder.path().join("spool/position");
    let beginning = || std::fs::read(&path).unwrap()[..8].to_vec();
    assert_ne!(beginning(), [0; 8]);
    // An earlier version wrote the second slot alone.
    File::options().write(true).open(&path).unwrap().write_all_at(&[0; 4096], 0).unwrap();
    assert_eq!(open(&folder).position(), position);
    assert_ne!(beginning(), [0; 8]);
}

#[tokio::test]
async fn a_disk_without_room_for_the_position_gets_it_from_what_is_delivered() {
    let folder = tempfile::tempdir().unwrap();
    for first in [0, 10] {
        // Each process begins its own segment.
        open(&folder).append(numbered(first..first + 10)).await.unwrap();
    }
    let spool = open(&folder);
    assert_eq!(read(&spool).0.len(), 20);
    let [_, last] = files(&folder, "spool").try_into().unwrap();
    let (full, _) = PositionFile::open(Path::new("/dev/full")).unwrap();
    let file = std::mem::replace(&mut *spool.position.lock(), full);
    assert_eq!(spool.committed(15, 7).unwrap_err().kind(), io::ErrorKind::StorageFull);
    assert_eq!((files(&folder, "spool"), spool.position().sequence), (vec![last], 0));
    drop(spool);
    // A crash before the position finds room costs nothing but duplicates.
    let spool = open(&folder);
    assert_eq!(read(&spool), ((10..20).collect(), Vec::new()));
    drop(file);
}

#[tokio::test]
async fn a_spool_has_one_owner() {
    let folder = tempfile::tempdir().unwrap();
    let spool = open(&folder);
    let path = folder.path().join("spool");
    assert!(matches!(Spool::open(&path, SIZE, Box::<Heard>::default()), Err(OpenError::Busy(_))));
    assert!(is_owned(&path).unwrap());
    drop(spool);
    assert!(!is_owned(&path).unwrap());
}

#[tokio::test]
async fn a_lost_position_delivers_again_and_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let spool = open(&folder);
    spool.append(numbered(0..10)).await.unwrap();
    spool.committed(5, 7).unwrap();
    let before = spool.position().spool;
    drop(spool);
    std::fs::remove_file(folder.path().join("spool/position")).unwrap();
    let spool = open(&folder);
    assert_eq!(read(&spool).0.len(), 10);
    assert_ne!(spool.position().spool, before, "a cursor from before says nothing about it");
}

#[tokio::test]
async fn a_disk_that_takes_nothing_is_an_error_and_nothing_is_called_safe() {
    let folder = tempfile::tempdir().unwrap();
    let spool = open(&folder);
    spool.append(numbered(0..10)).await.unwrap();
    drop(spool);
    let spool = open(&folder);
    // Folders take the names of the next segment and of the probe.
    std::fs::create_dir(folder.path().join("spool").join(format!("{:020}.spool", 11))).unwrap();
    std::fs::create_dir(folder.path().join("spool/probe")).unwrap();
    assert!(matches!(spool.append(numbered(10..20)).await, Err(Refused::Unsafe(_))));
    assert!(matches!(spool.append(batch([])).await, Err(Refused::Unsafe(_))));
    std::fs::remove_dir(folder.path().join("spool/probe")).unwrap();
    spool.append(batch([])).await.unwrap();
    spool.append(numbered(20..30)).await.unwrap();
    assert_eq!(read(&spool).0, (0..10).chain(20..30).collect::<Vec<_>>());
    assert_eq!(spool.shared.state.lock().reserved, 0, "what failed takes no room");
}

#[test]
fn a_write_that_fails_leaves_no_empty_segment() {
    let folder = tempfile::tempdir().unwrap();
    let spool = open(&folder);
    let (segment, _) = folder::create(&folder.path().join("spool"), 1).unwrap();
    spool.shared.began(segment.clone());
    // This file cannot be written to, as on a full disk.
    let unwritable = File::open(&segment.path).unwrap();
    let path = folder.path().join("spool");
    let writer = Writer {
        shared: Arc::clone(&spool.shared),
        folder: path,
        segment_size: SIZE,
        open: Some((unwritable, segment)),
        next: 1,
    };
    let (jobs, waiting) = mpsc::channel(1);
    let (done, mut written) = oneshot::channel();
    jobs.try_send(Job { batch: numbered(0..1), done }).unwrap();
    drop(jobs);
    writer.run(waiting);
    assert!(written.try_recv().unwrap().is_err());
    assert_eq!(files(&folder, "spool"), Vec::<PathBuf>::new());
    assert!(spool.shared.state.lock().segments.is_empty());
}

#[test]
fn the_position_can_be_read_while_the_disk_takes_its_time() {
    let folder = tempfile::tempdir().unwrap();
    let spool = open(&folder);
    let writing = spool.position.lock();
    assert_eq!(spool.position().sequence, 0);
    drop(writing);
}
