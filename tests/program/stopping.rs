//! Tests the stop: work in flight is finished, nothing is lost, and nothing comes twice.

use crate::daemon::{Daemon, Ended, Setup};
use crate::killing::{Drain, rounds};
use crate::stage::recent;
use crate::support::{FakeIntake, FakeScm, Fault, IntakeOptions, ScmOptions};

/// The log text when the process stops.
const UNDERSTOOD: &str = "shutting down";
/// Said when not everything could be finished.
const MAY_REPEAT: &str = "the next run may deliver";
/// Said when everything could.
const CLEAN: &str = "stopped; everything delivered is committed";

struct World {
    scm: FakeScm,
    intake: FakeIntake,
    setup: Setup,
}

impl World {
    /// A backlog of `pages` pages of a hundred, and a loop that rests for an hour. It may take ten minutes to stop, and
    /// waits as long for an answer. Each of these waits outlasts the patience of a test.
    async fn with_pages(seed: u64, pages: usize) -> Self {
        let scm = FakeScm::start(ScmOptions::default()).await;
        let intake = FakeIntake::start(IntakeOptions::default()).await;
        scm.push(recent(seed, pages * 100));
        let setup = Setup::between(&scm, &intake)
            .with("SECTIGO_AUDIT_SYNC_LOOP", "true")
            .with("SECTIGO_AUDIT_SYNC_INTERVAL", "1h")
            .with("SECTIGO_AUDIT_SHUTDOWN_TIMEOUT", "10m")
            .with("SECTIGO_AUDIT_HTTP_TIMEOUT", "10m");
        Self { scm, intake, setup }
    }

    fn with(mut self, name: &str, value: &str) -> Self {
        self.setup = self.setup.with(name, value);
        self
    }

    /// A daemon whose first page waits at the intake, which does not answer until it is released.
    async fn with_a_page_held(&self) -> Daemon {
        self.intake.hold();
        let daemon = self.setup.start(&[]);
        self.intake.wait_for_requests(1).await;
        daemon
    }

    /// Runs once to deliver the rest. Then every record has arrived once, and `repeats` of them once more.
    async fn finished_by_the_next_run(&self, count: usize, repeats: usize) {
        let ended = self.setup.run(&["run", "--once"]).await;
        assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
        assert_eq!((self.intake.ids().len(), self.intake.count()), (count, count + repeats));
        assert_eq!((self.scm.violations(), self.intake.violations()), (Vec::new(), Vec::new()));
    }
}

/// Stops the daemon, and waits for its log text.
async fn ask(daemon: &mut Daemon, signal: &str) {
    daemon.signal(signal).await;
    daemon.says(UNDERSTOOD).await;
}

fn ended_well(ended: &Ended) {
    assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
    assert!(ended.stderr.contains(CLEAN) && !ended.stderr.contains(MAY_REPEAT), "{}", ended.stderr);
}

async fn stops_while_idle(signal: &str) {
    let world = World::with_pages(1, 2).await;
    let mut daemon = world.setup.start(&[]);
    daemon.says("synced").await;
    let requests = (world.scm.hits(), world.intake.hits());
    ask(&mut daemon, signal).await;
    let ended = daemon.ended().await;
    ended_well(&ended);
    assert!(ended.stderr.contains(&format!("SIG{signal}")), "{}", ended.stderr);
    assert_eq!((world.scm.hits(), world.intake.hits()), requests, "there was no further request");
    world.finished_by_the_next_run(200, 0).await;
}

#[tokio::test]
async fn sigterm_between_two_syncs_ends_at_once() {
    stops_while_idle("TERM").await;
}

#[tokio::test]
async fn sigint_between_two_syncs_ends_at_once() {
    stops_while_idle("INT").await;
}

async fn finishes_what_is_in_flight(signal: &str) {
    let world = World::with_pages(2, 3).await;
    let mut daemon = world.with_a_page_held().await;
    ask(&mut daemon, signal).await;
    world.intake.release();
    ended_well(&daemon.ended().await);
    assert_eq!(world.intake.count() % 100, 0, "whole pages");
    world.finished_by_the_next_run(300, 0).await;
}

#[tokio::test]
async fn sigterm_lets_the_page_in_flight_arrive_and_commits_it() {
    finishes_what_is_in_flight("TERM").await;
}

