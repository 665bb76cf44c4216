//! What the documents quote is what the program says.
#![allow(clippy::unwrap_used, reason = "in a test, what cannot be is a failure")]

use std::fs;
use std::path::Path;

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
