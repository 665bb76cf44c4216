//! Lists every component. A new one needs a folder and a line here.

#[cfg(feature = "s3")]
use crate::config::Becomes;
use crate::config::{self, Alias, Preset, Scope, Section, Spec, Variable, dotenv};
use crate::pipeline_name::PipelineName;
use crate::{dead_letter, destination, engine, http, notice, screen, source, state, telemetry};

/// The kinds of sources.
pub const SOURCES: &[&source::Kind] = &[
    &source::sectigo::KIND,
    &source::digicert::KIND,
    #[cfg(feature = "s3")]
    &source::cloudtrail::KIND,
    #[cfg(feature = "teleport")]
    &source::teleport::KIND,
    #[cfg(feature = "receiver")]
    &source::receiver::KIND,
];

/// The kinds of destinations.
pub const DESTINATIONS: &[&destination::Kind] = &[
    &destination::datadog::KIND,
    #[cfg(feature = "s3")]
    &destination::s3::KIND,
    &destination::fluentd::KIND,
    &destination::stdout::KIND,
];

/// The kinds of state stores in this build.
pub const STORES: &[&state::Kind] = &[
    &state::localfs::KIND,
    #[cfg(feature = "redis")]
    &state::redis::KIND,
    #[cfg(feature = "s3")]
    &state::s3::KIND,
    #[cfg(feature = "gcs")]
    &state::gcs::KIND,
    &state::memory::KIND,
];

/// The state stores with large client libraries, which a build can leave out. The feature of each has its name.
const OPTIONAL_STORES: &[&str] = &["redis", "s3", "gcs"];

/// The destinations that a build can leave out. The feature of each has its name.
const OPTIONAL_DESTINATIONS: &[&str] = &["s3"];

/// The sources that a build can leave out, and the feature of each.
const OPTIONAL_SOURCES: &[(&str, &str)] = &[("cloudtrail", "s3"), ("teleport", "teleport"), ("receiver", "receiver")];

/// The variables of Google's script, which copies this source's audit logs to S3 and keeps its state there. Its environment configures a
/// pipeline from that source to S3. Objects go where the script writes them, and our state goes beside its own.
#[cfg(feature = "s3")]
const SCRIPT: &[Alias] = &[
    Alias::same("S3_BUCKET", destination::s3::variables::BUCKET.spec.name),
    Alias::same("S3_PREFIX", destination::s3::variables::PREFIX.spec.name),
    of_bucket(destination::s3::variables::PREFIX.spec.name, "digicert/logs"),
    of_bucket(BACKEND.spec.name, state::s3::KIND.name),
    Alias::same("S3_BUCKET", state::s3::variables::BUCKET.spec.name),
    Alias { theirs: "STATE_KEY", ours: state::s3::variables::PREFIX.spec.name, becomes: Becomes::ItsFolder },
    Alias::same("S3_PREFIX", state::s3::variables::PREFIX.spec.name),
    of_bucket(state::s3::variables::PREFIX.spec.name, "digicert/logs"),
];

/// An alias that sets `ours` to `value` if the script's bucket is set, for the script's own defaults.
#[cfg(feature = "s3")]
const fn of_bucket(ours: &'static str, value: &'static str) -> Alias {
    Alias { theirs: "S3_BUCKET", ours, becomes: Becomes::Fixed(value) }
}

/// The variables of software that the pair of source and destination replaces, apart from those that the source declares.
pub(crate) fn aliases(source: &source::Kind, destination: &destination::Kind) -> &'static [Alias] {
    #[cfg(feature = "s3")]
    if (source.name, destination.name) == (source::digicert::KIND.name, destination::s3::KIND.name) {
        return SCRIPT;
    }
    let _ = (source, destination);
    &[]
}

/// The pipelines to run.
pub(crate) const PIPELINES: Variable<Vec<Wanted>> = Variable::new(
    Scope::Process,
    "AUDITSYNC_PIPELINES",
    Preset::Value("sectigo:datadog"),
    |text, _| wanted(text),
    "Pipelines, as source:destination, separated by commas. A label tells two sources of a kind apart: source.label:destination.",
);

/// The store of the state.
pub(crate) const BACKEND: Variable<&'static state::Kind> = Variable::new(
    Scope::Shared,
    "AUDITSYNC_STORAGE_BACKEND",
    Preset::Value("localfs"),
    |text, _| store(text),
    "Where the state is stored: localfs (a folder), redis, s3, gcs, or memory (lost when the process ends).",
);

/// A pipeline that the configuration names.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    /// The name of the pipeline.
    pub(crate) name: PipelineName,
    /// The kind of its source.
    pub(crate) source: &'static source::Kind,
    /// The label that tells its source from others of the kind.
    pub(crate) label: Option<String>,
    /// The kind of its destination.
    pub(crate) destination: &'static destination::Kind,
}

