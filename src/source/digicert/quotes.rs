//! Quotes text of a report in messages.

use crate::component::Context;
use crate::http::{Excerpt, Redaction};
use crate::secret::Secret;

/// Makes text of a report safe for a log.
#[derive(Debug, Clone)]
pub(super) struct Quotes {
    /// The key that the server may have echoed.
    key: Secret,
    /// Whether values of rows are redacted.
    is_redacting: bool,
}

impl Quotes {
    /// Makes the quotes of a source with this `key`, in the pipeline of `context`.
    pub(super) fn new(key: Secret, context: &Context) -> Self {
        Self { key, is_redacting: context.dead_letters.is_redacting() }
    }

    /// Quotes text that is not a value of a row.
    pub(super) fn text(&self, text: &str) -> Excerpt {
        Excerpt::of(text.as_bytes(), &self.hidden())
    }

    /// Quotes text that may be a part of a row.
    pub(super) fn row(&self, text: &[u8]) -> Excerpt {
        Excerpt::of_records(text, &self.hidden(), self.is_redacting)
    }

    fn hidden(&self) -> Redaction {
        Redaction::of([&self.key.current()])
    }

    /// Makes quotes that redact no values.
    #[cfg(test)]
    pub(super) fn without_redaction(key: Secret) -> Self {
        Self { key, is_redacting: false }
    }
}
