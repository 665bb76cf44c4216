//! Pipelines: reads the configuration of one or several, and builds the parts that run.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::component::{Claim, Configured, Context};
use crate::config::{self, ConfigError, Environment, Mistakes, Noted, Owner, Reader, Variable};
use crate::dead_letter::{self, DeadLetters};
use crate::destination::{Archive, Destination};
use crate::engine::{self, Mode, Parts};
use crate::pipeline_name::PipelineName;
use crate::screen::{self, Screen};
use crate::secret::Secret;
use crate::source::{self, Source};
use crate::state::{self, StateStore, needless};
use crate::telemetry::liveness::{Liveness, Pace};
use crate::variable_name::VariableName;
use crate::{http, notice, telemetry};
use registry::{BACKEND, PIPELINES, Wanted};

pub mod registry;
pub(crate) mod supervisor;
#[cfg(test)]
mod tests;

/// The whole configuration of the program, validated.
#[derive(Debug)]
pub(crate) struct Config {
    /// The pipelines to run.
    pub(crate) pipelines: Vec<Pipeline>,
    /// The address that answers probes and Prometheus, if any.
    pub(crate) listen: Option<SocketAddr>,
    /// The variable that sets the address.
    pub(crate) listen_variable: VariableName,
    /// The address to send notices to, if any.
    pub(crate) notice: Option<Secret>,
    /// How the program logs.
    pub(crate) telemetry: telemetry::Settings,
    /// Warnings to log, about settings that are valid but probably not intended.
    pub(crate) warnings: Vec<String>,
}

/// A pipeline with valid variables.
#[derive(Debug)]
pub(crate) struct Pipeline {
    /// The name of the pipeline.
    pub(crate) name: PipelineName,
    /// The settings of its engine.
    pub(crate) settings: engine::Settings,
    /// Whether clients connect to its source.
    pub(crate) is_server: bool,
    source: Configured<dyn Source>,
    destination: Configured<dyn Destination>,
    /// Its state store.
    pub(crate) store: Store,
    /// The settings of its HTTP clients.
    pub(crate) http: http::Settings,
    /// Its dead letters.
    pub(crate) dead_letters: DeadLetters,
    screen: Screen,
}

/// The state store of a pipeline.
#[derive(Debug)]
pub(crate) struct Store {
    /// The kind of store.
    pub(crate) kind: &'static state::Kind,
    /// The variable that chooses it.
    pub(crate) variable: VariableName,
    /// Whether the pipeline stores nothing, because a queue of the source's server is the cursor.
    pub(crate) is_needless: bool,
    configured: state::ConfiguredStore,
}

/// The purpose of a configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// To deliver.
    Run,
    /// To print what would be delivered. No destination is called, so none needs its credentials.
    DryRun,
    /// To deliver from a function of AWS Lambda. Its memory and folders may be gone at the next invocation.
    #[cfg_attr(not(feature = "lambda"), expect(dead_code, reason = "this build is no function"))]
    Lambda,
}

/// The pipelines that the environment names.
pub(crate) fn wanted(environment: &Environment) -> Result<Vec<Wanted>, ConfigError> {
    config::read(environment, &Owner::process(), |reader| {
        // Other empty variables count as not set. Here the default pipeline would run although nobody chose it.
        if reader.is_blank(&PIPELINES.spec) {
            return Err(reader.refuse(&PIPELINES.spec, "names no pipeline; remove it for the default"));
        }
        reader.get(&PIPELINES)
    })
}

/// The environment of this process.
pub(crate) fn environment() -> Environment {
    Environment::from_pairs(std::env::vars_os())
}

/// Refuses what two sources need for themselves. Otherwise the one that starts second would never work.
fn refuse_shared_claims(environment: &Environment, wanted: &[Wanted], mistakes: &mut Mistakes) {
    let mut taken: Vec<(&Wanted, Claim)> = Vec::new();
    for pipeline in wanted {
        let Some(claims) = pipeline.source.server else { continue };
        let owner = pipeline.owner();
        let mut reader = Reader::new(environment, &owner, mistakes);
        for claim in claims(&mut reader) {
            if let Some((other, _)) = taken.iter().find(|(_, earlier)| earlier.thing.excludes(&claim.thing)) {
                let rule = format!(
                    "the pipelines {} and {} cannot both use {}: a source to which others push has one destination; for a second one, give it a \
                     label, and an address and a folder of its own",
                    other.name, pipeline.name, claim.thing
                );
                reader.refuse(claim.variable, rule);
            }
            taken.push((pipeline, claim));
        }
    }
}

