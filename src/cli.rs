//! The command line: what was asked for, and how it ended.

use std::ffi::OsString;
use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use jiff::Timestamp;

use crate::config::{self, ConfigError};
use crate::failure::Chain;
use crate::pipeline::{self, Config, HealthConfig, StateConfig, registry};
use crate::telemetry;
use exit::Exit;

mod assemble;
mod check;
mod dry_run;
mod exit;
mod health;
mod run;
mod signals;
mod state;
mod supervised;

/// Copies audit events from Sectigo Certificate Manager to Datadog and never loses its place.
///
/// Everything is configured by environment variables, which `auditsync variables` lists; a file `.env` in the current folder
/// fills in those that are not set. Without a command, `run`.
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
    /// Try everything once, deliver only a test entry, and say what works and what to do about the rest.
    Check,
    /// Ask the daemon at `AUDITSYNC_HTTP_LISTEN` whether it is alive, for a container's health check: 0 if so, else 75.
    ///
    /// An outage of either side is no reason to restart the daemon, so it is not asked for here.
    Health {
        /// Ask whether the last synchronisation succeeded, too, or another instance works.
        #[arg(long)]
        ready: bool,
    },
    /// Look at the stored place, set it, or move it to another backend.
    State {
        #[command(subcommand)]
        command: StateCommand,
    },
    /// List the environment variables: all of them, or those of one component.
    Variables {
        /// The component: a word of its heading, such as sectigo, datadog, sync, state or program.
        component: Option<String>,
    },
}

#[derive(Debug, Default, Args)]
struct RunArguments {
    /// Deliver everything up to now and end.
    #[arg(long)]
    once: bool,
    /// Print as JSON lines what would be sent, from the stored place up to now; send nothing and leave the state as it is.
    ///
    /// It needs no API key, and can be used beside a running daemon.
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Subcommand)]
enum StateCommand {
    /// Print the state document.
    Show,
    /// Go on from a given time: everything after it is delivered, everything before it is not.
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
    /// Copy the state to another backend, whose variables are set beside those of `AUDITSYNC_STORAGE_BACKEND`.
    Migrate {
        /// The backend: localfs, redis, s3 or gcs.
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
/// To be called before any thread is started: `.env` goes into the process's environment, where libraries look for
/// proxies and certificates.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(told) => {
            // Help and version are told to standard output, mistakes to standard error; a closed pipe is nobody's fault.
            let _ = told.print();
            return if told.use_stderr() { Exit::Usage } else { Exit::Done }.into();
        }
    };
    let ended =
        catch_unwind(AssertUnwindSafe(|| dispatch(arguments.command.unwrap_or(Command::Run(RunArguments::default())))));
    ended.unwrap_or_else(|_| {
        say("auditsync: this is a bug; nothing is lost, the next run goes on where the last commit was. Please report the lines above");
        Exit::Bug
    })
    .into()
}

fn dispatch(command: Command) -> Exit {
    // The list of variables helps whoever has a mistake in this file.
    if !matches!(command, Command::Variables { .. })
        && let Err(error) = config::dotenv::load(Path::new(".env"), registry::known_in_dotenv)
    {
        say(&format!("auditsync: {}", Chain(&error)));
        return Exit::Configuration;
    }
    let environment = pipeline::environment();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            say(&format!("auditsync: cannot start: {error}"));
            return Exit::TryAgain;
        }
    };
    let ended = match command {
        Command::Variables { component } => Ok(variables(component.as_deref())),
        Command::Run(RunArguments { dry_run: true, .. }) => {
            Config::for_dry_run(&environment).map(|config| runtime.block_on(dry_run::dry_run(config)))
        }
        Command::Run(RunArguments { once, .. }) => {
            Config::from_environment(&environment).map(|config| runtime.block_on(run::run(config, once)))
        }
        Command::Check => Config::from_environment(&environment).map(|config| runtime.block_on(check::check(config))),
        Command::Health { ready } => {
            HealthConfig::from_environment(&environment).map(|config| runtime.block_on(health::health(config, ready)))
        }
        Command::State { command } => {
            StateConfig::from_environment(&environment).map(|config| runtime.block_on(state::state(command, config)))
        }
    };
    // A call that hangs in a thread for blocking work must not keep the process.
    runtime.shutdown_background();
    ended.unwrap_or_else(|error| mistaken(&error))
}

/// Prints the variables of the components whose heading has the word `component`, or of all.
fn variables(component: Option<&str>) -> Exit {
    let is_meant =
        |title: &str| component.is_none_or(|name| title.split(' ').any(|word| word.eq_ignore_ascii_case(name)));
    let meant: Vec<_> = registry::COMPONENTS.iter().filter(|each| is_meant(each.title)).copied().collect();
    if meant.is_empty() {
        let titles: Vec<_> = registry::COMPONENTS.iter().map(|each| each.title).collect();
        say(&format!("auditsync: there is no such component; the headings are: {}", titles.join(", ")));
        return Exit::Usage;
    }
    print(config::help_text(&meant).trim_end());
    Exit::Done
}

fn mistaken(error: &ConfigError) -> Exit {
    say(&format!("auditsync: {error}"));
    Exit::Configuration
}

/// A line to standard error, outside the log: before logging starts, and for answers to a person. There is nobody to tell if it
/// fails.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// A line to standard output: what was asked for.
fn print(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// Starts logging and tells what the configuration leaves to be wondered about.
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
