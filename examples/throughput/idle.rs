//! The CPU of a daemon that has nothing to do but ask.

use std::time::Duration;

use jiff::Timestamp;

use crate::Failure;
use crate::codec::Codec;
use crate::headline::judge;
use crate::measure::{Bench, Case};
use crate::program::Setting;
use crate::source::Source;

/// The shortest there is; the usual interval is a minute.
const INTERVAL: Duration = Duration::from_secs(5);

/// Start, first synchronisation and stop are over within this; what they use is measured and taken off.
const SHORT_LIFE: Duration = Duration::from_secs(2);

const MOST: f64 = 0.001;

/// Lets a daemon live for so long, and another for a moment: the difference is what it uses at rest.
pub async fn run(bench: &mut Bench, life: Duration) -> Result<(), Failure> {
    let case = Case { events: 100, page: 100, ..Case::HEADLINE };
    let mut cpu = Vec::new();
    for life in [SHORT_LIFE, SHORT_LIFE + life] {
        let folder = tempfile::tempdir()?;
        let backlog = bench.backlog(&case, Timestamp::now());
        let (source_at, source) = Source::start(backlog, case.page, Duration::ZERO).await?;
        let (intake_at, intake) = crate::intake::Intake::start(Codec::Gzip.name(), Duration::ZERO).await?;
        let setting = Setting {
            binary: &bench.binary,
            source: &source_at.url,
            intake: &intake_at.url,
            codec: Codec::Gzip,
            lookback: Duration::from_secs(3600),
            folder: folder.path(),
        };
        cpu.push(setting.daemon(INTERVAL, life).run().await?.cpu());
        let bodies = intake.with_kept(|kept| kept.bodies.len());
        eprintln!(
            "  a daemon of {life:?}: {:?} CPU-s, {} requests, {bodies} bodies",
            cpu.last(),
            source.seen().requests
        );
    }
    let share = (cpu[1] - cpu[0]) / life.as_secs_f64();
    println!("\n| target | bound | measured | |\n|---|---|---|---|");
    let what = format!("CPU at rest, asking every {INTERVAL:?}, over {life:?}");
    judge(&what, &format!("< {:.1} %", MOST * 1e2), &format!("{:.3} %", share * 1e2), share < MOST);
    println!();
    Ok(())
}
