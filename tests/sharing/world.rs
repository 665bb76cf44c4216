//! What all instances of a pipeline share: the document in the store, the objects at the destination, and the oracle.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use tokio::time::Instant;

use auditsync::event::Event;
use auditsync::pipeline_name::PipelineName;
use auditsync::source::Cursor;
use auditsync::state::{Document, Error, Version};

use crate::plan::{Accident, Confirmations, End, Fault, Loss, Plan};
use crate::sink::Gathered;

/// The start of the simulation.
pub(crate) const ORIGIN: Timestamp = Timestamp::constant(1_772_366_400, 0);

pub(crate) const LOCATION: &str = "the model's store";

/// A number for each row, such as how far an instance read it. A cursor also holds the number of reports. All names
/// begin with the pipeline's.
pub(crate) type Numbers = BTreeMap<String, usize>;

/// The outcome of a case.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Summary {
    /// The number of repeated events.
    pub(crate) repeats: usize,
    /// When the sink accepted the first event of the pipeline that began last.
    pub(crate) begun_after: Option<Duration>,
    /// The number of calls that the store refused.
    pub(crate) refused: usize,
    /// How often the source was paused, and how often it was read.
    pub(crate) pauses: usize,
    pub(crate) reads: usize,
    /// The longest time from when an event was gathered to when the sink acknowledged it.
    pub(crate) gathered_for: Duration,
    /// The longest stop.
    pub(crate) stopped_in: Duration,
}

impl std::ops::AddAssign for Summary {
    fn add_assign(&mut self, other: Self) {
        self.repeats += other.repeats;
        self.begun_after = self.begun_after.max(other.begun_after);
        self.refused += other.refused;
        self.pauses += other.pauses;
        self.reads += other.reads;
        self.gathered_for = self.gathered_for.max(other.gathered_for);
        self.stopped_in = self.stopped_in.max(other.stopped_in);
    }
}

/// The parts of one pipeline besides its engines.
pub(crate) struct World {
    pub(crate) plan: Plan,
    pub(crate) pipeline: PipelineName,
    /// How many events each row has.
    pub(crate) rows: Numbers,
    begun: Instant,
    oracle: Mutex<Oracle>,
}

#[derive(Default)]
struct Oracle {
    held: Option<(Document, u64)>,
    saves: u64,
    /// The instance whose save took effect last.
    holder: Option<usize>,
    /// How often the sink accepted each event of each row.
    accepted: BTreeMap<String, Vec<usize>>,
    /// The cursors before and after each object of a sink that resumes.
    objects: Vec<(Cursor, Cursor)>,
    /// The cursor that each instance has to store before it reads the source.
    adopted: HashMap<usize, Cursor>,
    /// When the report that each instance waits for is made.
    made_at: HashMap<usize, Instant>,
    /// The cursor in the store.
    read_to: Numbers,
    /// Every cursor that the store ever held.
    stored: HashSet<String>,
    /// The cursor that the source learnt of last.
    confirmed: Option<Cursor>,
    violation: Option<String>,
    /// When each instance began its last effective save.
    begun: HashMap<usize, Instant>,
    /// The number of each instance's saves under way.
    saving: HashMap<usize, usize>,
    /// The first event of each page that each instance has begun to send.
    sent: HashSet<(usize, Bytes)>,
    /// The number of further pages that each instance may begin during its save under way.
    may_begin: HashMap<usize, usize>,
    /// Every document that the store has held.
    history: Vec<Document>,
    /// Whether the store had its accident.
    had_accident: bool,
    first_accepted: Option<Instant>,
    summary: Summary,
    /// Whether the outages are over.
    is_healed: bool,
}

impl Oracle {
    fn violated(&mut self, what: String) {
        self.violation.get_or_insert(what);
    }

    fn hold(&mut self, document: &Document, instance: usize, begun: Instant) -> Version {
        self.begun.insert(instance, begun);
        self.saves += 1;
        (self.held, self.holder) = (Some((document.clone(), self.saves)), Some(instance));
        Version(self.saves.to_string())
    }
}

