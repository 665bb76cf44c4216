//! The case that the targets speak of: the program, both floors and the real `gzip -6`, in turns.

use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;

use crate::Failure;
use crate::floor::{self, Carries};
use crate::measure::{Bench, Case, Figures, Subject, median};
use crate::meter::{Metered, Usage};

/// The bounds that the program is to keep.
const MOST_CPU_TO_FLOOR: f64 = 1.25;
const LEAST_TO_GZIP: f64 = 1.5;
const LATEST_REQUEST: f64 = 0.025;

/// How often the start is measured.
const STARTS: usize = 11;

const SUBJECTS: [Subject; 3] = [Subject::Program, Subject::Floor(Carries::Pages), Subject::Floor(Carries::Entries)];

/// Everything is measured in turns, round by round, so that what else the machine does meets all alike.
pub async fn run(bench: &mut Bench, quick: bool) -> Result<(), Failure> {
    let case = if quick { Case { events: 50_000, ..Case::HEADLINE } } else { Case::HEADLINE };
    let rounds = if quick { 1 } else { 5 };
    let folder = tempfile::tempdir()?;
    let files = write_out(bench, &case, folder.path())?;
    let mut measured: [Vec<Figures>; 3] = Default::default();
    let mut zipped: [Vec<f64>; 2] = Default::default();
    for _ in 0..rounds {
        for (subject, figures) in SUBJECTS.into_iter().zip(&mut measured) {
            figures.push(bench.measure(subject, &case).await?);
        }
        for (file, cpu) in files.iter().zip(&mut zipped) {
            cpu.push(gzip(file, folder.path()).await?.cpu());
        }
    }
    let to_floor: Vec<f64> = [1, 2].map(|floor| ratio(&measured[0], &measured[floor])).to_vec();
    let measured = measured.map(median);
    let zipped = zipped.map(|cpu| events(&case) / middle(cpu));
    let start = start(bench).await?;
    show(&case, rounds, &measured, zipped);
    println!("\n| target | bound | measured | |\n|---|---|---|---|");
    for (carries, ratio) in [Carries::Pages, Carries::Entries].into_iter().zip(to_floor) {
        let what = format!("CPU, to that of the floor of {}", carries.name());
        judge(&what, &format!("≤ {MOST_CPU_TO_FLOOR}"), &format!("{ratio:.2}"), ratio <= MOST_CPU_TO_FLOOR);
    }
    for (of, zipped) in ["pages", "entries"].into_iter().zip(zipped) {
        let ratio = measured[0].per_cpu_second() / zipped;
        let what = format!("events per CPU-second, to those of `gzip -6` of the {of} alone");
        judge(&what, &format!("≥ {LEAST_TO_GZIP}"), &format!("{ratio:.2}"), ratio >= LEAST_TO_GZIP);
    }
    let bound = format!("≤ {:.0} ms", LATEST_REQUEST * 1e3);
    judge("from the start to the first request", &bound, &format!("{:.1} ms", start * 1e3), start <= LATEST_REQUEST);
    println!();
    Ok(())
}

/// A line of the table of targets.
pub fn judge(what: &str, bound: &str, measured: &str, is_met: bool) {
    println!("| {what} | {bound} | {measured} | {} |", if is_met { "met" } else { "**missed**" });
}

#[allow(clippy::cast_precision_loss, reason = "figures for people")]
fn events(case: &Case) -> f64 {
    case.events as f64
}

/// The median, over the rounds, of what the program used to what the floor used in the same round.
fn ratio(program: &[Figures], floor: &[Figures]) -> f64 {
    middle(program.iter().zip(floor).map(|(program, floor)| program.usage.cpu() / floor.usage.cpu()).collect())
}

fn middle(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers[numbers.len() / 2]
}

#[allow(clippy::cast_precision_loss, reason = "figures for people")]
fn show(case: &Case, rounds: usize, measured: &[Figures; 3], zipped: [f64; 2]) {
    println!(
        "\n{} events of {} B in pages of {}, {} at the default level, no latency; the median of {rounds}:\n",
        case.events, case.record, case.page, case.codec
    );
    println!(
        "| | events/s | events per CPU-second | CPU s per million | peak RSS | bytes fetched, posted, sent per event |"
    );
    println!("|---|---|---|---|---|---|");
    for (subject, figures) in SUBJECTS.into_iter().zip(measured) {
        let each = |bytes: u64| bytes as f64 / events(case);
        println!(
            "| {} | {:.0} | {:.0} | {:.2} | {:.1} MiB | {:.0}, {:.0}, {:.0} |",
            subject.name(),
            figures.per_second(),
            figures.per_cpu_second(),
            figures.cpu_per_million(),
            figures.peak_mib(),
            each(figures.fetched),
            each(figures.uncompressed),
            each(figures.sent)
        );
    }
    for (of, per_second) in ["pages", "entries"].into_iter().zip(zipped) {
        println!("| `gzip -6` of the {of} | | {per_second:.0} | {:.2} | | |", 1e6 / per_second);
    }
    println!("\nThe servers used {:.2} CPU s per million besides.", measured[0].servers * 1e6 / events(case));
}

/// The bytes of all pages, and of all entries, as files.
fn write_out(bench: &mut Bench, case: &Case, folder: &Path) -> Result<[std::path::PathBuf; 2], Failure> {
    let paths = ["pages", "entries"].map(|name| folder.join(name));
    let mut files = (std::fs::File::create(&paths[0])?, std::fs::File::create(&paths[1])?);
    let backlog = bench.backlog(case, Timestamp::now());
    for first in (0..case.events).step_by(case.page) {
        let page = Bytes::from(backlog.page(first..case.events.min(first + case.page)));
        files.0.write_all(&page)?;
        for body in floor::entries(&page)? {
            files.1.write_all(&body)?;
        }
    }
    Ok(paths)
}

/// The real `gzip -6`.
async fn gzip(file: &Path, folder: &Path) -> Result<Usage, Failure> {
    let arguments = ["-6".into(), "-c".into(), file.into()];
    let gzip = Metered {
        program: "gzip".into(),
        arguments: arguments.to_vec(),
        variables: vec![("PATH", "/usr/bin:/bin".to_owned())],
        folder: folder.to_owned(),
        stop_after: None,
        kill_after: Duration::from_secs(120),
    };
    let usage = gzip.run().await?;
    eprintln!("  gzip -6 of {} {:.2} CPU-s", file.file_name().unwrap_or_default().display(), usage.cpu());
    Ok(usage)
}

/// The time from the start of the process to its first request, with localfs.
async fn start(bench: &mut Bench) -> Result<f64, Failure> {
    let mut times = Vec::new();
    for _ in 0..STARTS {
        let case = Case { events: 100, page: 100, ..Case::HEADLINE };
        times.push(bench.measure(Subject::Program, &case).await?.to_first_request);
    }
    Ok(middle(times))
}
