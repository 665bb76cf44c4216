//! `auditsync backfill`: delivers a range of the past beside the running daemon, with a cursor of its own.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use jiff::{SignedDuration, Timestamp};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::Instrument as _;

use super::exit::Exit;
use super::run::exit_of;
use super::{Only, begin, mistaken, parse_time, say, signals};
use crate::component::Context;
use crate::config::{self, Environment, parse};
use crate::engine::shutdown::Shutdown;
use crate::engine::{Engine, Mode, Outcome, Settings};
use crate::failure::Chain;
use crate::pipeline::registry::Wanted;
use crate::pipeline::supervisor::Ended;
use crate::pipeline::{Config, Pipeline, Purpose};
use crate::source::Cursor;
use crate::source::stretch::{Bounds, Progress, Stretch};
use crate::state::readonly::ReadOnly;
use crate::state::{self, Document, Nonce, State, StateStore, lease};
use crate::telemetry::{self, liveness::Liveness};

/// How often a line is logged without a terminal.
const EVERY: Duration = Duration::from_secs(30);

/// How often the bar moves on a terminal.
const REDRAWN: Duration = Duration::from_millis(250);

/// How many steps the bar has, each a thousandth of the range.
const STEPS: u64 = 1000;

#[derive(Debug, Args)]
pub(super) struct BackfillArguments {
    /// The beginning, as in 2026-03-01T00:00:00Z: events of this time are delivered.
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    from: Timestamp,
    /// The end: the backfill leaves out events of this time and later.
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    to: Timestamp,
    /// Print the entries as JSON lines; send nothing and write nothing.
    #[arg(long)]
    dry_run: bool,
    /// The most events per second, such as 500 or 500/s.
    #[arg(long, value_name = "N", value_parser = parse_rate)]
    rate: Option<NonZeroU32>,
    /// Deliver a range that was delivered before again.
    #[arg(long)]
    again: bool,
    #[command(flatten)]
    pub(super) only: Only,
}

fn parse_rate(text: &str) -> Result<NonZeroU32, String> {
    let number = text.strip_suffix("/s").unwrap_or(text);
    number.parse().map_err(|_| "give a number of events, such as 500/s".to_owned())
}

/// A backfill of a pipeline with a valid configuration.
struct Backfill {
    pipeline: Pipeline,
    wanted: Wanted,
    begins: Cursor,
    bounds: Bounds,
    rate: Option<NonZeroU32>,
}

/// Delivers the events between the two times.
pub(super) async fn backfill(arguments: BackfillArguments, wanted: Vec<Wanted>, environment: &Environment) -> Exit {
    let BackfillArguments { from, to, dry_run, rate, again, .. } = arguments;
    let Ok([wanted]) = <[Wanted; 1]>::try_from(wanted) else {
        say("auditsync: name the pipeline with --pipeline");
        return Exit::Usage;
    };
    if from >= to || to > Timestamp::now() {
        say("auditsync: --from must be before --to, and --to in the past");
        return Exit::Usage;
    }
    // A cursor excludes events of its own time, but the range includes its start.
    let behind = from.checked_sub(SignedDuration::from_nanos(1)).unwrap_or(from);
    let Some(begins) = (wanted.source.cursor_at)(behind, Some(to), None) else {
        say(&format!("auditsync: the source {} cannot begin at a time of your choice", wanted.source.name));
        return Exit::Usage;
    };
    match config::read(environment, &wanted.owner(), |reader| (wanted.source.queue)(reader)) {
        Ok(None) => {}
        Ok(Some(_)) => {
            let source = wanted.source.name;
            say(&format!(
                "auditsync: the source {source} reads from a queue, which has no past; unset the queue for this command"
            ));
            return Exit::Usage;
        }
        Err(error) => return mistaken(error),
    }
    let wanted = Wanted { name: wanted.name.for_backfill(from, to), ..wanted };
    let purpose = if dry_run { Purpose::DryRun } else { Purpose::Run };
    let config = match Config::read(environment, std::slice::from_ref(&wanted), purpose) {
        Ok(config) => config,
        Err(error) => return mistaken(error),
    };
    begin(config.telemetry, &config.warnings);
    let shutdown = Shutdown::default();
    let secrets = config.secret_files();
    let Ok([pipeline]) = <[Pipeline; 1]>::try_from(config.pipelines) else { return Exit::Bug };
    if !pipeline.store.kind.is_lasting && !dry_run {
        let (variable, kind) = (&pipeline.store.variable, pipeline.store.kind.name);
        say(&format!(
            "auditsync: with {variable}={kind} a backfill could not continue after an interruption; set a store that outlives the process"
        ));
        return Exit::Configuration;
    }
    if let Err(exit) = signals::obey(shutdown.clone(), pipeline.settings.shutdown_timeout, secrets, None) {
        return exit;
    }
    let span = tracing::info_span!("pipeline", name = %wanted.name);
    let context = pipeline.context();
    let backfill = Backfill { pipeline, wanted, begins, bounds: Bounds { from, to }, rate };
    async {
        if dry_run {
            let store = Arc::new(ReadOnly::empty());
            return backfill.run(store, &context.only_logging(), &shutdown).await;
        }
        let store = backfill.pipeline.store.build();
        let is_done = match backfill.is_done(store.as_ref()).await {
            Ok(true) if again => backfill.reset(store.as_ref()).await.map(|()| false),
            is_done => is_done,
        };
        match is_done {
            Ok(true) => {
                let location = store.location();
                say(&format!("this backfill is done, according to the state at {location}; --again delivers it again"));
                Exit::Done
            }
            Ok(false) => backfill.run(store, &context, &shutdown).await,
            Err(error) => {
                tracing::error!("{}", Chain(&error));
                Exit::from(&error)
            }
        }
    }
    .instrument(span)
    .await
}