/// The owner of the process's variables. It has the source's prefix if only one source runs.
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
    /// The owner of the pipeline's variables.
    pub(crate) fn owner(&self) -> Owner {
        Owner::source(self.source.name, self.label.as_deref())
            .with_aliases(self.source.aliases)
            .with_aliases(registry::aliases(self.source, self.destination))
    }
}

impl Config {
    /// Reads everything for the `wanted` pipelines. The error names every mistake of every pipeline.
    pub(crate) fn read(environment: &Environment, wanted: &[Wanted], purpose: Purpose) -> Result<Self, ConfigError> {
        let owners: Vec<_> = wanted.iter().map(Wanted::owner).collect();
        // A misspelt variable is often the reason why another one is missing.
        let mut warnings = config::strangers(environment, &owners, &registry::sections());
        let mut mistakes = Mistakes::default();
        let pipelines: Vec<_> = wanted
            .iter()
            .map(|wanted| {
                let (owner, warnings) = (wanted.owner(), &mut warnings);
                Pipeline::read(wanted, &mut Reader::new(environment, &owner, &mut mistakes), purpose, warnings)
            })
            .collect();
        refuse_shared_claims(environment, wanted, &mut mistakes);
        let owner = process_owner(wanted);
        let mut reader = Reader::new(environment, &owner, &mut mistakes);
        let listen = reader.find(&telemetry::variables::LISTEN);
        let telemetry = telemetry::variables::settings(&mut reader);
        let listen_variable = reader.name(&telemetry::variables::LISTEN.spec);
        let notice = reader.find_secret(&notice::URL);
        let proxies = reader.check_proxies();
        if matches!(purpose, Purpose::Lambda) {
            let listens = matches!(listen, Ok(Some(_))).then_some(&telemetry::variables::LISTEN.spec);
            let notifies = matches!(notice, Ok(Some(_))).then_some(&notice::URL.spec);
            let unused = listens.into_iter().chain(notifies);
            warnings.extend(unused.map(|spec| format!("an AWS Lambda function does not use {}", reader.name(spec))));
        }
        let read = || {
            proxies?;
            let pipelines = pipelines.into_iter().collect::<Result<_, Noted>>()?;
            let (listen, notice, telemetry) = (listen?, notice?, telemetry?);
            Ok(Self { pipelines, listen, listen_variable, notice, telemetry, warnings: Vec::new() })
        };
        let config = mistakes.conclude(read(), &warnings)?;
        Ok(Self { warnings, ..config })
    }

    /// The secrets that came from files and can be read again.
    pub(crate) fn secret_files(&self) -> Vec<Secret> {
        let all = self.pipelines.iter().flat_map(Pipeline::secrets).chain(&self.notice);
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
        // Every part is read before the first failed one ends this function, so that each adds its own mistakes.
        let source = (wanted.source.read)(reader);
        if matches!(purpose, Purpose::Lambda) && wanted.source.server.is_some() {
            let rule = format!(
                "an AWS Lambda function cannot run the pipeline {}: nobody can connect to a function; run it as a daemon, and take it \
                 out of this list",
                wanted.name
            );
            return Err(reader.refuse(&PIPELINES.spec, rule));
        }
        let destination = match purpose {
            Purpose::Run | Purpose::Lambda => (wanted.destination.read)(reader, wanted.source),
            Purpose::DryRun => (wanted.destination.preview)(reader, wanted.source),
        };
        let queue = (wanted.source.queue)(reader);
        let store = Store::read(reader, wanted).and_then(|store| match purpose {
            Purpose::Lambda if !store.is_needless => store.lasting_in_lambda(reader),
            _ => Ok(store),
        });
        let mut settings = engine::variables::settings(reader);
        let own = if let Ok(Some(_)) = queue { Some(source::QUEUE_INTERVAL) } else { wanted.source.interval };
        if let (Some(own), Ok(settings)) = (own, &mut settings)
            && !reader.is_given(&engine::variables::INTERVAL.spec)
        {
            settings.interval = own;
        }
        let http = http::variables::settings(reader);
        let screen = screen::read(reader);
        let dead_letters = dead_letters(wanted, reader, store.as_ref().ok());
        let interval = within(wanted, reader, &engine::variables::INTERVAL);
        let lookback = within(wanted, reader, &source::variables::LOOKBACK);
        if let (Some(oldest), Ok(Some(interval))) = (wanted.destination.oldest, &interval)
            && *interval > oldest.sent
        {
            let variable = reader.name(&engine::variables::INTERVAL.spec);
            let oldest = config::parse::short(oldest.accepted);
            warnings.push(format!(
                "{variable} is near {oldest}: {} takes no older event with its own time, so the oldest events of each sync will carry the \
                 time of sending",
                wanted.destination.title
            ));
        }
        let (store, settings) = (store?, settings?);
        if store.is_forgetful() && settings.mode == Mode::Once {
            let (backend, sync_loop) = (&store.variable, reader.name(&engine::variables::LOOP.spec));
            warnings.push(format!(
                "{backend}={} with {sync_loop}=false: the state is lost at the end of each run, so each run starts again from the lookback",
                store.kind.name
            ));
        }
        interval?;
        lookback?;
        let (screen, dead_letters) = (screen?, dead_letters?);
        Ok(Self {
            name: wanted.name.clone(),
            settings,
            is_server: wanted.source.server.is_some(),
            source: source?,
            destination: destination?,
            store,
            http: http?,
            dead_letters: dead_letters.redacting(screen.redaction().cloned()),
            screen,
        })
    }

