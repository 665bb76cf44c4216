//! How fast the real program is, and what it costs: `cargo run --release --example throughput`.
//!
//! It runs the `auditsync` binary between two servers that cost little, looks afterwards whether every record arrived once and
//! whole, and prints what the run took: a run in which something is wrong has no figures, and ends with exit code 1. Beside
//! it runs a *floor*: a process that fetches the same pages, compresses as much with the same codec and posts it, and looks at
//! no record. It comes in two kinds, because an entry is about twice as large as its record: of *pages*, which posts the bytes that
//! it fetched, and of *entries*, which posts as many bytes as the program does.
//!
//! It takes about five minutes on two cores; `--quick` less than two; `--full`, with a backlog of ten million events and a
//! daemon at rest, seven. `--part` chooses what is measured, `--help` tells the rest. Other work on the machine
//! makes CPU time dearer by half: the ratios of one run are better than its figures, and those of an idle machine best.
#![allow(clippy::print_stdout, clippy::print_stderr, clippy::expect_used, reason = "a tool for people, at a terminal")]
#![allow(unreachable_pub, reason = "an example has no outside")]

#[path = "../../tests/support/mod.rs"]
mod support;

mod backlog;
mod codec;
mod floor;
mod growth;
mod headline;
mod identity;
mod idle;
mod inspection;
mod intake;
mod matrix;
mod measure;
mod meter;
mod plot;
mod program;
mod server;
mod source;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use measure::Bench;

/// What ends a measurement without figures.
type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Measures the throughput of auditsync, CPU, memory and start, beside a floor that handles no records.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    mode: Option<Mode>,
    /// What to measure [default: all but `idle`].
    #[arg(long, value_enum)]
    part: Vec<Part>,
    /// Fewer cases and shorter runs: less than two minutes.
    #[arg(long)]
    quick: bool,
    /// All parts, and backlogs of up to ten million events.
    #[arg(long, conflicts_with_all = ["quick", "part"])]
    full: bool,
    /// The largest backlog of the part `growth` [default: 1000000; with --quick 100000, with --full 10000000].
    #[arg(long)]
    max_backlog: Option<usize>,
    /// Measures this program, instead of building it.
    #[arg(long)]
    binary: Option<PathBuf>,
    /// Where the plot of the part `growth` goes [default: docs/throughput.svg, with --quick nowhere].
    #[arg(long)]
    plot: Option<PathBuf>,
    /// How long the part `idle` watches, in seconds.
    #[arg(long, default_value_t = 30)]
    idle: u64,
}

#[derive(Debug, clap::Subcommand)]
enum Mode {
    /// Starts a program and tells what it used.
    #[command(hide = true)]
    Meter(meter::Arguments),
    /// Fetches everything and posts it, with no record handling.
    #[command(hide = true)]
    Floor(floor::Arguments),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// The case that the targets speak of, `gzip -6` beside it, and the time to start.
    Headline,
    /// Records and pages of all sizes, with both codecs.
    Table,
    /// The same, with answers that take their time.
    Latency,
    /// Throughput and memory by the size of the backlog, with a plot.
    Growth,
    /// CPU of a daemon that has nothing to do.
    Idle,
}

impl Part {
    const USUAL: [Self; 4] = [Self::Headline, Self::Table, Self::Latency, Self::Growth];
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let ended = match &arguments.mode {
        Some(Mode::Meter(meter)) => meter::run(meter),
        Some(Mode::Floor(floor)) => floor::run(floor),
        None => measure_all(arguments),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn measure_all(arguments: Arguments) -> Result<(), Failure> {
    if cfg!(debug_assertions) {
        return Err("an unoptimised build measures nothing: cargo run --release --example throughput".into());
    }
    let binary = match arguments.binary {
        Some(binary) => binary.canonicalize()?,
        None => program::build()?,
    };
    let Arguments { quick, full, .. } = arguments;
    let parts = match arguments.part {
        _ if full => Part::value_variants().to_vec(),
        chosen if chosen.is_empty() => Part::USUAL.to_vec(),
        chosen => chosen,
    };
    let usual_plot = || (!quick).then(|| concat!(env!("CARGO_MANIFEST_DIR"), "/docs/throughput.svg").into());
    let plot = arguments.plot.or_else(usual_plot);
    let most = arguments.max_backlog.unwrap_or(match (quick, full) {
        (true, _) => 100_000,
        (_, true) => 10_000_000,
        _ => 1_000_000,
    });
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let mut bench = Bench::new(binary);
        for part in parts {
            match part {
                Part::Headline => headline::run(&mut bench, quick).await?,
                Part::Table => matrix::sizes(&mut bench, quick).await?,
                Part::Latency => matrix::latencies(&mut bench, quick).await?,
                Part::Growth => growth::run(&mut bench, most, plot.as_deref()).await?,
                Part::Idle => idle::run(&mut bench, Duration::from_secs(arguments.idle)).await?,
            }
        }
        Ok(())
    })
}
