//! The variables of the HTTP policy.

use std::time::Duration;

use super::Settings;
use crate::config::{Bounds, Noted, Reader, Scope, Spec, Variable};

/// The longest time for one exchange.
pub(crate) const TIMEOUT: Variable<Duration> = Variable::time(
    Scope::Shared,
    "AUDITSYNC_HTTP_TIMEOUT",
    "60s",
    Bounds::seconds(1, 600),
    "Longest time for one request and its answer.",
);

/// Every variable of the HTTP policy, for the tables.
pub(crate) const VARIABLES: &[&Spec] = &[&TIMEOUT.spec];

/// Reads the settings of the HTTP policy.
pub(crate) fn settings(reader: &mut Reader<'_>) -> Result<Settings, Noted> {
    Ok(Settings { timeout: reader.get(&TIMEOUT)?, timeout_variable: reader.name(&TIMEOUT.spec) })
}
