//! Tests kills and two instances: nothing is lost, and no more than the pages in flight come twice.

use std::collections::BTreeMap;

use crate::killing::rounds;
use crate::stage::ago;
use crate::support::{AuditEvent, FakeIntake, IntakeOptions, Recording, TeleportOptions};
use crate::teleport::{Cluster, ids, lines};

const PAGE: usize = 50;
const EVENTS: usize = 2000;

/// With Datadog as the destination.
pub fn to_datadog(cluster: Cluster, intake: &FakeIntake) -> Cluster {
    let setup = cluster.setup.with("AUDITSYNC_PIPELINES", "teleport:datadog").with_datadog(intake);
    Cluster { setup, ..cluster }
}

/// The ids of the entries that arrived, each with its count.
fn arrived(intake: &FakeIntake) -> BTreeMap<String, usize> {
    intake.ids().into_iter().collect()
}

#[tokio::test]
async fn kill_9_at_random_moments_loses_nothing_of_the_log_or_of_a_session() {
    let mut rng = fastrand::Rng::with_seed(20_261_129);
    let kills = rounds("AUDITSYNC_TEST_TELEPORT_KILLS").min(200);
    let kills = if std::env::var_os("AUDITSYNC_TEST_TELEPORT_KILLS").is_some() { kills } else { 4 };
    let options = TeleportOptions { page_size: PAGE, ..TeleportOptions::default() };
    let intake = FakeIntake::start(IntakeOptions::default()).await;
    let cluster = to_datadog(Cluster::of(options).await, &intake).with("TELEPORT_AUDIT_SESSIONS", "true");
    let session = |n: i64| AuditEvent::of_session("session.command", "s1", n, ago(100));
    let events: Vec<_> = (0..2000).map(session).collect();
    cluster.auth.set_recording("s1", Recording { events, ..Recording::default() });
    cluster.auth.push(AuditEvent::logins(0, EVENTS / 2, ago(900)));
    cluster.auth.push([AuditEvent::upload("upload", "s1", ago(800))]);
    cluster.auth.push(AuditEvent::logins(EVENTS / 2, EVENTS, ago(2)));
    for _ in 0..kills {
        let mut daemon = cluster.setup.start(&[]);
        daemon.says("the pipeline starts").await;
        let (searches, entries) = (cluster.auth.searches().len(), intake.count());
        if rng.bool() {
            cluster.auth.wait_for_searches(searches + rng.usize(1..6)).await;
        } else {
            let more = intake.wait_for_entries(entries + rng.usize(1..PAGE * 4));
            // There may be nothing more.
            let _ = tokio::time::timeout(std::time::Duration::from_secs(3), more).await;
        }
        daemon.signal("KILL").await;
        daemon.ended().await;
    }
    cluster.setup.run_to(0).await;
    let arrived = arrived(&intake);
    assert_eq!(arrived.len(), 2 * EVENTS + 1, "every event arrived");
    let repeats: usize = arrived.values().map(|times| times - 1).sum();
    // Two pages are in flight at most, and a page of a session has up to a thousand events.
    assert!(repeats <= kills * 2 * 1000, "{repeats}");
    println!("SIGKILL: {kills} kills, {} events, {repeats} repeats", arrived.len());
    assert_eq!(cluster.auth.violations(), [""; 0]);
    assert_eq!(intake.violations(), [""; 0]);
}

#[tokio::test]
async fn a_second_instance_waits_while_the_first_one_reads() {
    let cluster = Cluster::usual().await;
    cluster.auth.push(AuditEvent::logins(0, 50, ago(60)));
    let mut first = cluster.setup.start(&[]);
    first.prints(|text| text.lines().count() == 50).await;
    // What it printed is committed by then.
    first.says("synced").await;
    let second = cluster.setup.start_with(&[("AUDITSYNC_RETRY_BUDGET", "1s")], &["run", "--once"]).ended().await;
    assert_eq!(second.code(), Some(75), "{}", second.stderr);
    assert_eq!(second.stdout, "");
    first.signal("KILL").await;
    let first = first.ended().await;
    cluster.auth.push(AuditEvent::logins(50, 60, ago(2)));
    let third = cluster.run_to(0).await;
    let all = [lines(&first.stdout), lines(&third.stdout)].concat();
    assert_eq!(ids(&all).len(), 60);
    assert_eq!(all, cluster.auth.log());
}
