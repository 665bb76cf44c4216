//! The store of a pipeline without a state: its source keeps undelivered records, in a queue or a spool.

use super::memory::Memory;

/// Why there is no state, for messages.
pub(crate) const WHY: &str = "the source keeps undelivered records, so auditsync stores no state and needs no lease";

/// Makes the store. It keeps the engine's saves in this process.
pub(crate) fn store() -> Memory {
    Memory::at("nowhere (the source keeps undelivered records)")
}