#[tokio::test]
async fn sigint_lets_the_page_in_flight_arrive_and_commits_it() {
    finishes_what_is_in_flight("INT").await;
}

#[tokio::test]
async fn after_a_stop_nothing_new_is_delivered() {
    let world = World::with_pages(3, 3).await;
    let mut daemon = world.with_a_page_held().await;
    // The second page has been fetched by now, and waits for the first one.
    let answered = |requests: &[_]| {
        requests.iter().filter(|request: &&crate::support::ApiRequest| request.status == Some(200)).count() >= 2
    };
    world.scm.wait_until("two pages to be answered", answered).await;
    ask(&mut daemon, "TERM").await;
    world.intake.release();
    ended_well(&daemon.ended().await);
    assert_eq!((world.intake.requests().len(), world.intake.count()), (1, 100), "the page in flight alone");
    world.finished_by_the_next_run(300, 0).await;
}

#[tokio::test]
async fn after_a_stop_nothing_new_is_requested() {
    let world = World::with_pages(4, 3).await;
    world.scm.script(Fault::PASS); // Where do tokens come from?
    world.scm.script(Fault::PASS); // The first page,
    world.scm.script(Fault::Hang); // and the second.
    let mut daemon = world.with_a_page_held().await;
    world.scm.wait_for_requests(3).await;
    ask(&mut daemon, "TERM").await;
    world.intake.release();
    ended_well(&daemon.ended().await);
    assert_eq!(world.scm.requests().len(), 3);
    assert_eq!(world.intake.count(), 100);
    world.finished_by_the_next_run(300, 0).await;
}

#[tokio::test]
async fn a_page_in_several_requests_is_finished_as_a_whole() {
    let scm = FakeScm::start(ScmOptions { page_size: 6000, ..Default::default() }).await;
    let world = World::with_pages(5, 0).await.with("SECTIGO_AUDIT_API_URL", &scm.url());
    scm.push(recent(5, 5500));
    world.intake.hold();
    let mut daemon = world.setup.start(&[]);
    // Four at a time: two more requests belong to this page.
    world.intake.wait_for_requests(4).await;
    ask(&mut daemon, "TERM").await;
    world.intake.release();
    ended_well(&daemon.ended().await);
    assert_eq!((world.intake.count(), world.intake.requests().len()), (5500, 6));
    world.finished_by_the_next_run(5500, 0).await;
    assert_eq!(scm.violations(), [""; 0]);
}

#[tokio::test]
async fn an_intake_that_never_answers_holds_up_a_stop_no_longer_than_the_shutdown_timeout() {
    let world = World::with_pages(6, 2).await.with("SECTIGO_AUDIT_SHUTDOWN_TIMEOUT", "1s");
    world.intake.script(Fault::Hang);
    let mut daemon = world.setup.start(&[]);
    world.intake.wait_for_requests(1).await;
    ask(&mut daemon, "TERM").await;
    let ended = daemon.ended().await;
    assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
    assert!(ended.stderr.contains(MAY_REPEAT) && ended.stderr.contains("uncertain=100"), "{}", ended.stderr);
    assert!(!ended.stderr.contains(CLEAN), "{}", ended.stderr);
    world.finished_by_the_next_run(200, 0).await;
}

#[tokio::test]
async fn a_page_that_was_taken_without_an_answer_is_the_one_that_repeats() {
    let world = World::with_pages(7, 2).await.with("SECTIGO_AUDIT_SHUTDOWN_TIMEOUT", "0s");
    // The intake keeps the entries but does not answer, so it stays unknown whether they arrived.
    world.intake.script(Fault::Unanswered);
    world.intake.script(Fault::Hang);
    let mut daemon = world.setup.start(&[]);
    world.intake.wait_for_requests(2).await;
    ask(&mut daemon, "TERM").await;
    let ended = daemon.ended().await;
    assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
    assert!(ended.stderr.contains(MAY_REPEAT) && ended.stderr.contains("uncertain=100"), "{}", ended.stderr);
    assert_eq!(world.intake.count(), 100);
    world.finished_by_the_next_run(200, 100).await;
}

