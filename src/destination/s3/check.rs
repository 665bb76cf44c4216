//! `auditsync check`: tries each permission with a marked test object.

use bytes::Bytes;

use super::Archiver;
use super::error::Error;
use crate::component::{Check, Finding};
use crate::failure::{Chain, Failure};

/// The name of the test object.
const NAME: &str = "auditsync-check";

/// The content of the test object.
const CONTENT: &[u8] = b"Written by `auditsync check` to find out what it may do here. It can be deleted.\n";

impl Archiver {
    pub(super) async fn check(&self) -> Vec<Check> {
        let key = self.layout.under_prefix(NAME);
        let location = self.bucket.location(&key);
        let mut checks = vec![finding("writing", self.check_writing(&key).await)];
        let is_written = matches!(checks[..], [Check { finding: Finding::Works(_), .. }]);
        if is_written {
            let read = self.bucket.get(&key).await.map(|_| format!("{location} can be read"));
            checks.push(finding("reading", read));
        }
        let listed = self.bucket.list(&self.layout.manifests()).await;
        checks.push(finding("listing", listed.map(|_| "the bucket can be listed".to_owned())));
        if is_written {
            checks.push(match self.bucket.delete(&key).await {
                Ok(()) => Check::works("deleting", "the test object is deleted"),
                Err(error) => risk(&error, &location),
            });
        }
        checks
    }

    /// Writes the test object, and checks that the store refuses to replace it.
    async fn check_writing(&self, key: &str) -> Result<String, Error> {
        let location = self.bucket.location(key);
        for _ in 0..2 {
            if !self.bucket.put_new(key, Bytes::from_static(CONTENT), "text/plain").await? {
                return Ok(format!("{location} can be written, and the store refuses to replace it"));
            }
        }
        Err(Error::Unconditional { location })
    }
}

fn finding(part: &'static str, found: Result<String, Error>) -> Check {
    match found {
        Ok(seen) => Check::works(part, seen),
        Err(error) => Check::failed(part, Failure::from(error)),
    }
}

/// Only leftovers have to be deleted, and an operator may not want to allow that.
fn risk(error: &Error, location: &str) -> Check {
    let what = format!(
        "{}. Without it, objects of interrupted attempts stay in the bucket, and no manifest names them. {location} stays, too",
        Chain(error)
    );
    Check { part: "deleting", finding: Finding::Risk(what) }
}
