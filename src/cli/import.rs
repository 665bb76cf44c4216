//! `auditsync import`: takes over the settings and the cursor of software that a pipeline replaces.

use std::fs;
use std::path::PathBuf;

use clap::Args;

use super::exit::Exit;
use super::{begin, mistaken, print, say, state};
use crate::config::Environment;
use crate::failure::Chain;
use crate::pipeline::StateConfig;
use crate::pipeline::registry;

#[derive(Debug, Args)]
pub(super) struct ImportArguments {
    /// The event handler's configuration file, teleport-event-handler.toml.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The event handler's storage folder. Its cursor becomes the state of the pipeline. Stop the event handler first.
    #[arg(long, value_name = "DIR")]
    storage: Option<PathBuf>,
    /// Replace a state that is already there.
    #[arg(long, requires = "storage")]
    yes: bool,
}

/// Prints the settings as lines of `.env`, names those without a counterpart, and stores the cursor.
pub(super) async fn import(arguments: &ImportArguments, environment: &Environment) -> Exit {
    let text = match fs::read_to_string(&arguments.file) {
        Ok(text) => text,
        Err(error) => {
            say(&format!("auditsync: cannot read {}: {error}", arguments.file.display()));
            return Exit::Usage;
        }
    };
    let (wanted, imported) = match registry::import(&text, arguments.storage.as_deref()) {
        Ok(imported) => imported,
        Err(error) => {
            say(&format!("auditsync: {}: {}", arguments.file.display(), Chain(&error)));
            return Exit::Configuration;
        }
    };
    for (name, value) in &imported.lines {
        print(&format!("{name}={}", quoted(value)));
    }
    for note in &imported.notes {
        say(note);
    }
    let Some(cursor) = imported.cursor else { return Exit::Done };
    let (states, telemetry) = match StateConfig::read(environment, &[wanted]) {
        Ok(read) => read,
        Err(error) => return mistaken(error),
    };
    begin(telemetry, &[]);
    match states.first() {
        Some(state) => state::begin_at(state, cursor, arguments.yes).await,
        None => Exit::Done,
    }
}

/// Quotes a value for `.env` where it needs quotes.
fn quoted(value: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-./:,@+%".contains(&byte);
    if value.bytes().all(is_plain) {
        value.to_owned()
    } else if value.contains('\'') {
        let escaped = value.replace('\\', "\\\\").replace('"', "\\\"").replace('$', "\\$");
        format!("\"{escaped}\"")
    } else {
        format!("'{value}'")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quoted_value_is_read_back_as_it_was() {
        for value in ["https://f.example.com:8888/test.log", "a b", "x#y", "$HOME", "it's", "\"q\" $x \\ '", ""] {
            let line = format!("NAME={}\n", quoted(value));
            let read: Vec<_> = dotenvy::from_read_iter(line.as_bytes()).map(Result::unwrap).collect();
            assert_eq!(read, [("NAME".to_owned(), value.to_owned())], "{line}");
        }
    }
}
