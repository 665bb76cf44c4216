use std::cell::RefCell;

use tokio::time::Instant;

use super::*;
use crate::telemetry::pulse::Pace;

const WATCHDOG: Duration = Duration::from_secs(120);

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// What is told in so much simulated time, and when.
async fn told_within(length: Duration, pulse: &Pulse, watchdog: Option<Duration>) -> Vec<(u64, String)> {
    let (start, told) = (Instant::now(), RefCell::default());
    let tell =
        |message: &str| RefCell::<Vec<_>>::borrow_mut(&told).push((start.elapsed().as_secs(), message.to_owned()));
    let _ = tokio::time::timeout(length, attend(pulse, watchdog, tell)).await;
    told.into_inner()
}

fn last(told: &[(u64, String)]) -> u64 {
    assert!(told.iter().all(|(_, message)| message == "WATCHDOG=1"), "{told:?}");
    told.last().map_or(0, |(at, _)| *at)
}

fn pulse() -> Pulse {
    Pulse::new(Pace { interval: seconds(60), exchange: seconds(30) })
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_hangs_lets_the_watchdog_starve() {
    let told = told_within(seconds(3600), &pulse(), Some(WATCHDOG)).await;
    assert_eq!(last(&told), 0, "at the start, and then no more");
}

#[tokio::test(start_paused = true)]
async fn a_wait_that_was_announced_is_no_hang_and_one_that_outlasts_its_announcement_is() {
    let pulse = pulse();
    // As long as a Retry-After is obeyed.
    let _waiting = pulse.pauses(seconds(900));
    let told = told_within(seconds(7200), &pulse, Some(WATCHDOG)).await;
    assert_eq!((told.len(), last(&told)), (1 + 900 / 30, 900));
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_moves_keeps_the_watchdog_fed_and_one_that_moves_again_feeds_it_anew() {
    let pulse = pulse();
    let moving = async {
        for _ in 0..100 {
            let _calling = pulse.calls("source");
            tokio::time::sleep(seconds(29)).await;
        }
        tokio::time::sleep(seconds(85)).await;
        drop(pulse.calls("source"));
        std::future::pending::<()>().await;
    };
    let told = tokio::select! {
        told = told_within(seconds(7200), &pulse, Some(WATCHDOG)) => told,
        () = moving => Vec::new(),
    };
    let times: Vec<_> = told.iter().map(|(at, _)| *at).collect();
    assert!(times.contains(&2910) && !times.contains(&2940), "forty seconds of silence: {times:?}");
    assert_eq!(last(&told), 3000, "the look behind the last sign of life, at 2985 s");
}

#[tokio::test(start_paused = true)]
async fn without_a_watchdog_only_the_standing_is_told() {
    let pulse = pulse();
    let working = async {
        tokio::time::sleep(seconds(7)).await;
        pulse.stands("standing by");
    };
    let (told, ()) = tokio::join!(told_within(seconds(3600), &pulse, None), working);
    assert_eq!(told, [(7, "STATUS=standing by".to_owned())]);
}

#[test]
fn the_watchdog_is_the_one_that_is_meant_for_this_process() {
    let read = |usec: Option<&str>, pid: Option<&str>| watchdog(usec.map(OsStr::new), pid.map(OsStr::new), 17);
    assert_eq!(read(Some("30000000"), Some("17")), Some(seconds(30)));
    assert_eq!(read(Some("30000000"), None), Some(seconds(30)));
    for (usec, pid) in [(None, None), (Some("30000000"), Some("18")), (Some("0"), None), (Some("soon"), Some("17"))] {
        assert_eq!(read(usec, pid), None, "{usec:?} {pid:?}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn both_kinds_of_socket_are_reached() {
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
        let mut buffer = [0; 200];
        let mut next = || {
            let length = listener.recv(&mut buffer).unwrap();
            String::from_utf8(buffer[..length].to_vec()).unwrap()
        };
        assert_eq!(next(), "READY=1");
        assert_eq!(next(), "STOPPING=1\nEXTEND_TIMEOUT_USEC=30000000");
        assert!(next().starts_with("RELOADING=1\nMONOTONIC_USEC="), "a second stop is not told again");
    }
    assert!(Notifier::to(OsStr::new("vsock:2:1234")).is_err());
}
