use std::cell::RefCell;

use tokio::time::Instant;

use super::*;
use crate::component::Component;
use crate::telemetry::liveness::{Liveness, Pace};
use crate::telemetry::metrics::Metrics;

const WATCHDOG: Duration = Duration::from_secs(120);

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn observed(names: &[&str]) -> Vec<Observed> {
    let pace = Pace { interval: seconds(60), exchange: seconds(30) };
    let is_alone = names.len() == 1;
    let observe = |name: &&str| {
        let name = (*name).into();
        let metrics = Metrics::of(&name);
        Observed { name, liveness: Liveness::new(pace), metrics, is_alone }
    };
    names.iter().map(observe).collect()
}

/// The notifications within `length` of simulated time, and when each was sent.
async fn sent_within(length: Duration, observed: &[Observed], watchdog: Option<Duration>) -> Vec<(u64, String)> {
    let (start, sent) = (Instant::now(), RefCell::new(Vec::new()));
    let notify = |state: &[NotifyState<'_>]| {
        let message: Vec<_> = state.iter().map(ToString::to_string).collect();
        sent.borrow_mut().push((start.elapsed().as_secs(), message.join("\n")));
    };
    let _ = tokio::time::timeout(length, attend(observed, watchdog, notify)).await;
    sent.into_inner()
}

fn last(sent: &[(u64, String)]) -> u64 {
    assert!(sent.iter().all(|(_, message)| message == "WATCHDOG=1"), "{sent:?}");
    sent.last().map_or(0, |(at, _)| *at)
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_hangs_lets_the_watchdog_expire() {
    let sent = sent_within(seconds(3600), &observed(&["a:b"]), Some(WATCHDOG)).await;
    assert_eq!(last(&sent), 0, "at the start, and then no more");
}

#[tokio::test(start_paused = true)]
async fn an_announced_wait_counts_as_healthy_and_one_that_outlasts_its_announcement_does_not() {
    let observed = observed(&["a:b"]);
    // As during a long Retry-After.
    let _waiting = observed[0].liveness.pauses(seconds(900));
    let sent = sent_within(seconds(7200), &observed, Some(WATCHDOG)).await;
    assert_eq!((sent.len(), last(&sent)), (1 + 900 / 30, 900));
}

#[tokio::test(start_paused = true)]
async fn progress_gives_the_watchdog_its_heartbeat_also_after_a_hang() {
    let observed = observed(&["a:b"]);
    let liveness = observed[0].liveness.clone();
    let moving = async {
        for _ in 0..100 {
            let _calling = liveness.calls(Component::Source);
            tokio::time::sleep(seconds(29)).await;
        }
        tokio::time::sleep(seconds(85)).await;
        drop(liveness.calls(Component::Source));
        std::future::pending::<()>().await;
    };
    let sent = tokio::select! {
        sent = sent_within(seconds(7200), &observed, Some(WATCHDOG)) => sent,
        () = moving => Vec::new(),
    };
    let times: Vec<_> = sent.iter().map(|(at, _)| *at).collect();
    assert!(times.contains(&2910) && !times.contains(&2940), "forty seconds without progress: {times:?}");
    assert_eq!(last(&sent), 3000, "the beat after the last progress, at 2985 s");
}

#[tokio::test(start_paused = true)]
async fn without_a_watchdog_only_the_status_is_sent() {
    let observed = observed(&["a:b"]);
    let working = async {
        tokio::time::sleep(seconds(7)).await;
        observed[0].liveness.set_status("standby");
    };
    let (sent, ()) = tokio::join!(sent_within(seconds(3600), &observed, None), working);
    assert_eq!(sent, [(7, "STATUS=standby".to_owned())]);
}

#[tokio::test(start_paused = true)]
async fn of_several_pipelines_each_has_its_status_and_one_that_hangs_stops_the_heartbeat() {
    let observed = observed(&["a:b", "c:d"]);
    let _waiting = observed[0].liveness.pauses(seconds(10_000));
    let hanging = observed[1].liveness.calls(Component::Destination);
    let working = async {
        tokio::time::sleep(seconds(7)).await;
        observed[1].liveness.set_status("synced");
    };
    let (sent, ()) = tokio::join!(sent_within(seconds(3600), &observed, Some(WATCHDOG)), working);
    assert!(sent.contains(&(7, "STATUS=a:b: ; c:d: synced".to_owned())), "{sent:?}");
    assert_eq!(sent.last().map(|(at, _)| *at), Some(90), "the call may take 110 s");
    drop(hanging);
}

#[cfg(target_os = "linux")]
#[test]
fn both_kinds_of_socket_are_reached_and_one_that_is_not_read_holds_up_nothing() {
    use std::os::linux::net::SocketAddrExt as _;

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let name = format!("auditsync-test-{}", std::process::id());
    let abstract_name = SocketAddr::from_abstract_name(name.as_bytes()).unwrap();
    for (listener, address) in [
        (UnixDatagram::bind(&path).unwrap(), path.into_os_string()),
        (UnixDatagram::bind_addr(&abstract_name).unwrap(), format!("@{name}").into()),
    ] {
        let notifier = Notifier::to(&address).unwrap();
        notifier.ready();
        notifier.stopping(seconds(25));
        notifier.stopping(seconds(25));
        notifier.reloading();
        (0..1000).for_each(|_| notifier.ready());
        let mut buffer = [0; 200];
        let mut next = || {
            let length = listener.recv(&mut buffer).unwrap();
            String::from_utf8(buffer[..length].to_vec()).unwrap()
        };
        assert_eq!(next(), "READY=1");
        assert_eq!(next(), "STOPPING=1\nEXTEND_TIMEOUT_USEC=30000000");
        assert!(next().starts_with("RELOADING=1\nMONOTONIC_USEC="), "a second stop is not sent again");
    }
    assert!(Notifier::to(OsStr::new("vsock:2:1234")).is_err());
}
