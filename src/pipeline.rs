//! Pipelines: from the names and variables of the configuration to parts that run, one or several in a process.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::component::{Configured, Context};
use crate::config::{self, ConfigError, Environment, Mistakes, Noted, Owner, Reader, Variable};
use crate::dead_letter::{self, DeadLetters};
use crate::destination::{Archive, Destination};
use crate::engine::{self, Mode, Parts};
use crate::pipeline_name::PipelineName;
use crate::secret::Secret;
use crate::source::{self, Source};
use crate::state::{self, StateStore};
use crate::telemetry::liveness::{Liveness, Pace};
use crate::variable_name::VariableName;
use crate::{http, telemetry};
use registry::{BACKEND, PIPELINES, Wanted};

pub mod registry;
pub(crate) mod supervisor;
#[cfg(test)]
mod tests;

/// Everything that the program is given, validated.
#[derive(Debug)]
pub(crate) struct Config {
    /// What runs.
    pub(crate) pipelines: Vec<Pipeline>,
    /// Where probes and Prometheus are answered; none to answer nobody.
    pub(crate) listen: Option<SocketAddr>,
    /// The variable that sets it.
    pub(crate) listen_variable: VariableName,
    /// How the program logs.
    pub(crate) telemetry: telemetry::Settings,
    /// What is allowed but hardly meant, to be logged.
    pub(crate) warnings: Vec<String>,
}

/// A pipeline of which every variable was read and is valid.
#[derive(Debug)]
pub(crate) struct Pipeline {
    /// Its name.
    pub(crate) name: PipelineName,
    /// How its engine works.
    pub(crate) settings: engine::Settings,
    source: Configured<dyn Source>,
    destination: Configured<dyn Destination>,
    store: Store,
    http: http::Settings,
    dead_letters: DeadLetters,
}

/// The state store of a pipeline.
#[derive(Debug)]
pub(crate) struct Store {
    /// The kind of store.
    pub(crate) kind: &'static state::Kind,
    /// The variable that chose it.
    pub(crate) variable: VariableName,
    configured: state::ConfiguredStore,
}

/// What a configuration is read for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// To deliver.
    Run,
    /// To print what would be delivered: no destination is called, so none needs its credentials.
    DryRun,
    /// To deliver from a function of AWS Lambda, whose memory and folders may be gone at the next invocation.
    #[cfg_attr(not(feature = "lambda"), expect(dead_code, reason = "this build is no function"))]
    Lambda,
}

/// The pipelines that the environment names.
pub(crate) fn wanted(environment: &Environment) -> Result<Vec<Wanted>, ConfigError> {
    config::read(environment, &Owner::process(), &[], |reader| reader.get(&PIPELINES))
}

/// The environment of this process.
pub(crate) fn environment() -> Environment {
    Environment::from_pairs(std::env::vars_os().collect::<Vec<(OsString, OsString)>>())
}

/// Whose prefix may stand before the variables of the process: the source's, where only one runs.
fn process_owner(wanted: &[Wanted]) -> Owner {
    match wanted {
        [first, rest @ ..]
            if rest.iter().all(|other| (other.source.name, &other.label) == (first.source.name, &first.label)) =>
        {
            first.owner()
        }
        _ => Owner::process(),
    }
}

impl Wanted {
    /// Whose variables are read for it.
    pub(crate) fn owner(&self) -> Owner {
        Owner::source(self.source.name, self.label.as_deref())
            .with_aliases(self.source.aliases)
            .with_aliases(registry::aliases(self.source, self.destination))
            .with_default(&engine::variables::INTERVAL.spec, self.source.interval)
    }
}

