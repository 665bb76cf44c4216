//! Tests several instances on one state: one works, and the others wait for it or give up.

use crate::daemon::{Daemon, Setup};
use crate::stage::recent;
use crate::support::{ApiRequest, FakeIntake, FakeScm, Fault, IntakeOptions, ScmOptions};

const STANDBY: &str = "another instance is active; this one is on standby";
const FAILOVER: &str = "the other instance has ended; failover";

async fn fakes() -> (FakeScm, FakeIntake) {
    (FakeScm::start(ScmOptions::default()).await, FakeIntake::start(IntakeOptions::default()).await)
}

/// A loop that rests for an hour, so that no test waits for its next sync.
fn in_a_loop(scm: &FakeScm, intake: &FakeIntake) -> Setup {
    Setup::between(scm, intake).with("SECTIGO_AUDIT_SYNC_LOOP", "true").with("SECTIGO_AUDIT_SYNC_INTERVAL", "1h")
}

/// The files in the state's folder.
fn folder(setup: &Setup) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<_> = std::fs::read_dir(setup.folder())
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().into_string().unwrap(), std::fs::read(entry.path()).unwrap()))
        .collect();
    files.sort();
    files
}

async fn idle(setup: &Setup) -> Daemon {
    let mut daemon = setup.start(&[]);
    daemon.says("synced").await;
    daemon
}

async fn stopped(daemon: Daemon) {
    daemon.signal("TERM").await;
    let ended = daemon.ended().await;
    assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
}

#[tokio::test]
async fn a_standby_becomes_active_when_the_active_instance_is_killed() {
    let (scm, intake) = fakes().await;
    scm.push(recent(1, 750));
    let setup = in_a_loop(&scm, &intake);
    // The intake accepts the third page, but the answer is lost with the process.
    intake.script(Fault::PASS);
    intake.script(Fault::PASS);
    intake.script(Fault::Unanswered);
    intake.script(Fault::Hang);
    let first = setup.start(&[]);
    intake.wait_for_requests(4).await;
    // The third page hangs. Until the first instance has stored two pages and read five, it still works.
    setup.has_stored_pages(2).await;
    let read = |request: &&ApiRequest| request.status == Some(200);
    scm.wait_until("five pages to be read", |requests| requests.iter().filter(read).count() >= 5).await;
    let (hits, state) = (scm.hits(), setup.state());

    let mut second = setup.start(&[]);
    second.says(STANDBY).await;
    assert!(second.stderr().contains(&format!("process {}", first.id())), "{}", second.stderr());
    assert_eq!((scm.hits(), setup.state()), (hits, state), "it requests nothing and writes nothing");

    first.signal("KILL").await;
    assert_eq!(first.ended().await.code(), None);
    second.says(FAILOVER).await;
    second.says("continuing from the stored cursor").await;
    second.says("synced").await;
    stopped(second).await;
    assert_eq!((intake.ids().len(), intake.count()), (750, 850), "the page in flight came twice, and nothing else");
    assert_eq!((scm.violations(), intake.violations()), (Vec::new(), Vec::new()));
}

#[tokio::test]
async fn a_standby_becomes_active_when_the_active_instance_stops_and_repeats_nothing() {
    let (scm, intake) = fakes().await;
    scm.push(recent(2, 350));
    let setup = in_a_loop(&scm, &intake);
    intake.hold();
    let mut first = setup.start(&[]);
    intake.wait_for_requests(1).await;
    let mut second = setup.start(&[]);
    second.says(STANDBY).await;
    first.signal("TERM").await;
    first.says("shutting down").await;
    intake.release();
    assert_eq!(first.ended().await.code(), Some(0));
    second.says(FAILOVER).await;
    second.says("synced").await;
    stopped(second).await;
    assert_eq!((intake.ids().len(), intake.count()), (350, 350));
    assert_eq!((scm.violations(), intake.violations()), (Vec::new(), Vec::new()));
}

