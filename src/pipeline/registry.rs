//! The components that there are. A new one is a folder and a line here.

#[cfg(feature = "s3")]
use crate::config::Becomes;
use crate::config::{self, Alias, Preset, Scope, Section, Spec, Variable, dotenv};
use crate::pipeline_name::PipelineName;
use crate::{dead_letter, destination, engine, http, source, state, telemetry};

/// The kinds of sources.
pub const SOURCES: &[&source::Kind] = &[&source::sectigo::KIND, &source::digicert::KIND];

/// The kinds of destinations.
pub const DESTINATIONS: &[&destination::Kind] = &[
    &destination::datadog::KIND,
    #[cfg(feature = "s3")]
    &destination::s3::KIND,
    &destination::fluentd::KIND,
    &destination::stdout::KIND,
];

/// The kinds of state stores that this build has.
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

/// The state stores with large client libraries, which a build can leave out: each is a feature of its name.
const OPTIONAL_STORES: &[&str] = &["redis", "s3", "gcs"];

/// The destinations of which the same holds.
const OPTIONAL_DESTINATIONS: &[&str] = &["s3"];

/// Google's script for audit logs of this source writes to S3 and keeps its state there. Its whole environment holds for a pipeline from the
/// one to the other: objects go where the script writes them, and our state goes beside its own.
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

/// What holds where the script's bucket is set, such as the script's own defaults.
#[cfg(feature = "s3")]
const fn of_bucket(ours: &'static str, value: &'static str) -> Alias {
    Alias { theirs: "S3_BUCKET", ours, becomes: Becomes::Fixed(value) }
}

/// The variables of software that the pair of source and destination replaces, beside those that the source knows by itself.
pub(crate) fn aliases(source: &source::Kind, destination: &destination::Kind) -> &'static [Alias] {
    #[cfg(feature = "s3")]
    if (source.name, destination.name) == (source::digicert::KIND.name, destination::s3::KIND.name) {
        return SCRIPT;
    }
    let _ = (source, destination);
    &[]
}

/// Which pipelines run.
pub(crate) const PIPELINES: Variable<Vec<Wanted>> = Variable::new(
    Scope::Process,
    "AUDITSYNC_PIPELINES",
    Preset::Value("sectigo:datadog"),
    |text, _| wanted(text),
    "Pipelines, as source:destination, separated by commas. A label tells two sources of a kind apart: source.label:destination.",
);

/// Which store holds the state.
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
    /// Its name.
    pub(crate) name: PipelineName,
    /// The kind of its source.
    pub(crate) source: &'static source::Kind,
    /// What tells its source from others of the kind.
    pub(crate) label: Option<String>,
    /// The kind of its destination.
    pub(crate) destination: &'static destination::Kind,
}

/// Every pipeline of a list.
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

/// The state store called `name`.
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

/// The configuration that uses the files in `folder`, which `auditsync certs` made for a receiver on `host`.
#[cfg(feature = "tls")]
pub(crate) fn certificates_guide(host: &str, folder: &std::path::Path) -> String {
    destination::fluentd::certificates_guide(host, folder)
}

/// Every part of the tables, in order.
pub fn sections() -> Vec<Section> {
    let sources = SOURCES.iter().map(|kind| Section::of(kind.name, kind.title, &[kind.variables]));
    let destinations = DESTINATIONS.iter().map(|kind| Section::of(kind.name, kind.title, &[kind.variables]));
    let stores: Vec<_> = [&[&BACKEND.spec][..]].into_iter().chain(STORES.iter().map(|kind| kind.variables)).collect();
    let shared = [
        Section::of(
            "sync",
            "Sync",
            &[&[&PIPELINES.spec], engine::variables::VARIABLES, source::variables::VARIABLES, dead_letter::VARIABLES],
        ),
        Section::of("state", "State", &stores),
        Section::of("program", "Program", &[http::variables::VARIABLES, telemetry::variables::VARIABLES]),
    ];
    sources.chain(destinations).chain(shared).collect()
}

/// Every variable, in the order of the tables.
pub fn variables() -> impl Iterator<Item = &'static Spec> {
    sections().into_iter().flat_map(|section| section.variables)
}

/// What the variable `name` is to us, for the vetting of `.env`.
pub(crate) fn known_in_dotenv(name: &str) -> Option<dotenv::Known> {
    let mut aliases = SOURCES.iter().flat_map(|kind| kind.aliases);
    let alias = aliases.find(|alias| alias.theirs == name);
    config::known(alias.map_or(name, |alias| alias.ours), &sections())
}

#[cfg(all(test, feature = "redis", feature = "s3", feature = "gcs"))]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    use super::*;
    use crate::config::{env_example, help_text, tables};

    const AGAIN: &str = "run `UPDATE=1 cargo test --lib registry` to write them again";

    fn in_package(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
    }

    fn updating() -> bool {
        std::env::var_os("UPDATE").is_some()
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
    fn the_example_file_shows_the_tables() {
        let path = in_package(".env.example");
        if updating() {
            fs::write(&path, env_example(&sections())).unwrap();
        }
        let stored = fs::read_to_string(&path).unwrap_or_default();
        assert!(stored == env_example(&sections()), ".env.example is not what the tables say: {AGAIN}");
    }

    #[test]
    fn the_readme_shows_the_tables() {
        const MARKERS: [&str; 2] = ["<!-- variables -->\n", "<!-- /variables -->"];
        let path = in_package("README.md");
        let readme = fs::read_to_string(&path).unwrap();
        let (before, rest) = readme.split_once(MARKERS[0]).expect("README.md has no line <!-- variables -->");
        let (shown, after) = rest.split_once(MARKERS[1]).expect("README.md has no line <!-- /variables -->");
        if updating() {
            fs::write(&path, [before, MARKERS[0], &tables(&sections()), MARKERS[1], after].concat()).unwrap();
        } else {
            assert!(shown == tables(&sections()), "README.md is not what the tables say: {AGAIN}");
        }
    }

    #[test]
    fn the_example_file_sets_what_is_required_and_nothing_else() {
        let text = env_example(&sections());
        let pairs: Vec<_> = dotenvy::from_read_iter(text.as_bytes()).map(Result::unwrap).collect();
        let required: Vec<_> = variables().filter(|spec| spec.is_required()).map(|spec| spec.name).collect();
        assert_eq!(pairs.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), required);
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