impl World {
    pub(crate) fn new(plan: &Plan, pipeline: usize) -> Self {
        let pipeline: PipelineName = format!("rows{pipeline}:sink").as_str().into();
        let length = |row| plan.events.div_ceil(row + 1);
        let rows: Numbers = (0..plan.rows).map(|row| (format!("{pipeline}/{row}"), length(row))).collect();
        let accepted = rows.iter().map(|(row, length)| (row.clone(), vec![0; *length])).collect();
        let oracle = Mutex::new(Oracle { accepted, ..Oracle::default() });
        Self { plan: plan.clone(), pipeline, rows, begun: Instant::now(), oracle }
    }

    fn oracle(&self) -> MutexGuard<'_, Oracle> {
        self.oracle.lock().unwrap()
    }

    pub(crate) fn now(&self) -> Timestamp {
        ORIGIN + self.begun.elapsed()
    }

    fn is_past(&self, millis: u32) -> bool {
        self.begun.elapsed() >= Duration::from_millis(millis.into())
    }

    pub(crate) fn heal(&self) {
        self.oracle().is_healed = true;
    }

    pub(crate) fn violated(&self, what: String) {
        self.oracle().violated(what);
    }

    /// Returns the summary of the case, or what went wrong.
    pub(crate) fn verdict(&self) -> Result<Summary, String> {
        let oracle = self.oracle();
        if let Some(violation) = &oracle.violation {
            return Err(violation.clone());
        }
        let mut summary = oracle.summary;
        for (row, accepted) in &oracle.accepted {
            if let Some(number) = accepted.iter().position(|times| *times == 0) {
                return Err(format!("event {number} of {row} never came"));
            }
            summary.repeats += accepted.iter().sum::<usize>() - accepted.len();
        }
        if oracle.confirmed != Cursor::encode(&oracle.read_to).ok() {
            return Err("the source was not informed of the last cursor".to_owned());
        }
        summary.begun_after = oracle.first_accepted.map(|at| at.duration_since(self.begun));
        Ok(summary)
    }

    // The store.

    pub(crate) fn fault(&self, instance: usize) -> Option<Fault> {
        if self.oracle().is_healed {
            return None;
        }
        let mut on = self
            .plan
            .outages
            .iter()
            .filter(|outage| self.is_past(outage.from) && !self.is_past(outage.from.saturating_add(outage.lasts)));
        on.find(|outage| outage.instance.is_none_or(|one| one == instance)).map(|outage| outage.fault)
    }

    /// Whether this machine has the store's lock; none if the store has no locks.
    pub(crate) fn has_lock(&self) -> Option<bool> {
        self.plan.lock_lost.map(|at| self.oracle().is_healed || !self.is_past(at))
    }

    pub(crate) fn held(&self) -> Option<(Document, Version)> {
        let held = self.oracle().held.clone();
        held.map(|(document, version)| (document, Version(version.to_string())))
    }

    pub(crate) fn replace(
        &self,
        instance: usize,
        begun: Instant,
        document: &Document,
        expected: Option<&Version>,
    ) -> Result<Version, Error> {
        if self.held().map(|(_, version)| version).as_ref() != expected {
            return Err(Error::Conflict { location: LOCATION.to_owned(), cause: None });
        }
        let state = document.read_for(&self.pipeline, LOCATION)?;
        let read_to: Numbers = state.cursor.decode().unwrap();
        let mut oracle = self.oracle();
        oracle.stored.insert(state.cursor.to_string());
        // An instance that starts over on an emptied store does not know of earlier documents; one that knows of them
        // overrules it.
        if state.first && oracle.had_accident {
            return Ok(oracle.hold(document, instance, begun));
        }
        for (name, to) in &read_to {
            let before = oracle.read_to.get(name).copied().unwrap_or_default();
            let missing = oracle.accepted.get(name).and_then(|row| row[..*to].iter().position(|times| *times == 0));
            if !name.starts_with(self.pipeline.as_str()) {
                oracle.violated(format!("{} has {name} in its cursor", self.pipeline));
            }
            if *to < before {
                oracle.violated(format!("{name} went back from {before} to {to}"));
            }
            if let Some(number) = missing {
                oracle.violated(format!("{name} was moved to {to} before event {number} was durable"));
            }
        }
        oracle.history.push(document.clone());
        oracle.read_to = read_to;
        Ok(oracle.hold(document, instance, begun))
    }

    /// Lets the store lose its data, or a part of it, once, when the time has come.
    pub(crate) fn accident(&self) {
        let mut oracle = self.oracle();
        let Some(Accident { at, kind }) = self.plan.accident else { return };
        if oracle.had_accident || !self.is_past(at) {
            return;
        }
        oracle.had_accident = true;
        let before = match kind {
            Loss::Everything => None,
            Loss::Newest(saves) => oracle.history.iter().rev().nth(saves).cloned(),
        };
        oracle.saves += 1;
        let saves = oracle.saves;
        oracle.held = before.map(|document| (document, saves));
    }

    pub(crate) fn refused(&self) {
        self.oracle().summary.refused += 1;
    }

    /// Records that a save begins. Two pages may be uncommitted; if the save only renews the lease, none may be.
    pub(crate) fn saving(&self, instance: usize, document: &Document) {
        let is_renewal = document.read(LOCATION).unwrap().cursor.decode().ok() == self.stored();
        let mut oracle = self.oracle();
        *oracle.saving.entry(instance).or_default() += 1;
        oracle.may_begin.insert(instance, if is_renewal { 2 } else { 1 });
    }

    pub(crate) fn saved(&self, instance: usize) {
        *self.oracle().saving.entry(instance).or_default() -= 1;
    }

    // The source.

    /// The name under which a cursor holds the number of reports.
    pub(crate) fn reports(&self) -> String {
        format!("{}/reports", self.pipeline)
    }

    /// The cursor in the store, once there is one.
    pub(crate) fn stored(&self) -> Option<Numbers> {
        let oracle = self.oracle();
        (oracle.saves > 0).then(|| oracle.read_to.clone())
    }

    pub(crate) fn is_read(&self, instance: usize) {
        let mut oracle = self.oracle();
        oracle.summary.reads += 1;
        if oracle.adopted.get(&instance).is_some_and(|cursor| !oracle.stored.contains(&cursor.to_string())) {
            oracle.violated(format!("instance {instance} read on before it stored what the sink already had"));
        }
        if oracle.made_at.remove(&instance).is_some_and(|made_at| Instant::now() < made_at) {
            oracle.violated(format!("instance {instance} read a report before it was made"));
        }
    }

    pub(crate) fn confirmations(&self) -> Confirmations {
        if self.oracle().is_healed { Confirmations::Succeed } else { self.plan.confirmations }
    }

    pub(crate) fn confirmed(&self, cursor: &Cursor) {
        let mut oracle = self.oracle();
        if !oracle.stored.contains(&cursor.to_string()) {
            oracle.violated(format!("the source was informed of {cursor}, which was never stored"));
        }
        oracle.confirmed = Some(cursor.clone());
    }

    /// Records that the instance has to wait for a report.
    pub(crate) fn is_making_report(&self, instance: usize, time: Duration) {
        self.oracle().made_at.insert(instance, Instant::now() + time);
    }

    pub(crate) fn paused(&self, instance: usize) {
        let mut oracle = self.oracle();
        oracle.summary.pauses += 1;
        oracle.made_at.remove(&instance);
    }

    // The destination.

    /// Records that a request begins. A request that was cut off continues when the lease allows it. A sink that
    /// gathers acknowledges late, and that delays nothing.
    pub(crate) fn begins(&self, instance: usize, events: &[Event]) {
        let mut oracle = self.oracle();
        let is_writing = oracle.saving.get(&instance).is_some_and(|saves| *saves > 0);
        let is_new = oracle.sent.insert((instance, events[0].raw().clone()));
        if is_writing && is_new && self.plan.gathers == 0 {
            let left = oracle.may_begin[&instance].checked_sub(1);
            oracle.may_begin.insert(instance, left.unwrap_or_default());
            if left.is_none() {
                oracle.violated(format!("instance {instance} began a third page before the first was stored"));
            }
        }
    }

    /// Whether no event lies between two cursors. A report may lie there: the sink does not learn of pages without
    /// events.
    fn is_same(&self, one: &Cursor, other: &Cursor) -> bool {
        let [one, other]: [Numbers; 2] = [one, other].map(|cursor| cursor.decode().unwrap());
        self.rows.keys().all(|row| one[row] == other[row])
    }

    /// Records that an instance gathers a page that begins at `from`, after gathered events that end at `to`.
    pub(crate) fn gathers(&self, instance: usize, to: &Cursor, from: &Cursor) {
        if !self.is_same(to, from) {
            self.violated(format!("instance {instance} gathered what begins at {from} after what ends at {to}"));
        }
    }

    /// Records that an object arrived and is durable.
    pub(crate) fn accepts(&self, object: &Gathered) {
        let mut oracle = self.oracle();
        oracle.first_accepted.get_or_insert_with(Instant::now);
        let ends = object.ends.clone().unwrap();
        if self.plan.resumes {
            match oracle.objects.get(object.number) {
                // Its first request had no answer.
                Some(known) if *known == ends => return,
                None if oracle.objects.len() == object.number => oracle.objects.push(ends),
                known => {
                    let what = format!("object {} is {known:?}, and {ends:?} was to replace it", object.number);
                    return oracle.violated(what);
                }
            }
        }
        for event in object.pages.iter().flat_map(|page| page.iter()) {
            let (row, number) = std::str::from_utf8(event.raw()).unwrap().split_once(' ').unwrap();
            oracle.accepted.get_mut(row).unwrap()[number.parse::<usize>().unwrap()] += 1;
        }
    }

    /// The number of objects, and the cursor after those that follow the `known` ones, which end at `cursor`.
    pub(crate) fn objects_behind(&self, cursor: &Cursor, known: usize) -> (usize, Option<Cursor>) {
        let mut oracle = self.oracle();
        let (first, last) = (oracle.objects.get(known).cloned(), oracle.objects.last().cloned());
        let Some(((from, _), (_, to))) = first.zip(last) else { return (known, None) };
        if !self.is_same(&from, cursor) {
            oracle.violated(format!("object {known} begins at {from}, and the cursor with its mark is {cursor}"));
        }
        (oracle.objects.len(), Some(to))
    }

    /// Records that an instance learnt from the sink where to continue.
    pub(crate) fn resumed(&self, instance: usize, cursor: Option<Cursor>) {
        let mut oracle = self.oracle();
        oracle.adopted.remove(&instance);
        oracle.adopted.extend(cursor.map(|cursor| (instance, cursor)));
    }

    pub(crate) fn gathered_for(&self, since: Option<Instant>) {
        let mut oracle = self.oracle();
        let gathered_for = since.unwrap().elapsed().max(oracle.summary.gathered_for);
        oracle.summary.gathered_for = gathered_for;
    }

    /// Records that a request of `instance` to the destination has ended, with or without an answer.
    pub(crate) fn has_sent(&self, instance: usize) {
        let lease = Duration::from_secs(self.plan.lease);
        let mut oracle = self.oracle();
        // A process that stood still notices it only when it wakes up.
        let stood_still = self.plan.instances.get(instance).is_some_and(|plan| matches!(plan.end, End::StandsStill(_)));
        let late = oracle.begun.get(&instance).is_none_or(|begun| begun.elapsed() > lease * 4 / 5);
        if late && !stood_still && self.plan.lock_lost.is_none() {
            oracle.violated(format!("a request of instance {instance} went on after four fifths of its lease"));
        }
    }

    /// Checks that `instance` may have a request to the destination under way now.
    pub(crate) fn is_sending(&self, instance: usize, when: &str) {
        let has_lock = self.has_lock();
        let mut oracle = self.oracle();
        // A store that lost everything has lost the lease, too.
        let lost = oracle.had_accident && matches!(self.plan.accident, Some(Accident { kind: Loss::Everything, .. }));
        if !has_lock.unwrap_or(oracle.holder == Some(instance) || lost) {
            let holder = oracle.holder;
            oracle.violated(format!("instance {instance} had a request under way ({when}) in the time of {holder:?}"));
        }
    }

    pub(crate) fn stopped_in(&self, stop: Duration) {
        let mut oracle = self.oracle();
        oracle.summary.stopped_in = oracle.summary.stopped_in.max(stop);
    }
}
