//! Failures of a receiver.

use std::io;
use std::net::SocketAddr;

use super::spool::OpenError;
use super::tls::TlsError;
use crate::failure::{Class, Failure};
use crate::variable_name::VariableName;

/// A reason why a receiver cannot work.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// The receiver cannot listen on the address.
    #[error("{variable}={address}: cannot listen there; choose an address of this machine and a free port")]
    Listen {
        variable: VariableName,
        address: SocketAddr,
        #[source]
        cause: io::Error,
    },
    /// The user may not listen on a port that only the system's services have.
    #[error(
        "{variable}={address}: cannot listen there; a port below 1024 needs the capability CAP_NET_BIND_SERVICE: give it to the service, or \
         choose a port from 1024 with a proxy before it"
    )]
    Forbidden {
        variable: VariableName,
        address: SocketAddr,
        #[source]
        cause: io::Error,
    },
    /// The files of TLS cannot be used.
    #[error("TLS cannot be set up; check {}", .0.variable())]
    Tls(#[source] TlsError),
    /// The spool cannot be opened.
    #[error("check {}", super::variables::SPOOL_PATH.spec.name)]
    Spool(#[source] OpenError),
    /// The spool cannot be read.
    #[error("the spool cannot be read; check the disk and the permissions of {}", super::variables::SPOOL_PATH.spec.name)]
    Unread(#[source] io::Error),
    /// The position in the spool cannot be saved.
    #[error("auditsync cannot save the cursor of the spool; free disk space or correct the permissions")]
    Position(#[source] io::Error),
    /// The cursor is not one of a receiver.
    #[error("the cursor is not one of a receiver")]
    Cursor(#[source] serde_json::Error),
}

impl Error {
    /// The error that the address cannot be bound.
    pub(super) fn listen(variable: VariableName, address: SocketAddr, cause: io::Error) -> Self {
        match cause.kind() {
            io::ErrorKind::PermissionDenied => Self::Forbidden { variable, address, cause },
            _ => Self::Listen { variable, address, cause },
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let class = match &error {
            // The cause may be another process, the network or the disk, and may pass by itself.
            Error::Listen { cause, .. } if !is_wrong(cause) => Class::Retryable { after: None },
            Error::Spool(OpenError::Io { cause, .. }) if !is_wrong(cause) => Class::Retryable { after: None },
            Error::Spool(OpenError::Busy(_)) | Error::Unread(_) | Error::Position(_) => {
                Class::Retryable { after: None }
            }
            Error::Listen { .. } | Error::Forbidden { .. } | Error::Tls(_) | Error::Spool(_) => Class::Refused,
            Error::Cursor(_) => Class::Fatal,
        };
        Self::new(class, error)
    }
}

/// Whether an operator must change a variable or a permission. An address that the machine lacks, a full disk or too
/// few file descriptors may pass by themselves.
fn is_wrong(cause: &io::Error) -> bool {
    use io::ErrorKind::{InvalidInput, NotADirectory, NotFound, PermissionDenied};
    matches!(cause.kind(), InvalidInput | NotADirectory | NotFound | PermissionDenied)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_pass_by_itself_is_tried_again_and_what_an_operator_must_correct_is_refused() {
        let listen = |kind: io::ErrorKind| {
            let variable = super::super::variables::LISTEN.spec.name.into();
            Error::listen(variable, SocketAddr::from(([127, 0, 0, 1], 80)), kind.into())
        };
        let spool = |kind: io::ErrorKind| Error::Spool(OpenError::Io { folder: "spool".into(), cause: kind.into() });
        for kind in [io::ErrorKind::AddrInUse, io::ErrorKind::AddrNotAvailable, io::ErrorKind::StorageFull] {
            assert!(matches!(Failure::from(listen(kind)).class(), Class::Retryable { .. }), "{kind}");
            assert!(matches!(Failure::from(spool(kind)).class(), Class::Retryable { .. }), "{kind}");
        }
        for kind in [io::ErrorKind::PermissionDenied, io::ErrorKind::NotADirectory] {
            assert!(matches!(Failure::from(listen(kind)).class(), Class::Refused), "{kind}");
            assert!(matches!(Failure::from(spool(kind)).class(), Class::Refused), "{kind}");
        }
        let forbidden = listen(io::ErrorKind::PermissionDenied).to_string();
        assert!(forbidden.contains("a port below 1024 needs the capability CAP_NET_BIND_SERVICE"), "{forbidden}");
        assert!(!listen(io::ErrorKind::NotADirectory).to_string().contains("1024"));
    }
}