/// Parses a list of pipelines.
fn wanted(text: &str) -> Result<Vec<Wanted>, String> {
    let mut all: Vec<Wanted> = Vec::new();
    for part in text.split(',').map(str::trim) {
        let one = one_wanted(part)?;
        if all.iter().any(|known| known.name == one.name) {
            return Err(format!("names the pipeline {} twice", one.name));
        }
        all.push(one);
    }
    Ok(all)
}

fn one_wanted(text: &str) -> Result<Wanted, String> {
    const RULE: &str = "must name pipelines as source:destination, separated by commas";
    let lower = text.to_ascii_lowercase();
    let (from, to) = lower.split_once(':').ok_or(RULE)?;
    let (kind, label) = from.split_once('.').map_or((from, None), |(kind, label)| (kind, Some(label)));
    let is_label =
        |label: &str| !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if label.is_some_and(|label| !is_label(label)) {
        return Err("has a label that is not made of letters, digits and underscores".to_owned());
    }
    let source = SOURCES.iter().find(|known| known.name == kind);
    if let (None, Some((name, feature))) = (source, OPTIONAL_SOURCES.iter().find(|(name, _)| *name == kind)) {
        return Err(format!("names the source {name}, which this build leaves out (the cargo feature {feature})"));
    }
    let source = source.ok_or_else(|| unknown("source", kind, SOURCES.iter().map(|known| known.name)))?;
    let destination = DESTINATIONS.iter().find(|known| known.name == to);
    if destination.is_none() && OPTIONAL_DESTINATIONS.contains(&to) {
        return Err(format!("names the destination {to}, which this build leaves out (the cargo feature {to})"));
    }
    let destination =
        destination.ok_or_else(|| unknown("destination", to, DESTINATIONS.iter().map(|known| known.name)))?;
    Ok(Wanted { name: PipelineName::of(from, to), source, label: label.map(str::to_owned), destination })
}

fn unknown(what: &str, name: &str, known: impl Iterator<Item = &'static str>) -> String {
    let known: Vec<_> = known.collect();
    let name: String = name.chars().take(40).collect();
    format!("names an unknown {what}, {name:?}; known are {}", known.join(", "))
}

/// Finds the state store called `name`.
fn store(name: &str) -> Result<&'static state::Kind, String> {
    let name = name.to_ascii_lowercase();
    if let Some(kind) = STORES.iter().find(|kind| kind.name == name) {
        return Ok(kind);
    }
    let built: Vec<_> = STORES.iter().map(|kind| kind.name).collect();
    if OPTIONAL_STORES.contains(&name.as_str()) {
        let built = built.join(", ");
        return Err(format!("this build leaves out the backend {name} (the cargo feature {name}); it has {built}"));
    }
    Err(format!("must be one of {}", built.join(", ")))
}

/// The configuration for the files in `folder`, which `auditsync certs` made for a receiver on `host`.
#[cfg(feature = "tls")]
pub(crate) fn certificates_guide(host: &str, folder: &std::path::Path) -> String {
    destination::fluentd::certificates_guide(host, folder)
}

/// The event handler's settings for its destination, and our variables for them.
#[cfg(feature = "teleport")]
const HANDLER: &[(&str, Option<&str>)] = &[
    ("fluentd-url", Some(destination::fluentd::variables::URL.spec.name)),
    ("fluentd-session-url", Some(destination::fluentd::variables::SESSION_URL.spec.name)),
    ("fluentd-ca", Some(destination::fluentd::variables::TLS.ca.spec.name)),
    ("fluentd-cert", Some(destination::fluentd::variables::TLS.certificate.spec.name)),
    ("fluentd-key", Some(destination::fluentd::variables::TLS.key.spec.name)),
    // No counterpart: auditsync uses one connection, which keeps the order of events.
    ("fluentd-max-connections", None),
];

/// Reads the settings of Teleport's event handler in `text`, and its cursor in the folder `storage`, for `auditsync import`. The pipeline
/// is the one that replaces the handler.
#[cfg(feature = "teleport")]
pub(crate) fn import(
    text: &str,
    storage: Option<&std::path::Path>,
) -> Result<(Wanted, source::teleport::import::Imported), source::teleport::import::ImportError> {
    let (source, destination) = (&source::teleport::KIND, &destination::fluentd::KIND);
    let name = PipelineName::of(source.name, destination.name);
    let mut imported = source::teleport::import::read(text, HANDLER, storage)?;
    imported.lines.insert(0, (PIPELINES.spec.name, name.to_string()));
    Ok((Wanted { name, source, label: None, destination }, imported))
}

