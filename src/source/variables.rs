//! The variables that every source reads.

use std::time::Duration;

use crate::config::{Bounds, Scope, Spec, Variable};

/// How far back the very first sync goes.
pub(crate) const LOOKBACK: Variable<Duration> = Variable::time(
    Scope::Shared,
    "AUDITSYNC_SYNC_LOOKBACK",
    "1h",
    Bounds::seconds(0, 18 * 3600).above_zero(),
    "How far back the very first sync goes.",
);

/// All of them, for the tables.
pub(crate) const VARIABLES: &[&Spec] = &[&LOOKBACK.spec];