impl Backfill {
    /// Whether an earlier run delivered the whole range.
    async fn is_done(&self, store: &dyn StateStore) -> Result<bool, state::Error> {
        let location = store.location();
        let Some((document, _)) = store.load().await? else { return Ok(false) };
        let stored = document.read_for(&self.wanted.name, &location)?;
        let is_done = self.has_settled(&stored.cursor);
        if !is_done {
            let reached = (self.wanted.source.reached)(&stored.cursor).ok();
            tracing::info!(up_to = reached.map(tracing::field::display), "the backfill continues");
        }
        Ok(is_done)
    }

    fn has_settled(&self, cursor: &Cursor) -> bool {
        (self.wanted.source.settled)(cursor).is_ok_and(|settled| settled >= self.bounds.to)
    }

    /// Sets the state of a range that is done back to its start, once no instance is active on it.
    async fn reset(&self, store: &dyn StateStore) -> Result<(), state::Error> {
        let held =
            lease::idle(store, |holder, _| tracing::info!(holder, "waiting for another backfill to end")).await?;
        let Some((document, version)) = held else { return Ok(()) };
        let stored = document.read_for(&self.wanted.name, &store.location())?;
        if !self.has_settled(&stored.cursor) {
            // Another backfill has begun it again, and has not delivered all of it.
            return Ok(());
        }
        let mut state =
            State::new(self.wanted.name.clone(), self.begins.clone(), Nonce::of_new_writer(), Timestamp::now());
        // The destination still has the events of the first delivery. An archive continues after them.
        state.mark = stored.mark;
        store.save(&Document::of(&state)?, Some(&version)).await.map(drop)
    }

    /// Logs at the start what an operator may not expect.
    fn announce(&self) {
        if let Some(history) = self.wanted.source.history {
            tracing::info!("how far back the source can be read: {history}");
        }
        let destination = self.wanted.destination;
        let Some(oldest) = destination.oldest else { return };
        let hours = hours_older_than(oldest.sent, self.bounds, Timestamp::now());
        if hours > 0 {
            tracing::warn!(
                hours,
                "{hours} h of the range are older than {}, and {} accepts no event older than {}. Their entries carry the time of sending, \
                 and the event's own time in the record",
                parse::short(oldest.sent),
                destination.title,
                parse::short(oldest.accepted)
            );
        }
    }

    async fn run(self, store: Arc<dyn StateStore>, context: &Context, shutdown: &Shutdown) -> Exit {
        self.announce();
        let settings = Settings { mode: Mode::Once, ..self.pipeline.settings };
        let progress = Arc::new(Progress::default());
        let mut parts = self.pipeline.parts(context, store, Liveness::default());
        parts.source = Arc::new(Stretch::of(
            (parts.source, self.wanted.source.settled),
            self.begins,
            self.bounds,
            self.rate,
            Arc::clone(&progress),
        ));
        tracing::info!(
            source = parts.source.location(),
            destination = parts.destination.location(),
            state = parts.store.location(),
            from = %self.bounds.from,
            to = %self.bounds.to,
            "the backfill starts"
        );
        let display = Display::new(self.bounds, Arc::clone(&progress));
        let engine = Engine::new(parts, settings, shutdown.clone());
        let ended = tokio::select! {
            ended = engine.run() => ended,
            () = display.show() => return Exit::Bug,
        };
        display.bar.finish_and_clear();
        let (events, reached) = (progress.events(), progress.reached());
        match &ended {
            Ok(Outcome::Done) if !progress.is_done() => {
                // Events so near to the present are not visible yet, or a part of the range waits.
                tracing::error!(
                    events,
                    up_to = reached.map(tracing::field::display),
                    "auditsync cannot read the whole range yet; repeat the command later, and it continues"
                );
                Exit::TryAgain
            }
            Ok(Outcome::Done) => {
                tracing::info!(events, up_to = %self.bounds.to, "the backfill is done");
                Exit::Done
            }
            _ => exit_of(&Ended::Run(ended), false),
        }
    }
}

