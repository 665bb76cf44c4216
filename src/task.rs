//! The outcome of a task.

use std::io;

use tokio::task::JoinError;

/// Returns the result of a task. A panic in the task continues in the caller, since it is a bug there, too. Only the end of the runtime
/// cancels a task, which is an error.
pub(crate) fn outcome<T>(ended: Result<T, JoinError>) -> io::Result<T> {
    ended.map_err(|stopped| match stopped.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        Err(cancelled) => io::Error::other(cancelled),
    })
}
