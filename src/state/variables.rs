//! The variable that chooses the state store.

use crate::config::{Preset, Scope, Spec, Variable};

/// Where the state is stored: the name of a store in the registry.
pub(crate) const BACKEND: Variable<String> = Variable::text(
    Scope::Shared,
    "AUDITSYNC_STORAGE_BACKEND",
    Preset::Value("localfs"),
    "Where the state is stored: localfs (a folder), redis, s3, gcs, or memory (forgotten at the end).",
);

/// All of them, for the tables.
pub(crate) const VARIABLES: &[&Spec] = &[&BACKEND.spec];