/// The interval as the tables show it, with the defaults of single sources.
const INTERVAL: Spec = Spec {
    help: "Time from the start of one sync to the start of the next. digicert: 1h, cloudtrail: 5m, queues and receiver: 5s.",
    ..engine::variables::INTERVAL.spec
};

/// The sections of the tables, in order.
pub fn sections() -> Vec<Section> {
    let sources = SOURCES.iter().map(|kind| Section::of(kind.name, kind.title, &[kind.variables]));
    let destinations = DESTINATIONS.iter().map(|kind| Section::of(kind.name, kind.title, &[kind.variables]));
    let stores: Vec<_> = [&[&BACKEND.spec][..]].into_iter().chain(STORES.iter().map(|kind| kind.variables)).collect();
    let mut shared = [
        Section::of(
            "sync",
            "Sync",
            &[
                &[&PIPELINES.spec],
                engine::variables::VARIABLES,
                source::variables::VARIABLES,
                screen::VARIABLES,
                dead_letter::VARIABLES,
            ],
        ),
        Section::of("state", "State", &stores),
        Section::of(
            "program",
            "Program",
            &[http::variables::VARIABLES, telemetry::variables::VARIABLES, notice::VARIABLES],
        ),
    ];
    for spec in shared.iter_mut().flat_map(|section| &mut section.variables) {
        if spec.name == INTERVAL.name {
            *spec = &INTERVAL;
        }
    }
    sources.chain(destinations).chain(shared).collect()
}

/// Every variable, in the order of the tables.
pub fn variables() -> impl Iterator<Item = &'static Spec> {
    sections().into_iter().flat_map(|section| section.variables)
}

/// Tells whether `name` is one of our variables or an alias of one, and whether it carries a secret. It helps to vet `.env`.
pub(crate) fn known_in_dotenv(name: &str) -> Option<dotenv::Known> {
    let mut aliases = SOURCES.iter().flat_map(|kind| kind.aliases);
    let alias = aliases.find(|alias| alias.theirs == name);
    config::known(alias.map_or(name, |alias| alias.ours), &sections())
}

