//! What the stores log: warnings and worse, of all tests together.
//!
//! One subscriber serves the whole process. With one to a thread, a message that another thread is the first to come by
//! would be taken for one that nobody wants.

use std::io::{self, Write};
use std::sync::{Mutex, Once, PoisonError};

use tracing::Level;

static LOG: Mutex<Vec<u8>> = Mutex::new(Vec::new());

/// Begins to keep what is logged, if that has not begun.
pub(crate) fn keep() {
    static BEGUN: Once = Once::new();
    BEGUN.call_once(|| {
        let subscriber = tracing_subscriber::fmt().with_writer(|| Kept).with_ansi(false).with_max_level(Level::WARN);
        tracing::subscriber::set_global_default(subscriber.finish()).unwrap();
        // Whoever came by a message before this line may have found that nobody wants it.
        tracing::callsite::rebuild_interest_cache();
    });
}

/// The lines with `about` in them, which is to be the test's own.
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
