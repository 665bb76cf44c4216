//! The command line: the commands and their exit codes.

use std::ffi::OsString;
use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use jiff::Timestamp;

use crate::config::{self, ConfigError};
use crate::failure::Chain;
use crate::pipeline::registry::{self, Wanted};
use crate::pipeline::{self, ArchiveConfig, Config, HealthConfig, Purpose, StateConfig};
use crate::pipeline_name::PipelineName;
use crate::telemetry;
use exit::Exit;

mod backfill;
#[cfg(feature = "tls")]
mod certs;
mod check;
mod dry_run;
mod exit;
mod health;
#[cfg(feature = "teleport")]
mod import;
#[cfg(feature = "lambda")]
mod lambda;
mod run;
mod signals;
mod state;
mod supervised;
mod surroundings;
mod verify;

/// Copies audit events from sources to destinations and never loses its place.
///
/// `auditsync variables` lists the settings: variables in the environment or in `./.env`. Without a command, auditsync does `run`.
#[derive(Debug, Parser)]
#[command(name = "auditsync", version, max_term_width = 100, disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Copy events: for ever, or once with `--once`.
    ///
    /// `AUDITSYNC_SYNC_LOOP=false` has the same effect as `--once`.
    Run(RunArguments),
    /// Try every part once, and print what works and what to correct.
    ///
    /// It delivers one test entry and nothing else.
    Check {
        #[command(flatten)]
        only: Only,
    },
    /// Ask the daemon whether it is alive: 0 if so, else 75.
    ///
    /// This is for the health check of a container. The daemon listens at `AUDITSYNC_HTTP_LISTEN`. It is alive during an outage of a source or
    /// a destination, since a restart would not help.
    Health {
        /// Also ask whether the last sync succeeded, or another instance is active.
        #[arg(long)]
        ready: bool,
        #[command(flatten)]
        only: Only,
    },
    /// Show the stored state, set it, or move it to another store.
    State {
        #[command(subcommand)]
        command: StateCommand,
        #[command(flatten)]
        only: Only,
    },
    /// Prove that an archive is complete and unchanged: 0 if so, else 65.
    ///
    /// It reads every manifest and every object, and prints the first difference from what was written. It changes nothing, and can run
    /// beside the daemon.
    Verify {
        #[command(flatten)]
        only: Only,
    },
    /// Deliver a range of the past beside the running daemon.
    ///
    /// It has a cursor of its own. After an interruption, the same command continues where it stopped.
    Backfill(backfill::BackfillArguments),
    /// Make certificates for mutual TLS with Fluentd or Fluent Bit.
    ///
    /// It also prints the configuration that uses them.
    #[cfg(feature = "tls")]
    Certs(certs::CertsArguments),
    /// Take over the settings and the cursor of Teleport's event handler.
    ///
    /// It prints the settings as lines for `.env`, and stores the cursor with `--storage`.
    #[cfg(feature = "teleport")]
    Import(import::ImportArguments),
    /// List the environment variables: all, or those of one component.
    Variables {
        /// The component, such as sectigo, datadog or stdout; or sync, state or program.
        component: Option<String>,
    },
}

/// The pipelines that a command applies to.
#[derive(Debug, Default, Clone, Args)]
struct Only {
    /// Only this pipeline, such as sectigo:datadog.
    #[arg(long, value_name = "NAME", global = true)]
    pipeline: Option<String>,
}

#[derive(Debug, Default, Args)]
struct RunArguments {
    /// Deliver everything up to now and end.
    #[arg(long)]
    once: bool,
    /// Print the entries from the stored cursor up to now as JSON lines; send nothing and leave the state as it is.
    ///
    /// It needs no credentials of the destination, and can run beside the daemon.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    only: Only,
}

