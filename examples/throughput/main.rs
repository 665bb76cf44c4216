//! Measures the speed and the cost of the real program: `cargo run --release --example throughput`.
//!
//! The `auditsync` binary drains a backlog from a fake certificate manager into an intake, both on loopback. If a record is
//! missing, changed or delivered twice, the example ends with exit code 1.
//!
//! Two yardsticks run beside the program. The *floor* fetches the same pages, then compresses and posts as many bytes as the
//! program, but reads no record. `gzip -6` compresses the same bytes from a file.
//!
//! `throughput -- trail` measures files of `CloudTrail` instead, and `throughput -- receiver` senders that push.
//!
//! A full run needs Linux, and 3 GiB of memory, in which the servers keep everything. `--quick` measures less and writes no plot.
#![allow(clippy::print_stdout, reason = "a tool for people, at a terminal")]
#![allow(clippy::cast_precision_loss, reason = "the figures are for people")]
#![allow(unreachable_pub, reason = "an example has no outside")]

#[path = "../../tests/support/mod.rs"]
mod support;

mod backlog;
mod floor;
mod intake;
mod meter;
mod plot;
#[cfg(feature = "receiver")]
mod senders;
#[cfg(feature = "s3")]
mod trail;

use std::path::{Path, PathBuf};
use std::process::Command;

use clap::Parser;

use backlog::{Backlog, PAGE_SIZE, RECORD_SIZE};
use meter::Usage;

type Failure = Box<dyn std::error::Error + Send + Sync>;

const PLOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/throughput.svg");

/// Measures the throughput, the CPU time and the memory of auditsync.
#[derive(Parser)]
struct Arguments {
    /// Measure fewer events and fewer rounds, and write no plot.
    #[arg(long)]
    quick: bool,
    #[command(subcommand)]
    mode: Option<Mode>,
}

#[derive(clap::Subcommand)]
#[allow(clippy::large_enum_variant, reason = "there is one")]
enum Mode {
    /// Measure `CloudTrail`'s log files from a bucket instead.
    #[cfg(feature = "s3")]
    Trail {
        /// How many events.
        #[arg(default_value_t = 1_000_000)]
        events: usize,
        /// Records in each file, instead of the usual sizes.
        #[arg(long)]
        file: Option<usize>,
    },
    /// Measure the receiver instead.
    #[cfg(feature = "receiver")]
    Receiver {
        /// How many seconds for each size of request.
        #[arg(long, default_value_t = 4)]
        seconds: u64,
    },
    /// Be the floor, in a process of its own.
    #[command(hide = true)]
    Floor(floor::Arguments),
    /// Be the floor of log files, in a process of its own.
    #[cfg(feature = "s3")]
    #[command(hide = true)]
    TrailFloor { list: PathBuf },
}

fn main() -> Result<(), Failure> {
    let arguments = Arguments::parse();
    // One thread, like the program, so that both pay the same for their runtime.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match arguments.mode {
        Some(Mode::Floor(floor)) => return runtime.block_on(floor::drain(floor)),
        #[cfg(feature = "s3")]
        Some(Mode::TrailFloor { list }) => return runtime.block_on(trail::floor(&list)),
        _ => {}
    }
    if cfg!(debug_assertions) {
        return Err("an unoptimised build measures nothing: run with --release".into());
    }
    let runtime = tokio::runtime::Runtime::new()?;
    match arguments.mode {
        #[cfg(feature = "s3")]
        Some(Mode::Trail { events, file }) => runtime.block_on(measure_trail(events, file)),
        #[cfg(feature = "receiver")]
        Some(Mode::Receiver { seconds }) => runtime.block_on(async {
            let folder = tempfile::tempdir()?;
            senders::measure(&build_program()?, folder.path(), seconds).await
        }),
        _ => runtime.block_on(measure(arguments.quick)),
    }
}

/// Prints the program beside its floor, with the same log files.
#[cfg(feature = "s3")]
async fn measure_trail(events: usize, file: Option<usize>) -> Result<(), Failure> {
    let folder = tempfile::tempdir()?;
    let binary = build_program()?;
    let bucket = match file {
        Some(size) => trail::Bucket::of(std::iter::repeat(size), events).await,
        None => trail::Bucket::of_usual_files(events).await,
    };
    println!(
        "{} events of {} bytes in {} files, {} MiB as stored:\n",
        bucket.events,
        bucket.bytes / bucket.events,
        bucket.files(),
        bucket.stored >> 20
    );
    println!("| | events/s | events per CPU-second | peak memory |\n|---|---|---|---|");
    for (name, usage) in
        [("auditsync", bucket.program(&binary, folder.path()).await?), ("floor", bucket.floor(folder.path()).await?)]
    {
        let (rate, per_cpu) = (events as f64 / usage.seconds, events as f64 / usage.cpu_seconds);
        println!("| {name} | {rate:.0} | {per_cpu:.0} | {:.1} MiB |", usage.peak_mib);
    }
    Ok(())
}