#[tokio::test]
async fn an_instance_whose_lock_was_removed_and_taken_delivers_no_further_page() {
    let (scm, intake) = fakes().await;
    scm.push(recent(5, 750));
    let setup = in_a_loop(&scm, &intake);
    intake.hold();
    let mut first = setup.start(&[]);
    intake.wait_for_requests(1).await;
    std::fs::remove_file(setup.folder().join("auditsync-sectigo-datadog.lock")).unwrap();
    let mut second = setup.start(&[]);
    intake.wait_for_requests(2).await;
    intake.release();
    first.says("another instance is active").await;
    second.says("synced").await;
    stopped(first).await;
    stopped(second).await;
    assert_eq!((intake.ids().len(), intake.count()), (750, 850), "the page in flight came twice, and nothing else");
}

#[tokio::test]
async fn an_idle_instance_whose_lock_was_removed_and_taken_becomes_a_standby() {
    let (scm, intake) = fakes().await;
    let setup = in_a_loop(&scm, &intake).with("SECTIGO_AUDIT_SYNC_INTERVAL", "5s");
    let mut first = idle(&setup).await;
    // The first instance stands still meanwhile. Otherwise its next sync could lock the removed file again.
    first.signal("STOP").await;
    std::fs::remove_file(setup.folder().join("auditsync-sectigo-datadog.lock")).unwrap();
    let mut second = setup.start(&[]);
    second.says("synced").await;
    first.signal("CONT").await;
    first.says(STANDBY).await;
    stopped(second).await;
    first.says(FAILOVER).await;
    stopped(first).await;
}

#[tokio::test]
async fn of_several_standbys_one_becomes_active() {
    let (scm, intake) = fakes().await;
    scm.push(recent(3, 250));
    let setup = in_a_loop(&scm, &intake);
    let first = idle(&setup).await;
    let mut others = [setup.start(&[]), setup.start(&[]), setup.start(&[])];
    for other in &mut others {
        other.says(STANDBY).await;
    }
    first.signal("KILL").await;
    first.ended().await;
    let mut waiting = Vec::new();
    let [a, b, c] = &mut others;
    let winner = tokio::select! {
        () = a.says(FAILOVER) => 0,
        () = b.says(FAILOVER) => 1,
        () = c.says(FAILOVER) => 2,
    };
    for (index, mut daemon) in others.into_iter().enumerate() {
        if index == winner {
            daemon.says("synced").await;
            // The others have tried again by now, or end before they do.
            stopped(daemon).await;
        } else {
            waiting.push(daemon);
        }
    }
    // The remaining two decide in the same way.
    let [a, b] = &mut waiting[..] else { unreachable!("three less one") };
    let next = tokio::select! {
        () = a.says(FAILOVER) => 0,
        () = b.says(FAILOVER) => 1,
    };
    let mut next = waiting.remove(next);
    next.says("synced").await;
    let last = waiting.remove(0);
    assert!(!last.stderr().contains(FAILOVER), "one at a time: {}", last.stderr());
    stopped(last).await;
    stopped(next).await;
    assert_eq!((intake.ids().len(), intake.count()), (250, 250));
    assert_eq!((scm.violations(), intake.violations()), (Vec::new(), Vec::new()));
}

#[tokio::test]
async fn a_standby_ends_at_once_when_it_is_stopped() {
    let (scm, intake) = fakes().await;
    scm.push(recent(4, 10));
    let setup = in_a_loop(&scm, &intake);
    let first = idle(&setup).await;
    let files = folder(&setup);
    let mut second = setup.start(&[]);
    second.says(STANDBY).await;
    stopped(second).await;
    assert_eq!(folder(&setup), files);
    stopped(first).await;
}

