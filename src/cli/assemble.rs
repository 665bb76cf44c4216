//! From configuration to parts: one arm for each kind.

use std::sync::Arc;

use crate::source::sectigo::Sectigo;
use crate::state::StateStore;
use crate::state::localfs::LocalFs;
use crate::state::memory::Memory;
use crate::state::variables::Storage;

/// The store that was chosen.
pub(super) fn store(storage: Storage) -> Arc<dyn StateStore> {
    match storage {
        Storage::Memory => Arc::new(Memory::default()),
        Storage::LocalFs { folder } => Arc::new(LocalFs::new(folder, Sectigo::NAME)),
        #[cfg(feature = "redis")]
        Storage::Redis(settings) => Arc::new(crate::state::redis::Redis::new(settings)),
        #[cfg(feature = "s3")]
        Storage::S3(settings) => Arc::new(crate::state::s3::S3::new(settings, Sectigo::NAME)),
        #[cfg(feature = "gcs")]
        Storage::Gcs(settings) => Arc::new(crate::state::gcs::Gcs::new(settings, Sectigo::NAME)),
    }
}