    fn secrets(&self) -> impl Iterator<Item = &Secret> {
        let components = [self.source.secrets(), self.destination.secrets(), self.store.configured.secrets()];
        components.into_iter().flatten().chain(self.screen.secret())
    }

    /// How long its syncs and requests take at most.
    pub(crate) fn pace(&self) -> Pace {
        Pace { interval: self.settings.interval, exchange: self.http.timeout }
    }

    /// Makes the context from which its components are built.
    pub(crate) fn context(&self) -> Context {
        Context::new(self.name.clone(), self.http.clone(), self.dead_letters.clone())
    }

    /// Makes new parts for an engine, with this `store`.
    pub(crate) fn parts(&self, context: &Context, store: Arc<dyn StateStore>, liveness: Liveness) -> Parts {
        Parts {
            pipeline: self.name.clone(),
            source: self.source.build(context),
            destination: self.destination.build(context),
            store,
            screen: self.screen.clone(),
            clock: context.clock.clone(),
            metrics: context.metrics.clone(),
            liveness,
        }
    }
}

impl Store {
    /// Reads which store a pipeline uses, and the variables of that store.
    pub(crate) fn read(reader: &mut Reader<'_>, wanted: &Wanted) -> Result<Self, Noted> {
        let queue = (wanted.source.queue)(reader);
        let kind = reader.get(&BACKEND)?;
        let configured = (kind.read)(reader, &wanted.name)?;
        // An archive always needs a state: the state holds the end of its hash chain, and the lease leaves the chain one writer.
        let is_needless = queue?.is_some_and(|queue| queue.is_the_cursor) && wanted.destination.archive.is_none();
        Ok(Self { kind, variable: reader.name(&BACKEND.spec), is_needless, configured })
    }

    /// Builds the store, without calling it.
    pub(crate) fn build(&self) -> Arc<dyn StateStore> {
        if self.is_needless { Arc::new(needless::store()) } else { self.configured.build(&()) }
    }

    /// Whether the pipeline needs a state, and loses it when the process ends.
    pub(crate) fn is_forgetful(&self) -> bool {
        !self.kind.is_lasting && !self.is_needless
    }

    /// Refuses a store in which a function of AWS Lambda would not find its state again at the next invocation. A folder lasts only on a
    /// mounted file system, which Lambda mounts below `/mnt`: docs.aws.amazon.com/lambda/latest/dg/configuration-filesystem.html.
    fn lasting_in_lambda(self, reader: &mut Reader<'_>) -> Result<Self, Noted> {
        let is_lasting = match (self.kind.folder)(reader) {
            Some(folder) => folder.starts_with("/mnt"),
            None => self.kind.is_lasting,
        };
        if is_lasting {
            return Ok(self);
        }
        let rule = "would lose its state between two invocations of an AWS Lambda function: use s3, redis or gcs, or a folder in a file \
                    system that is mounted below /mnt";
        Err(reader.refuse(&BACKEND.spec, rule))
    }
}

/// Reads the file for dead letters. By default it is beside the state, if the state is in a local folder.
fn dead_letters(wanted: &Wanted, reader: &mut Reader<'_>, store: Option<&Store>) -> Result<DeadLetters, Noted> {
    let given = reader.find(&dead_letter::PATH)?;
    let folder = store.and_then(|store| (store.kind.folder)(reader));
    let file = || Some(folder?.join(format!("{}.dead-letters.ndjson", wanted.name.file_stem())));
    let variable = reader.name(&dead_letter::PATH.spec);
    Ok(DeadLetters::new(wanted.name.clone(), given.or_else(file), variable))
}

/// Reads a time. Refuses one above the greatest age at which the destination takes events with their own time. None if another mistake
/// was noted or the destination has no such age.
fn within(wanted: &Wanted, reader: &mut Reader<'_>, variable: &Variable<Duration>) -> Result<Option<Duration>, Noted> {
    let (Some(oldest), Ok(time)) = (wanted.destination.oldest, reader.get(variable)) else { return Ok(None) };
    if time <= oldest.accepted {
        return Ok(Some(time));
    }
    let oldest = config::parse::short(oldest.accepted);
    let rule = format!("must be at most {oldest}: {} takes no older event with its own time", wanted.destination.title);
    Err(reader.refuse(&variable.spec, rule))
}

