//! The file `.env`. dotenvy reads it, and this module refuses a line that dotenvy would read differently from what an operator wrote.
//!
//! dotenvy replaces `$name`, drops quotes and backslashes, and cuts a value at ` #`. A secret that would change is a mistake. A secret
//! in single quotes cannot change. dotenvy's own messages quote the line with its secret, so no message here shows a value.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::{fmt, fs};

/// How we know a name in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    /// One of our variables.
    Variable,
    /// One of our variables that carries a secret.
    Secret,
}

/// The mistake in a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flaw {
    Unreadable,
    Changed,
    Swallowed,
    Repeated,
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unreadable => "is not NAME=value; put a value with blanks, quotes, backslashes, # or $ in single quotes: NAME='value'",
            Self::Changed => {
                "would change, because $, quotes, backslashes and # have a meaning here; put it in single quotes: NAME='value'. \
                 Put a secret that contains a single quote or ends in a backslash into a file: NAME_FILE=/path"
            }
            Self::Swallowed => "is a part of the value before it, because a quote there is not closed; put that value in single quotes",
            Self::Repeated => "is already set in an earlier line; keep one of the two",
        })
    }
}

/// A line with a mistake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadLine {
    number: usize,
    name: Option<String>,
    flaw: Flaw,
}

impl fmt::Display for BadLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => write!(f, "line {}, {name}: {}", self.number, self.flaw),
            None => write!(f, "line {}: {}", self.number, self.flaw),
        }
    }
}

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DotenvError {
    /// The file exists but cannot be read.
    #[error("cannot read {}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
        #[source]
        cause: io::Error,
    },
    /// Lines have mistakes. The message shows them all, one a line.
    #[error("{} cannot be used as it is:{}", path.display(), list(lines))]
    BadLines {
        /// The file.
        path: PathBuf,
        /// The lines with mistakes, in the order of the file.
        lines: Vec<BadLine>,
    },
    /// The variables could not be set.
    #[error("the variables of {} could not be set", path.display())]
    NotSet {
        /// The file.
        path: PathBuf,
    },
}

fn list(lines: &[BadLine]) -> String {
    lines.iter().fold(String::new(), |list, line| list + "\n  " + &line.to_string())
}

/// Puts the variables in the file at `path` into the process environment, where libraries look for proxies and trust stores. A variable
/// that is already set stays as it is, even if it is empty. `known` tells which names are ours. Without a file it does nothing.
///
/// Call it before the first thread starts. Another thread could read the environment at the same time, which Unix does not make safe.
pub fn load(path: &Path, known: impl Fn(&str) -> Option<Known>) -> Result<(), DotenvError> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(cause) if cause.kind() == ErrorKind::NotFound => return Ok(()),
        Err(cause) => return Err(DotenvError::Unreadable { path: path.to_owned(), cause }),
    };
    let text = normalised(&text);
    if let Err(lines) = vet(&text, known) {
        return Err(DotenvError::BadLines { path: path.to_owned(), lines });
    }
    // Load the vetted text, since the file may have changed by now. The cause is dropped, because it would quote a line.
    dotenvy::from_read(text.as_bytes()).map_err(|_| DotenvError::NotSet { path: path.to_owned() })
}

/// Removes a byte order mark, and blanks at the end of lines, which dotenvy does not accept everywhere.
fn normalised(text: &str) -> String {
    text.strip_prefix('\u{feff}').unwrap_or(text).lines().map(|line| line.trim_end().to_owned() + "\n").collect()
}

/// Returns the variables that dotenvy reads, if they are what the text says.
fn vet(text: &str, known: impl Fn(&str) -> Option<Known>) -> Result<Vec<(String, String)>, Vec<BadLine>> {
    let (mut pairs, mut bad) = (Vec::new(), Vec::new());
    for entry in dotenvy::from_read_iter(text.as_bytes()) {
        match entry {
            Ok(pair) => pairs.push(pair),
            Err(dotenvy::Error::LineParse(part, _)) => bad.push(unreadable(text, &part, &known)),
            Err(_) => bad.push(BadLine { number: 1, name: None, flaw: Flaw::Unreadable }),
        }
    }
    if bad.is_empty() {
        bad.extend(changed(text, &pairs, &known));
    }
    if bad.is_empty() { Ok(pairs) } else { Err(bad) }
}

