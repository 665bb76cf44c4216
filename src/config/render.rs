//! The variables as text: for `--help`, `.env.example` and the README.

use std::fmt::Write as _;

use super::Section;
use super::environment::file_name;
use super::variable::{Preset, Spec};

/// The widest line of the help and of the comments in `.env.example`.
const WIDTH: usize = 100;

/// How far the help's second column is from the left.
const INDENT: usize = 41;

/// A blank at which no line ends.
const UNBROKEN: char = '\u{a0}';

const HELP_HEAD: &str = "\
auditsync is configured by variables alone: from the environment, or from the file .env in the current folder (the environment wins).
An empty value means: not set. Times are written as 90s, 5m or 1h 30m. Any variable that begins with AUDITSYNC_ or DD_ may be set for
one source alone, by the source's prefix: SOURCE_AUDIT_SYNC_INTERVAL before AUDITSYNC_SYNC_INTERVAL, SOURCE_AUDIT_DD_TAGS before DD_TAGS.
";

const ENV_HEAD: &str = "\
# Copy to .env in the folder where auditsync starts. What the environment already has wins over
# this file, and an empty value means: not set. Times are written as 90s, 5m or 1h 30m.
#
# Any variable that begins with AUDITSYNC_ or DD_ may be set for one source alone, by the source's
# prefix: SOURCE_AUDIT_SYNC_INTERVAL before AUDITSYNC_SYNC_INTERVAL, SOURCE_AUDIT_DD_TAGS before DD_TAGS.
#
# Put every secret in single quotes: between them everything is taken as it is. Outside of quotes,
# $name is replaced by another variable's value, a # after a blank begins a comment, and quotes and
# backslashes disappear: auditsync refuses a secret that would change. A secret that holds a single
# quote or ends in a backslash goes into a file, which NAME_FILE names.
# `docker run --env-file` knows no quotes and takes them for a part of the value: leave them out there.
";

/// One row of a table.
struct Row {
    name: String,
    help: String,
    preset: Preset,
    /// Whether it may come from a file instead.
    has_file: bool,
}

/// The rows of a component: one a variable, and a second one for the file of a secret.
fn rows(section: &Section) -> Vec<Row> {
    section.variables.iter().flat_map(|spec| std::iter::once(row(spec)).chain(spec.secret.then(|| file_row(spec)))).collect()
}

fn row(spec: &Spec) -> Row {
    Row { name: spec.name.to_owned(), help: spec.description(), preset: spec.preset, has_file: spec.secret }
}

fn file_row(spec: &Spec) -> Row {
    let help = format!("File that holds {}, read again on SIGHUP and when the secret is rejected.", spec.name);
    Row { name: file_name(spec.name), help, preset: Preset::Nothing, has_file: false }
}

impl Row {
    /// What stands in brackets behind the help.
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

/// The variables of `sections` as the last part of `--help`, up to 100 columns wide.
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

/// The content of `.env.example`.
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
                Preset::Value(value) => value,
                _ if row.has_file => "''",
                _ => "",
            };
            let _ = writeln!(text, "{off}{}={value}", row.name);
        }
    }
    text
}

/// The tables of the README, one a component, in Markdown.
pub fn tables(sections: &[Section]) -> String {
    let mut text = String::new();
    for section in sections {
        let _ = write!(text, "\n**{}**\n\n| variable | what it does | default |\n|---|---|---|\n", section.title);
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

/// Breaks `text` at blanks into lines of at most `width` characters, longer words excepted.
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
