//! The file `.env`: dotenvy reads it, after a look at what dotenvy would pass over in silence.
//!
//! dotenvy's own message about a line shows the line, hence a secret; and a value with `$`, quotes or backslashes may
//! lose them without a word. So the text is vetted first, entry by entry, and no message shows any of a value.

use std::cell::Cell;
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::{env, fmt, fs};

use super::variables;

mod scan;

use scan::Scan;

/// What may be wrong with one entry; said without its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flaw {
    Unreadable,
    SeveralLines,
    UndefinedName,
    LosesCharacters,
    Nul,
    Repeated { line: usize },
    AlsoInEnvironment,
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable => f.write_str(
                "is not NAME=value; a value with blanks, quotes, backslashes, # or $ in it needs single quotes, \
                 NAME='value', or, if it has a single quote itself, double quotes with a backslash before each \
                 \" and \\ and $",
            ),
            Self::SeveralLines => f.write_str(
                "goes on over the next lines because a quote in it is not closed; put the value in single quotes, \
                 NAME='value', or, if it has a single quote itself, in double quotes",
            ),
            Self::UndefinedName => f.write_str(
                "would lose a $ and what follows it, because that is taken for the name of a variable and there is \
                 none; put the value in single quotes: NAME='value'",
            ),
            Self::LosesCharacters => f.write_str(
                "would lose a quote, a backslash, or a # and what follows it; put the value in single quotes: \
                 NAME='value'",
            ),
            Self::Nul => f.write_str("holds a NUL byte"),
            Self::Repeated { line } => write!(f, "is set already in line {line}; keep one of the two"),
            Self::AlsoInEnvironment => f.write_str("is in the environment too, and there it is not text in UTF-8"),
        }
    }
}

/// An entry that cannot be used as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadEntry {
    line: usize,
    name: Option<String>,
    flaw: Flaw,
}

impl fmt::Display for BadEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => write!(f, "line {}, {name}: {}", self.line, self.flaw),
            None => write!(f, "line {}: {}", self.line, self.flaw),
        }
    }
}

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DotenvError {
    /// The file is there but cannot be read.
    #[error("cannot read {}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        cause: io::Error,
    },
    /// The file is not text.
    #[error("{}, line {line}: is not text in UTF-8", path.display())]
    NotText {
        /// The file.
        path: PathBuf,
        /// The first line that is not text.
        line: usize,
    },
    /// Entries cannot be used; all of them, one a line.
    #[error("{} cannot be used as it is:{}", path.display(), list(entries))]
    BadEntries {
        /// The file.
        path: PathBuf,
        /// What is wrong, in the order of the file.
        entries: Vec<BadEntry>,
    },
    /// What was read well could not be set.
    #[error("the variables of {} could not be set", path.display())]
    NotSet {
        /// The file.
        path: PathBuf,
    },
}

fn list(entries: &[BadEntry]) -> String {
    entries.iter().fold(String::new(), |list, entry| list + "\n  " + &entry.to_string())
}

/// The variables in the file at `path`, none if there is no file.
pub fn read(path: &Path) -> Result<Vec<(String, String)>, DotenvError> {
    vet(path, &text(path)?)
}

/// Puts the variables in the file at `path` into the process environment, where libraries look for proxies and trust
/// stores; what is set already stays, even if it is empty. If there is no file, nothing happens.
///
/// Must be called before the first thread starts: others may be reading the environment meanwhile, and on Unix nothing
/// keeps them apart.
pub fn load(path: &Path) -> Result<(), DotenvError> {
    let text = text(path)?;
    vet(path, &text)?;
    // The text that was vetted, not the file again, which may have changed. The cause would show a line.
    dotenvy::from_read(text.as_bytes()).map_err(|_| DotenvError::NotSet { path: path.to_owned() })
}

/// The file's text, such that dotenvy takes it as it is meant.
fn text(path: &Path) -> Result<String, DotenvError> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(cause) if cause.kind() == ErrorKind::NotFound => return Ok(String::new()),
        Err(cause) => return Err(DotenvError::Unreadable { path: path.to_owned(), cause }),
    };
    let text = String::from_utf8(bytes).map_err(|error| {
        let good = error.as_bytes().iter().take(error.utf8_error().valid_up_to());
        DotenvError::NotText { path: path.to_owned(), line: 1 + good.filter(|byte| **byte == b'\n').count() }
    })?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    // Each line ends in a line end: dotenvy refuses a last one that ends in a blank.
    Ok(text.lines().map(|line| scan::closed(line).into_owned() + "\n").collect())
}

