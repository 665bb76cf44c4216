//! The outcome of a task.

use std::io;

use tokio::task::JoinError;

/// What a task gave. A panic in it goes on in the caller: it is a bug there, too. Only the end of the runtime cancels a task, which is an
/// error.
pub(crate) fn outcome<T>(ended: Result<T, JoinError>) -> io::Result<T> {
    ended.map_err(|stopped| match stopped.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        Err(cancelled) => io::Error::other(cancelled),
    })
}