async fn a_second_signal_is_heard(first: &str, second: &str) {
    let world = World::with_pages(8, 2).await;
    world.intake.script(Fault::Hang);
    let mut daemon = world.setup.start(&[]);
    world.intake.wait_for_requests(1).await;
    ask(&mut daemon, first).await;
    daemon.signal(second).await;
    let ended = daemon.ended().await;
    assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
    assert!(ended.stderr.contains(MAY_REPEAT), "{}", ended.stderr);
    world.finished_by_the_next_run(200, 0).await;
}

#[tokio::test]
async fn a_second_sigterm_ends_the_wait() {
    a_second_signal_is_heard("TERM", "TERM").await;
}

#[tokio::test]
async fn a_second_signal_of_another_kind_ends_the_wait_too() {
    a_second_signal_is_heard("INT", "TERM").await;
}

#[tokio::test]
async fn a_source_that_hangs_holds_up_no_stop() {
    let world = World::with_pages(9, 3).await;
    for _ in 0..3 {
        world.scm.script(Fault::PASS);
    }
    world.scm.script(Fault::Hang);
    let mut daemon = world.setup.start(&[]);
    world.scm.wait_for_requests(4).await;
    world.intake.wait_for_entries(200).await;
    ask(&mut daemon, "TERM").await;
    ended_well(&daemon.ended().await);
    assert_eq!(world.intake.count(), 200);
    world.finished_by_the_next_run(300, 0).await;
}

#[tokio::test]
async fn a_source_that_hangs_from_the_start_holds_up_no_stop() {
    let world = World::with_pages(10, 1).await;
    world.scm.hold();
    let mut daemon = world.setup.start(&[]);
    world.scm.wait_for_requests(1).await;
    ask(&mut daemon, "TERM").await;
    ended_well(&daemon.ended().await);
    world.scm.release();
    world.finished_by_the_next_run(100, 0).await;
}

#[tokio::test]
async fn a_token_endpoint_that_hangs_holds_up_no_stop() {
    let world = World::with_pages(11, 1).await;
    world.scm.script_token(Fault::Hang);
    let mut daemon = world.setup.start(&[]);
    world.scm.wait_for_token_requests(1).await;
    ask(&mut daemon, "TERM").await;
    ended_well(&daemon.ended().await);
    world.finished_by_the_next_run(100, 0).await;
}

#[tokio::test]
async fn an_intake_that_is_down_holds_up_no_stop() {
    let world = World::with_pages(12, 2).await;
    world.intake.go_down().await;
    let mut daemon = world.setup.start(&[]);
    daemon.says("the destination failed").await;
    ask(&mut daemon, "TERM").await;
    ended_well(&daemon.ended().await);
    world.intake.come_back().await;
    assert_eq!(world.intake.count(), 0);
    world.finished_by_the_next_run(200, 0).await;
}

#[tokio::test]
async fn an_intake_that_refuses_for_now_holds_up_no_stop() {
    let world = World::with_pages(13, 2).await;
    world.intake.answer_always(Some(Fault::StatusWithRetryAfter(429, "600".into())));
    let mut daemon = world.setup.start(&[]);
    daemon.says("the destination failed").await;
    ask(&mut daemon, "TERM").await;
    ended_well(&daemon.ended().await);
    assert_eq!(world.intake.requests().len(), 1, "the server's wait was cut short, and the page was not retried");
    world.intake.answer_always(None);
    world.finished_by_the_next_run(200, 0).await;
}

#[tokio::test]
async fn a_stop_in_the_midst_of_a_page_waits_for_its_other_half() {
    let scm = FakeScm::start(ScmOptions { page_size: 2000, ..Default::default() }).await;
    let world = World::with_pages(14, 0).await.with("SECTIGO_AUDIT_API_URL", &scm.url());
    scm.push(recent(14, 2000));
    // The intake has accepted one of its two requests, but not the other.
    world.intake.script(Fault::PASS);
    world.intake.script(Fault::StatusWithRetryAfter(429, "600".into()));
    // The first attempt after the stop fails, too.
    world.intake.script(Fault::Status(503));
    let mut daemon = world.setup.start(&[]);
    daemon.says("the destination failed").await;
    ask(&mut daemon, "TERM").await;
    ended_well(&daemon.ended().await);
    assert_eq!((world.intake.count(), world.intake.ids().len()), (2000, 2000), "what was begun is finished");
    world.finished_by_the_next_run(2000, 0).await;
}

