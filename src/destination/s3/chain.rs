//! The manifests so far: finds their end at a start, and adds one.

use bytes::Bytes;

use super::bucket::Bucket;
use super::error::Error;
use super::layout::Layout;
use super::manifest::{End, Manifest, VERSION};
use super::object::Written;
use super::{Archiver, variables};
use crate::aws::digest::Sha256;
use crate::destination::{Mark, Resumed};
use crate::pipeline_name::PipelineName;
use crate::source::Cursor;

/// The content type of manifests.
const CONTENT_TYPE: &str = "application/json";

/// The most manifests that one call adopts. The engine stores their end before the next call, so that even a long chain
/// is followed to its end.
const MOST_ADOPTED: u32 = 100;

/// The chain as far as it is known.
pub(super) struct Chain {
    end: End,
    /// The cursor after the newest object.
    to: Cursor,
}

impl Chain {
    /// The number of manifests.
    pub(super) fn manifests(&self) -> u64 {
        self.end.manifests
    }

    /// Finds the end of the chain, starting at the one that the state holds. Adopts the manifests after it: their
    /// objects are complete, but the state does not hold their end yet. If there are many, the next call adopts the
    /// others.
    pub(super) async fn resume(
        archiver: &Archiver,
        cursor: &Cursor,
        mark: Option<&Mark>,
    ) -> Result<(Self, Option<Resumed>), Error> {
        let end = match mark {
            Some(mark) => archiver.end_here(End::of(mark)?).await?,
            None => archiver.new_archive().await?,
        };
        let end = End { location: Some(archiver.location()), ..end };
        let to = archiver.end_as_stored(&end).await?.unwrap_or_else(|| cursor.clone());
        let mut chain = Self { end, to };
        let mut cursor = cursor.clone();
        for _ in 0..MOST_ADOPTED {
            let Some((manifest, digest)) = archiver.successor(&chain.end).await? else { break };
            archiver.check_presence(&manifest).await?;
            archiver.delete_other_attempts(&manifest).await?;
            cursor.clone_from(&manifest.to);
            chain.add_end(&manifest, digest);
        }
        let mark_now = chain.end.mark()?;
        // A new archive's mark differs from the state's, so the engine stores it before anything is written to the
        // archive.
        let is_news = mark != Some(&mark_now);
        let resumed = is_news.then_some(Resumed { cursor, mark: Some(mark_now) });
        Ok((chain, resumed))
    }

    /// Makes the manifest of the next object.
    pub(super) fn next(&self, layout: &Layout, pipeline: &PipelineName, to: &Cursor, written: Written) -> Manifest {
        let Written { key, bytes, sha256, rows, first_event, last_event } = written;
        Manifest {
            version: VERSION,
            pipeline: pipeline.clone(),
            archive: self.end.archive.clone(),
            number: self.end.manifests,
            object: layout.behind_prefix(&key).to_owned(),
            bytes,
            sha256,
            rows,
            first_event,
            last_event,
            previous: self.end.newest,
            from: self.to.clone(),
            to: to.clone(),
        }
    }

    /// Writes the next manifest. Fails if another instance has written a different one under its number; accepts the
    /// same one from an earlier call. The first one also proves that the store refuses to replace a manifest.
    pub(super) async fn add(&self, bucket: &Bucket, layout: &Layout, manifest: &Manifest) -> Result<(), Error> {
        let (key, bytes) = (layout.manifest(manifest.number), Bytes::from(manifest.encode()?));
        let put = async || bucket.put_new(&key, bytes.clone(), CONTENT_TYPE).await;
        let location = || bucket.location(&key);
        if !put().await? && bucket.get(&key).await?.as_ref() != Some(&bytes) {
            return Err(Error::Overtaken { location: location() });
        }
        if manifest.number == 0 && put().await? {
            return Err(Error::Unconditional { location: location() });
        }
        Ok(())
    }

    /// Notes that the manifest is in the bucket, and returns the mark for the state.
    pub(super) fn added(&mut self, manifest: &Manifest) -> Result<Mark, Error> {
        let digest = Sha256::of(&manifest.encode()?);
        self.add_end(manifest, digest);
        self.end.mark()
    }

    fn add_end(&mut self, manifest: &Manifest, digest: Sha256) {
        self.end = End::behind(manifest, digest, self.end.location.take());
        self.to = manifest.to.clone();
    }
}

