//! Tests kills: nothing is lost, and no more than the pages in flight come twice.

use std::ops::RangeInclusive;
use std::time::Duration;

use jiff::Timestamp;

use crate::daemon::Setup;
use crate::support::{FakeIntake, FakeScm, IntakeOptions, Records, ScmOptions};

const BACKLOG: usize = 10_000;
const PAGE: usize = 100;
/// The most duplicates that a kill may cost.
const IN_FLIGHT: usize = 2 * PAGE;

/// The number of rounds: the environment variable's value, or ten.
pub fn rounds(variable: &str) -> usize {
    std::env::var(variable).map_or(10, |text| text.parse().expect("a number of rounds"))
}

/// Backlogs that processes drain; each process gets a signal at a random moment.
pub struct Drain {
    pub signal: &'static str,
    pub seed: u64,
    /// At least this many signals; as many backlogs as it takes.
    pub rounds: usize,
    /// How far a process gets, in pages.
    pub every: RangeInclusive<usize>,
}

/// The result.
#[derive(Debug, Default)]
pub struct Figures {
    pub signals: usize,
    pub backlogs: usize,
    pub records: usize,
    /// The number of duplicates.
    pub repeats: usize,
    /// The most duplicates of one signal.
    pub most_repeats_of_one: usize,
    /// The number of signals with duplicates.
    pub with_repeats: usize,
}

impl Figures {
    fn note(&mut self, intake: &FakeIntake, before: &mut usize) {
        let repeats = intake.count() - intake.ids().len();
        let cost = repeats - std::mem::replace(before, repeats);
        assert!(cost <= IN_FLIGHT, "one signal cost {cost} repeats");
        self.repeats += cost;
        self.most_repeats_of_one = self.most_repeats_of_one.max(cost);
        self.with_repeats += usize::from(cost > 0);
    }
}

impl Drain {
    pub async fn run(self) -> Figures {
        let mut rng = fastrand::Rng::with_seed(self.seed);
        let mut figures = Figures::default();
        while figures.signals < self.rounds {
            self.one_backlog(&mut rng, &mut figures).await;
        }
        figures
    }

    async fn one_backlog(&self, rng: &mut fastrand::Rng, figures: &mut Figures) {
        let latency = Duration::from_millis(rng.u64(1..=3));
        let scm = FakeScm::start(ScmOptions { latency, page_size: PAGE, ..Default::default() }).await;
        let intake = FakeIntake::start(IntakeOptions { latency, keep_bodies: false, ..Default::default() }).await;
        let now = Timestamp::now();
        let records = Records::seeded(rng.u64(..)).size(300).between(
            now - Duration::from_secs(3000),
            now - Duration::from_secs(2),
            BACKLOG,
        );
        scm.push(records);
        let setup = Setup::between(&scm, &intake).with("SECTIGO_AUDIT_SYNC_LOOP", "true");
        let mut repeats_before = 0;
        loop {
            let mut daemon = setup.start(&[]);
            // It listens for signals from then on.
            daemon.says("the pipeline starts").await;
            let drained = tokio::select! {
                biased;
                () = intake.wait_for_ids(BACKLOG) => true,
                () = self.moment(rng, &scm, &intake) => false,
            };
            daemon.signal(self.signal).await;
            let ended = daemon.ended().await;
            let expected = if self.signal == "KILL" { None } else { Some(0) };
            assert_eq!(ended.code(), expected, "{}", ended.stderr);
            assert!(!ended.stderr.contains("ERROR"), "{}", ended.stderr);
            // The document is valid at any moment; the harness insists on that.
            assert!(setup.state().is_some());

            figures.signals += 1;
            // The cost of a signal shows at the end of the process after it.
            figures.note(&intake, &mut repeats_before);
            if drained {
                break;
            }
        }
        setup.run_to(0).await;
        assert_eq!(intake.ids().len(), BACKLOG, "every record arrived");
        figures.note(&intake, &mut repeats_before);
        assert_eq!((scm.violations(), intake.violations()), (Vec::new(), Vec::new()));
        figures.backlogs += 1;
        figures.records += BACKLOG;
    }

    /// Waits for a random moment: a request under way to either fake, or just after a page was accepted.
    async fn moment(&self, rng: &mut fastrand::Rng, scm: &FakeScm, intake: &FakeIntake) {
        let pages = rng.usize(self.every.clone());
        match rng.u8(..3) {
            0 => intake.wait_for_requests(intake.requests().len() + pages).await,
            1 => intake.wait_for_entries(intake.count() + pages * PAGE).await,
            _ => scm.wait_for_requests(scm.requests().len() + pages).await,
        }
    }
}

#[tokio::test]
async fn kill_9_at_random_moments_while_a_backlog_drains_loses_nothing() {
    let drain = Drain { signal: "KILL", seed: 20_260_302, rounds: rounds("AUDITSYNC_TEST_KILLS"), every: 1..=12 };
    let figures = drain.run().await;
    println!("SIGKILL: {figures:?}");
    assert!(figures.repeats <= figures.signals * IN_FLIGHT);
}
