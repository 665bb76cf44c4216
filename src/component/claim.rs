//! Things that only one pipeline can use, such as an address to listen on.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use crate::config::Spec;

/// A thing that a pipeline wants for itself, and the variable that chooses it.
#[derive(Debug, Clone)]
pub struct Claim {
    /// The variable.
    pub variable: &'static Spec,
    /// The thing.
    pub thing: Exclusive,
}

/// A thing that only one pipeline can use.
#[derive(Debug, Clone)]
pub enum Exclusive {
    /// An address to listen on.
    Address(SocketAddr),
    /// A folder for files of its own.
    Folder(PathBuf),
}

impl Exclusive {
    /// Whether the two exclude each other.
    pub fn excludes(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Address(one), Self::Address(other)) => {
                let is_any = one.ip().is_unspecified() || other.ip().is_unspecified();
                one.port() == other.port() && (one.ip() == other.ip() || is_any && one.is_ipv4() == other.is_ipv4())
            }
            (Self::Folder(one), Self::Folder(other)) => real(one) == real(other),
            _ => false,
        }
    }
}

impl fmt::Display for Exclusive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => write!(f, "the address {address}"),
            Self::Folder(folder) => write!(f, "the folder {}", folder.display()),
        }
    }
}

/// The path without symbolic links, as far as it exists.
fn real(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let in_its_parent = || Some(absolute.parent()?.canonicalize().ok()?.join(absolute.file_name()?));
    absolute.canonicalize().ok().or_else(in_its_parent).unwrap_or(absolute)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_excludes_itself_and_the_port_on_every_address() {
        let address = |text: &str| Exclusive::Address(text.parse().unwrap());
        let excludes = |one, other| address(one).excludes(&address(other));
        for (one, other) in [("127.0.0.1:1", "127.0.0.1:1"), ("0.0.0.0:1", "10.0.0.1:1"), ("[::1]:1", "[::]:1")] {
            assert!(excludes(one, other) && excludes(other, one), "{one} {other}");
        }
        for (one, other) in [("127.0.0.1:1", "127.0.0.1:2"), ("127.0.0.1:1", "127.0.0.2:1"), ("[::1]:1", "127.0.0.1:1")]
        {
            assert!(!excludes(one, other), "{one} {other}");
        }
    }

    #[test]
    fn a_folder_excludes_itself_under_every_name() {
        let parent = tempfile::tempdir().unwrap();
        let folder = |name: &str| Exclusive::Folder(parent.path().join(name));
        std::os::unix::fs::symlink(parent.path(), parent.path().join("link")).unwrap();
        // The folder need not exist.
        assert!(folder("spool").excludes(&folder("link/spool")));
        assert!(!folder("spool").excludes(&folder("other")));
        std::fs::create_dir(parent.path().join("spool")).unwrap();
        assert!(folder("./spool").excludes(&folder("link/spool")));
    }
}