#[derive(Debug, Subcommand)]
enum StateCommand {
    /// Print the state document.
    Show,
    /// Continue from a given time: deliver everything after it, and nothing before it.
    ///
    /// When moving from the vendor's connector, give the time of the last event that it delivered.
    Set {
        /// The time, as in 2026-03-01T12:00:00Z.
        #[arg(long, value_parser = parse_time)]
        since: Timestamp,
        /// Change the state. Without this option the command only prints the change.
        #[arg(long)]
        yes: bool,
    },
    /// Start over as at the first start: from the source's own start, or from `AUDITSYNC_SYNC_LOOKBACK` ago.
    Reset {
        /// Change the state. Without this option the command only prints the change.
        #[arg(long)]
        yes: bool,
    },
    /// Copy the state to another store. First set the variables of that store, and keep the present ones.
    Migrate {
        /// The store: localfs, redis, s3 or gcs.
        #[arg(long)]
        to: String,
        /// Replace a state that is already there.
        #[arg(long)]
        yes: bool,
    },
}

fn parse_time(text: &str) -> Result<Timestamp, String> {
    text.parse().map_err(|_| "give a time with its offset, such as 2026-03-01T12:00:00Z".to_owned())
}

/// Does what the arguments say, and returns the process's exit code.
///
/// Call it before any thread starts: it puts `.env` into the process's environment, where libraries look for proxies and certificates.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(answer) => {
            // Help and version go to standard output, mistakes to standard error. A closed pipe is no error.
            let _ = answer.print();
            return if answer.use_stderr() { Exit::Usage } else { Exit::Done }.into();
        }
    };
    let command = arguments.command.unwrap_or(Command::Run(RunArguments::default()));
    catch_unwind(AssertUnwindSafe(|| dispatch(command).unwrap_or_else(|refused| refused)))
        .unwrap_or_else(|_| bug())
        .into()
}

/// Reports that a bug ended the process, or the only pipeline in it.
fn bug() -> Exit {
    say(
        "auditsync: this is a bug; nothing is lost, and the next run continues from the last commit. Please report the lines above",
    );
    Exit::Bug
}

/// Does the command. The error is the exit code of a mistake that was already printed.
fn dispatch(command: Command) -> Result<Exit, Exit> {
    if let Command::Variables { component } = command {
        // It works without a valid configuration, so that it helps with a mistake in `.env`.
        return Ok(variables(component.as_deref()));
    }
    #[cfg(feature = "tls")]
    if let Command::Certs(arguments) = &command {
        return Ok(certs::certs(arguments));
    }
    config::dotenv::load(Path::new(".env"), registry::known_in_dotenv).map_err(|error| {
        say(&format!("auditsync: {}", Chain(&error)));
        Exit::Configuration
    })?;
    let environment = pipeline::environment();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| {
        say(&format!("auditsync: cannot start: {error}"));
        Exit::TryAgain
    })?;
    #[cfg(feature = "teleport")]
    if let Command::Import(arguments) = &command {
        return Ok(runtime.block_on(import::import(arguments, &environment)));
    }
    let all = pipeline::wanted(&environment).map_err(mistaken)?;
    let exit = match command {
        Command::Run(RunArguments { dry_run: true, only, .. }) => {
            let config = Config::read(&environment, &only.of(all)?, Purpose::DryRun).map_err(mistaken)?;
            runtime.block_on(dry_run::dry_run(config))
        }
        #[cfg(feature = "lambda")]
        Command::Run(RunArguments { only, .. }) if lambda::is_here() => {
            runtime.block_on(lambda::serve(environment, only.of(all)?))
        }
        Command::Run(RunArguments { once, only, .. }) => {
            let config = Config::read(&environment, &only.of(all)?, Purpose::Run).map_err(mistaken)?;
            runtime.block_on(run::run(config, once))
        }
        Command::Check { only } => {
            let wanted = only.of(all)?;
            let config = Config::read(&environment, &wanted, Purpose::Run).map_err(mistaken)?;
            runtime.block_on(check::check(config))
        }
        Command::Health { ready, only } => {
            let config = HealthConfig::read(&environment, &all).map_err(mistaken)?;
            let only = only.pipeline.is_some().then(|| only.of(all)).transpose()?;
            runtime.block_on(health::health(config, ready, only.as_deref()))
        }
        Command::State { command, only } => {
            let wanted = match command {
                StateCommand::Show | StateCommand::Migrate { .. } => only.or_backfill_of(all)?,
                StateCommand::Set { .. } | StateCommand::Reset { .. } => only.of_daemon(all)?,
            };
            let (states, telemetry) = StateConfig::read(&environment, &wanted).map_err(mistaken)?;
            begin(telemetry, &[]);
            runtime.block_on(state::state(command, states, &wanted))
        }
        Command::Verify { only } => {
            let wanted = only.or_backfill_of(all)?;
            let (archives, telemetry) = ArchiveConfig::read(&environment, &wanted).map_err(mistaken)?;
            begin(telemetry, &[]);
            runtime.block_on(verify::verify(archives))
        }
        Command::Backfill(arguments) => {
            let wanted = arguments.only.of(all)?;
            runtime.block_on(backfill::backfill(arguments, wanted, &environment))
        }
        #[cfg(feature = "tls")]
        Command::Certs(_) => Exit::Done,
        #[cfg(feature = "teleport")]
        Command::Import(_) => Exit::Done,
        Command::Variables { .. } => Exit::Done,
    };
    // A call that hangs in a thread for blocking work must not keep the process alive.
    runtime.shutdown_background();
    Ok(exit)
}