#[cfg(all(test, feature = "redis", feature = "s3", feature = "gcs", feature = "teleport", feature = "receiver"))]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    use serde_json::Value;

    use super::*;
    use crate::config::{env_example, help_text, tables};

    const AGAIN: &str = "run `UPDATE=1 cargo test --lib registry` to write them again";

    fn in_package(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
    }

    fn updating() -> bool {
        std::env::var_os("UPDATE").is_some()
    }

    /// Calls `meet` with each object in `value`, changed by one more member, and with the object's path.
    fn each_with_a_member_more(value: &Value, meet: &mut impl FnMut(&str, Value)) {
        fn paths(value: &Value, path: &str, into: &mut Vec<String>) {
            match value {
                Value::Object(members) => {
                    into.push(path.to_owned());
                    members.iter().for_each(|(name, member)| paths(member, &format!("{path}/{name}"), into));
                }
                Value::Array(items) => {
                    items.iter().enumerate().for_each(|(n, item)| paths(item, &format!("{path}/{n}"), into));
                }
                _ => {}
            }
        }
        let mut all = Vec::new();
        paths(value, "", &mut all);
        for path in all {
            let mut changed = value.clone();
            if let Some(members) = changed.pointer_mut(&path).and_then(Value::as_object_mut) {
                members.insert("newer".to_owned(), Value::Null);
            }
            meet(&path, changed);
        }
    }

    #[test]
    fn no_source_reads_a_part_of_a_cursor_that_a_newer_version_wrote() {
        let mut met = 0;
        for version in fs::read_dir(in_package("tests/program/fixtures/states")).unwrap() {
            for folder in fs::read_dir(version.unwrap().path()).unwrap() {
                let files = fs::read_dir(folder.unwrap().path()).unwrap().map(|file| file.unwrap().path());
                let is_state = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().starts_with("auditsync-");
                for path in files.filter(is_state) {
                    let state: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
                    let pipeline = state["pipeline"].as_str().unwrap();
                    let kind = SOURCES.iter().find(|kind| pipeline.starts_with(kind.name)).unwrap();
                    let reached = |cursor: Value| (kind.reached)(&serde_json::from_value(cursor).unwrap());
                    assert!(reached(state["cursor"].clone()).is_ok(), "{}", path.display());
                    each_with_a_member_more(&state["cursor"], &mut |at, cursor| {
                        met += 1;
                        assert!(reached(cursor).is_err(), "{} at {at:?}", path.display());
                    });
                }
            }
        }
        assert!(met > 30, "{met}");
    }

    #[test]
    fn each_variable_is_declared_once() {
        let mut names: Vec<_> = variables().map(|spec| spec.name).collect();
        names.sort_unstable();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count);
    }

    #[test]
    fn every_help_is_a_short_sentence_for_a_table_cell() {
        for spec in variables() {
            let help = spec.description();
            assert!(help.ends_with('.') && help.len() <= 130 && !help.contains(['|', '\n']), "{}: {help}", spec.name);
        }
    }

    #[test]
    fn the_help_of_the_interval_names_the_default_of_each_source_that_has_its_own() {
        let shown = variables().find(|spec| spec.name == INTERVAL.name).unwrap().description();
        for kind in SOURCES {
            if let Some(interval) = kind.interval {
                let own = format!("{}: {}", kind.name, config::parse::short(interval));
                assert!(shown.contains(&own), "{shown}");
            }
        }
        let queue = format!("queues and receiver: {}", config::parse::short(source::QUEUE_INTERVAL));
        assert!(shown.contains(&queue), "{shown}");
    }

    #[test]
    fn the_file_of_a_secret_that_no_server_rejects_has_its_own_sentence() {
        let own: Vec<_> = variables().filter(|spec| spec.secret && !spec.renewal.contains("rejects")).collect();
        assert_eq!(
            own.iter().map(|spec| (spec.name, spec.renewal)).collect::<Vec<_>>(),
            [
                (
                    "RECEIVER_AUDIT_API_KEYS",
                    "auditsync re-reads it on SIGHUP, and when a request comes, at most once a second."
                ),
                ("AUDITSYNC_REDACT_SALT", "auditsync re-reads it on SIGHUP."),
                ("AUDITSYNC_REDIS_ADDRESS", "auditsync reads it only at the start."),
                ("AUDITSYNC_NOTICE_URL", "auditsync re-reads it on SIGHUP."),
            ]
        );
    }

    #[test]
    fn the_example_file_shows_the_tables() {
        let path = in_package(".env.example");
        if updating() {
            fs::write(&path, env_example(&sections())).unwrap();
        }
        let stored = fs::read_to_string(&path).unwrap_or_default();
        assert!(stored == env_example(&sections()), ".env.example is not what the tables say: {AGAIN}");
    }

    #[test]
    fn the_document_of_the_configuration_shows_the_tables() {
        const MARKERS: [&str; 2] = ["<!-- variables -->\n", "<!-- /variables -->"];
        let path = in_package("docs/CONFIGURATION.md");
        let document = fs::read_to_string(&path).unwrap();
        let (before, rest) =
            document.split_once(MARKERS[0]).expect("docs/CONFIGURATION.md has no line <!-- variables -->");
        let (shown, after) =
            rest.split_once(MARKERS[1]).expect("docs/CONFIGURATION.md has no line <!-- /variables -->");
        if updating() {
            fs::write(&path, [before, MARKERS[0], &tables(&sections()), MARKERS[1], after].concat()).unwrap();
        } else {
            assert!(shown == tables(&sections()), "docs/CONFIGURATION.md is not what the tables say: {AGAIN}");
        }
    }

    #[test]
    fn the_example_file_sets_what_is_required_and_nothing_else() {
        let text = env_example(&sections());
        let pairs: Vec<_> = dotenvy::from_read_iter(text.as_bytes()).map(Result::unwrap).collect();
        let required: Vec<_> =
            variables().filter(|spec| spec.preset == Preset::Required).map(|spec| spec.name).collect();
        assert_eq!(pairs.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), required);
    }

    #[test]
    fn the_example_file_gives_each_default_when_its_line_is_uncommented() {
        let text = env_example(&sections());
        let uncommented = text.lines().map(|line| line.strip_prefix('#').unwrap_or(line));
        // A comment has a blank behind its #.
        let assignments = uncommented.filter(|line| !line.starts_with(' ')).collect::<Vec<_>>().join("\n");
        let pairs: Vec<_> = dotenvy::from_read_iter(assignments.as_bytes()).map(Result::unwrap).collect();
        for spec in variables() {
            if let Preset::Value(value) = spec.preset {
                assert!(pairs.contains(&(spec.name.to_owned(), value.to_owned())), "{}", spec.name);
            }
        }
    }

    #[test]
    fn the_help_names_every_variable_within_its_width() {
        let text = help_text(&sections());
        for spec in variables() {
            assert!(text.contains(&format!("\n  {} ", spec.name)), "{}", spec.name);
        }
        for line in text.lines() {
            assert!(line.chars().count() <= 100, "{line}");
        }
    }

    #[test]
    fn the_tables_have_a_row_for_every_variable() {
        let text = tables(&sections());
        let rows: Vec<_> = text.lines().filter(|line| line.starts_with("| `")).collect();
        assert_eq!(rows.len(), variables().count() + variables().filter(|spec| spec.secret).count());
        for row in rows {
            assert_eq!(row.matches('|').count(), 4, "{row}");
        }
    }
}
