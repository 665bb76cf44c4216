//! Tests the main job: a first sync.

use std::time::Duration;

use jiff::Timestamp;

use crate::daemon::Setup;
use crate::support::{FakeIntake, FakeScm, IntakeOptions, Records, ScmOptions};

#[tokio::test]
async fn every_record_arrives_once_and_a_second_run_goes_on_behind_it() {
    let scm = FakeScm::start(ScmOptions::default()).await;
    let intake = FakeIntake::start(IntakeOptions::default()).await;
    let now = Timestamp::now();
    scm.push(Records::seeded(1).between(now - Duration::from_secs(3000), now - Duration::from_secs(2), 750));
    let setup = Setup::between(&scm, &intake);

    let first = setup.run(&[]).await;
    assert_eq!(first.code(), Some(0), "{}", first.stderr);
    assert_eq!((intake.count(), intake.ids().len()), (750, 750));

    let second = setup.run(&["run", "--once"]).await;
    assert_eq!(second.code(), Some(0), "{}", second.stderr);
    assert_eq!(intake.count(), 750, "the overlap is read again and nothing of it is sent twice");
    assert_eq!(scm.violations(), [""; 0]);
    assert_eq!(intake.violations(), [""; 0]);
}
