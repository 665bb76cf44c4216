//! `auditsync check`: whether digest files can be listed and read, and their signatures proven.

use jiff::Timestamp;

use super::super::ahead::Wanted;
use super::super::bucket::location;
use super::super::check::newest;
use super::super::error::Error;
use super::verifier::Verifier;
use crate::component::Check;
use crate::failure::{self, Failure};

/// The name of the part that is checked.
const PART: &str = "digests";

impl Verifier {
    /// Checks the newest digest file. It delivers nothing.
    pub(in crate::source::cloudtrail) async fn checks(&mut self, now: Timestamp) -> Vec<Check> {
        vec![self.check(now).await.unwrap_or_else(|error| Check::failed(PART, error))]
    }

    async fn check(&mut self, now: Timestamp) -> Result<Check, Error> {
        let (_, Some(Wanted { bucket, key, .. })) = newest(&self.terrain, now).await? else {
            let advice =
                "there is no digest file of the last day; turn on the trail's log file validation, or wait an hour";
            return Ok(Check::unknown(PART, advice));
        };
        let place = location(&bucket, &key);
        let (stored, content) = match self.read(&bucket, &key).await {
            Err(error @ Error::Object { .. }) => return Ok(Check::unknown(PART, error.to_string())),
            read => read?,
        };
        Ok(match self.prove(&stored, &content, now).await? {
            Ok(digest) => {
                Check::works(PART, format!("{place} is signed by CloudTrail and lists {} files", digest.files.len()))
            }
            Err(untrusted) => Check::failed(PART, Failure::new(failure::Class::Refused, untrusted)),
        })
    }
}