/// Finds the line with the `part` that dotenvy could not read.
fn unreadable(text: &str, part: &str, known: impl Fn(&str) -> Option<Known>) -> BadLine {
    let at = text.find(part).unwrap_or_default();
    let before = &text[..at];
    let number = 1 + before.matches('\n').count();
    let name = text.lines().nth(number - 1).and_then(name_of).filter(|name| known(name).is_some());
    BadLine { number, name: name.map(str::to_owned), flaw: Flaw::Unreadable }
}

/// Finds the lines with one of our variables that dotenvy reads differently from how they are written, or not at all.
fn changed(text: &str, pairs: &[(String, String)], known: impl Fn(&str) -> Option<Known>) -> Vec<BadLine> {
    let mut seen = BTreeMap::<&str, usize>::new();
    let mut bad = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let Some((name, kind)) = name_of(line).and_then(|name| Some((name, known(name)?))) else { continue };
        let times = seen.entry(name).or_default();
        let value = pairs.iter().filter(|(read, _)| read == name).nth(*times).map(|(_, value)| value.as_str());
        *times += 1;
        let flaw = match value {
            None => Some(Flaw::Swallowed),
            Some(_) if *times > 1 => Some(Flaw::Repeated),
            Some(value) if kind == Known::Secret && value != written(line) => Some(Flaw::Changed),
            Some(_) => None,
        };
        bad.extend(flaw.map(|flaw| BadLine { number: index + 1, name: Some(name.to_owned()), flaw }));
    }
    bad
}

/// The name that `line` sets, if it looks like a line that sets one and is no comment.
fn name_of(line: &str) -> Option<&str> {
    let name = line.split_once('=')?.0.trim();
    if name.starts_with('#') {
        return None;
    }
    Some(name.strip_prefix("export ").map_or(name, str::trim_start))
}