/// Reads a part of the configuration of each of the `wanted` pipelines that has it, and how the program logs.
fn read_each<T>(
    environment: &Environment,
    wanted: &[Wanted],
    read: impl Fn(&mut Reader<'_>, &Wanted) -> Option<Result<T, Noted>>,
) -> Result<(Vec<T>, telemetry::Settings), ConfigError> {
    let mut mistakes = Mistakes::default();
    let read = |wanted: &Wanted| read(&mut Reader::new(environment, &wanted.owner(), &mut mistakes), wanted);
    let parts: Vec<_> = wanted.iter().filter_map(read).collect();
    let owner = process_owner(wanted);
    let telemetry = telemetry::variables::settings(&mut Reader::new(environment, &owner, &mut mistakes));
    let built = parts.into_iter().collect::<Result<_, _>>().and_then(|parts| Ok((parts, telemetry?)));
    mistakes.conclude(built, &[])
}

/// The part of a pipeline's configuration that commands on its state need: no keys, no servers.
#[derive(Debug)]
pub(crate) struct StateConfig {
    /// The pipeline.
    pub(crate) name: PipelineName,
    /// The kind of its source, which can read its cursor.
    pub(crate) source: &'static source::Kind,
    /// The store of its state.
    pub(crate) store: Store,
}

impl StateConfig {
    /// Reads this part for each of the `wanted` pipelines, and how the program logs. It ignores mistakes in all other variables.
    pub(crate) fn read(
        environment: &Environment,
        wanted: &[Wanted],
    ) -> Result<(Vec<Self>, telemetry::Settings), ConfigError> {
        read_each(environment, wanted, |reader, wanted| Some(Self::of(reader, wanted)))
    }

    /// Reads this part of one pipeline for another `backend`.
    pub(crate) fn for_backend(environment: Environment, wanted: &Wanted, backend: &str) -> Result<Self, ConfigError> {
        let names = wanted.owner().names(&BACKEND.spec);
        let first = names.first().map_or(BACKEND.spec.name, String::as_str);
        let environment = environment.with(first, backend);
        config::read(&environment, &wanted.owner(), |reader| Self::of(reader, wanted))
    }

    fn of(reader: &mut Reader<'_>, wanted: &Wanted) -> Result<Self, Noted> {
        Ok(Self { name: wanted.name.clone(), source: wanted.source, store: Store::read(reader, wanted)? })
    }
}

/// The part of a pipeline's configuration that is needed to prove its archive.
#[derive(Debug)]
pub(crate) struct ArchiveConfig {
    /// The pipeline.
    pub(crate) name: PipelineName,
    /// The store of its state.
    pub(crate) store: Store,
    archive: Configured<dyn Archive>,
    http: http::Settings,
}

impl ArchiveConfig {
    /// Reads this part for each of the `wanted` pipelines that has an archive, and how the program logs. It ignores mistakes in all other
    /// variables.
    pub(crate) fn read(
        environment: &Environment,
        wanted: &[Wanted],
    ) -> Result<(Vec<Self>, telemetry::Settings), ConfigError> {
        read_each(environment, wanted, |reader, wanted| {
            let read_archive = wanted.destination.archive?;
            let archive = read_archive(reader, wanted.source);
            let store = Store::read(reader, wanted);
            let http = http::variables::settings(reader);
            let read = || Ok(Self { name: wanted.name.clone(), store: store?, archive: archive?, http: http? });
            Some(read())
        })
    }

    /// Builds the archive, without calling it.
    pub(crate) fn archive(&self) -> Arc<dyn Archive> {
        let dead_letters = DeadLetters::new(self.name.clone(), None, dead_letter::PATH.spec.name.into());
        self.archive.build(&Context::new(self.name.clone(), self.http.clone(), dead_letters))
    }
}

/// The part of the configuration that is needed to ask a daemon for its health.
#[derive(Debug)]
pub(crate) struct HealthConfig {
    /// The address at which the daemon listens.
    pub(crate) listen: SocketAddr,
    /// The variable that sets the address.
    pub(crate) variable: VariableName,
}

impl HealthConfig {
    /// Reads this part. It ignores mistakes in all other variables.
    pub(crate) fn read(environment: &Environment, wanted: &[Wanted]) -> Result<Self, ConfigError> {
        config::read(environment, &process_owner(wanted), |reader| {
            let listen = reader.get(&telemetry::variables::LISTEN)?;
            Ok(Self { listen, variable: reader.name(&telemetry::variables::LISTEN.spec) })
        })
    }
}
