//! Stores the state in a Google Cloud Storage bucket, as one object. A save names the generation that it replaces.
//!
//! # Permissions
//!
//! | to | permission |
//! |---|---|
//! | read the object | `storage.objects.get` |
//! | write it for the first time | `storage.objects.create` |
//! | replace it | `storage.objects.create` and `storage.objects.delete` ([objects.insert][insert], [IAM for JSON][iam]) |
//! | learn that the object is missing | `storage.objects.list` |
//!
//! The role Storage Object User on the bucket has all four. No call reads the bucket itself, so none needs `storage.buckets.*`.
//!
//! Google answers 404 for a missing object, [as documented][codes], to those who may list the bucket. To others it answers 403
//! ([seen by users][seen]), since the difference would tell them what exists. So auditsync cannot tell a first start from a state that it
//! may not read. The first save decides, because its condition is that there is no object. If the save succeeds, this is a first start.
//! If it fails, there is an object. If that object still cannot be read, the permission to read is missing.
//!
//! # Pace
//!
//! Google accepts [one write a second][quotas] to an object, and answers further writes with 429.
//!
//! # Credentials
//!
//! The store uses Application Default Credentials, as Google's libraries do everywhere. After a refusal, the next call looks for
//! credentials again, so that a corrected file or a new binding needs no restart.
//!
//! [insert]: https://cloud.google.com/storage/docs/json_api/v1/objects/insert
//! [iam]: https://cloud.google.com/storage/docs/access-control/iam-json
//! [codes]: https://cloud.google.com/storage/docs/json_api/v1/status-codes
//! [seen]: https://github.com/googleapis/google-api-php-client/issues/1791
//! [quotas]: https://cloud.google.com/storage/quotas

mod client;
mod failure;

pub(crate) mod variables;

use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use google_cloud_auth::build_errors;
use google_cloud_auth::credentials::{self, Credentials, anonymous};
use serde::de::Error as _;

use super::{Claim, Document, Error, Kind, StateStore, Version};
use crate::component::Configured;
use crate::pipeline_name::PipelineName;
use client::Client;
use failure::{Failure, Side};

/// The shortest time between two writes to one object: <https://cloud.google.com/storage/quotas>.
const PACE: Duration = Duration::from_secs(1);

/// The generation of an object that does not exist.
const ABSENT: i64 = 0;

/// A generation that no object has. Google counts up, and this is the largest number.
const IMPOSSIBLE: i64 = i64::MAX;

const CREDENTIALS: &str = "auditsync takes Google's Application Default Credentials from the file that GOOGLE_APPLICATION_CREDENTIALS \
names, else from the login of `gcloud auth application-default login`, else from the service account \
of the machine (its metadata server); provide valid ones in one of these";

const OBEYS: &str = "keep the state in Google Cloud Storage itself, or with an emulator that obeys ifGenerationMatch";

/// The store in the registry.
pub const KIND: Kind = Kind {
    name: "gcs",
    variables: variables::VARIABLES,
    is_lasting: true,
    folder: |_| None,
    read: |reader, pipeline| {
        let (settings, pipeline) = (variables::settings(reader)?, pipeline.clone());
        Ok(Configured::new(move |()| -> Arc<dyn StateStore> { Arc::new(Gcs::new(settings.clone(), &pipeline)) }))
    },
};

/// The location of the object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The bucket's name, without `gs://`.
    pub bucket: String,
    /// The beginning of the object's name, without a slash at either end; may be empty.
    pub prefix: String,
    /// The base URL of an emulator (`http://host:port`) to call instead of Google, without credentials.
    pub emulator: Option<String>,
}

/// Keeps the document as an object.
pub struct Gcs {
    bucket: String,
    client: Client,
    known: Mutex<Known>,
}

/// What this handle knows about the object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    /// Nothing yet, or that the object was missing.
    Nothing,
    /// Google refused to let us read it, so it is missing or withheld.
    Withheld,
    /// The object exists.
    Present,
}