impl Only {
    /// The pipelines among `all` that the argument names, or all without it.
    fn of(&self, all: Vec<Wanted>) -> Result<Vec<Wanted>, Exit> {
        self.among(all, |_, _| false)
    }

    /// The same, where the argument may also name a backfill.
    fn or_backfill_of(&self, all: Vec<Wanted>) -> Result<Vec<Wanted>, Exit> {
        self.among(all, PipelineName::is_backfill_of)
    }

    /// The pipelines whose cursor an operator may move. The cursor of a backfill also holds the end of its range.
    fn of_daemon(&self, all: Vec<Wanted>) -> Result<Vec<Wanted>, Exit> {
        let name = self.pipeline.as_deref().map(PipelineName::from);
        if name.is_some_and(|name| all.iter().any(|wanted| name.is_backfill_of(&wanted.name))) {
            say(
                "auditsync: the state of a backfill cannot be set; repeat the backfill with --again, or delete its state",
            );
            return Err(Exit::Usage);
        }
        self.of(all)
    }

    fn among(
        &self,
        all: Vec<Wanted>,
        is_part: impl Fn(&PipelineName, &PipelineName) -> bool,
    ) -> Result<Vec<Wanted>, Exit> {
        let Some(name) = &self.pipeline else { return Ok(all) };
        let name: PipelineName = name.as_str().into();
        let names: Vec<_> = all.iter().map(|wanted| wanted.name.to_string()).collect();
        let is_meant = |wanted: &Wanted| wanted.name == name || is_part(&name, &wanted.name);
        let meant: Vec<_> =
            all.into_iter().filter(is_meant).map(|wanted| Wanted { name: name.clone(), ..wanted }).collect();
        if meant.is_empty() {
            let variable = registry::PIPELINES.spec.name;
            say(&format!("auditsync: {variable} names no pipeline {:?}; it names {}", name.as_str(), names.join(", ")));
            return Err(Exit::Usage);
        }
        Ok(meant)
    }
}

/// Prints the variables of the section called `component`, or of all sections.
fn variables(component: Option<&str>) -> Exit {
    let sections = registry::sections();
    let names: Vec<_> = sections.iter().map(|section| section.name).collect();
    let is_meant = |name: &str| component.is_none_or(|component| name.eq_ignore_ascii_case(component));
    let meant: Vec<_> = sections.iter().filter(|section| is_meant(section.name)).cloned().collect();
    if meant.is_empty() {
        say(&format!("auditsync: there is no such component; choose one of {}", names.join(", ")));
        return Exit::Usage;
    }
    print(config::help_text(&meant).trim_end());
    Exit::Done
}

#[allow(clippy::needless_pass_by_value, reason = "it is the last reader of the error")]
fn mistaken(error: ConfigError) -> Exit {
    say(&format!("auditsync: {error}"));
    Exit::Configuration
}

/// Writes a line to standard error, outside the log: before logging starts, and for answers to a person. If the write fails, nobody is
/// there to read the line.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Writes a line to standard output.
fn print(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// Starts logging, and logs the warnings about the configuration.
fn begin(telemetry: telemetry::Settings, warnings: &[String]) {
    telemetry::start(telemetry);
    for warning in warnings {
        tracing::warn!("{warning}");
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn the_help_fits_one_screen() {
        let help = Arguments::command().render_help().to_string();
        assert!(help.lines().count() <= 24, "{help}");
    }
}