impl Config {
    /// Reads everything for the `wanted` pipelines. The error names every mistake of all of them.
    pub(crate) fn read(environment: &Environment, wanted: &[Wanted], purpose: Purpose) -> Result<Self, ConfigError> {
        let owners: Vec<_> = wanted.iter().map(Wanted::owner).collect();
        // A misspelt name is often the cause of another one that is missing.
        let mut warnings = config::strangers(environment, &owners, &registry::sections());
        let mut mistakes = Mistakes::default();
        let pipelines: Vec<_> = wanted
            .iter()
            .map(|wanted| {
                let (owner, warnings) = (wanted.owner(), &mut warnings);
                Pipeline::read(wanted, &mut Reader::new(environment, &owner, &mut mistakes), purpose, warnings)
            })
            .collect();
        let owner = process_owner(wanted);
        let mut reader = Reader::new(environment, &owner, &mut mistakes);
        let listen = reader.find(&telemetry::variables::LISTEN);
        let telemetry = telemetry::variables::settings(&mut reader);
        let listen_variable = reader.name(&telemetry::variables::LISTEN.spec);
        let proxies = reader.check_proxies();
        let read = || {
            proxies?;
            let pipelines = pipelines.into_iter().collect::<Result<_, Noted>>()?;
            Ok(Self { pipelines, listen: listen?, listen_variable, telemetry: telemetry?, warnings: Vec::new() })
        };
        let config = mistakes.conclude(read(), &warnings)?;
        Ok(Self { warnings, ..config })
    }

    /// The secrets that came from files, and can be read again.
    pub(crate) fn secret_files(&self) -> Vec<Secret> {
        let all = self.pipelines.iter().flat_map(Pipeline::secrets);
        all.filter(|secret| secret.is_from_file()).cloned().collect()
    }
}

impl Pipeline {
    fn read(
        wanted: &Wanted,
        reader: &mut Reader<'_>,
        purpose: Purpose,
        warnings: &mut Vec<String>,
    ) -> Result<Self, Noted> {
        // All parts are read before the first one that failed ends this: each adds its own mistakes.
        let source = (wanted.source.read)(reader);
        let destination = match purpose {
            Purpose::Run | Purpose::Lambda => (wanted.destination.read)(reader, wanted.source),
            Purpose::DryRun => (wanted.destination.preview)(reader, wanted.source),
        };
        let store = Store::read(reader, &wanted.name).and_then(|store| match purpose {
            Purpose::Lambda => store.lasting_in_lambda(reader),
            Purpose::Run | Purpose::DryRun => Ok(store),
        });
        let settings = engine::variables::settings(reader);
        let http = http::variables::settings(reader);
        let dead_letters = dead_letters(wanted, reader, store.as_ref().ok());
        let interval = within(wanted, reader, &engine::variables::INTERVAL);
        let lookback = within(wanted, reader, &source::variables::LOOKBACK);
        if let (Some(oldest), Ok(Some(interval))) = (wanted.destination.oldest, &interval)
            && *interval > oldest.saturating_sub(Duration::from_hours(1))
        {
            let (variable, oldest) = (reader.name(&engine::variables::INTERVAL.spec), config::parse::short(oldest));
            warnings.push(format!(
                "{variable} is near {oldest}: {} takes no older event with its own time, so the oldest events of each sync will carry the \
                 time of sending",
                wanted.destination.title
            ));
        }
        let (store, settings) = (store?, settings?);
        if !store.kind.is_lasting && settings.mode == Mode::Once {
            let (backend, sync_loop) = (&store.variable, reader.name(&engine::variables::LOOP.spec));
            warnings.push(format!(
                "{backend}={} with {sync_loop}=false: the state is lost at the end of each run, so each run begins with the lookback again",
                store.kind.name
            ));
        }
        interval?;
        lookback?;
        Ok(Self {
            name: wanted.name.clone(),
            settings,
            source: source?,
            destination: destination?,
            store,
            http: http?,
            dead_letters: dead_letters?,
        })
    }

    fn secrets(&self) -> impl Iterator<Item = &Secret> {
        [self.source.secrets(), self.destination.secrets(), self.store.configured.secrets()].into_iter().flatten()
    }

    /// How fast it is expected to be.
    pub(crate) fn pace(&self) -> Pace {
        Pace { interval: self.settings.interval, exchange: self.http.timeout }
    }

    /// The store, and whether it outlives the process.
    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    /// What its components are built from.
    pub(crate) fn context(&self) -> Context {
        Context::new(self.name.clone(), self.http.clone(), self.dead_letters.clone())
    }

