//! What the documents quote is what the program says, the README stays short, and every link leads somewhere.
#![allow(clippy::unwrap_used, reason = "in a test, what cannot be is a failure")]

use std::fs;
use std::path::{Path, PathBuf};

/// All of the program's source, with strings that go on in the next line joined, and `…` where something is filled in.
fn source() -> String {
    let mut text = String::new();
    read(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src")), &mut text);
    let mut joined = String::new();
    let mut rest = text.as_str();
    while let Some((before, after)) = rest.split_once("\\\n") {
        joined.push_str(before);
        rest = after.trim_start();
    }
    joined.push_str(rest);
    filled_in(&joined)
}

fn read(folder: &Path, into: &mut String) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            read(&path, into);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            into.push_str(&fs::read_to_string(path).unwrap());
        }
    }
}

/// `{name}` becomes `…`.
fn filled_in(text: &str) -> String {
    let mut filled = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('{') {
        filled.push_str(before);
        match after.split_once('}') {
            Some((name, behind)) if !name.contains(['\n', '{']) => {
                filled.push('…');
                rest = behind;
            }
            _ => {
                filled.push('{');
                rest = after;
            }
        }
    }
    filled.push_str(rest);
    filled
}

/// What stands between backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

#[test]
fn every_message_under_troubleshooting_is_one_that_the_program_has() {
    let document = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/TROUBLESHOOTING.md")).unwrap();
    let source = source();
    let mut messages = 0;
    let rows = document.lines().filter_map(|line| line.strip_prefix("| `")?.split_once(" | "));
    for (message, _) in rows {
        let cell = format!("`{message}");
        for part in quoted(&cell).flat_map(|quote| quote.split('…')).map(str::trim).filter(|part| !part.is_empty()) {
            assert!(source.contains(part), "nothing says `{part}`");
            messages += 1;
        }
    }
    assert!(messages >= 30, "the tables were found: {messages}");
}

#[test]
fn the_lines_of_check_in_the_document_of_the_configuration_are_those_of_the_program() {
    let document = fs::read_to_string(root().join("docs/CONFIGURATION.md")).unwrap();
    let source = source();
    let lines: Vec<_> = document.lines().filter_map(|line| line.strip_prefix("    ok       ")).collect();
    assert!(lines.len() >= 6, "{lines:?}");
    for line in lines {
        let (part, text) = line.split_once("  ").unwrap();
        assert!(source.contains(&format!("\"{part}\"")), "nothing checks the {part}");
        for clause in text.split("; ") {
            let words: Vec<_> = clause.split_whitespace().collect();
            // A path, an address or a number is an example.
            for said in words.split(|word| word.contains(|c: char| c == '/' || c.is_ascii_digit())) {
                assert!(source.contains(&said.join(" ")), "nothing says `{}`", said.join(" "));
            }
        }
    }
}

/// The most words that the README may have, as `wc -w` counts them: what a newcomer reads in ten minutes.
const README_WORDS: usize = 980;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The documents in `folder`, a path from the root.
fn documents(folder: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(root().join(folder)).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.extension().is_some_and(|ending| ending == "md")).collect()
}

/// Where the links and pictures of a document lead, other sites excepted.
fn links(text: &str) -> impl Iterator<Item = &str> {
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split_once(')').map(|(target, _)| target));
    targets.filter(|target| !target.contains("://"))
}

/// The anchors of a document: its headings in small letters, without punctuation, and with a dash for each blank.
fn anchors(text: &str) -> Vec<String> {
    let headings = text.lines().filter(|line| line.starts_with('#')).map(|line| line.trim_start_matches('#').trim());
    let kept = |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_');
    headings.map(|heading| heading.to_lowercase().chars().filter(kept).collect::<String>().replace(' ', "-")).collect()
}

#[test]
fn the_readme_is_short() {
    let words = fs::read_to_string(root().join("README.md")).unwrap().split_whitespace().count();
    assert!(
        words <= README_WORDS,
        "README.md has {words} words; move something to the document whose question it answers"
    );
}

#[test]
fn the_readme_links_every_document() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let documents = documents("docs");
    assert!(documents.len() >= 15, "{documents:?}");
    for path in documents {
        let name = path.strip_prefix(root()).unwrap().to_str().unwrap();
        assert!(links(&readme).any(|target| target.split('#').next() == Some(name)), "README.md has no link to {name}");
    }
}

#[test]
fn every_link_to_a_file_or_a_heading_of_the_repository_leads_there() {
    let mut count = 0;
    for path in documents("").into_iter().chain(documents("docs")) {
        let text = fs::read_to_string(&path).unwrap();
        for link in links(&text) {
            let (file, anchor) = link.split_once('#').map_or((link, None), |(file, anchor)| (file, Some(anchor)));
            let target = if file.is_empty() { path.clone() } else { path.parent().unwrap().join(file) };
            assert!(target.exists(), "{}: there is no {link}", path.display());
            if let Some(anchor) = anchor {
                let there = anchors(&fs::read_to_string(target).unwrap());
                assert!(there.iter().any(|heading| heading == anchor), "{}: no heading for {link}", path.display());
            }
            count += 1;
        }
    }
    assert!(count >= 80, "the links were found: {count}");
}