impl Archiver {
    /// Starts an archive that the state does not know. Fails if the bucket already holds one there.
    async fn new_archive(&self) -> Result<End, Error> {
        let first = self.layout.manifest(0);
        if self.bucket.get(&first).await?.is_none() {
            return Ok(End::of_new_archive());
        }
        Err(self.unknown())
    }

    /// Begins another archive if an operator has set another bucket or prefix, and no archive is there yet.
    async fn end_here(&self, end: End) -> Result<End, Error> {
        let (here, before) = (self.location(), end.location.as_ref());
        let Some(before) = before.filter(|before| **before != here) else { return Ok(end) };
        if self.bucket.get(&self.layout.manifest(0)).await?.is_some() {
            // Someone has copied the archive. If not, its newest manifest is not the one in the state.
            return Ok(end);
        }
        tracing::warn!(
            before,
            here,
            "the bucket or the prefix was changed; another archive begins there, at the stored cursor"
        );
        Ok(End::of_new_archive())
    }

    fn unknown(&self) -> Error {
        let location = self.bucket.location(&self.layout.manifest(0));
        Error::Unknown { location, variable: variables::PREFIX.spec.name }
    }

    /// Checks that the newest manifest is the one that the state names, and returns the cursor after it. Also checks
    /// that the store refuses to replace it.
    async fn end_as_stored(&self, end: &End) -> Result<Option<Cursor>, Error> {
        let Some(newest) = end.newest else { return Ok(None) };
        let key = self.layout.manifest(end.manifests.saturating_sub(1));
        let location = || self.bucket.location(&key);
        let Some(bytes) = self.bucket.get(&key).await? else {
            return Err(Error::NotAsStored { location: location(), what: "it is not there" });
        };
        if Sha256::of(&bytes) != newest {
            return Err(Error::NotAsStored { location: location(), what: "it was changed" });
        }
        let manifest = self.decode(&key, &bytes)?;
        // At worst, the store replaces the manifest by itself.
        if self.bucket.put_new(&key, bytes, CONTENT_TYPE).await? {
            return Err(Error::Unconditional { location: location() });
        }
        Ok(Some(manifest.to))
    }

    /// Reads the manifest after `end`, if there is one, and its SHA-256.
    async fn successor(&self, end: &End) -> Result<Option<(Manifest, Sha256)>, Error> {
        let key = self.layout.manifest(end.manifests);
        let Some(bytes) = self.bucket.get(&key).await? else { return Ok(None) };
        let manifest = self.decode(&key, &bytes)?;
        if manifest.archive != end.archive {
            return Err(self.unknown());
        }
        if manifest.previous != end.newest || manifest.number != end.manifests {
            let key = self.layout.manifest(end.manifests.saturating_sub(1));
            let what = "the manifest after it follows another one";
            return Err(Error::NotAsStored { location: self.bucket.location(&key), what });
        }
        Ok(Some((manifest, Sha256::of(&bytes))))
    }

    fn decode(&self, key: &str, bytes: &[u8]) -> Result<Manifest, Error> {
        let location = || self.bucket.location(key);
        let manifest = Manifest::decode(bytes).map_err(|cause| Error::NoManifest { location: location(), cause })?;
        if manifest.pipeline != self.pipeline {
            let (found, expected) = (manifest.pipeline, self.pipeline.clone());
            return Err(Error::OtherPipeline { location: location(), found, expected });
        }
        Ok(manifest)
    }

    /// Checks that the object of a manifest is there before its rows count as archived.
    async fn check_presence(&self, manifest: &Manifest) -> Result<(), Error> {
        let object = self.layout.under_prefix(&manifest.object);
        if self.bucket.size(&object).await? == Some(manifest.bytes) {
            return Ok(());
        }
        let location = |key: &str| self.bucket.location(key);
        Err(Error::WithoutObject {
            manifest: location(&self.layout.manifest(manifest.number)),
            object: location(&object),
        })
    }

    /// Deletes the objects that other attempts left beside the one that the manifest names.
    async fn delete_other_attempts(&self, manifest: &Manifest) -> Result<(), Error> {
        let object = self.layout.under_prefix(&manifest.object);
        let Some(beginning) = self.layout.attempts_like(manifest.number, &object) else { return Ok(()) };
        for key in self.bucket.list(beginning).await? {
            if key != object {
                self.bucket.delete_leftover(&key).await?;
            }
        }
        Ok(())
    }
}
