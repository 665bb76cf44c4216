//! A pipeline: a source, a destination and the state between them, from the names and variables of the configuration to what runs.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::time::Duration;

use crate::config::{ConfigError, Environment, Noted, Owner, Reader};
use crate::destination::datadog::Labels;
use crate::secret::Secret;
use crate::source::sectigo::{self, Sectigo};
use crate::state::variables::Storage;
use crate::sync::Mode;
use crate::variable_name::VariableName;
use crate::{config, destination, http, source, state, sync, telemetry};

pub mod registry;
#[cfg(test)]
mod tests;

/// The name of the file for dead letters, beside the state.
const DEAD_LETTER_FILE: &str = "sectigo-audit-rejected.ndjson";

/// The source whose prefix may stand before every variable.
pub(crate) fn owner() -> Owner {
    Owner { kind: Sectigo::NAME, label: None }
}

/// Everything that the program is given, validated. `D` is what is known of the destination: a dry run needs the labels alone.
#[derive(Debug)]
pub(crate) struct Config<D = destination::datadog::Settings> {
    /// Where events come from.
    pub(crate) sectigo: sectigo::Settings,
    /// Where events go to.
    pub(crate) datadog: D,
    /// Where the state is kept.
    pub(crate) storage: Storage,
    /// How the engine is to work.
    pub(crate) sync: sync::Settings,
    /// How servers are called.
    pub(crate) http: http::Settings,
    /// Where probes and Prometheus are answered; none to answer nobody.
    pub(crate) listen: Option<SocketAddr>,
    /// How the program logs.
    pub(crate) telemetry: telemetry::Settings,
    /// The variables that messages name.
    pub(crate) names: Names,
    /// What is allowed but hardly meant, to be logged.
    pub(crate) warnings: Vec<String>,
}

/// The variables that messages name, as the operator set them.
#[derive(Debug, Clone)]
pub(crate) struct Names {
    /// Where probes and Prometheus are answered.
    pub(crate) listen: VariableName,
    /// Which backend keeps the state.
    pub(crate) backend: VariableName,
}

impl Config {
    /// Reads everything.
    pub(crate) fn from_environment(environment: &Environment) -> Result<Self, ConfigError> {
        Self::read(environment, |folder, reader| {
            let given = reader.find(&destination::variables::DEAD_LETTER_PATH);
            let dead_letters = given.map(|given| given.or_else(|| folder.map(|folder| folder.join(DEAD_LETTER_FILE))));
            destination::datadog::variables::settings(dead_letters, reader)
        })
    }

    /// The secrets that came from files, and can be read again.
    pub(crate) fn secret_files(&self) -> Vec<Secret> {
        let secrets = [Some(&self.sectigo.client_secret), Some(&self.datadog.api_key), self.storage.secret()];
        secrets.into_iter().flatten().filter(|secret| secret.is_from_file()).cloned().collect()
    }
}

impl Config<Labels> {
    /// Reads what a dry run needs: everything but how Datadog is reached, the API key included.
    pub(crate) fn for_dry_run(environment: &Environment) -> Result<Self, ConfigError> {
        Self::read(environment, |_, reader| destination::datadog::variables::labels(reader))
    }
}

