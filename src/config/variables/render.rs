//! The table as text: for `--help`, `.env.example` and the README.

use std::fmt::Write as _;

use super::{Group, Preset, VARIABLES, Variable, find};

/// The widest line of the help and of the comments in `.env.example`.
const WIDTH: usize = 100;

/// How far the help's second column is from the left.
const INDENT: usize = 41;

/// A blank at which no line ends.
const UNBROKEN: char = '\u{a0}';

const HELP_HEAD: &str = "\
Everything is set by variables: from the environment, or from the file .env in the current folder
(the environment wins). An empty value means: not set. Times are written as 90s, 5m or 1h 30m.
";

const ENV_HEAD: &str = "\
# Copy to .env in the folder where auditsync starts. What the environment already has wins over
# this file, and an empty value means: not set. Times are written as 90s, 5m or 1h 30m.
#
# Put every secret in single quotes: between them everything is taken as it is, that is # $ \" \\ =
# and blanks. Outside of quotes, a # after a blank begins a comment, $name is replaced by another
# variable's value, and quotes and backslashes disappear. A secret that has a single quote in it
# goes in double quotes, with a backslash before each \" and \\ and $:
#   NAME='p#ss w$rd\\'      NAME=\"it's p#ss w\\$rd\\\\\"
# `docker run --env-file` knows no quotes and takes them for a part of the value: leave them out there.
";

impl Variable {
    /// What stands in brackets behind the help.
    fn remark(&self) -> Option<String> {
        match self.preset {
            _ if self.required && self.has_file() => Some(format!("required, here or in {}_FILE", self.name)),
            _ if self.required => Some("required".to_owned()),
            Preset::Value(value) => Some(format!("default:{UNBROKEN}{value}")),
            Preset::Derived(value) => Some(format!("default: {value}")),
            Preset::Nothing => None,
        }
    }

    fn has_file(&self) -> bool {
        find(&format!("{}_FILE", self.name)).is_some()
    }
}

fn of_group(group: Group) -> impl Iterator<Item = &'static Variable> {
    VARIABLES.iter().filter(move |variable| variable.group == group)
}

/// The variables as the last part of `--help`, up to 100 columns wide.
pub fn help_text() -> String {
    let mut text = HELP_HEAD.to_owned();
    for group in Group::ALL {
        let _ = write!(text, "\n{}:\n", group.title());
        for variable in of_group(group) {
            let remark = variable.remark().map(|remark| format!(" [{remark}]")).unwrap_or_default();
            let mut left = variable.name;
            for line in wrap(&format!("{}{remark}", variable.help), WIDTH - INDENT) {
                let _ = writeln!(text, "  {left:<width$}{line}", width = INDENT - 2);
                left = "";
            }
        }
    }
    text
}

/// The content of `.env.example`.
pub fn env_example() -> String {
    let mut text = ENV_HEAD.to_owned();
    for group in Group::ALL {
        let _ = write!(text, "\n# ---- {} ----\n", group.title());
        for variable in of_group(group) {
            let remark = match variable.preset {
                Preset::Value(_) => None,
                _ => variable.remark(),
            };
            let remark = remark.map(|remark| format!(" [{remark}]")).unwrap_or_default();
            text.push('\n');
            for line in wrap(&format!("{}{remark}", variable.help), WIDTH - 2) {
                let _ = writeln!(text, "# {line}");
            }
            let off = if variable.required { "" } else { "#" };
            let value = if variable.secret { "''" } else { variable.default_value().unwrap_or_default() };
            let _ = writeln!(text, "{off}{}={value}", variable.name);
        }
    }
    text
}

/// The tables of the README, one a group, in Markdown.
pub fn readme_table() -> String {
    let mut text = String::new();
    for group in Group::ALL {
        let _ = write!(text, "\n**{}**\n\n| variable | what it does | default |\n|---|---|---|\n", group.title());
        for variable in of_group(group) {
            let default = match variable.preset {
                Preset::Value(value) => format!("`{value}`"),
                _ => variable
                    .remark()
                    .map(|remark| remark.trim_start_matches("default: ").to_owned())
                    .unwrap_or_default(),
            };
            let _ = writeln!(text, "| `{}` | {} | {default} |", variable.name, variable.help);
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

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    use super::*;
    use crate::config::dotenv;

    const AGAIN: &str = "run `UPDATE=1 cargo test --lib variables` to write it anew";

    fn in_package(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
    }

    fn updating() -> bool {
        std::env::var_os("UPDATE").is_some()
    }

    #[test]
    fn the_example_file_shows_this_table() {
        let path = in_package(".env.example");
        if updating() {
            fs::write(&path, env_example()).unwrap();
        }
        let stored = fs::read_to_string(&path).unwrap_or_default();
        assert!(stored == env_example(), ".env.example is not what the table says: {AGAIN}");
    }

    #[test]
    fn the_readme_shows_this_table() {
        const MARKERS: [&str; 2] = ["<!-- variables -->\n", "<!-- /variables -->"];
        let path = in_package("README.md");
        let readme = fs::read_to_string(&path).unwrap();
        let (before, rest) = readme.split_once(MARKERS[0]).expect("README.md has no line <!-- variables -->");
        let (shown, after) = rest.split_once(MARKERS[1]).expect("README.md has no line <!-- /variables -->");
        if updating() {
            fs::write(&path, [before, MARKERS[0], &readme_table(), MARKERS[1], after].concat()).unwrap();
        } else {
            assert!(shown == readme_table(), "README.md is not what the table says: {AGAIN}");
        }
    }

    #[test]
    fn the_example_file_loads() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(".env");
        fs::write(&path, env_example()).unwrap();
        let pairs = dotenv::read(&path).unwrap();
        let required: Vec<_> = VARIABLES.iter().filter(|variable| variable.required).map(|each| each.name).collect();
        assert_eq!(pairs.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), required);
    }

    #[test]
    fn the_example_file_with_every_line_switched_on_loads() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(".env");
        let all: Vec<_> = env_example().lines().map(|line| line.strip_prefix('#').unwrap_or(line).to_owned()).collect();
        let all: Vec<_> = all
            .into_iter()
            .filter(|line| VARIABLES.iter().any(|row| line.starts_with(&format!("{}=", row.name))))
            .collect();
        fs::write(&path, all.join("\n")).unwrap();
        assert_eq!(dotenv::read(&path).unwrap().len(), VARIABLES.len());
    }

    #[test]
    fn the_example_file_quotes_as_it_says() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(".env");
        let line = ENV_HEAD.lines().find(|line| line.contains("NAME=")).unwrap().trim_start_matches('#').trim();
        let (single, double) = line.split_once("      ").unwrap();
        for (written, value) in [(single, r"p#ss w$rd\"), (double, r"it's p#ss w$rd\")] {
            fs::write(&path, format!("{written}\n")).unwrap();
            assert_eq!(dotenv::read(&path).unwrap(), [("NAME".to_owned(), value.to_owned())]);
        }
    }

    #[test]
    fn help_names_every_variable_within_its_width() {
        let text = help_text();
        for variable in VARIABLES {
            assert!(text.contains(&format!("\n  {} ", variable.name)), "{}", variable.name);
        }
        for line in text.lines() {
            assert!(line.chars().count() <= WIDTH, "{line}");
        }
    }

    #[test]
    fn the_readme_table_has_a_row_for_every_variable() {
        let text = readme_table();
        let rows: Vec<_> = text.lines().filter(|line| line.starts_with("| `")).collect();
        assert_eq!(rows.len(), VARIABLES.len());
        for row in rows {
            assert_eq!(row.matches('|').count(), 4, "{row}");
        }
    }
}
