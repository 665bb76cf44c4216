//! Records and pages of all sizes, both codecs, with and without latency.

use std::time::Duration;

use crate::Failure;
use crate::codec::Codec;
use crate::floor::Carries;
use crate::measure::{Bench, Case, Figures, Subject};

const RECORDS: [usize; 3] = [300, 1000, 10_000];
const PAGES: [usize; 3] = [100, 1000, 5000];
const LATENCIES: [u64; 2] = [20, 100];

/// The share of what pages and latency allow that is to be reached.
const LEAST_SHARE: f64 = 0.9;

/// How many pages a run has: so many bytes of them, within these bounds.
struct Length {
    bytes: usize,
    pages: (usize, usize),
}

fn cases(latency: Duration, length: &Length, quick: bool) -> Vec<Case> {
    let mut cases = Vec::new();
    for record in RECORDS {
        for page in PAGES {
            for codec in Codec::ALL {
                let (fewest, most) = length.pages;
                let pages = (length.bytes / (record * page)).clamp(fewest, most);
                cases.push(Case { record, page, latency, codec, events: pages * page, hours: 1 });
            }
        }
    }
    // Of each dimension something.
    cases.retain(|case| !quick || (case.record == 1000) != (case.page == 1000) || case.record == case.page);
    cases.retain(|case| !quick || case.record + case.page < 10_000);
    cases.retain(|case| !quick || latency.is_zero() || case.codec == Codec::Gzip);
    cases
}

/// The program and both floors without latency.
pub async fn sizes(bench: &mut Bench, quick: bool) -> Result<(), Failure> {
    let length = Length { bytes: if quick { 5_000_000 } else { 20_000_000 }, pages: (3, 200) };
    let mut rows = Vec::new();
    for case in cases(Duration::ZERO, &length, quick) {
        let program = bench.measure(Subject::Program, &case).await?;
        let pages = bench.measure(Subject::Floor(Carries::Pages), &case).await?;
        let entries = bench.measure(Subject::Floor(Carries::Entries), &case).await?;
        bench.tidy();
        rows.push((case, program, pages, entries));
    }
    println!(
        "\n| record | page | codec | events | events/s | per CPU-s | CPU s per million | floor of pages | ratio | \
         floor of entries | ratio | peak RSS | requests | sent per event |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|---|---|---|");
    for (case, program, pages, entries) in &rows {
        let cpu = Figures::cpu_per_million;
        let against = |floor: &Figures| format!("{:.2} | {:.2}", cpu(floor), cpu(program) / cpu(floor));
        println!(
            "| {} | {} | {} | {} | {:.0} | {:.0} | {:.2} | {} | {} | {:.1} MiB | {} + {} | {:.0} B |",
            bytes(case.record),
            case.page,
            case.codec,
            case.events,
            program.per_second(),
            program.per_cpu_second(),
            cpu(program),
            against(pages),
            against(entries),
            program.peak_mib(),
            program.requests.0,
            program.requests.1,
            program.sent_per_event(),
        );
    }
    println!();
    Ok(())
}

/// The program and the floor of entries, with answers that take their time.
pub async fn latencies(bench: &mut Bench, quick: bool) -> Result<(), Failure> {
    let mut rows = Vec::new();
    for latency in LATENCIES {
        let most = if quick { 10 } else { 2000 / usize::try_from(latency)? };
        // Long enough that the beginning and the end count for little.
        let bytes = if quick { 30_000_000 } else { 200_000_000 };
        let length = Length { bytes, pages: (4, most) };
        for case in cases(Duration::from_millis(latency), &length, quick) {
            let program = bench.measure(Subject::Program, &case).await?;
            let floor = bench.measure(Subject::Floor(Carries::Entries), &case).await?;
            bench.tidy();
            rows.push((case, program, floor));
        }
    }
    println!(
        "\nP/L is what pages of P events allow with a latency of L on both sides; where the CPU allows less, nothing is judged.\n"
    );
    println!(
        "| record | page | latency | codec | events | events/s | of P/L | ≥ {LEAST_SHARE} | floor's of P/L | per CPU-s | \
         peak RSS | requests |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|---|");
    for (case, program, floor) in &rows {
        let share = share(case, program);
        println!(
            "| {} | {} | {} ms | {} | {} | {:.0} | {share:.2} | {} | {:.2} | {:.0} | {:.1} MiB | {} + {} |",
            bytes(case.record),
            case.page,
            case.latency.as_millis(),
            case.codec,
            case.events,
            program.per_second(),
            verdict(case, share, floor),
            self::share(case, floor),
            program.per_cpu_second(),
            program.peak_mib(),
            program.requests.0,
            program.requests.1,
        );
    }
    println!();
    Ok(())
}

/// The floor's CPU time is the least that there can be.
fn verdict(case: &Case, share: f64, floor: &Figures) -> &'static str {
    if share >= LEAST_SHARE {
        "met"
    } else if floor.per_cpu_second() < LEAST_SHARE * allowed(case) {
        "CPU"
    } else {
        "**missed**"
    }
}

/// Events per second with a page for each latency.
#[allow(clippy::cast_precision_loss, reason = "figures for people")]
fn allowed(case: &Case) -> f64 {
    case.page as f64 / case.latency.as_secs_f64()
}

/// The throughput, to a page for each latency. While the first page is fetched there is nothing to deliver yet: that time is
/// left out, since it does not count in a longer run.
#[allow(clippy::cast_precision_loss, reason = "figures for people")]
fn share(case: &Case, figures: &Figures) -> f64 {
    case.events as f64 / (figures.wall - case.latency.as_secs_f64()) / allowed(case)
}

fn bytes(size: usize) -> String {
    if size < 1000 { format!("{size} B") } else { format!("{} kB", size / 1000) }
}