impl<D> Config<D> {
    /// `destination` is read with the folder of the state, if it has one.
    fn read(
        environment: &Environment,
        destination: impl FnOnce(Option<&std::path::Path>, &mut Reader<'_>) -> Result<D, Noted>,
    ) -> Result<Self, ConfigError> {
        // A misspelt name is often the cause of another one that is missing.
        let strangers = config::strangers(environment, &owner(), registry::COMPONENTS);
        let build = |reader: &mut Reader<'_>| Self::build(reader, destination);
        let mut config = config::read(environment, &owner(), &strangers, build)?;
        config.warnings.extend(strangers);
        Ok(config)
    }

    fn build(
        reader: &mut Reader<'_>,
        destination: impl FnOnce(Option<&std::path::Path>, &mut Reader<'_>) -> Result<D, Noted>,
    ) -> Result<Self, Noted> {
        // All parts are read before the first one that failed ends this: each adds its own mistakes.
        let sectigo = sectigo::variables::settings(reader);
        let storage = state::variables::settings(reader);
        let folder = match &storage {
            Ok(Storage::LocalFs { folder }) => Some(folder.as_path()),
            _ => None,
        };
        let datadog = destination(folder, reader);
        let sync = sync::variables::settings(reader);
        let http = http::variables::settings(reader);
        let listen = reader.find(&telemetry::variables::LISTEN);
        let telemetry = telemetry::variables::settings(reader);
        let proxies = reader.check_proxies();
        let (storage, sync) = (storage?, sync?);
        let warnings = doubts(&storage, &sync, reader);
        let names = Names {
            listen: reader.name(&telemetry::variables::LISTEN.spec),
            backend: reader.name(&state::variables::BACKEND.spec),
        };
        proxies?;
        Ok(Self {
            sectigo: sectigo?,
            datadog: datadog?,
            storage,
            sync,
            http: http?,
            listen: listen?,
            telemetry: telemetry?,
            names,
            warnings,
        })
    }
}

/// What follows from several settings together and is hardly meant.
fn doubts(storage: &Storage, sync: &sync::Settings, reader: &Reader<'_>) -> Vec<String> {
    let mut doubts = Vec::new();
    if sync.interval > Duration::from_hours(17) {
        let interval = reader.name(&sync::variables::INTERVAL.spec);
        doubts.push(format!(
            "{interval} is over 17h: Datadog takes no event that is over 18h old, so the oldest entries of each sync will show the time of \
             sending"
        ));
    }
    if matches!(storage, Storage::Memory) && sync.mode == Mode::Once {
        let (backend, sync_loop) =
            (reader.name(&state::variables::BACKEND.spec), reader.name(&sync::variables::LOOP.spec));
        let lookback = reader.name(&source::variables::LOOKBACK.spec);
        doubts.push(format!(
            "{backend}=memory with {sync_loop}=false: nothing is remembered between runs, so each one starts again at {lookback}"
        ));
    }
    doubts
}

/// The part of the configuration that working on the state alone needs: no keys, no servers.
#[derive(Debug)]
pub(crate) struct StateConfig {
    /// Where the state is kept.
    pub(crate) storage: Storage,
    /// The variable that chose it.
    pub(crate) backend: VariableName,
    /// How far back the very first sync goes.
    pub(crate) lookback: Duration,
    /// How the program logs.
    pub(crate) telemetry: telemetry::Settings,
}

impl StateConfig {
    /// Reads this part, blind to all other variables.
    pub(crate) fn from_environment(environment: &Environment) -> Result<Self, ConfigError> {
        let read = |reader: &mut Reader<'_>| {
            let storage = state::variables::settings(reader);
            let lookback = reader.get(&source::variables::LOOKBACK);
            let telemetry = telemetry::variables::settings(reader);
            let backend = reader.name(&state::variables::BACKEND.spec);
            Ok(Self { storage: storage?, backend, lookback: lookback?, telemetry: telemetry? })
        };
        config::read(environment, &owner(), &[], read)
    }

    /// The same for another `backend`.
    pub(crate) fn for_backend(environment: Environment, backend: &str) -> Result<Self, ConfigError> {
        let names = owner().names(&state::variables::BACKEND.spec);
        let first = names.first().map_or(state::variables::BACKEND.spec.name, String::as_str);
        Self::from_environment(&environment.with(first, backend))
    }
}

/// The part of the configuration that asking a daemon for its health needs.
#[derive(Debug)]
pub(crate) struct HealthConfig {
    /// Where the daemon listens.
    pub(crate) listen: SocketAddr,
    /// The variable that says so.
    pub(crate) name: VariableName,
}

impl HealthConfig {
    /// Reads this part, blind to all other variables.
    pub(crate) fn from_environment(environment: &Environment) -> Result<Self, ConfigError> {
        let read = |reader: &mut Reader<'_>| {
            let listen = reader.get(&telemetry::variables::LISTEN)?;
            Ok(Self { listen, name: reader.name(&telemetry::variables::LISTEN.spec) })
        };
        config::read(environment, &owner(), &[], read)
    }
}

/// The environment of this process.
pub(crate) fn environment() -> Environment {
    Environment::from_pairs(std::env::vars_os().collect::<Vec<(OsString, OsString)>>())
}
