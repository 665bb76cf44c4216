//! Manifests, which describe objects, and the end of their chain, which the state holds.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::error::Error;
use crate::aws::digest::Sha256;
use crate::destination::Mark;
use crate::pipeline_name::PipelineName;
use crate::source::Cursor;

/// The version of the manifests' layout: the one that this program writes, and the only one that it reads.
pub(super) const VERSION: u32 = 1;

/// A link of the chain: describes an object, and places it in the chain.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Manifest {
    pub(super) version: u32,
    pub(super) pipeline: PipelineName,
    pub(super) archive: ArchiveId,
    /// Its number in the chain, counted from 0.
    pub(super) number: u64,
    /// The key of the object after the archive's prefix, so that an archive may be copied elsewhere.
    pub(super) object: String,
    /// The object's size as it is stored.
    pub(super) bytes: u64,
    /// The SHA-256 of the object as it is stored.
    pub(super) sha256: Sha256,
    /// The number of rows in the object.
    pub(super) rows: u64,
    /// The time of the earliest event; none if no event has a time.
    pub(super) first_event: Option<Timestamp>,
    /// The time of the latest event.
    pub(super) last_event: Option<Timestamp>,
    /// The SHA-256 of the manifest before this one; none for the first.
    pub(super) previous: Option<Sha256>,
    /// The cursor after the object before this one.
    pub(super) from: Cursor,
    /// The cursor after this object.
    pub(super) to: Cursor,
}

impl Manifest {
    /// The manifest as it is stored.
    pub(super) fn encode(&self) -> Result<Vec<u8>, Error> {
        let mut bytes = serde_json::to_vec(self).map_err(Error::Json)?;
        bytes.push(b'\n');
        Ok(bytes)
    }

    /// Reads a stored manifest.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        use serde::de::Error as _;
        let manifest: Self = serde_json::from_slice(bytes)?;
        if manifest.version != VERSION {
            let version = manifest.version;
            return Err(serde_json::Error::custom(format!("its layout is {version}; this version knows {VERSION}")));
        }
        Ok(manifest)
    }
}

/// Distinguishes an archive from another one under the same keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct ArchiveId(String);

impl ArchiveId {
    /// The identifier of a new archive.
    pub(super) fn random() -> Self {
        Self(format!("{:016x}", fastrand::u64(..)))
    }
}

/// The end of the chain, which the state holds beside the cursor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct End {
    pub(super) archive: ArchiveId,
    /// The number of manifests.
    pub(super) manifests: u64,
    /// The SHA-256 of the newest.
    pub(super) newest: Option<Sha256>,
    /// The bucket and the prefix; none in the state of an earlier version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) location: Option<String>,
}

impl End {
    /// The end of a new archive.
    pub(super) fn of_new_archive() -> Self {
        Self { archive: ArchiveId::random(), manifests: 0, newest: None, location: None }
    }

    /// The end of the chain after `manifest`, which has this SHA-256.
    pub(super) fn behind(manifest: &Manifest, digest: Sha256, location: Option<String>) -> Self {
        let manifests = manifest.number.saturating_add(1);
        Self { archive: manifest.archive.clone(), manifests, newest: Some(digest), location }
    }

    pub(super) fn of(mark: &Mark) -> Result<Self, Error> {
        let end = Self::deserialize(&mark.0).map_err(Error::Mark)?;
        if (end.manifests == 0) != end.newest.is_none() {
            use serde::de::Error as _;
            return Err(Error::Mark(serde_json::Error::custom("`newest` does not go with `manifests`")));
        }
        Ok(end)
    }

    pub(super) fn mark(&self) -> Result<Mark, Error> {
        serde_json::to_value(self).map(Mark).map_err(Error::Json)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_is_read_as_it_was_written() {
        let manifest = Manifest {
            version: VERSION,
            pipeline: "sectigo:s3".into(),
            archive: ArchiveId::random(),
            number: 3,
            object: "2026/03/02/key.json.gz".to_owned(),
            bytes: 120,
            sha256: Sha256::of(b"object"),
            rows: 5,
            first_event: Some(Timestamp::UNIX_EPOCH),
            last_event: None,
            previous: Some(Sha256::of(b"previous")),
            from: Cursor::encode(&1).unwrap(),
            to: Cursor::encode(&2).unwrap(),
        };
        let bytes = manifest.encode().unwrap();
        assert_eq!(Manifest::decode(&bytes).unwrap(), manifest);
        let newer = Manifest { version: 2, ..manifest }.encode().unwrap();
        assert!(Manifest::decode(&newer).unwrap_err().to_string().contains("its layout is 2"));
    }

    #[test]
    fn a_mark_that_contradicts_itself_is_refused() {
        let new = End::of_new_archive();
        for end in [new.clone(), End { manifests: 2, newest: Some(Sha256::of(b"2")), ..new }] {
            assert_eq!(End::of(&end.mark().unwrap()).unwrap(), end);
        }
        let contradiction = serde_json::json!({"archive": "1", "manifests": 2, "newest": null});
        for bad in [contradiction, serde_json::json!({}), serde_json::json!(7)] {
            assert!(End::of(&Mark(bad)).is_err());
        }
    }
}
