//! Throughput and memory by the size of the backlog: a table and a plot.

use std::path::Path;
use std::time::Duration;

use crate::Failure;
use crate::codec::Codec;
use crate::floor::Carries;
use crate::headline::judge;
use crate::measure::{Bench, Case, Figures, Subject};
use crate::plot;

/// The floor's figures do not change any more behind this, and its runs are long.
const LARGEST_FOR_FLOOR: usize = 1_000_000;

/// The most memory, in MiB, and by how much it may differ between the backlogs from here on: it does by a fifth between
/// two runs of the same.
const MOST_MEMORY: f64 = 40.0;
const FLAT_FROM: usize = 10_000;
const MOST_GROWTH: f64 = 1.25;

/// A backlog, and what was measured with it.
pub struct Point {
    pub events: usize,
    pub program: Figures,
    pub floor: Option<Figures>,
}

/// Backlogs of a thousand to `most` events, ten times as many at each step.
pub async fn run(bench: &mut Bench, most: usize, plot: Option<&Path>) -> Result<(), Failure> {
    let mut points = Vec::new();
    let sizes = std::iter::successors(Some(1000), |size: &usize| size.checked_mul(10)).take_while(|size| *size <= most);
    for events in sizes {
        let case = case(events);
        let program = bench.measure(Subject::Program, &case).await?;
        let floor = if events <= LARGEST_FOR_FLOOR {
            Some(bench.measure(Subject::Floor(Carries::Entries), &case).await?)
        } else {
            None
        };
        points.push(Point { events, program, floor });
    }
    println!("\n1 kB records in pages of 1000, gzip, no latency, spread over up to 16 hours:\n");
    println!("| backlog | events/s | floor of entries, events/s | peak RSS | floor's | requests |");
    println!("|---|---|---|---|---|---|");
    for Point { events, program, floor } in &points {
        let of_floor = |figure: fn(&Figures) -> f64, digits: usize| {
            floor.as_ref().map_or_else(String::new, |floor| format!("{:.digits$}", figure(floor)))
        };
        println!(
            "| {events} | {:.0} | {} | {:.1} MiB | {} | {} + {} |",
            program.per_second(),
            of_floor(Figures::per_second, 0),
            program.peak_mib(),
            of_floor(Figures::peak_mib, 1),
            program.requests.0,
            program.requests.1
        );
    }
    targets(&points);
    if let Some(path) = plot {
        std::fs::write(path, plot::svg(&points))?;
        eprintln!("  the plot is in {}", path.display());
    }
    Ok(())
}

/// Up to a hundred thousand events an hour, as a busy account has, and then more in each.
fn case(events: usize) -> Case {
    let hours = u32::try_from(events.div_ceil(100_000)).unwrap_or(u32::MAX).min(16);
    Case { record: 1000, page: 1000, latency: Duration::ZERO, codec: Codec::Gzip, events, hours }
}

fn targets(points: &[Point]) {
    let large = || points.iter().filter(|point| point.events >= FLAT_FROM).map(|point| point.program.peak_mib());
    let (lowest, highest) = (large().fold(f64::INFINITY, f64::min), large().fold(0.0, f64::max));
    if highest == 0.0 {
        return;
    }
    println!("\n| target | bound | measured | |\n|---|---|---|---|");
    judge("peak RSS", &format!("≤ {MOST_MEMORY:.0} MiB"), &format!("{highest:.1} MiB"), highest <= MOST_MEMORY);
    let growth = highest / lowest;
    let what = format!("peak RSS, largest to smallest, from {FLAT_FROM} events on");
    judge(&what, &format!("≤ {MOST_GROWTH}"), &format!("{growth:.2}"), growth <= MOST_GROWTH);
    println!();
}