    /// New parts for an engine, with this `store`.
    pub(crate) fn parts(&self, context: &Context, store: Arc<dyn StateStore>, liveness: Liveness) -> Parts {
        Parts {
            pipeline: self.name.clone(),
            source: self.source.build(context),
            destination: self.destination.build(context),
            store,
            clock: context.clock.clone(),
            metrics: context.metrics.clone(),
            liveness,
        }
    }
}

impl Store {
    /// Reads which store holds the state of `pipeline`, and the variables of that store.
    pub(crate) fn read(reader: &mut Reader<'_>, pipeline: &PipelineName) -> Result<Self, Noted> {
        let kind = reader.get(&BACKEND)?;
        let configured = (kind.read)(reader, pipeline)?;
        Ok(Self { kind, variable: reader.name(&BACKEND.spec), configured })
    }

    /// Builds it. Nothing is called yet.
    pub(crate) fn build(&self) -> Arc<dyn StateStore> {
        self.configured.build(&())
    }

    /// The same store, where a function of AWS Lambda finds its state again at the next invocation. A folder lasts there only on a mounted
    /// file system, which Lambda mounts below `/mnt`: docs.aws.amazon.com/lambda/latest/dg/configuration-filesystem.html.
    fn lasting_in_lambda(self, reader: &mut Reader<'_>) -> Result<Self, Noted> {
        let is_lasting = match (self.kind.folder)(reader) {
            Some(folder) => folder.starts_with("/mnt"),
            None => self.kind.is_lasting,
        };
        if is_lasting {
            return Ok(self);
        }
        let rule = "would lose its state between two invocations of an AWS Lambda function: use s3, redis or gcs, or a folder of a file \
                    system that is mounted below /mnt";
        Err(reader.refuse(&BACKEND.spec, rule))
    }
}

/// The file for dead letters is beside the state, where the state is in a folder of this machine.
fn dead_letters(wanted: &Wanted, reader: &mut Reader<'_>, store: Option<&Store>) -> Result<DeadLetters, Noted> {
    let given = reader.find(&dead_letter::PATH)?;
    let folder = store.and_then(|store| (store.kind.folder)(reader));
    let file = || Some(folder?.join(format!("{}.dead-letters.ndjson", wanted.name.file_stem())));
    let variable = reader.name(&dead_letter::PATH.spec);
    Ok(DeadLetters::new(wanted.name.clone(), given.or_else(file), variable))
}

/// The time, where it is read without a mistake. Refuses one longer than the age up to which the destination takes events with their own
/// time.
fn within(wanted: &Wanted, reader: &mut Reader<'_>, variable: &Variable<Duration>) -> Result<Option<Duration>, Noted> {
    let (Some(oldest), Ok(time)) = (wanted.destination.oldest, reader.get(variable)) else { return Ok(None) };
    if time <= oldest {
        return Ok(Some(time));
    }
    let oldest = config::parse::short(oldest);
    let rule = format!("must be at most {oldest}: {} takes no older event with its own time", wanted.destination.title);
    Err(reader.refuse(&variable.spec, rule))
}

/// The part of a pipeline's configuration that working on its state needs: no keys, no servers.
#[derive(Debug)]
pub(crate) struct StateConfig {
    /// The pipeline.
    pub(crate) name: PipelineName,
    /// The kind of its source, which understands its cursor.
    pub(crate) source: &'static source::Kind,
    /// Where its state is stored.
    pub(crate) store: Store,
    /// How far back the very first sync goes.
    pub(crate) lookback: Duration,
}

