//! Configuration: from variables to settings that can be relied on, or to every mistake in one message.
//!
//! Two levels: `raw` is what envy reads, text or nothing; the files beside it turn each part into the settings of the
//! module that it belongs to. Nothing here reads the process environment: whoever starts the program passes the pairs.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::destination::datadog::Labels;
use crate::secret::Secret;
use crate::sync::Mode;
use crate::{destination, http, source, sync, telemetry};

mod datadog;
pub mod dotenv;
mod environment;
mod mistakes;
mod parse;
mod proxy;
mod raw;
mod reader;
mod secrets;
mod sectigo;
mod shared;
mod storage;
mod typos;
pub mod variables;

use datadog::PREFIX as DATADOG_PREFIX;
use environment::Environment;
pub use mistakes::{ConfigError, Mistake};
use mistakes::{Mistakes, Noted};
use reader::Reader;
pub use storage::Storage;
use variables::Variable;

/// Everything that the program is told, validated. `D` is what is known of Datadog: a dry run needs the labels alone.
#[derive(Debug)]
pub struct Config<D = destination::datadog::Settings> {
    /// Where events come from.
    pub sectigo: source::sectigo::Settings,
    /// Where events go to.
    pub datadog: D,
    /// Where the state is kept.
    pub storage: Storage,
    /// How the engine is to work.
    pub sync: sync::Settings,
    /// How servers are called.
    pub http: http::Settings,
    /// Where probes and Prometheus are answered; none to answer nobody.
    pub listen: Option<SocketAddr>,
    /// How the program logs.
    pub telemetry: telemetry::Settings,
    /// What is allowed but hardly meant, to be logged.
    pub warnings: Vec<String>,
}

impl Config {
    /// Reads everything. Of a name given twice the first one holds, so what has precedence comes first.
    pub fn from_pairs(pairs: impl IntoIterator<Item = (OsString, OsString)>) -> Result<Self, ConfigError> {
        Self::read(pairs, datadog::settings)
    }

    /// The secrets that came from files, and can be read again.
    pub fn secret_files(&self) -> Vec<Secret> {
        let secrets = [Some(&self.sectigo.client_secret), Some(&self.datadog.api_key), self.storage.secret()];
        secrets.into_iter().flatten().filter(|secret| secret.is_from_file()).cloned().collect()
    }
}

impl Config<Labels> {
    /// Reads what a dry run needs: everything but how Datadog is reached, the API key included.
    pub fn for_dry_run(pairs: impl IntoIterator<Item = (OsString, OsString)>) -> Result<Self, ConfigError> {
        Self::read(pairs, |raw, _, reader| datadog::labels(&raw, reader))
    }
}