async fn measure(quick: bool) -> Result<(), Failure> {
    let folder = tempfile::tempdir()?;
    let bench = Bench { binary: build_program()?, folder: folder.path() };
    let (rounds, events, largest) = if quick { (1, 50_000, 100_000) } else { (5, 100_000, 1_000_000) };
    bench.headline(events, rounds).await?;
    let points = bench.growth(largest).await?;
    if !quick {
        std::fs::write(PLOT, plot::svg(&points))?;
        println!("\nThe plot is in {PLOT}.");
    }
    Ok(())
}

/// Builds the program without backends if this example was built without them, and returns its path.
fn build_program() -> Result<PathBuf, Failure> {
    let built = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["build", "--release", "--quiet", "--bin", "auditsync"])
        .args((!cfg!(feature = "tls")).then_some("--no-default-features"))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status()?;
    if !built.success() {
        return Err("the program cannot be built".into());
    }
    // Cargo puts examples into a folder within that of the programs.
    let example = std::env::current_exe()?;
    let release = example.parent().and_then(Path::parent).ok_or("the example lies outside of cargo's folders")?;
    Ok(release.join("auditsync"))
}

struct Bench<'a> {
    binary: PathBuf,
    folder: &'a Path,
}

impl Bench<'_> {
    /// Prints the headline: the program beside both yardsticks. They run in turns, so that other work on the machine slows all of them alike.
    async fn headline(&self, events: usize, rounds: usize) -> Result<(), Failure> {
        let page = self.entries_of_a_page().await?;
        let (page_file, all_file) = (self.folder.join("page"), self.folder.join("all"));
        std::fs::write(&page_file, &page)?;
        std::fs::write(&all_file, page.repeat(events / PAGE_SIZE))?;

        let (mut program, mut floor, mut gzip) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..rounds {
            program.push(self.program(events).await?);
            let backlog = Backlog::start(events).await?;
            floor.push(meter::run(backlog.floor(&page_file)?).await?);
            backlog.check_pages()?;
            let mut command = Command::new("gzip");
            command.arg("-6").arg("-c").arg(&all_file);
            gzip.push(meter::run(command).await?);
        }
        println!(
            "\n{events} events of {RECORD_SIZE} bytes in pages of {PAGE_SIZE}. Of {rounds} runs, the one with the median CPU time:\n"
        );
        println!("| | events/s | events per CPU-second | CPU seconds per million | peak memory |");
        println!("|---|---|---|---|---|");
        for (name, usages) in [("auditsync", program), ("floor", floor), ("`gzip -6`", gzip)] {
            let usage = median(usages);
            println!(
                "| {name} | {:.0} | {:.0} | {:.2} | {:.1} MiB |",
                events as f64 / usage.seconds,
                events as f64 / usage.cpu_seconds,
                usage.cpu_seconds * 1e6 / events as f64,
                usage.peak_mib
            );
        }
        Ok(())
    }

    /// Prints throughput and memory over backlogs of growing size, and returns size and memory for the plot.
    async fn growth(&self, largest: usize) -> Result<Vec<(usize, f64)>, Failure> {
        println!("\n| events in the backlog | events/s | peak memory |");
        println!("|---|---|---|");
        let mut points = Vec::new();
        let mut events = 1000;
        while events <= largest {
            let usage = self.program(events).await?;
            println!("| {events} | {:.0} | {:.1} MiB |", events as f64 / usage.seconds, usage.peak_mib);
            points.push((events, usage.peak_mib));
            events *= 10;
        }
        Ok(points)
    }

    /// Runs the program over a backlog, and fails unless every record arrived exactly once.
    async fn program(&self, events: usize) -> Result<Usage, Failure> {
        let (backlog, usage) = self.drained(events).await?;
        backlog.check_records()?;
        Ok(usage)
    }

    /// Returns the entries that the program makes of one page.
    async fn entries_of_a_page(&self) -> Result<Vec<u8>, Failure> {
        self.drained(PAGE_SIZE).await?.0.entries()
    }

    /// Runs the program over a backlog, and leaves the check to the caller.
    async fn drained(&self, events: usize) -> Result<(Backlog, Usage), Failure> {
        let (backlog, state) = (Backlog::start(events).await?, tempfile::tempdir_in(self.folder)?);
        let usage = meter::run(backlog.program(&self.binary, state.path())).await?;
        Ok((backlog, usage))
    }
}

/// Returns the usage with the median of CPU time.
fn median(mut usages: Vec<Usage>) -> Usage {
    usages.sort_by(|one, other| one.cpu_seconds.total_cmp(&other.cpu_seconds));
    usages.swap_remove(usages.len() / 2)
}