impl Gcs {
    /// Makes the store of `pipeline` in the bucket that `settings` name: `<prefix>/auditsync-sectigo-datadog.json`.
    ///
    /// It looks for credentials and the bucket only at the first call.
    pub fn new(settings: Settings, pipeline: &PipelineName) -> Self {
        if settings.emulator.is_some() {
            Self::with_credentials(settings, pipeline, || Ok(anonymous::Builder::new().build()))
        } else {
            Self::with_credentials(settings, pipeline, || credentials::Builder::default().build())
        }
    }

    /// Makes the same store with the caller's credentials instead of the Application Default Credentials.
    ///
    /// It calls `credentials` inside a Tokio runtime, for the first call and again after each refusal.
    pub fn with_credentials(
        settings: Settings,
        pipeline: &PipelineName,
        credentials: impl Fn() -> Result<Credentials, build_errors::Error> + Send + Sync + 'static,
    ) -> Self {
        let Settings { bucket, prefix, emulator } = settings;
        let name = format!("{}.json", pipeline.file_stem());
        let object = if prefix.is_empty() { name } else { format!("{prefix}/{name}") };
        let client = Client::new(&bucket, object, emulator, Box::new(credentials));
        Self { bucket, client, known: Mutex::new(Known::Nothing) }
    }

    /// Remembers what was found, and returns what was known before.
    fn learn(&self, found: Known) -> Known {
        std::mem::replace(&mut *self.known.lock(), found)
    }

    fn known(&self) -> Known {
        *self.known.lock()
    }

    /// Handles a refusal to let us read, which may mean that there is nothing to read.
    fn withheld(&self, text: String) -> Result<Option<(Document, Version)>, Error> {
        if self.known() == Known::Present {
            return Err(self.unreadable(text));
        }
        if self.learn(Known::Withheld) != Known::Withheld {
            tracing::warn!(
                location = self.location(),
                answer = %text,
                "Google Cloud Storage does not say whether there is a state; auditsync assumes a first start, unless the first \
                 save finds a state (grant storage.objects.get and storage.objects.list, and it says so)"
            );
        }
        Ok(None)
    }

    /// Turns a failed write into an error; `expected` is the generation that it should have replaced.
    fn not_saved(&self, failure: Failure, expected: i64) -> Error {
        let is_conflict = failure.says_that_the_condition_failed();
        match failure {
            Failure::Status { text, .. } if is_conflict => {
                Error::Conflict { location: self.location(), cause: Some(text.into()) }
            }
            Failure::Status { code: 403, text } => {
                let missing = match failure::permission_in(&text) {
                    Some(permission) => permission,
                    None if expected == ABSENT => "storage.objects.create",
                    None => "storage.objects.create and storage.objects.delete (replacing an object needs both)",
                };
                self.refused("write", self.grant(missing), text)
            }
            failure => self.error("write", failure),
        }
    }

    /// Finds out why a first save found an object that was withheld before. Either it was always there and we may not read it, or another
    /// instance has just made it.
    async fn found_there(&self, text: String) -> Error {
        self.learn(Known::Present);
        match self.load().await {
            Err(refused @ Error::Refused { .. }) => refused,
            _ => Error::Conflict { location: self.location(), cause: Some(text.into()) },
        }
    }

    fn unreadable(&self, text: String) -> Error {
        let remedy = format!("the object exists, but auditsync may not read it: {}", self.grant("storage.objects.get"));
        self.refused("read", remedy, text)
    }

    fn grant(&self, missing: &str) -> String {
        format!(
            "grant {missing} on the bucket {:?} (the role Storage Object User has every permission that auditsync needs); if it is granted, \
             something else forbids it, such as a retention policy, a hold, or billing that is off",
            self.bucket
        )
    }

    fn refused(&self, action: &'static str, remedy: String, text: String) -> Error {
        Error::Refused { action, location: self.location(), remedy, cause: text.into() }
    }

