//! `auditsync verify`: reads every manifest and every object in order, and names the first one that is not as it was
//! written.

use std::future::ready;
use std::pin::pin;

use async_trait::async_trait;
use bytes::Bytes;
use bytesize::ByteSize;
use futures_util::{StreamExt as _, stream};

use super::bucket::Pieces;
use super::encoder::{Compression, Decoder};
use super::error::Error;
use super::manifest::{End, Manifest};
use super::{Archiver, S3};
use crate::aws::digest::{Hasher, Sha256};
use crate::destination::{Advance, Archive, Mark, Proof};
use crate::failure::Failure;
use crate::source::Cursor;

/// The number of manifests, and of objects, that are read at a time. Memory holds one piece of each.
const AT_A_TIME: usize = 8;

/// The reason for a walk that ends early.
enum Stop {
    /// The archive is not as it was written.
    Flaw(String),
    /// The store failed.
    Failed(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// The chain as far as the walk has followed it.
struct Links {
    stored: Option<End>,
    /// The newest manifest that the walk followed, and the cursor after its object.
    newest: Option<(End, Cursor)>,
}

/// What was proven.
#[derive(Default)]
struct Total {
    end: Option<End>,
    rows: u64,
    bytes: u64,
}

impl Total {
    fn manifests(&self) -> u64 {
        self.end.as_ref().map_or(0, |end| end.manifests)
    }
}

#[async_trait]
impl Archive for S3 {
    fn location(&self) -> String {
        self.0.location()
    }

    async fn verify(&self, mark: Option<&Mark>, advance: &(dyn Fn(Advance) + Send + Sync)) -> Result<Proof, Failure> {
        let stored = mark.map(End::of).transpose()?;
        let total_stored = stored.as_ref().map(|end| end.manifests);
        let mut total = Total::default();
        let walked =
            self.0.walk(stored.clone(), &mut total, |done| advance(Advance { done, total: total_stored })).await;
        let flaw = match walked {
            Ok(()) => None,
            Err(Stop::Flaw(flaw)) => Some(flaw),
            Err(Stop::Failed(error)) => return Err(error.into()),
        };
        let (manifests, rows, bytes) = (total.manifests(), total.rows, ByteSize::b(total.bytes).display().iec());
        let proven = format!("{manifests} objects, {rows} rows, {bytes}");
        let mark = total.end.or(stored).map(|end| end.mark()).transpose()?;
        Ok(Proof { proven, flaw, mark })
    }
}

impl Archiver {
    async fn walk(
        &self,
        stored: Option<End>,
        total: &mut Total,
        advance: impl Fn(u64) + Send + Sync,
    ) -> Result<(), Stop> {
        let least = stored.as_ref().map_or(0, |end| end.manifests);
        let read = async |number| (number, self.bucket.get(&self.layout.manifest(number)).await);
        let manifests = stream::iter(0..).map(read).buffered(AT_A_TIME);
        let links = Links { stored, newest: None };
        let linked = manifests.scan(links, |links, (number, bytes)| ready(self.link(links, number, bytes).transpose()));
        let checked = linked.map(async |link| {
            let (manifest, end) = link?;
            self.check_object(&manifest).await?;
            Ok::<_, Stop>((manifest, end))
        });
        let mut checked = pin!(checked.buffered(AT_A_TIME));
        while let Some(next) = checked.next().await {
            let (manifest, end) = next?;
            total.end = Some(end);
            total.rows += manifest.rows;
            total.bytes += manifest.bytes;
            advance(total.manifests());
        }
        self.nothing_follows(total.manifests(), least).await
    }

    /// Checks that the manifest `number` follows the one before it. None if there is no such manifest.
    fn link(
        &self,
        links: &mut Links,
        number: u64,
        bytes: Result<Option<Bytes>, Error>,
    ) -> Result<Option<(Manifest, End)>, Stop> {
        let Some(bytes) = bytes? else { return Ok(None) };
        let key = self.layout.manifest(number);
        let flaw = |what: &str| Err(Stop::Flaw(format!("{} {what}", self.bucket.location(&key))));
        let manifest = match Manifest::decode(&bytes) {
            Ok(manifest) => manifest,
            Err(error) => return flaw(&format!("was changed: it cannot be read as a manifest ({error})")),
        };
        if manifest.pipeline != self.pipeline || manifest.number != number {
            let what = format!("was changed: it is manifest {} of {}", manifest.number, manifest.pipeline);
            return flaw(&what);
        }
        let (newest, to) = links.newest.take().unzip();
        if manifest.previous != newest.as_ref().and_then(|end| end.newest) {
            return flaw("does not follow the manifest before it: one of the two was changed");
        }
        if to.is_some_and(|to| to != manifest.from) {
            return flaw("does not begin at the cursor where the object before it ends");
        }
        if newest.as_ref().or(links.stored.as_ref()).is_some_and(|end| end.archive != manifest.archive) {
            return flaw("was changed: it belongs to another archive");
        }
        // Someone may have copied the archive, so its location proves nothing.
        let location = links.stored.as_ref().and_then(|stored| stored.location.clone());
        let end = End::behind(&manifest, Sha256::of(&bytes), location);
        if links.stored.as_ref().is_some_and(|stored| stored.manifests == end.manifests && *stored != end) {
            return flaw("was changed: it is not the newest manifest that the state names");
        }
        links.newest = Some((end.clone(), manifest.to.clone()));
        Ok(Some((manifest, end)))
    }

    /// Checks that the object is there, and matches its manifest.
    async fn check_object(&self, manifest: &Manifest) -> Result<(), Stop> {
        let key = self.layout.under_prefix(&manifest.object);
        let flaw = |what: String| Err(Stop::Flaw(format!("{} {what}", self.bucket.location(&key))));
        let Some(compression) = Compression::of_key(&key) else {
            return flaw("does not have the name of an archive's object".to_owned());
        };
        let Some(pieces) = self.bucket.stream(&key).await? else { return flaw("is missing".to_owned()) };
        let (sha256, rows) = match read(pieces, compression, manifest.bytes).await? {
            Ok(seen) => seen,
            Err(what) => return flaw(format!("was changed: {what}")),
        };
        if sha256 != manifest.sha256 {
            return flaw(format!("was changed: its SHA-256 is {sha256}, but its manifest says {}", manifest.sha256));
        }
        if rows != manifest.rows {
            return flaw(format!("has {rows} rows, but its manifest says {}", manifest.rows));
        }
        Ok(())
    }

    /// Checks that the archive has at least this many manifests, and that none is missing from the middle.
    async fn nothing_follows(&self, manifests: u64, least: u64) -> Result<(), Stop> {
        let key = self.layout.manifest(manifests);
        let location = self.bucket.location(&key);
        if manifests < least {
            return Err(Stop::Flaw(format!("{location} is missing: the state names {least} manifests")));
        }
        // Other keys in the folder are not ours.
        let is_manifest = |key: &&String| {
            let name = key.strip_prefix(&self.layout.manifests()).and_then(|name| name.strip_suffix(".json"));
            name.is_some_and(|name| name.len() >= 12 && name.bytes().all(|byte| byte.is_ascii_digit()))
        };
        let listed = self.bucket.list_after(&self.layout.manifests(), Some(&key)).await?;
        match listed.iter().find(is_manifest) {
            // It may have been written after the walk looked for it.
            Some(later) if self.bucket.get(&key).await?.is_none() => {
                Err(Stop::Flaw(format!("{location} is missing, and {} follows it", self.bucket.location(later))))
            }
            _ => Ok(()),
        }
    }
}

/// Reads an object: its SHA-256 and its number of rows, or what is wrong with it.
async fn read(
    mut pieces: Pieces<'_>,
    compression: Compression,
    expected: u64,
) -> Result<Result<(Sha256, u64), String>, Error> {
    let (mut hasher, mut decoder, mut bytes) = (Hasher::default(), Decoder::new(compression)?, 0);
    while let Some(piece) = pieces.next().await? {
        bytes += piece.len() as u64;
        hasher.update(&piece);
        if bytes > expected {
            return Ok(Err(format!("it is larger than the {expected} bytes in its manifest")));
        }
        if let Err(error) = decoder.write(&piece) {
            return Ok(Err(format!("it cannot be decompressed ({error})")));
        }
    }
    if bytes < expected {
        return Ok(Err(format!("it has {bytes} bytes, but its manifest says {expected}")));
    }
    Ok(match decoder.rows() {
        Ok(rows) => Ok((hasher.digest(), rows)),
        Err(error) => Err(format!("it cannot be decompressed ({error})")),
    })
}