/// The progress that an operator sees.
struct Display {
    bounds: Bounds,
    progress: Arc<Progress>,
    begun: Instant,
    bar: ProgressBar,
}

impl Display {
    fn new(bounds: Bounds, progress: Arc<Progress>) -> Self {
        let bar = ProgressBar::with_draw_target(Some(STEPS), ProgressDrawTarget::stderr());
        // With a faulty template, indicatif's own style stays.
        if let Ok(style) = ProgressStyle::with_template("{percent:>3} % {wide_bar} {msg}") {
            bar.set_style(style);
        }
        if !bar.is_hidden() {
            telemetry::log_above(bar.clone());
        }
        Self { bounds, progress, begun: Instant::now(), bar }
    }

    /// Shows the progress until it is dropped.
    async fn show(&self) {
        let mut ticks = interval(if self.bar.is_hidden() { EVERY } else { REDRAWN });
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks.tick().await;
        let mut first = None;
        loop {
            ticks.tick().await;
            let Some(reached) = self.progress.reached() else { continue };
            let covered = covered(self.bounds, reached);
            let begun = *first.get_or_insert((Instant::now(), covered));
            let events = self.progress.events();
            let rate = events / self.begun.elapsed().as_secs().max(1);
            let left = left(begun.0.elapsed(), covered - begun.1, STEPS - covered);
            let left = left.map_or_else(|| "unknown".to_owned(), |left| humantime::format_duration(left).to_string());
            if self.bar.is_hidden() {
                let percent = covered / 10;
                tracing::info!(percent, events, events_per_second = rate, time_left = left, up_to = %reached, "the backfill continues");
            } else {
                self.bar.set_position(covered);
                let reached = reached.strftime("%Y-%m-%d %H:%M");
                self.bar.set_message(format!("{events} events, {rate}/s, {left} left, up to {reached}"));
            }
        }
    }
}

/// How many hours of the range are older than `oldest` at `now`, counting a part of an hour as one.
fn hours_older_than(oldest: Duration, Bounds { from, to }: Bounds, now: Timestamp) -> i64 {
    let limit = now.checked_sub(oldest).unwrap_or(from).min(to);
    let seconds = limit.duration_since(from).as_secs().max(0);
    seconds / 3600 + i64::from(seconds % 3600 > 0)
}

/// How many of the bar's steps are covered.
fn covered(Bounds { from, to }: Bounds, reached: Timestamp) -> u64 {
    let seconds = |until: Timestamp| u64::try_from(until.duration_since(from).as_secs()).unwrap_or(0);
    (seconds(reached.min(to)) * STEPS / seconds(to).max(1)).min(STEPS)
}

/// How long `left` steps will take if `done` steps took `took`; whole seconds. None before the first step.
fn left(took: Duration, done: u64, left: u64) -> Option<Duration> {
    let millis = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    Some(Duration::from_secs(millis.saturating_mul(left).checked_div(done)? / 1000))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn the_part_that_is_covered_never_leaves_its_bounds() {
        let bounds = Bounds { from: at(1000), to: at(3000) };
        for (reached, expected) in [(0, 0), (1000, 0), (2000, 500), (2999, 999), (3000, 1000), (9000, 1000)] {
            assert_eq!(covered(bounds, at(reached)), expected, "{reached}");
        }
    }

    #[test]
    fn the_time_that_is_left_follows_from_the_steps_so_far() {
        assert_eq!(left(Duration::from_secs(10), 0, 1000), None);
        assert_eq!(left(Duration::from_secs(10), 250, 750), Some(Duration::from_secs(30)));
        assert_eq!(left(Duration::from_secs(10), 1000, 0), Some(Duration::ZERO));
    }

    #[test]
    fn every_begun_hour_older_than_the_limit_is_counted_up_to_the_end_of_the_range() {
        const HOUR: i64 = 3600;
        let bounds = Bounds { from: at(0), to: at(40 * HOUR) };
        let hours = |now| hours_older_than(Duration::from_hours(17), bounds, at(now));
        for (now, expected) in [(17 * HOUR, 0), (17 * HOUR + 1, 1), (47 * HOUR, 30), (57 * HOUR, 40), (99 * HOUR, 40)] {
            assert_eq!(hours(now), expected, "{now}");
        }
    }

    #[test]
    fn a_rate_is_a_number_of_events() {
        assert_eq!(parse_rate("500"), parse_rate("500/s"));
        for text in ["0", "", "/s", "fast", "-1"] {
            assert!(parse_rate(text).is_err(), "{text}");
        }
    }
}