#[tokio::test]
async fn a_one_shot_run_beside_a_live_daemon_gives_up_after_its_budget() {
    let (scm, intake) = fakes().await;
    scm.push(recent(5, 10));
    let setup = in_a_loop(&scm, &intake).with("SECTIGO_AUDIT_RETRY_BUDGET", "1s");
    let daemon = idle(&setup).await;
    let (files, hits) = (folder(&setup), (scm.hits(), intake.hits()));
    let ended = setup.run(&["run", "--once"]).await;
    assert_eq!(ended.code(), Some(75), "{}", ended.stderr);
    let told = format!("auditsync-sectigo-datadog.json is in use by process {}", daemon.id());
    assert!(ended.stderr.contains(&told), "{}", ended.stderr);
    assert_eq!((folder(&setup), (scm.hits(), intake.hits())), (files, hits), "it wrote and requested nothing");
    stopped(daemon).await;
}

#[tokio::test]
async fn a_one_shot_run_without_any_budget_does_not_wait() {
    let (scm, intake) = fakes().await;
    scm.push(recent(6, 10));
    let setup = in_a_loop(&scm, &intake).with("SECTIGO_AUDIT_RETRY_BUDGET", "0s");
    let daemon = idle(&setup).await;
    let ended = setup.run(&["run", "--once"]).await;
    assert_eq!(ended.code(), Some(75), "{}", ended.stderr);
    assert!(!ended.stderr.contains(STANDBY), "{}", ended.stderr);
    stopped(daemon).await;
}

#[tokio::test]
async fn a_one_shot_run_that_waits_gets_its_turn() {
    let (scm, intake) = fakes().await;
    scm.push(recent(7, 10));
    let setup = in_a_loop(&scm, &intake).with("SECTIGO_AUDIT_RETRY_BUDGET", "1h");
    let daemon = idle(&setup).await;
    let mut run = setup.start(&["run", "--once"]);
    run.says(STANDBY).await;
    stopped(daemon).await;
    let ended = run.ended().await;
    assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
    assert!(ended.stderr.contains(FAILOVER), "{}", ended.stderr);
    assert_eq!((intake.ids().len(), intake.count()), (10, 10));
}

#[tokio::test]
async fn one_shot_runs_started_together_take_turns() {
    let (scm, intake) = fakes().await;
    scm.push(recent(8, 450));
    // Time for the last one to wait for the three others.
    let setup = Setup::between(&scm, &intake).with("SECTIGO_AUDIT_RETRY_BUDGET", "10m");
    let runs = [(); 4].map(|()| setup.start(&[]));
    for run in runs {
        let ended = run.ended().await;
        assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
    }
    assert_eq!((intake.ids().len(), intake.count()), (450, 450));
    assert_eq!((scm.violations(), intake.violations()), (Vec::new(), Vec::new()));
}

#[tokio::test]
async fn instances_with_folders_of_their_own_do_not_know_each_other() {
    let (scm, intake) = fakes().await;
    scm.push(recent(9, 10));
    let (one, other) = (in_a_loop(&scm, &intake), in_a_loop(&scm, &intake));
    let (first, second) = (idle(&one).await, idle(&other).await);
    assert!(!second.stderr().contains(STANDBY));
    stopped(first).await;
    stopped(second).await;
    assert_eq!((intake.ids().len(), intake.count()), (10, 20));
}

#[tokio::test]
async fn a_standby_that_becomes_active_survives_a_refusal_at_its_first_call() {
    for fault in [Fault::Status(404), Fault::Status(403)] {
        let (scm, intake) = fakes().await;
        let setup = in_a_loop(&scm, &intake).with("SECTIGO_AUDIT_API_TOKEN_URL", scm.token_url());
        let first = idle(&setup).await;
        let mut second = setup.start(&[]);
        second.says(STANDBY).await;
        scm.answer_always(Some(fault));
        first.signal("KILL").await;
        first.ended().await;
        second.says(FAILOVER).await;
        second.says("the source needs attention").await;
        scm.answer_always(None);
        second.says("synced").await;
        stopped(second).await;
    }
}
