//! State in a Google Cloud Storage bucket: one object, replaced only while it has the generation that was read.
//!
//! # Permissions
//!
//! | to | permission |
//! |---|---|
//! | read the object | `storage.objects.get` |
//! | write it for the first time | `storage.objects.create` |
//! | replace it | `storage.objects.create` and `storage.objects.delete` ([objects.insert][insert], [IAM for JSON][iam]) |
//! | be told that it is missing | `storage.objects.list` |
//!
//! The role Storage Object User on the bucket has them all. No call reads the bucket itself, so no `storage.buckets.*`.
//!
//! A missing object answers 404, [as documented][codes], to those who may list the bucket. To others it answers 403
//! ([seen by users][seen]), since the difference would tell them what exists. A first start could so not be told from a
//! state that may not be read. The first save settles it, because it is made under the condition that there is no object:
//! if it succeeds, it was a first start; if it fails, there is an object, and if that may still not be read, the permission
//! to read is what is missing.
//!
//! # Pace
//!
//! Google takes [one write a second][quotas] to one object, and answers more of them with 429.
//!
//! # Credentials
//!
//! Application Default Credentials, as Google's libraries look for them everywhere. After a refusal they are looked for
//! again at the next call, so that a corrected file or a new binding needs no restart.
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

/// The least time between two writes to one object: <https://cloud.google.com/storage/quotas>.
const PACE: Duration = Duration::from_secs(1);

/// The generation of an object that does not exist.
const ABSENT: i64 = 0;

/// A generation that no object has, whether it exists or not: Google counts up, and this is the largest number.
const IMPOSSIBLE: i64 = i64::MAX;

const CREDENTIALS: &str = "Google's Application Default Credentials are taken from the file that GOOGLE_APPLICATION_CREDENTIALS \
                           names, else from the login of `gcloud auth application-default login`, else from the service account \
                           of the machine (its metadata server); put valid ones into one of these";

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

/// Where the object is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The bucket's name, without `gs://`.
    pub bucket: String,
    /// What the object's name begins with, without a slash at either end; may be empty.
    pub prefix: String,
    /// Base URL of an emulator (`http://host:port`), which is asked instead of Google, without credentials.
    pub emulator: Option<String>,
}

/// Keeps the document as an object.
pub struct Gcs {
    bucket: String,
    client: Client,
    known: Mutex<Known>,
}

/// What this handle knows of the object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    /// Nothing yet, or that it was missing.
    Nothing,
    /// To read it was forbidden: it is missing, or there and withheld.
    Withheld,
    /// It is there.
    Present,
}

impl Gcs {
    /// The state of `pipeline` in the bucket that `settings` name: `<prefix>/auditsync-sectigo-datadog.json`.
    ///
    /// Nothing is requested before the first call: neither credentials nor the bucket.
    pub fn new(settings: Settings, pipeline: &PipelineName) -> Self {
        if settings.emulator.is_some() {
            Self::with_credentials(settings, pipeline, || Ok(anonymous::Builder::new().build()))
        } else {
            Self::with_credentials(settings, pipeline, || credentials::Builder::default().build())
        }
    }

    /// The same with credentials of one's own instead of the Application Default Credentials.
    ///
    /// `credentials` is called, inside a Tokio runtime, when the first call needs them and again after each refusal.
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

    /// Remembers what was found, and gives what was known before.
    fn learn(&self, found: Known) -> Known {
        std::mem::replace(&mut *self.known.lock(), found)
    }

    fn known(&self) -> Known {
        *self.known.lock()
    }

    /// To read is forbidden, which may mean that there is nothing to read.
    fn withheld(&self, text: String) -> Result<Option<(Document, Version)>, Error> {
        if self.known() == Known::Present {
            return Err(self.unreadable(text));
        }
        if self.learn(Known::Withheld) != Known::Withheld {
            tracing::warn!(
                location = self.location(),
                answer = %text,
                "Google Cloud Storage does not say whether there is a state; this is taken for a first start, unless the first \
                 save finds a state (grant storage.objects.get and storage.objects.list to have it said)"
            );
        }
        Ok(None)
    }

    /// Why a write did not go through; `expected` is the generation that it was to replace.
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
                    None => "storage.objects.create and storage.objects.delete (to replace an object takes both)",
                };
                self.refused("write", self.grant(missing), text)
            }
            failure => self.error("write", failure),
        }
    }

    /// What was withheld turned out to be there when it was to be made: either all along, and it may not be read, or
    /// another has just made it.
    async fn found_there(&self, text: String) -> Error {
        self.learn(Known::Present);
        match self.load().await {
            Err(refused @ Error::Refused { .. }) => refused,
            _ => Error::Conflict { location: self.location(), cause: Some(text.into()) },
        }
    }

    fn unreadable(&self, text: String) -> Error {
        let remedy = format!("the object exists, but may not be read: {}", self.grant("storage.objects.get"));
        self.refused("read", remedy, text)
    }

    fn grant(&self, missing: &str) -> String {
        format!(
            "grant {missing} on the bucket {:?} (the role Storage Object User has all that is needed); where that is granted, \
             something else forbids it, such as a retention policy, a hold, or billing that is off",
            self.bucket
        )
    }

    fn refused(&self, action: &'static str, remedy: String, text: String) -> Error {
        Error::Refused { action, location: self.location(), remedy, cause: text.into() }
    }

    /// A failure that means the same to reading and to writing.
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
                    Side::Read => "it gives an object without the header x-goog-generation",
                    Side::Write => "it wrote, and did not say which generation",
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

    /// An answer that was lost may have been a success, and the next try then is a conflict with ourselves: the nonce of
    /// the document that is there tells.
    async fn save(&self, document: &Document, expected: Option<&Version>) -> Result<Version, Error> {
        let expected = match expected {
            None => ABSENT,
            // What is not a generation, no object has; and 0 must not come to mean that there is to be none.
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

    /// Asks for a write under a condition that cannot be met, and wants to see it refused for that.
    ///
    /// A store that writes nevertheless gets back the very bytes that it held a moment before, or an empty object where there
    /// was none. (Where the object is withheld it may hold other bytes, but a store that knows permissions is Google's, and
    /// obeys conditions.) Whether an object may be replaced, not only made, shows at the first replacement: Google may look at
    /// the condition before it looks at `storage.objects.delete`.
    async fn probe(&self) -> Result<(), Error> {
        let held = self.load().await?.map(|(document, _)| document);
        let same = held.as_ref().map_or(&[][..], Document::as_bytes);
        match self.client.write(same, IMPOSSIBLE).await {
            Err(failure) if failure.says_that_the_condition_failed() => Ok(()),
            Ok(_) | Err(Failure::NoGeneration(Side::Write)) => {
                let what = if held.is_some() { "the same bytes again" } else { "an empty object" };
                let finding = format!("asked to write only over a generation that cannot be, it wrote {what}");
                Err(Error::Unconditional { location: self.location(), finding, remedy: OBEYS })
            }
            Err(failure) => Err(self.not_saved(failure, IMPOSSIBLE)),
        }
    }

    fn pace(&self) -> Duration {
        PACE
    }
}
