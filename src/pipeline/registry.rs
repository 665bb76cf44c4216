//! The components that there are, with their variables. A new one is a folder and a line here.

use crate::config::{Component, Spec, dotenv, known};
use crate::{destination, http, source, state, sync, telemetry};

/// Every component, in the order of the tables.
pub const COMPONENTS: &[Component] = &[
    Component { title: "Sectigo audit API", variables: &[source::sectigo::variables::VARIABLES] },
    Component {
        title: "Datadog",
        variables: &[destination::datadog::variables::VARIABLES, destination::variables::VARIABLES],
    },
    Component { title: "Sync", variables: &[sync::variables::VARIABLES, source::variables::VARIABLES] },
    Component {
        title: "State",
        variables: &[
            state::variables::VARIABLES,
            #[cfg(feature = "redis")]
            state::redis::variables::VARIABLES,
            #[cfg(feature = "s3")]
            state::s3::variables::VARIABLES,
            #[cfg(feature = "gcs")]
            state::gcs::variables::VARIABLES,
        ],
    },
    Component { title: "Program", variables: &[http::variables::VARIABLES, telemetry::variables::VARIABLES] },
];

/// Every variable, in the order of the tables.
pub fn variables() -> impl Iterator<Item = &'static Spec> {
    COMPONENTS.iter().flat_map(Component::specs)
}

/// What the variable `name` is to us, for the vetting of `.env`.
pub(crate) fn known_in_dotenv(name: &str) -> Option<dotenv::Known> {
    known(name, &super::owner(), COMPONENTS)
}

#[cfg(all(test, feature = "redis", feature = "s3", feature = "gcs"))]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    use super::*;
    use crate::config::{env_example, help_text, tables};

    const AGAIN: &str = "run `UPDATE=1 cargo test --lib registry` to write it again";

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
            fs::write(&path, env_example(COMPONENTS)).unwrap();
        }
        let stored = fs::read_to_string(&path).unwrap_or_default();
        assert!(stored == env_example(COMPONENTS), ".env.example is not what the tables say: {AGAIN}");
    }

    #[test]
    fn the_readme_shows_the_tables() {
        const MARKERS: [&str; 2] = ["<!-- variables -->\n", "<!-- /variables -->"];
        let path = in_package("README.md");
        let readme = fs::read_to_string(&path).unwrap();
        let (before, rest) = readme.split_once(MARKERS[0]).expect("README.md has no line <!-- variables -->");
        let (shown, after) = rest.split_once(MARKERS[1]).expect("README.md has no line <!-- /variables -->");
        if updating() {
            fs::write(&path, [before, MARKERS[0], &tables(COMPONENTS), MARKERS[1], after].concat()).unwrap();
        } else {
            assert!(shown == tables(COMPONENTS), "README.md is not what the tables say: {AGAIN}");
        }
    }

    #[test]
    fn the_example_file_sets_what_is_required_and_nothing_else() {
        let text = env_example(COMPONENTS);
        let pairs: Vec<_> = dotenvy::from_read_iter(text.as_bytes()).map(Result::unwrap).collect();
        let required: Vec<_> = variables().filter(|spec| spec.is_required()).map(|spec| spec.name).collect();
        assert_eq!(pairs.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), required);
    }

    #[test]
    fn the_help_names_every_variable_within_its_width() {
        let text = help_text(COMPONENTS);
        for spec in variables() {
            assert!(text.contains(&format!("\n  {} ", spec.name)), "{}", spec.name);
        }
        for line in text.lines() {
            assert!(line.chars().count() <= 100, "{line}");
        }
    }

    #[test]
    fn the_tables_have_a_row_for_every_variable() {
        let text = tables(COMPONENTS);
        let rows: Vec<_> = text.lines().filter(|line| line.starts_with("| `")).collect();
        assert_eq!(rows.len(), variables().count() + variables().filter(|spec| spec.secret).count());
        for row in rows {
            assert_eq!(row.matches('|').count(), 4, "{row}");
        }
    }
}