#[tokio::test]
async fn a_stop_that_cannot_commit_says_what_may_repeat() {
    let world = World::with_pages(15, 2).await.with("SECTIGO_AUDIT_SHUTDOWN_TIMEOUT", "1s");
    let mut daemon = world.with_a_page_held().await;
    // A non-empty folder at the path of the new document.
    let obstacle = world.setup.folder().join("auditsync-sectigo-datadog.json.new");
    std::fs::create_dir_all(obstacle.join("x")).unwrap();
    world.intake.release();
    daemon.says("the state store failed").await;
    // The page after it is delivered while the commit is retried, and no other.
    world.intake.wait_for_entries(200).await;
    ask(&mut daemon, "TERM").await;
    let ended = daemon.ended().await;
    assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
    assert!(ended.stderr.contains(MAY_REPEAT) && ended.stderr.contains("uncertain=200"), "{}", ended.stderr);
    std::fs::remove_dir_all(&obstacle).unwrap();
    world.finished_by_the_next_run(200, 200).await;
}

#[tokio::test]
async fn a_stop_that_can_commit_again_within_the_shutdown_timeout_repeats_nothing() {
    let world = World::with_pages(16, 2).await;
    let mut daemon = world.with_a_page_held().await;
    let obstacle = world.setup.folder().join("auditsync-sectigo-datadog.json.new");
    std::fs::create_dir_all(obstacle.join("x")).unwrap();
    world.intake.release();
    daemon.says("the state store failed").await;
    ask(&mut daemon, "TERM").await;
    std::fs::remove_dir_all(&obstacle).unwrap();
    ended_well(&daemon.ended().await);
    world.finished_by_the_next_run(200, 0).await;
}

#[tokio::test]
async fn a_state_that_was_removed_meanwhile_is_stored_again_at_the_stop() {
    let world = World::with_pages(19, 2).await;
    let mut daemon = world.setup.start(&[]);
    daemon.says("synced").await;
    std::fs::remove_file(world.setup.folder().join("auditsync-sectigo-datadog.json")).unwrap();
    ask(&mut daemon, "TERM").await;
    ended_well(&daemon.ended().await);
    assert!(world.setup.state().is_some());
    world.finished_by_the_next_run(200, 0).await;
}

#[tokio::test]
async fn a_stop_exits_with_0_even_if_the_key_is_refused_meanwhile() {
    let world = World::with_pages(18, 2).await;
    let mut daemon = world.with_a_page_held().await;
    ask(&mut daemon, "TERM").await;
    world.intake.answer_always(Some(Fault::Status(403)));
    // The request is cut off, and tried again.
    world.intake.go_down().await;
    daemon.says("the destination failed").await;
    world.intake.come_back().await;
    world.intake.release();
    let ended = daemon.ended().await;
    assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
    assert!(ended.stderr.contains("ERROR") && ended.stderr.contains("DD_API_KEY"), "{}", ended.stderr);
    world.intake.answer_always(None);
    world.finished_by_the_next_run(200, 0).await;
}

#[tokio::test]
async fn a_one_shot_run_that_is_stopped_asks_to_be_tried_again() {
    let world = World::with_pages(17, 3).await.with("SECTIGO_AUDIT_SYNC_LOOP", "false");
    let mut run = world.with_a_page_held().await;
    ask(&mut run, "TERM").await;
    world.intake.release();
    let ended = run.ended().await;
    assert_eq!(ended.code(), Some(75), "{}", ended.stderr);
    assert!(ended.stderr.contains(CLEAN), "{}", ended.stderr);
    world.finished_by_the_next_run(300, 0).await;
}

#[tokio::test]
async fn sigterm_at_random_moments_while_a_backlog_drains_loses_and_repeats_nothing() {
    let drain = Drain { signal: "TERM", seed: 20_260_301, rounds: rounds("AUDITSYNC_TEST_STOPS"), every: 1..=12 };
    let figures = drain.run().await;
    println!("SIGTERM: {figures:?}");
    assert_eq!(figures.repeats, 0);
}
