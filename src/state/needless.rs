//! The store of a pipeline without a state: its source reads from a queue, which keeps undelivered records.

use super::memory::Memory;

/// Why there is no state, for messages.
pub(crate) const WHY: &str = "the queue keeps undelivered records, so auditsync stores no state and needs no lease, and several instances may run at once";

/// Makes the store. It keeps the engine's saves in this process.
pub(crate) fn store() -> Memory {
    Memory::at("nowhere (the queue keeps undelivered records)")
}
