//! Renders the variables as text: for `auditsync variables`, `.env.example` and `docs/CONFIGURATION.md`.

use std::fmt::Write as _;

use super::Section;
use super::environment::file_name;
use super::variable::Preset;

/// The widest line of the help and of the comments in `.env.example`.
const WIDTH: usize = 100;

/// How far the help's second column is from the left.
const INDENT: usize = 41;

/// A blank at which no line may break.
const UNBROKEN: char = '\u{a0}';

const HELP_HEAD: &str = "\
Variables configure auditsync: from the environment, or from the file .env in the current folder. The environment wins over the file.
An empty value means that the variable is not set. A time has a unit: 90s, 5m, 1h30m. A variable of a destination, and one that begins
with AUDITSYNC_, can be set for one source alone. Its name then begins with the source's prefix: SOURCE_AUDIT_DD_TAGS wins over DD_TAGS,
and SOURCE_AUDIT_SYNC_INTERVAL over AUDITSYNC_SYNC_INTERVAL.
";

const ENV_HEAD: &str = "\
# Copy this file to .env in the folder where auditsync starts. The environment wins over the file. An
# empty value means that the variable is not set. A time has a unit: 90s, 5m, 1h30m.
#
# Fill in the variables of your sources and destinations. All others can stay empty.
#
# A variable of a destination, and one that begins with AUDITSYNC_, can be set for one source alone.
# Its name then begins with the source's prefix: SOURCE_AUDIT_DD_TAGS wins over DD_TAGS, and
# SOURCE_AUDIT_SYNC_INTERVAL over AUDITSYNC_SYNC_INTERVAL.
#
# Put every secret, and every value with blanks, in single quotes: between them auditsync takes every
# character as it is. Outside quotes, $name becomes the value of another variable, a # after a blank
# begins a comment, and quotes and backslashes disappear. auditsync refuses a secret that these rules
# would change. If a secret contains a single quote or ends in a backslash, put it into a file and
# name the file in NAME_FILE.
# `docker run --env-file` does not know quotes and keeps them as part of the value: leave them out there.
#
# docs/CONFIGURATION.md describes all of this.
";

/// One row of a table.
struct Row {
    name: String,
    help: String,
    preset: Preset,
    /// Whether a file may hold the value instead.
    has_file: bool,
}

/// The rows of a section: one for each variable, and a second one for the file of a secret.
fn rows(section: &Section) -> impl Iterator<Item = Row> {
    section.variables.iter().flat_map(|spec| {
        let (name, help) = (spec.name.to_owned(), spec.description());
        let row = Row { name, help, preset: spec.preset, has_file: spec.secret };
        let help = format!("File that holds {}. {}", spec.name, spec.renewal);
        let file = Row { name: file_name(spec.name), help, preset: Preset::Nothing, has_file: false };
        std::iter::once(row).chain(spec.secret.then_some(file))
    })
}

impl Row {
    /// The remark in brackets after the help.
    fn remark(&self) -> Option<String> {
        match self.preset {
            Preset::Required if self.has_file => Some(format!("required, here or in {}", file_name(&self.name))),
            Preset::Required => Some("required".to_owned()),
            Preset::Value(value) => Some(format!("default:{UNBROKEN}{value}")),
            Preset::Derived(value) => Some(format!("default: {value}")),
            Preset::Nothing => None,
        }
    }
}

/// Renders the variables of `sections` for `auditsync variables`, up to 100 columns wide.
pub fn help_text(sections: &[Section]) -> String {
    let mut text = wrap(&HELP_HEAD.replace('\n', " "), WIDTH).join("\n").trim_end().to_owned() + "\n";
    for section in sections {
        let _ = write!(text, "\n{}:\n", section.title);
        for row in rows(section) {
            let remark = row.remark().map(|remark| format!(" [{remark}]")).unwrap_or_default();
            let mut left = row.name.as_str();
            for line in wrap(&format!("{}{remark}", row.help), WIDTH - INDENT) {
                let _ = writeln!(text, "  {left:<width$}{line}", width = INDENT - 2);
                left = "";
            }
        }
    }
    text
}

/// Renders `.env.example`.
pub fn env_example(sections: &[Section]) -> String {
    let mut text = ENV_HEAD.to_owned();
    for section in sections {
        let _ = write!(text, "\n# ---- {} ----\n", section.title);
        for row in rows(section) {
            let remark = match row.preset {
                Preset::Value(_) => None,
                _ => row.remark(),
            };
            let remark = remark.map(|remark| format!(" [{remark}]")).unwrap_or_default();
            text.push('\n');
            for line in wrap(&format!("{}{remark}", row.help), WIDTH - 2) {
                let _ = writeln!(text, "# {line}");
            }
            let off = if row.preset == Preset::Required { "" } else { "#" };
            let value = match row.preset {
                // `.env` takes a value with blanks only in quotes.
                Preset::Value(value) if value.contains(' ') => format!("'{value}'"),
                Preset::Value(value) => value.to_owned(),
                _ if row.has_file => "''".to_owned(),
                _ => String::new(),
            };
            let _ = writeln!(text, "{off}{}={value}", row.name);
        }
    }
    text
}

/// Renders the tables of `docs/CONFIGURATION.md`, one for each component, in Markdown.
pub fn tables(sections: &[Section]) -> String {
    let mut text = String::new();
    for section in sections {
        let _ = write!(text, "\n### {}\n\n| variable | what it does | default |\n|---|---|---|\n", section.title);
        for row in rows(section) {
            let default = match row.preset {
                Preset::Value(value) => format!("`{value}`"),
                _ => row.remark().map(|remark| remark.trim_start_matches("default: ").to_owned()).unwrap_or_default(),
            };
            let _ = writeln!(text, "| `{}` | {} | {default} |", row.name, row.help);
        }
    }
    text.push('\n');
    text
}

/// Breaks `text` at blanks into lines of at most `width` characters; a longer word gets a line of its own.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines.into_iter().map(|line| line.replace(UNBROKEN, " ")).collect()
}
