//! The log of the stores: the warnings and errors of all tests together.
//!
//! One subscriber serves the whole process. With one for each thread, a message could first be reached by a thread
//! without interest in it, and tracing would then disable it for all.

use std::io::{self, Write};
use std::sync::{Mutex, Once, PoisonError};

use tracing::Level;

static LOG: Mutex<Vec<u8>> = Mutex::new(Vec::new());

/// Starts to keep the log, unless that has started.
pub(crate) fn keep() {
    static BEGUN: Once = Once::new();
    BEGUN.call_once(|| {
        let subscriber = tracing_subscriber::fmt().with_writer(|| Kept).with_ansi(false).with_max_level(Level::WARN);
        tracing::subscriber::set_global_default(subscriber.finish()).unwrap();
        // A thread that reached a message before this line may have cached that no subscriber wants it.
        tracing::callsite::rebuild_interest_cache();
    });
}

/// The lines that contain `about`, which has to be unique to the test.
pub(crate) fn lines(about: &str) -> Vec<String> {
    let log = LOG.lock().unwrap_or_else(PoisonError::into_inner);
    String::from_utf8_lossy(&log).lines().filter(|line| line.contains(about)).map(str::to_owned).collect()
}

struct Kept;

impl Write for Kept {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        LOG.lock().unwrap_or_else(PoisonError::into_inner).write(text)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