    /// Turns a failure that means the same for reads and writes into an error.
    fn error(&self, action: &'static str, failure: Failure) -> Error {
        let location = self.location();
        match failure {
            Failure::Credentials(text) | Failure::Status { code: 401, text } => {
                self.refused(action, CREDENTIALS.to_owned(), text)
            }
            Failure::Status { code: 404, text } => {
                let remedy = format!("there is no bucket {:?}: create it, or correct its name", self.bucket);
                self.refused(action, remedy, text)
            }
            Failure::Status { code: ..=399 | 408 | 409 | 429 | 500.., text } | Failure::Unavailable(text) => {
                Error::Unavailable { action, location, cause: text.into() }
            }
            Failure::Status { text, .. } => {
                let remedy = "correct the bucket and the prefix as the answer says".to_owned();
                self.refused(action, remedy, text)
            }
            Failure::NoGeneration(side) => {
                let finding = match side {
                    Side::Read => "it returned an object without the header x-goog-generation",
                    Side::Write => "it wrote the object, but did not return its generation",
                };
                Error::Unconditional { location, finding: finding.to_owned(), remedy: OBEYS }
            }
            Failure::TooLarge { most } => {
                let cause = serde_json::Error::custom(format_args!("it is larger than {most} bytes, and no state is"));
                Error::Corrupt { location, cause: cause.into() }
            }
        }
    }
}

#[async_trait]
impl StateStore for Gcs {
    fn location(&self) -> String {
        format!("gs://{}/{}", self.bucket, self.client.object())
    }

    async fn claim(&self) -> Result<Claim, Error> {
        Ok(Claim::ByLease)
    }

    async fn load(&self) -> Result<Option<(Document, Version)>, Error> {
        match self.client.read().await {
            Ok((bytes, generation)) => {
                self.learn(Known::Present);
                Ok(Some((Document::from_bytes(bytes), Version(generation.to_string()))))
            }
            Err(failure @ Failure::Status { code: 404, .. }) if !failure.says_that_the_bucket_is_missing() => {
                self.learn(Known::Nothing);
                Ok(None)
            }
            Err(Failure::Status { code: 403, text }) => self.withheld(text),
            Err(failure) => Err(self.error("read", failure)),
        }
    }

    /// Saves the document. If the answer to a save is lost, the next save may conflict with our own. The nonce in the document shows that.
    async fn save(&self, document: &Document, expected: Option<&Version>) -> Result<Version, Error> {
        let expected = match expected {
            None => ABSENT,
            // No object has a version that is not a generation. And 0 must not turn into the condition that there is no object.
            Some(version) => match version.0.parse() {
                Ok(generation) if generation > ABSENT => generation,
                _ => return Err(Error::Conflict { location: self.location(), cause: None }),
            },
        };
        match self.client.write(document.as_bytes(), expected).await {
            Ok(generation) => {
                self.learn(Known::Present);
                Ok(Version(generation.to_string()))
            }
            Err(Failure::Status { code: 412, text }) if expected == ABSENT && self.known() == Known::Withheld => {
                Err(self.found_there(text).await)
            }
            Err(failure) => Err(self.not_saved(failure, expected)),
        }
    }

    /// Requests a write under an impossible condition, and succeeds if the store refuses it for that condition.
    ///
    /// If a store writes nevertheless, it writes the very bytes that it held a moment before, or an empty object if there was none. (A
    /// withheld object may hold other bytes. But a store that has permissions is Google's, which obeys conditions.)
    ///
    /// The probe cannot show whether we may replace an object. Google may check the condition before it checks `storage.objects.delete`, so
    /// the first replacement shows that.
    async fn probe(&self) -> Result<(), Error> {
        let held = self.load().await?.map(|(document, _)| document);
        let same = held.as_ref().map_or(&[][..], Document::as_bytes);
        match self.client.write(same, IMPOSSIBLE).await {
            Err(failure) if failure.says_that_the_condition_failed() => Ok(()),
            Ok(_) | Err(Failure::NoGeneration(Side::Write)) => {
                let what = if held.is_some() { "the same bytes again" } else { "an empty object" };
                let finding = format!("asked to write only over an impossible generation, it wrote {what}");
                Err(Error::Unconditional { location: self.location(), finding, remedy: OBEYS })
            }
            Err(failure) => Err(self.not_saved(failure, IMPOSSIBLE)),
        }
    }

    fn pace(&self) -> Duration {
        PACE
    }
}
