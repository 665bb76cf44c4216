//! Tests what an operator sees on a terminal.

use std::fs::File;
use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::process::Stdio;

use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use crate::daemon::Setup;
use crate::support::{FakeIntake, FakeScm, Fault, IntakeOptions, ScmOptions};

/// The start of each colour code.
const ESCAPE: char = '\x1b';

/// A pseudo-terminal: the side that the test reads, and the side that the program writes to.
fn terminal() -> (File, OwnedFd) {
    // The program of another test must not inherit a side, or the terminal would not end before that program.
    let reader = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).expect("a pseudo-terminal");
    grantpt(&reader).expect("it is ours");
    unlockpt(&reader).expect("it is unlocked");
    let name = ptsname(&reader, Vec::new()).expect("its other side has a name");
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let writer = rustix::fs::open(name, flags, Mode::empty()).expect("its other side opens");
    (File::from(reader), writer)
}

/// Everything that a run writes to standard error, which is a terminal.
async fn shown_on_a_terminal(setup: &Setup) -> String {
    shown_by(setup, &["run", "--once"]).await
}

/// The same of another command.
pub async fn shown_by(setup: &Setup, arguments: &[&str]) -> String {
    let (mut reader, writer) = terminal();
    // The command owns the other side. It is dropped after the start, so that the terminal ends with the program.
    let mut child = setup.command(arguments).stderr(Stdio::from(writer)).spawn().expect("the binary starts");
    let reading = tokio::task::spawn_blocking(move || {
        let mut shown = Vec::new();
        // Linux reports the end of a terminal without writers as an error (EIO).
        let _ = reader.read_to_end(&mut shown);
        shown
    });
    child.wait().await.expect("it can be waited for");
    String::from_utf8(reading.await.expect("the reader does not panic")).expect("the output is text")
}

/// A source that answers every request with an error, whose text clears the screen.
async fn world() -> (FakeScm, FakeIntake, Setup) {
    let scm = FakeScm::start(ScmOptions::default()).await;
    let intake = FakeIntake::start(IntakeOptions::default()).await;
    scm.answer_always(Some(Fault::StatusWithBody(503, "cleared \u{1b}[2J".into())));
    let setup = Setup::between(&scm, &intake).with("SECTIGO_AUDIT_RETRY_BUDGET", "0s");
    (scm, intake, setup)
}

#[tokio::test]
async fn a_terminal_has_colours_and_no_remark_of_a_library() {
    let (_scm, _intake, setup) = world().await;
    let shown = shown_on_a_terminal(&setup).await;
    assert!(shown.contains("\x1b["), "{shown:?}");
    assert!(!shown.contains("tracing-subscriber") && !shown.contains("crate feature"), "{shown:?}");
}

#[tokio::test]
async fn no_color_takes_the_colours_away() {
    let (_scm, _intake, setup) = world().await;
    let shown = shown_on_a_terminal(&setup.with("NO_COLOR", "1")).await;
    assert!(shown.contains("ERROR") && !shown.contains(ESCAPE), "{shown:?}");
}

#[tokio::test]
async fn json_has_no_colours_on_a_terminal() {
    let (_scm, _intake, setup) = world().await;
    let shown = shown_on_a_terminal(&setup.with("SECTIGO_AUDIT_LOG_FORMAT", "json")).await;
    assert!(shown.contains("\"ERROR\"") && !shown.contains(ESCAPE), "{shown:?}");
}

#[tokio::test]
async fn a_servers_text_cannot_control_the_terminal() {
    let (_scm, _intake, setup) = world().await;
    let shown = shown_on_a_terminal(&setup).await;
    assert!(shown.contains("cleared") && !shown.contains("\x1b[2J"), "{shown:?}");
}