impl StateConfig {
    /// Reads this part for each of the `wanted` pipelines, blind to all other variables, and how the program logs.
    pub(crate) fn read(
        environment: &Environment,
        wanted: &[Wanted],
    ) -> Result<(Vec<Self>, telemetry::Settings), ConfigError> {
        let mut mistakes = Mistakes::default();
        let read = |wanted: &Wanted, mistakes: &mut Mistakes| {
            let owner = wanted.owner();
            let reader = &mut Reader::new(environment, &owner, mistakes);
            let store = Store::read(reader, &wanted.name);
            let lookback = reader.get(&source::variables::LOOKBACK);
            Ok(Self { name: wanted.name.clone(), source: wanted.source, store: store?, lookback: lookback? })
        };
        let states: Vec<Result<_, Noted>> = wanted.iter().map(|wanted| read(wanted, &mut mistakes)).collect();
        let owner = process_owner(wanted);
        let telemetry = telemetry::variables::settings(&mut Reader::new(environment, &owner, &mut mistakes));
        let built = states.into_iter().collect::<Result<_, _>>().and_then(|states| Ok((states, telemetry?)));
        mistakes.conclude(built, &[])
    }

    /// The same of one pipeline for another `backend`.
    pub(crate) fn for_backend(environment: Environment, wanted: &Wanted, backend: &str) -> Result<Self, ConfigError> {
        let names = wanted.owner().names(&BACKEND.spec);
        let first = names.first().map_or(BACKEND.spec.name, String::as_str);
        let environment = environment.with(first, backend);
        let owner = wanted.owner();
        config::read(&environment, &owner, &[], |reader| {
            let store = Store::read(reader, &wanted.name);
            let lookback = reader.get(&source::variables::LOOKBACK);
            Ok(Self { name: wanted.name.clone(), source: wanted.source, store: store?, lookback: lookback? })
        })
    }
}

/// The part of a pipeline's configuration that proving its archive needs.
#[derive(Debug)]
pub(crate) struct ArchiveConfig {
    /// The pipeline.
    pub(crate) name: PipelineName,
    /// Where its state is stored.
    pub(crate) store: Store,
    archive: Configured<dyn Archive>,
    http: http::Settings,
}

impl ArchiveConfig {
    /// Reads this part for each of the `wanted` pipelines that has an archive, blind to all other variables, and how the program logs.
    pub(crate) fn read(
        environment: &Environment,
        wanted: &[Wanted],
    ) -> Result<(Vec<Self>, telemetry::Settings), ConfigError> {
        let mut mistakes = Mistakes::default();
        let mut read = |wanted: &Wanted| {
            let (read_archive, owner) = (wanted.destination.archive?, wanted.owner());
            let reader = &mut Reader::new(environment, &owner, &mut mistakes);
            let archive = read_archive(reader, wanted.source);
            let store = Store::read(reader, &wanted.name);
            let http = http::variables::settings(reader);
            let read = || Ok(Self { name: wanted.name.clone(), store: store?, archive: archive?, http: http? });
            Some(read())
        };
        let archives: Vec<Result<_, Noted>> = wanted.iter().filter_map(&mut read).collect();
        let owner = process_owner(wanted);
        let telemetry = telemetry::variables::settings(&mut Reader::new(environment, &owner, &mut mistakes));
        let built = archives.into_iter().collect::<Result<_, _>>().and_then(|archives| Ok((archives, telemetry?)));
        mistakes.conclude(built, &[])
    }

    /// The archive. Nothing is called yet.
    pub(crate) fn archive(&self) -> Arc<dyn Archive> {
        let dead_letters = DeadLetters::new(self.name.clone(), None, dead_letter::PATH.spec.name.into());
        self.archive.build(&Context::new(self.name.clone(), self.http.clone(), dead_letters))
    }
}

/// The part of the configuration that asking a daemon for its health needs.
#[derive(Debug)]
pub(crate) struct HealthConfig {
    /// Where the daemon listens.
    pub(crate) listen: SocketAddr,
    /// The variable that sets it.
    pub(crate) variable: VariableName,
}

impl HealthConfig {
    /// Reads this part, blind to all other variables.
    pub(crate) fn read(environment: &Environment, wanted: &[Wanted]) -> Result<Self, ConfigError> {
        config::read(environment, &process_owner(wanted), &[], |reader| {
            let listen = reader.get(&telemetry::variables::LISTEN)?;
            Ok(Self { listen, variable: reader.name(&telemetry::variables::LISTEN.spec) })
        })
    }
}