/// The value in `line` as an operator means it: the content of single quotes, else everything after the `=`.
fn written(line: &str) -> &str {
    let value = line.split_once('=').map_or("", |(_, value)| value.trim());
    let quoted = value.strip_prefix('\'').and_then(|rest| rest.split_once('\''));
    match quoted {
        Some((inner, behind)) if behind.trim().is_empty() || behind.trim_start().starts_with('#') => inner,
        _ => value,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn known(name: &str) -> Option<Known> {
        match name {
            "DD_API_KEY" => Some(Known::Secret),
            "DD_SITE" | "DD_ENV" | "DD_TAGS" | "DD_SERVICE" => Some(Known::Variable),
            _ => None,
        }
    }

    fn read(text: &str) -> Result<Vec<(String, String)>, String> {
        vet(&normalised(text), known).map_err(|lines| list(&lines))
    }

    fn value(line: &str) -> String {
        let pairs = read(line).unwrap_or_else(|error| panic!("{line}: {error}"));
        assert_eq!(pairs.len(), 1, "{line}");
        pairs[0].1.clone()
    }

    #[test]
    fn the_vendors_sample_secret_works_as_it_stands() {
        assert_eq!(value("DD_API_KEY==m0sfj!RQZNp]d2C8DIf1qM8V6jjnAEy"), "=m0sfj!RQZNp]d2C8DIf1qM8V6jjnAEy");
    }

    #[test]
    fn everything_between_single_quotes_is_taken_as_it_is() {
        for secret in
            ["a#b", "a #b", "#a", "$HOME", "a$", "${x}", " a b ", "\"a\"", "a\\n", "a\\\\", "=", "`;&|<>*?~", "ü"]
        {
            for after in ["", " ", " # why", "\n", "\r\n"] {
                assert_eq!(value(&format!("DD_API_KEY='{secret}'{after}")), secret);
            }
        }
    }

    #[test]
    fn a_secret_that_would_change_is_a_mistake() {
        for value in [
            "hunter2$x9y",
            "hunter2$",
            "\"hunter2 z\"",
            "hunter2${x9y}",
            "hunter2\\\\x",
            "hunt\"er2\"",
            "'hunter2'x",
            "#hunter2",
            "hunter2 #x",
            "\"it's hunter2\"",
        ] {
            let message = read(&format!("# first\n\nDD_API_KEY={value}\n")).unwrap_err();
            assert!(message.contains("line 3, DD_API_KEY: would change"), "{value}: {message}");
            assert!(message.contains("single quotes: NAME='value'") && !message.contains("hunter2"), "{message}");
        }
    }

    #[test]
    fn usual_spellings_are_read() {
        let text = "\u{feff}# first\r\n\r\nDD_SITE = datadoghq.eu # why\r\n  export DD_ENV=prod\nDD_TAGS=\n\nDD_SERVICE=\"a b\"  ";
        let expected = [("DD_SITE", "datadoghq.eu"), ("DD_ENV", "prod"), ("DD_TAGS", ""), ("DD_SERVICE", "a b")];
        assert_eq!(read(text).unwrap(), expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }

    #[test]
    fn a_variable_in_a_comment_is_not_set() {
        // A source's prefix hides the `#`.
        let known = |_: &str| Some(Known::Secret);
        let pairs = vet("#SECTIGO_AUDIT_SYNC_DELAY=1m\n # DD_API_KEY=$x\nDD_ENV=prod\n", known);
        assert_eq!(pairs.map_err(|lines| list(&lines)).unwrap(), [("DD_ENV".to_owned(), "prod".to_owned())]);
    }

    #[test]
    fn a_line_that_sets_nothing_is_named_by_its_number_alone() {
        for line in ["hunter2", "DD-KEY=hunter2", "hunter2=a b", "=hunter2", "9A=hunter2", "HUNTER2=a b"] {
            let message = read(&format!("DD_SITE=datadoghq.eu\n{line}\nDD_ENV=prod\n")).unwrap_err();
            assert!(message.contains("\n  line 2: is not NAME=value"), "{line}: {message}");
            assert!(!message.to_lowercase().contains("hunter2"), "{message}");
        }
    }

    #[test]
    fn a_quote_that_is_not_closed_does_not_swallow_other_variables() {
        let message = read("OTHER_KEY=hunter'2\nDD_SITE=datadoghq.com\nDD_ENV=it's\n").unwrap_err();
        assert!(message.contains("line 2, DD_SITE: is a part of the value before it"), "{message}");
        let message = read("DD_API_KEY=hunter'2\nDD_SITE=datadoghq.com\nDD_ENV=it's\n").unwrap_err();
        assert!(message.contains("line 1, DD_API_KEY: would change") && !message.contains("hunter"), "{message}");
        assert!(read("DD_API_KEY='hunter2\n").unwrap_err().contains("line 1, DD_API_KEY: is not NAME=value"));
        assert_eq!(value("OTHER_KEY='a\nb'"), "a\nb", "another program's value may have several lines");
    }

    #[test]
    fn a_variable_that_is_set_twice_is_a_mistake() {
        let message = read("DD_SITE=a.example\nDD_ENV=x\nDD_SITE=b.example\n").unwrap_err();
        assert_eq!(message, "\n  line 3, DD_SITE: is already set in an earlier line; keep one of the two");
    }

    #[test]
    fn a_file_that_is_not_there_sets_nothing() {
        assert!(load(Path::new("/no/such/file"), known).is_ok());
        let error = load(Path::new("/"), known).unwrap_err();
        assert_eq!(error.to_string(), "cannot read /");
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// Whatever the file says, a secret is read as it is written, or refused.
        #[test]
        fn no_secret_changes_silently(secret in "[ -~]{1,12}", quoted in any::<bool>()) {
            let line = if quoted { format!("DD_API_KEY='{secret}'") } else { format!("DD_API_KEY={secret}") };
            if let Ok(pairs) = read(&line) {
                let meant = if quoted && !secret.contains('\'') { secret.as_str() } else { written(line.trim_end()) };
                prop_assert_eq!(&pairs, &[("DD_API_KEY".to_owned(), meant.to_owned())]);
            }
        }
    }
}
