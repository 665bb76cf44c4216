//! From configuration to parts: one arm for each kind.

use std::sync::Arc;

use crate::config::Storage;
use crate::source::sectigo::Sectigo;
use crate::state::StateStore;
use crate::state::localfs::LocalFs;
use crate::state::memory::Memory;

/// The store that was chosen.
pub(super) fn store(storage: &Storage) -> Arc<dyn StateStore> {
    match storage {
        Storage::Memory => Arc::new(Memory::default()),
        Storage::LocalFs { folder } => Arc::new(LocalFs::new(folder.clone(), Sectigo::NAME)),
    }
}
