//! The variables that sources share.

use std::time::Duration;

use crate::config::{Bounds, Scope, Spec, Variable};

const DAY: u64 = 24 * 3600;

/// How far back the very first sync goes.
pub(crate) const LOOKBACK: Variable<Duration> = Variable::time(
    Scope::Shared,
    "AUDITSYNC_SYNC_LOOKBACK",
    "1h",
    Bounds::seconds(0, 366 * DAY).above_zero(),
    "How far back the very first sync goes.",
);

/// All variables, for the tables.
pub(crate) const VARIABLES: &[&Spec] = &[&LOOKBACK.spec];
