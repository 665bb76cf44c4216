//! The public keys that prove the signatures of digests: from a file, or fetched from `CloudTrail`'s API when they are needed.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

use super::super::error::Error;
use super::super::key::Files;
use super::api::{self, Api};
use super::keys::PublicKeys;

/// How long the keys of a region are kept before they are fetched again.
const KEYS_HOLD: Duration = Duration::from_secs(3600);

/// How far before and after the end of a digest its key may begin and end to be valid.
const KEYS_AROUND: SignedDuration = SignedDuration::from_hours(40 * 24);

/// The origin of public keys.
pub(in crate::source::cloudtrail) enum Keys {
    /// A file.
    Given(PublicKeys),
    /// `CloudTrail`'s API, which returns the keys of one region at a time.
    Fetched(Api, HashMap<String, Fetched>),
}

/// The keys of a region.
pub(in crate::source::cloudtrail) struct Fetched {
    at: Instant,
    keys: PublicKeys,
    /// The fingerprints of these keys, and those whose keys were not found.
    fingerprints: HashSet<String>,
}

impl Keys {
    /// Keys from the API.
    pub(in crate::source::cloudtrail) fn of(api: Api) -> Self {
        Self::Fetched(api, HashMap::new())
    }

    /// The keys that may have signed the digest under `key`.
    pub(super) async fn for_digest(&mut self, key: &str, now: Timestamp) -> Result<&PublicKeys, Error> {
        let (api, known) = match self {
            Self::Given(keys) => return Ok(keys),
            Self::Fetched(api, known) => (api, known),
        };
        let region = region(key);
        let kept = known.remove(region).filter(|fetched| fetched.at.elapsed() <= KEYS_HOLD);
        let fetched = if let Some(fetched) = kept {
            fetched
        } else {
            let (keys, fingerprints) = api.keys(region, now.checked_sub(api::BACK).unwrap_or(now), now).await?;
            Fetched { at: Instant::now(), keys, fingerprints }
        };
        Ok(&known.entry(region.to_owned()).or_insert(fetched).keys)
    }

    /// Fetches the keys from the time of the digest under `key`, unless those of the region include this fingerprint. False if there is
    /// nothing to fetch.
    pub(super) async fn fetch_again(&mut self, key: &str, fingerprint: &str, now: Timestamp) -> Result<bool, Error> {
        let Self::Fetched(api, known) = self else { return Ok(false) };
        let region = region(key);
        let Some(fetched) = known.get_mut(region).filter(|fetched| !fetched.fingerprints.contains(fingerprint)) else {
            return Ok(false);
        };
        let end = Files::Digests.slot(key).unwrap_or(now);
        let (from, to) = (end.checked_sub(KEYS_AROUND).unwrap_or(end), end.checked_add(KEYS_AROUND).unwrap_or(end));
        let (keys, fingerprints) = api.keys(region, from.min(now), to.min(now)).await?;
        fetched.keys.add(keys);
        fetched.fingerprints.extend(fingerprints);
        fetched.fingerprints.insert(fingerprint.to_owned());
        Ok(true)
    }
}

/// The region of the digest under `key`: `…/<region>/YYYY/MM/DD/<name>`.
fn region(key: &str) -> &str {
    key.rsplit('/').nth(4).unwrap_or_default()
}