fn vet(path: &Path, text: &str) -> Result<Vec<(String, String)>, DotenvError> {
    let handed = Cell::new(0);
    let mut parsed = dotenvy::from_read_iter(ByLine { text: text.as_bytes(), handed: &handed });
    let (mut pairs, mut lines, mut bad) = (Vec::<(String, String)>::new(), Vec::new(), Vec::new());
    loop {
        let start = handed.get();
        let Some(entry) = parsed.next() else { break };
        let start = start + passed_over(&text[start..handed.get()]);
        let source = &text[start..handed.get()];
        let line = 1 + text[..start].matches('\n').count();
        let earlier = |name: &str| pairs.iter().position(|(known, _)| known == name);
        let flaw = match &entry {
            Err(_) => Some(Flaw::Unreadable),
            Ok((name, _)) if earlier(name).is_some() => {
                earlier(name).map(|index| Flaw::Repeated { line: lines[index] })
            }
            Ok((name, value)) => flaw(source, name, value, |name| env::var(name).is_ok() || earlier(name).is_some()),
        };
        if let Some(flaw) = flaw {
            bad.push(BadEntry { line, name: presentable_name(source), flaw });
        }
        if let Ok(pair) = entry {
            pairs.push(pair);
            lines.push(line);
        }
    }
    if bad.is_empty() { Ok(pairs) } else { Err(DotenvError::BadEntries { path: path.to_owned(), entries: bad }) }
}

/// What is wrong with an entry that dotenvy took: what it says in the file is not what would be used.
fn flaw(source: &str, name: &str, value: &str, is_defined: impl Fn(&str) -> bool) -> Option<Flaw> {
    let row = variables::find(name);
    let scan = Scan::of(source.split_once('=').map_or("", |(_, value)| value));
    let swallows = || source.lines().skip(1).filter_map(name_of).any(|name| variables::find(name).is_some());
    let several_lines = source.trim_end().contains('\n');
    // A value that holds no line end although its entry has several lines has lost some of them.
    if several_lines && (row.is_some() || swallows() || !value.contains('\n')) {
        Some(Flaw::SeveralLines)
    } else if scan.names.iter().any(|name| !is_defined(name)) {
        Some(Flaw::UndefinedName)
    } else if scan.ends_in_backslash || (row.is_some_and(|row| row.secret) && scan.loses_characters) {
        Some(Flaw::LosesCharacters)
    } else if value.contains('\0') {
        Some(Flaw::Nul)
    } else if matches!(env::var(name), Err(env::VarError::NotUnicode(_))) {
        // dotenvy would take it for not set, and replace it.
        Some(Flaw::AlsoInEnvironment)
    } else {
        None
    }
}

/// How much of `text` dotenvy passes over before the entry begins: blank lines and comments.
fn passed_over(text: &str) -> usize {
    let ignored = |line: &&str| line.trim().is_empty() || line.trim_start().starts_with('#');
    text.split_inclusive('\n').take_while(ignored).map(str::len).sum()
}

/// The name that `line` sets, if it looks like a line that sets one.
fn name_of(line: &str) -> Option<&str> {
    let name = line.split_once('=')?.0.trim();
    Some(name.strip_prefix("export").map_or(name, str::trim_start))
}

/// The name in the entry, if it is surely no piece of a secret that was broken into two lines.
fn presentable_name(source: &str) -> Option<String> {
    let name = name_of(source)?;
    let usual = name.contains('_') && name.split('_').all(|part| part.chars().all(|c| c.is_ascii_uppercase()));
    (usual || variables::find(name).is_some()).then(|| name.to_owned())
}

/// Hands out one line at a time, and so tells how far its reader has come.
struct ByLine<'a> {
    text: &'a [u8],
    handed: &'a Cell<usize>,
}

impl Read for ByLine<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let line = self.text.iter().position(|byte| *byte == b'\n').map_or(self.text.len(), |end| end + 1);
        let (now, later) = self.text.split_at(line.min(buffer.len()));
        buffer[..now.len()].copy_from_slice(now);
        self.text = later;
        self.handed.set(self.handed.get() + now.len());
        Ok(now.len())
    }
}

#[cfg(test)]
mod tests;
