//! The history of runs, and what it says about the run that is waited for.

use std::time::Duration;

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

use super::cursor::{Baseline, Waiting};

/// The type of a report of audit logs.
pub(super) const AUDIT_LOGS: &str = "audit-logs";

/// So many runs of one sync may fail before that is an error.
pub(super) const MOST_FAILED: usize = 3;

/// Longest identifier of a run: it becomes a part of the state.
const LONGEST_ID: usize = 100;

/// A page of the history, as far as it is read.
#[derive(Debug, Deserialize)]
pub(super) struct HistoryPage {
    #[serde(default)]
    page: Option<PageInfo>,
    report_history: Vec<Entry>,
}

#[derive(Debug, Deserialize)]
struct PageInfo {
    #[serde(default)]
    total: Option<u64>,
}

/// An entry of the history: a run, or a schedule.
#[derive(Debug, Deserialize)]
pub(super) struct Entry {
    #[serde(default)]
    report_identifier: Option<String>,
    #[serde(default)]
    report_run_identifier: Option<String>,
    #[serde(default)]
    report_display_name: Option<String>,
    #[serde(default)]
    report_type: Option<String>,
    #[serde(default)]
    report_start_date: Option<String>,
    #[serde(default)]
    status: Option<String>,
    #[serde(default)]
    format: Option<Vec<String>>,
    #[serde(default)]
    split_report_count: Option<u32>,
}

/// A run of the report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Run {
    /// Its identifier.
    pub(super) id: String,
    /// When it began.
    pub(super) began: Timestamp,
    /// In how many files its rows are; 0 where they are in one.
    pub(super) splits: u32,
}

/// How a run stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    Generating,
    Ready,
    Failed,
}

/// A run as the history shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Shown {
    pub(super) run: Run,
    pub(super) status: Status,
    pub(super) report: String,
    pub(super) report_name: Option<String>,
    pub(super) report_type: Option<String>,
    pub(super) formats: Vec<String>,
}

impl HistoryPage {
    /// How many entries the whole history has, where the server says so.
    pub(super) fn total(&self) -> Option<u64> {
        self.page.as_ref()?.total
    }

    /// How many entries are on the page.
    pub(super) fn len(&self) -> usize {
        self.report_history.len()
    }

    /// The runs on the page, of any report. A schedule, and what cannot be understood, is none.
    pub(super) fn runs(self) -> impl Iterator<Item = Shown> {
        self.report_history.into_iter().filter_map(Entry::shown)
    }
}

impl Entry {
    fn shown(self) -> Option<Shown> {
        let id = self.report_run_identifier.filter(|id| !id.is_empty() && id.len() <= LONGEST_ID)?;
        let status = match self.status?.to_ascii_uppercase().as_str() {
            "READY" => Status::Ready,
            "FAILED" => Status::Failed,
            "GENERATING" => Status::Generating,
            _ => return None,
        };
        let run = Run { id, began: date(&self.report_start_date?)?, splits: self.split_report_count.unwrap_or(0) };
        Some(Shown {
            run,
            status,
            report: self.report_identifier?,
            report_name: self.report_display_name,
            report_type: self.report_type,
            formats: self.format.unwrap_or_default(),
        })
    }
}

/// A date of the history: UTC, without a zone.
fn date(text: &str) -> Option<Timestamp> {
    let local: DateTime = text.trim().parse().ok()?;
    TimeZone::UTC.to_timestamp(local).ok()
}

/// The baseline that is the present: the newest of these runs, of any report.
pub(super) fn present(runs: &[Shown]) -> Baseline {
    let began = runs.iter().map(|shown| shown.run.began).max();
    let newest = runs.iter().filter(|shown| Some(shown.run.began) == began);
    Baseline { began, runs: newest.map(|shown| shown.run.id.clone()).collect() }
}

/// What to do about the run that is waited for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Turn {
    /// This one is ready.
    Read(Run),
    /// None is ready yet.
    Wait,
    /// None is under way: start one.
    Start,
    /// So many failed: that is an error.
    Failed { failed: usize, newest: Option<String> },
    /// None became ready in time.
    TooSlow { run: Option<String> },
}

/// What the `runs` of the report that began behind the baseline say. The last one was started `age` ago.
///
/// A run counts as overdue when it took longer than `max_wait`; it is read all the same if it becomes ready before another.
pub(super) fn turn(runs: &[Shown], waiting: &Waiting, age: Duration, max_wait: Duration) -> Turn {
    let is_usable = |shown: &&Shown| waiting.given_up.is_none_or(|given_up| shown.run.began > given_up);
    let ready = runs.iter().filter(is_usable).filter(|shown| shown.status == Status::Ready);
    if let Some(newest) = ready.max_by_key(|shown| shown.run.began) {
        return Turn::Read(newest.run.clone());
    }
    let newest = runs.iter().max_by_key(|shown| shown.run.began);
    let unfinished = runs.iter().filter(|shown| shown.status == Status::Generating).count();
    let failed = runs.len() - unfinished;
    let started = waiting.started as usize;
    // A run that was started and is not listed yet is under way.
    let is_under_way = started > failed || unfinished > 0;
    if is_under_way && age <= max_wait {
        return if failed < MOST_FAILED { Turn::Wait } else { failures(failed, newest) };
    }
    if started.max(failed) < MOST_FAILED {
        return Turn::Start;
    }
    if failed >= MOST_FAILED {
        return failures(failed, newest);
    }
    Turn::TooSlow { run: newest.map(|shown| shown.run.id.clone()) }
}

