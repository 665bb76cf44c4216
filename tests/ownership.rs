//! Tests that components are independent: only a component's folder and the registry know its name.
#![allow(clippy::unwrap_used, reason = "in a test, what cannot be is a failure")]

use std::fs;
use std::path::{Path, PathBuf};

use auditsync::pipeline::registry::{DESTINATIONS, SOURCES, STORES};

/// Names that are ordinary words, too. For these, the search finds only paths and whole string literals.
const ORDINARY: [&str; 4] = ["memory", "receiver", "s3", "stdout"];

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// The code of a file, without comments and unit tests.
fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    let code = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
    code.lines().map(|line| line.split("//").next().unwrap_or_default().to_owned() + "\n").collect()
}

fn words(code: &str) -> impl Iterator<Item = &str> {
    code.split(|c: char| !c.is_ascii_alphanumeric())
}

/// Whether `code` knows the component `name` of the part `part` of the program. A namesake in another part may use the name for itself.
fn knows(code: &str, part: &str, name: &str, is_namesake: bool) -> bool {
    if ORDINARY.contains(&name) {
        let is_literal = !is_namesake && code.contains(&format!("\"{name}\""));
        return is_literal || code.contains(&format!("{part}::{name}"));
    }
    words(code).any(|word| word.eq_ignore_ascii_case(name))
}

#[test]
fn no_code_outside_a_component_and_the_registry_knows_its_name() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let kinds = SOURCES.iter().map(|kind| ("source", kind.name));
    let kinds = kinds.chain(DESTINATIONS.iter().map(|kind| ("destination", kind.name)));
    let kinds: Vec<_> = kinds.chain(STORES.iter().map(|kind| ("state", kind.name))).collect();
    assert!(kinds.len() >= 8, "{kinds:?}");
    let mut found = Vec::new();
    for path in files(&root) {
        let inside = path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
        let code = code(&path);
        // A line such as `pub mod sectigo;`, with the feature that it needs, is the folder's own.
        let is_own_line = |line: &&str| {
            !["pub mod ", "#[cfg(feature", "#[cfg(any(feature"].iter().any(|start| line.trim_start().starts_with(start))
        };
        let code: String = code.lines().filter(is_own_line).map(|line| line.to_owned() + "\n").collect();
        for (part, name) in &kinds {
            let is_own = inside.starts_with(&format!("{part}/{name}"));
            let is_shared = inside == "pipeline/registry.rs" || inside.ends_with("tests.rs");
            let is_namesake =
                kinds.iter().any(|(other, same)| same == name && inside.starts_with(&format!("{other}/{name}")));
            if !is_own && !is_shared && knows(&code, part, name, is_namesake) {
                found.push(format!("{inside} knows {part} {name}"));
            }
        }
    }
    assert_eq!(found, [""; 0]);
}

/// Removing the exception for the registry shows that the search finds something.
#[test]
fn the_registry_itself_knows_every_component() {
    let registry = code(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src/pipeline/registry.rs"));
    for (part, names) in [
        ("source", SOURCES.iter().map(|kind| kind.name).collect::<Vec<_>>()),
        ("destination", DESTINATIONS.iter().map(|kind| kind.name).collect()),
        ("state", STORES.iter().map(|kind| kind.name).collect()),
    ] {
        for name in names {
            assert!(knows(&registry, part, name, false), "{name}");
        }
    }
}
