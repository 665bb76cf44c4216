//! Sectigo Certificate Manager's audit API.

use std::time::Duration;

use url::Url;

use crate::secret::Secret;

/// What is needed to read the audit API.
#[derive(Debug)]
pub struct Settings {
    /// The audit API's base address (`SECTIGO_AUDIT_API_URL`).
    pub api_url: Url,
    /// The client of the OAuth 2.0 client credentials grant.
    pub client_id: String,
    /// Its secret.
    pub client_secret: Secret,
    /// The token endpoint; none to discover it.
    pub token_url: Option<Url>,
    /// How far back the very first synchronisation goes.
    pub lookback: Duration,
    /// How long a record may take to become visible: the newest stretch of time that is not asked for yet.
    pub delay: Duration,
    /// The longest range of time asked for at once.
    pub window: Duration,
    /// How far each range reaches back into the one before.
    pub overlap: Duration,
}