fn failures(failed: usize, newest: Option<&Shown>) -> Turn {
    Turn::Failed { failed, newest: newest.map(|shown| shown.run.id.clone()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAIT: Duration = Duration::from_secs(300);

    fn shown(id: &str, second: i64, status: Status) -> Shown {
        let run = Run { id: id.to_owned(), began: Timestamp::from_second(second).unwrap(), splits: 0 };
        let report = "report".to_owned();
        Shown { run, status, report, report_name: None, report_type: None, formats: Vec::new() }
    }

    fn started(started: u32) -> Waiting {
        Waiting { started, ..Waiting::from(Timestamp::UNIX_EPOCH) }
    }

    fn turn_after(runs: &[Shown], waiting: &Waiting, seconds: u64) -> Turn {
        turn(runs, waiting, Duration::from_secs(seconds), WAIT)
    }

    #[test]
    fn the_newest_ready_run_is_read() {
        let runs = [shown("a", 1, Status::Ready), shown("b", 3, Status::Generating), shown("c", 2, Status::Ready)];
        assert_eq!(turn_after(&runs, &started(1), 0), Turn::Read(runs[2].run.clone()));
    }

    #[test]
    fn a_run_is_started_once_and_waited_for_even_if_it_is_not_listed_yet() {
        assert_eq!(turn_after(&[], &started(0), 0), Turn::Start);
        assert_eq!(turn_after(&[], &started(1), 10), Turn::Wait);
        assert_eq!(turn_after(&[shown("a", 1, Status::Generating)], &started(0), 10), Turn::Wait);
    }

    #[test]
    fn failed_runs_are_started_again_and_the_third_is_an_error() {
        let failed: Vec<_> = (0..3).map(|n| shown(&n.to_string(), n, Status::Failed)).collect();
        assert_eq!(turn_after(&failed[..1], &started(1), 10), Turn::Start);
        assert_eq!(turn_after(&failed[..1], &started(2), 10), Turn::Wait);
        assert_eq!(turn_after(&failed[..2], &started(2), 10), Turn::Start);
        let expected = Turn::Failed { failed: 3, newest: Some("2".to_owned()) };
        assert_eq!(turn_after(&failed, &started(3), 10), expected);
        assert_eq!(turn_after(&failed, &started(4), 10), expected, "while another is under way");
    }

    #[test]
    fn a_run_that_could_not_be_read_counts_as_failed() {
        let runs = [shown("a", 1, Status::Ready)];
        let waiting = Waiting { given_up: Some(runs[0].run.began), ..started(1) };
        assert_eq!(turn_after(&runs, &waiting, 10), Turn::Start);
    }

    #[test]
    fn an_overdue_run_is_followed_by_another_and_read_if_it_becomes_ready_after_all() {
        let slow = shown("a", 1, Status::Generating);
        assert_eq!(turn_after(std::slice::from_ref(&slow), &started(1), 301), Turn::Start);
        assert_eq!(turn_after(std::slice::from_ref(&slow), &started(2), 10), Turn::Wait);
        assert_eq!(
            turn_after(std::slice::from_ref(&slow), &started(3), 301),
            Turn::TooSlow { run: Some("a".to_owned()) }
        );
        let late = shown("a", 1, Status::Ready);
        assert_eq!(turn_after(std::slice::from_ref(&late), &started(3), 301), Turn::Read(late.run.clone()));
    }

    #[test]
    fn a_run_in_the_second_of_the_baseline_is_told_apart_by_its_identifier() {
        let (before, after) = (shown("a", 5, Status::Ready), shown("b", 5, Status::Ready));
        let baseline = present(&[before.clone(), shown("z", 4, Status::Failed)]);
        assert!(!baseline.is_before(&before.run) && baseline.is_before(&after.run));
        assert!(!baseline.is_before(&shown("c", 4, Status::Ready).run));
        assert!(Baseline::default().is_before(&before.run));
    }

    #[test]
    fn a_page_of_the_history_is_read_with_what_else_it_holds() {
        let page = r#"{"page":{"total":3,"limit":100,"offset":0},"report_history":[
            {"report_identifier":"r","report_run_identifier":"1","report_type":"audit-logs","report_display_name":"Audit",
             "report_start_date":"2021-01-13 09:15:37","format":["JSON"],"status":"READY","split_report_count":0,"new":{}},
            {"report_identifier":"r","report_run_identifier":"2","report_start_date":"2021-01-13 09:15:37","status":"SCHEDULED"},
            {"report_identifier":"r","report_run_identifier":null,"report_start_date":null,"status":"READY","format":[]}]}"#;
        let page: HistoryPage = serde_json::from_str(page).unwrap();
        assert_eq!((page.total(), page.len()), (Some(3), 3));
        let runs: Vec<_> = page.runs().collect();
        assert_eq!(runs.len(), 1);
        assert_eq!(runs[0].run.began.to_string(), "2021-01-13T09:15:37Z");
        assert_eq!((runs[0].run.id.as_str(), runs[0].report_type.as_deref()), ("1", Some(AUDIT_LOGS)));
    }
}