impl<D> Config<D> {
    fn read(
        pairs: impl IntoIterator<Item = (OsString, OsString)>,
        datadog: impl FnOnce(raw::Datadog, Result<Option<PathBuf>, Noted>, &mut Reader<'_>) -> Result<D, Noted>,
    ) -> Result<Self, ConfigError> {
        let mut mistakes = Mistakes::default();
        let environment = Environment::gather(pairs, |_| true, &mut mistakes);
        let built = Self::build(&environment, &mut mistakes, datadog);
        // A misspelt name is often the cause of another one that is missing.
        let names = environment.strangers().filter_map(typos::warning).collect::<Vec<_>>();
        let mut config = mistakes.conclude(built, &names)?;
        config.warnings = config.doubts();
        config.warnings.extend(names);
        Ok(config)
    }

    fn build(
        environment: &Environment,
        mistakes: &mut Mistakes,
        datadog: impl FnOnce(raw::Datadog, Result<Option<PathBuf>, Noted>, &mut Reader<'_>) -> Result<D, Noted>,
    ) -> Result<Self, Noted> {
        let raw: raw::Shared = raw::read(sectigo::PREFIX, environment, mistakes)?;
        let raw_sectigo = raw::read(sectigo::PREFIX, environment, mistakes)?;
        let raw_datadog = raw::read(DATADOG_PREFIX, environment, mistakes)?;

        // All parts are read before the first one that failed ends this: each adds its own mistakes.
        let mut reader = Reader::new(sectigo::PREFIX, mistakes);
        let telemetry = shared::telemetry(&raw, &mut reader);
        let http = shared::http(&raw, &mut reader);
        let listen = shared::listen(&raw, &mut reader);
        let sync = shared::sync(&raw, &mut reader);
        let storage = storage::storage(&raw, environment, &mut reader);
        let rejected = storage::rejected_path(&raw, storage.as_ref().ok(), sectigo::REJECTED_FILE, &mut reader);
        let lookback = shared::lookback(&raw, &mut reader);
        let sectigo = sectigo::settings(raw_sectigo, lookback, &mut reader);
        let datadog = datadog(raw_datadog, rejected, &mut Reader::new(DATADOG_PREFIX, mistakes));
        environment.proxies().check(mistakes)?;
        Ok(Self {
            sectigo: sectigo?,
            datadog: datadog?,
            storage: storage?,
            sync: sync?,
            http: http?,
            listen: listen?,
            telemetry: telemetry?,
            warnings: Vec::new(),
        })
    }

    /// What follows from several settings together and is hardly meant.
    fn doubts(&self) -> Vec<String> {
        let mut doubts = Vec::new();
        if self.sync.interval > Duration::from_hours(17) {
            doubts.push(
                "SECTIGO_AUDIT_SYNC_INTERVAL is over 17h: Datadog takes no time that is over 18h back, so the oldest \
                 entries of each synchronisation will show the time of sending"
                    .to_owned(),
            );
        }
        if matches!(self.storage, Storage::Memory) && self.sync.mode == Mode::Once {
            doubts.push(
                "SECTIGO_AUDIT_STORAGE_BACKEND=memory with SECTIGO_AUDIT_SYNC_LOOP=false: nothing is remembered \
                 between runs, so each one starts again at SECTIGO_AUDIT_SYNC_LOOKBACK"
                    .to_owned(),
            );
        }
        if !self.storage.is_conditional() {
            doubts.push(
                "SECTIGO_AUDIT_S3_UNCONDITIONAL=true: if a second instance works on the same state, the two may undo each other's \
                 progress, and events may be sent twice"
                    .to_owned(),
            );
        }
        doubts
    }
}

/// The part of the configuration that working on the state alone needs: no keys, no servers.
#[derive(Debug)]
pub struct StateConfig {
    /// Where the state is kept.
    pub storage: Storage,
    /// How far back the very first synchronisation goes.
    pub lookback: Duration,
    /// How the program logs.
    pub telemetry: telemetry::Settings,
}

impl StateConfig {
    /// Reads this part, blind to all other variables.
    pub fn from_pairs(pairs: impl IntoIterator<Item = (OsString, OsString)>) -> Result<Self, ConfigError> {
        let mut mistakes = Mistakes::default();
        let wanted = [&shared::LOGGING[..], &[shared::LOOKBACK]].concat();
        let wanted = |row: &Variable| storage::reads(row.name) || is_one_of(row.name, &wanted);
        let environment = Environment::gather(pairs, wanted, &mut mistakes);
        let built = Self::build(&environment, &mut mistakes);
        mistakes.conclude(built, &[])
    }

    fn build(environment: &Environment, mistakes: &mut Mistakes) -> Result<Self, Noted> {
        let raw: raw::Shared = raw::read(sectigo::PREFIX, environment, mistakes)?;
        let mut reader = Reader::new(sectigo::PREFIX, mistakes);
        let storage = storage::storage(&raw, environment, &mut reader);
        let lookback = shared::lookback(&raw, &mut reader);
        let telemetry = shared::telemetry(&raw, &mut reader);
        Ok(Self { storage: storage?, lookback: lookback?, telemetry: telemetry? })
    }
}

/// The part of the configuration that asking a daemon for its health needs.
#[derive(Debug)]
pub struct HealthConfig {
    /// Where the daemon listens.
    pub listen: SocketAddr,
}

impl HealthConfig {
    /// Reads this part, blind to all other variables.
    pub fn from_pairs(pairs: impl IntoIterator<Item = (OsString, OsString)>) -> Result<Self, ConfigError> {
        let mut mistakes = Mistakes::default();
        let wanted = |row: &Variable| is_one_of(row.name, &[shared::LISTEN]);
        let environment = Environment::gather(pairs, wanted, &mut mistakes);
        let built = Self::build(&environment, &mut mistakes);
        mistakes.conclude(built, &[])
    }

    fn build(environment: &Environment, mistakes: &mut Mistakes) -> Result<Self, Noted> {
        let raw: raw::Shared = raw::read(sectigo::PREFIX, environment, mistakes)?;
        let listen = shared::listening(&raw, &mut Reader::new(sectigo::PREFIX, mistakes))?;
        Ok(Self { listen })
    }
}

fn is_one_of(name: &str, suffixes: &[&str]) -> bool {
    name.strip_prefix(sectigo::PREFIX).is_some_and(|suffix| suffixes.contains(&suffix))
}

#[cfg(test)]
mod tests;
