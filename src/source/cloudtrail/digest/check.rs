//! `auditsync check`: whether digest files can be listed and read, and their signatures proven.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use super::super::bucket::location;
use super::super::cursor::Progress;
use super::super::error::Error;
use super::super::key::Class;
use super::super::survey::Survey;
use super::verifier::Verifier;
use crate::component::Check;
use crate::failure::{self, Failure};

/// The name of the part that is checked.
const PART: &str = "digests";

/// How far back the check looks for a digest file.
const BACK: SignedDuration = SignedDuration::from_hours(24);

impl Verifier {
    /// Checks the newest digest file. It delivers nothing.
    pub(in crate::source::cloudtrail) async fn checks(&mut self, now: Timestamp) -> Vec<Check> {
        vec![self.check(now).await.unwrap_or_else(|error| Check::failed(PART, error))]
    }

    async fn check(&mut self, now: Timestamp) -> Result<Check, Error> {
        let since = Progress::since(now.checked_sub(BACK).unwrap_or(now));
        let mut survey = Survey::new(self.terrain.clone(), &since, Class::VeryLate);
        survey.run().await?;
        let plan = survey.into_plan();
        let Some(key) = plan.last().map(|file| plan.key(file)) else {
            let advice =
                "there is no digest file of the last day; turn on the trail's log file validation, or wait an hour";
            return Ok(Check::unknown(PART, advice));
        };
        let place = location(&self.terrain.bucket, &key);
        let bucket = Arc::clone(&self.terrain.bucket);
        let (stored, content) = match self.read(&bucket, &key).await? {
            Ok(read) => read,
            Err(reason) => return Ok(Check::unknown(PART, format!("{place} cannot be read: {reason}"))),
        };
        Ok(match self.prove(&stored, &content, now).await? {
            Ok(digest) => {
                Check::works(PART, format!("{place} is signed by CloudTrail and lists {} files", digest.files.len()))
            }
            Err(untrusted) => Check::failed(PART, Failure::new(failure::Class::Refused, untrusted)),
        })
    }
}
