//! The command line: the commands, and the exit code that each end has.

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
use crate::telemetry;
use exit::Exit;

#[cfg(feature = "tls")]
mod certs;
mod check;
mod dry_run;
mod exit;
mod health;
#[cfg(feature = "lambda")]
mod lambda;
mod run;
mod signals;
mod state;
mod supervised;
mod verify;

/// Copies audit events from sources to destinations and never loses its place.
///
/// Environment variables configure everything; `auditsync variables` lists them. A file `.env` in the current folder fills in those that
/// are not set. Without a command, `run`.
#[derive(Debug, Parser)]
#[command(name = "auditsync", version, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Copy events: for ever, or once with `--once` or `AUDITSYNC_SYNC_LOOP=false`.
    Run(RunArguments),
    /// Try every part once, and print what works and what to do about the rest.
    ///
    /// It delivers a test entry and nothing else.
    Check {
        #[command(flatten)]
        only: Only,
    },
    /// Ask the daemon at `AUDITSYNC_HTTP_LISTEN` whether it is alive, for a container's health check: 0 if so, else 75.
    ///
    /// An outage of a source or a destination is no reason to restart the daemon, so it does not count here.
    Health {
        /// Ask whether the last sync succeeded, too, or another instance is active.
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
    /// It reads every manifest and every object, and prints the first place that is not as it was written. It changes nothing, and can be
    /// used beside a running daemon.
    Verify {
        #[command(flatten)]
        only: Only,
    },
    /// Make certificates for mutual TLS with Fluentd or Fluent Bit, and say how to use them.
    #[cfg(feature = "tls")]
    Certs(certs::CertsArguments),
    /// List the environment variables: all of them, or those of one component.
    Variables {
        /// The component, such as sectigo, datadog or stdout; or sync, state or program.
        component: Option<String>,
    },
}

/// Which pipelines a command is about.
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
    /// Print as JSON lines what would be sent, from the stored cursor up to now; send nothing and leave the state as it is.
    ///
    /// It needs no credentials of the destination, and can be used beside a running daemon.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    only: Only,
}

#[derive(Debug, Subcommand)]
enum StateCommand {
    /// Print the state document.
    Show,
    /// Continue from a given time: everything after it is delivered, nothing before it.
    ///
    /// When moving from the vendor's connector, give the time of the last event that it delivered.
    Set {
        /// The time, as in 2026-03-01T12:00:00Z.
        #[arg(long, value_parser = parse_time)]
        since: Timestamp,
        /// Really do it.
        #[arg(long)]
        yes: bool,
    },
    /// Start over as if for the first time: from `AUDITSYNC_SYNC_LOOKBACK` ago.
    Reset {
        /// Really do it.
        #[arg(long)]
        yes: bool,
    },
    /// Copy the state to another store, whose variables are set beside those of `AUDITSYNC_STORAGE_BACKEND`.
    Migrate {
        /// The store: localfs, redis, s3 or gcs.
        #[arg(long)]
        to: String,
        /// Replace a state that is there already.
        #[arg(long)]
        yes: bool,
    },
}

fn parse_time(text: &str) -> Result<Timestamp, String> {
    text.parse().map_err(|_| "give a time with its offset, such as 2026-03-01T12:00:00Z".to_owned())
}

/// Does what the arguments say and gives the process's exit code.
///
/// To be called before any thread is started: `.env` goes into the process's environment, where libraries look for proxies and
/// certificates.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(answer) => {
            // Help and version go to standard output, mistakes to standard error. A closed pipe is nobody's fault.
            let _ = answer.print();
            return if answer.use_stderr() { Exit::Usage } else { Exit::Done }.into();
        }
    };
    let command = arguments.command.unwrap_or(Command::Run(RunArguments::default()));
    catch_unwind(AssertUnwindSafe(|| dispatch(command).unwrap_or_else(|refused| refused)))
        .unwrap_or_else(|_| bug())
        .into()
}

/// A bug ended the process, or the only pipeline in it.
fn bug() -> Exit {
    say(
        "auditsync: this is a bug; nothing is lost, and the next run continues from the last commit. Please report the lines above",
    );
    Exit::Bug
}

/// Does the command. The error is the exit code of a mistake that was printed.
fn dispatch(command: Command) -> Result<Exit, Exit> {
    if let Command::Variables { component } = command {
        // The list of variables helps whoever has a mistake in `.env`.
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
    let all = pipeline::wanted(&environment).map_err(mistaken)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| {
        say(&format!("auditsync: cannot start: {error}"));
        Exit::TryAgain
    })?;
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
            let wanted = only.of(all)?;
            let (states, telemetry) = StateConfig::read(&environment, &wanted).map_err(mistaken)?;
            begin(telemetry, &[]);
            runtime.block_on(state::state(command, states, &wanted))
        }
        Command::Verify { only } => {
            let wanted = only.of(all)?;
            let (archives, telemetry) = ArchiveConfig::read(&environment, &wanted).map_err(mistaken)?;
            begin(telemetry, &[]);
            runtime.block_on(verify::verify(archives))
        }
        #[cfg(feature = "tls")]
        Command::Certs(_) => Exit::Done,
        Command::Variables { .. } => Exit::Done,
    };
    // A call that hangs in a thread for blocking work must not keep the process.
    runtime.shutdown_background();
    Ok(exit)
}

impl Only {
    /// Those of `all` that are meant.
    fn of(&self, all: Vec<Wanted>) -> Result<Vec<Wanted>, Exit> {
        let Some(name) = &self.pipeline else { return Ok(all) };
        let names: Vec<_> = all.iter().map(|wanted| wanted.name.to_string()).collect();
        let meant: Vec<_> = all.into_iter().filter(|wanted| wanted.name.as_str() == name).collect();
        if meant.is_empty() {
            let variable = registry::PIPELINES.spec.name;
            say(&format!("auditsync: {variable} names no pipeline {name:?}; it names {}", names.join(", ")));
            return Err(Exit::Usage);
        }
        Ok(meant)
    }
}

/// Prints the variables of the section called `component`, or of all.
fn variables(component: Option<&str>) -> Exit {
    let sections = registry::sections();
    let names: Vec<_> = sections.iter().map(|section| section.name).collect();
    let is_meant = |name: &str| component.is_none_or(|component| name.eq_ignore_ascii_case(component));
    let meant: Vec<_> = sections.iter().filter(|section| is_meant(section.name)).cloned().collect();
    if meant.is_empty() {
        say(&format!("auditsync: there is no such component; there are {}", names.join(", ")));
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

/// A line to standard error, outside the log: before logging starts, and for answers to a person. If it fails, nobody is there to read it.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// A line to standard output.
fn print(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// Starts logging, and logs what is hardly meant in the configuration.
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
