//! Stores the state in a bucket of S3, or of an S3-compatible store that obeys conditional writes.
//!
//! One object holds the document. Its version is its entity tag (`ETag`). A save is a `PutObject` with `If-Match`, or with
//! `If-None-Match: *` for the first: <https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-writes.html>.
//!
//! The store needs only the permissions `s3:GetObject` and `s3:PutObject`. Without `s3:ListBucket`, S3 answers for a missing object that
//! we may not read it. Then the first save shows whether the object is missing or withheld.

mod probe;
pub(crate) mod variables;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use aws_config::SdkConfig;
use aws_sdk_s3::Client;
use aws_sdk_s3::operation::put_object::builders::PutObjectFluentBuilder;
use aws_sdk_s3::primitives::ByteStream;
use serde::de::Error as _;
use tokio::time::timeout;

use super::{Cause, Claim, Document, Error, Kind, StateStore, Version};
use crate::aws::answer::{Failure, Meaning, is_too_large};
use crate::aws::connection::{Connection, Options, Unconfigured};
pub use crate::aws::encryption::Encryption;
use crate::aws::exchange::Exchange;
use crate::component::Configured;
use crate::pipeline_name::PipelineName;

/// The store in the registry.
pub const KIND: Kind = Kind {
    name: "s3",
    variables: variables::VARIABLES,
    is_lasting: true,
    folder: |_| None,
    read: |reader, pipeline| {
        let (settings, pipeline) = (variables::settings(reader)?, pipeline.clone());
        Ok(Configured::new(move |()| -> Arc<dyn StateStore> { Arc::new(S3::new(settings.clone(), &pipeline)) }))
    },
};

/// How long one request may take as a whole, including the search for credentials.
const LONGEST_CALL: Duration = Duration::from_secs(5);

const READ: &str = "read";
const WRITE: &str = "write";
const CHECK: &str = "check";

/// The location of the state in S3, and its encryption.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The bucket's name.
    pub bucket: String,
    /// The beginning of the object's key, without a slash at either end; may be empty.
    pub prefix: String,
    /// Whether to name the bucket in the path rather than in the host, as some compatible stores require.
    pub force_path_style: bool,
    /// How the store should encrypt the object; without it, the bucket's own setting decides.
    pub encryption: Option<Encryption>,
}

/// Keeps the document as an object in a bucket.
pub struct S3 {
    settings: Settings,
    key: String,
    connection: Connection,
    /// Whether we have seen the document, so that "not allowed" cannot mean "missing".
    known: AtomicBool,
    /// Whether S3 answered "not allowed" to a read, and we took that for "missing".
    hidden: AtomicBool,
}

/// The result of a read.
enum Found {
    Document(Vec<u8>, Version),
    Nothing,
    /// The object is missing, or we may not read it.
    Hidden(Failure),
}

/// A call to the store.
#[derive(Clone, Copy)]
enum Asked<'a> {
    Get,
    Put(Condition<'a>),
}

/// The condition of a write.
#[derive(Clone, Copy)]
enum Condition<'a> {
    Absent,
    Unchanged(&'a str),
}

impl Condition<'_> {
    /// The header of the condition.
    fn header(self) -> &'static str {
        match self {
            Self::Absent => "If-None-Match: *",
            Self::Unchanged(_) => "If-Match",
        }
    }
}

impl S3 {
    /// Makes the store of `pipeline`, at `<prefix>/auditsync-sectigo-datadog.json`. At the first call it looks for credentials, region and
    /// endpoint as all AWS tools do.
    pub fn new(settings: Settings, pipeline: &PipelineName) -> Self {
        Self::connected(settings, pipeline, None)
    }

    /// Makes the same store with credentials, region and endpoint from `shared` instead of the environment.
    pub fn with_config(settings: Settings, pipeline: &PipelineName, shared: SdkConfig) -> Self {
        Self::connected(settings, pipeline, Some(shared))
    }

    fn connected(settings: Settings, pipeline: &PipelineName, shared: Option<SdkConfig>) -> Self {
        let name = format!("{}.json", pipeline.file_stem());
        let key = if settings.prefix.is_empty() { name } else { format!("{}/{name}", settings.prefix) };
        let connection =
            Connection::new(shared, Options { force_path_style: settings.force_path_style, ..Options::default() });
        Self { settings, key, connection, known: AtomicBool::new(false), hidden: AtomicBool::new(false) }
    }

    /// Makes a request within [`LONGEST_CALL`].
    async fn bounded<T>(
        &self,
        action: &'static str,
        call: impl Future<Output = Result<T, Error>> + Send,
    ) -> Result<T, Error> {
        let answered = timeout(LONGEST_CALL, call).await;
        answered.unwrap_or_else(|_| Err(self.unavailable(action, &format!("no answer within {LONGEST_CALL:?}"))))
    }

    async fn client(&self, action: &'static str) -> Result<Client, Error> {
        self.connection.client().await.map_err(|cause| match cause {
            Unconfigured::NoRegion => {
                let remedy =
                    "set AWS_REGION to the bucket's region, or to us-east-1 for a store that has none".to_owned();
                Error::Refused { action, location: self.location(), remedy, cause: cause.into() }
            }
            Unconfigured::Slow => Error::Unavailable { action, location: self.location(), cause: cause.into() },
        })
    }

    async fn get(&self, action: &'static str) -> Result<Found, Error> {
        self.bounded(action, self.get_in_time(action)).await
    }

    /// Reads the object. The SDK's futures are large, so they are boxed, here and below.
    async fn get_in_time(&self, action: &'static str) -> Result<Found, Error> {
        let exchange = Exchange::default();
        let request = self.client(action).await?.get_object().bucket(&self.settings.bucket).key(&self.key);
        let object = match Box::pin(request.customize().interceptor(exchange.clone()).send()).await {
            Ok(object) => object,
            Err(error) => {
                let failure = Failure::of(&error, &exchange.redaction());
                return match failure.meaning {
                    Meaning::Missing => Ok(Found::Nothing),
                    Meaning::Denied => Ok(Found::Hidden(failure)),
                    _ => Err(self.error(action, Asked::Get, failure).await),
                };
            }
        };
        let tag = object.e_tag.filter(|tag| !tag.is_empty());
        let bytes = match object.body.collect().await {
            Ok(bytes) => bytes.to_vec(),
            Err(error) if is_too_large(&error) => {
                let cause = serde_json::Error::custom("the object is larger than 1 MiB, so it cannot be a state");
                return Err(Error::Corrupt { location: self.location(), cause: cause.into() });
            }
            Err(error) => {
                let failure = Failure::unanswered(Meaning::Unavailable, &error, &exchange.redaction());
                return Err(self.error(action, Asked::Get, failure).await);
            }
        };
        let version = self.version(tag)?;
        self.known.store(true, Ordering::Relaxed);
        Ok(Found::Document(bytes, version))
    }

    async fn put(
        &self,
        action: &'static str,
        key: &str,
        bytes: &[u8],
        condition: Condition<'_>,
    ) -> Result<Result<Option<String>, Failure>, Error> {
        self.bounded(action, async {
            let exchange = Exchange::default();
            let request = self.client(action).await?.put_object().bucket(&self.settings.bucket).key(key);
            let body = ByteStream::from(bytes.to_vec());
            let request = self.encrypted(request).content_type("application/json").body(body);
            let request = match condition {
                Condition::Absent => request.if_none_match("*"),
                Condition::Unchanged(tag) => request.if_match(tag),
            };
            let answer = Box::pin(request.customize().interceptor(exchange.clone()).send()).await;
            Ok(answer.map(|put| put.e_tag).map_err(|error| Failure::of(&error, &exchange.redaction())))
        })
        .await
    }

    fn encrypted(&self, request: PutObjectFluentBuilder) -> PutObjectFluentBuilder {
        let encryption = self.settings.encryption.as_ref();
        request
            .set_server_side_encryption(encryption.map(Encryption::header))
            .set_ssekms_key_id(encryption.and_then(Encryption::key_id))
    }

    /// Reads the document. A withheld document counts as missing, unless we have seen it before.
    async fn read(&self, action: &'static str) -> Result<Option<(Vec<u8>, Version)>, Error> {
        match self.get(action).await? {
            Found::Document(bytes, version) => Ok(Some((bytes, version))),
            Found::Nothing => Ok(None),
            Found::Hidden(failure) if self.known.load(Ordering::Relaxed) => {
                Err(self.error(action, Asked::Get, failure).await)
            }
            Found::Hidden(failure) => {
                if !self.hidden.swap(true, Ordering::Relaxed) {
                    tracing::warn!(
                        location = %self.location(), answer = %failure.cause,
                        "the store does not say whether there is a state, because s3:ListBucket is not granted; auditsync assumes a first \
                         start, unless the first save finds a state"
                    );
                }
                Ok(None)
            }
        }
    }

    /// Finds out why the store refused a first save: there is a document, which we may not read or which another instance has just made.
    async fn not_the_first(&self, cause: Cause) -> Error {
        if self.hidden.load(Ordering::Relaxed)
            && let Ok(Found::Hidden(failure)) = self.get(READ).await
        {
            return self.error(READ, Asked::Get, failure).await;
        }
        self.conflict(Some(cause))
    }

    async fn save_if(&self, document: &Document, condition: Condition<'_>) -> Result<Version, Error> {
        match self.put(WRITE, &self.key, document.as_bytes(), condition).await? {
            Ok(tag) => {
                self.known.store(true, Ordering::Relaxed);
                self.version(tag.filter(|tag| !tag.is_empty()))
            }
            Err(Failure { meaning: Meaning::Mismatch, cause }) if matches!(condition, Condition::Absent) => {
                Err(self.not_the_first(cause).await)
            }
            Err(Failure { meaning: Meaning::Mismatch | Meaning::Missing, cause }) => Err(self.conflict(Some(cause))),
            Err(failure) => Err(self.error(WRITE, Asked::Put(condition), failure).await),
        }
    }

    fn version(&self, tag: Option<String>) -> Result<Version, Error> {
        tag.map(Version).ok_or_else(|| self.unconditional("it answered without an ETag".to_owned()))
    }

    fn conflict(&self, cause: Option<Cause>) -> Error {
        Error::Conflict { location: self.location(), cause }
    }

    fn unconditional(&self, finding: String) -> Error {
        let remedy = "use a store that implements If-Match and If-None-Match on PutObject";
        Error::Unconditional { location: self.location(), finding, remedy }
    }

    fn unavailable(&self, action: &'static str, why: &str) -> Error {
        Error::Unavailable { action, location: self.location(), cause: why.into() }
    }

    /// Turns a failure into an error for the engine and the operator.
    async fn error(&self, action: &'static str, asked: Asked<'_>, failure: Failure) -> Error {
        let location = self.location();
        let Failure { meaning, cause } = failure;
        let remedy = match meaning {
            Meaning::Unavailable => return Error::Unavailable { action, location, cause },
            Meaning::NotImplemented
                if let Asked::Put(condition) = asked
                    && !self.is_about_encryption(&cause) =>
            {
                return self.unconditional(format!("asked to write with {}, {cause}", condition.header()));
            }
            Meaning::NotImplemented if self.is_about_encryption(&cause) => {
                "correct the encryption that is configured".to_owned()
            }
            Meaning::Denied => self.missing_permissions(asked),
            Meaning::NoBucket => {
                format!("there is no bucket {:?}: create it, or correct its name", self.settings.bucket)
            }
            Meaning::OtherRegion(Some(region)) => format!("the bucket is in another region: set AWS_REGION={region}"),
            Meaning::OtherRegion(None) => "the bucket is in another region: set AWS_REGION to that one".to_owned(),
            Meaning::Credentials(remedy) => {
                self.connection.forget().await;
                remedy.to_owned()
            }
            Meaning::Rejected(remedy) => remedy.to_owned(),
            Meaning::NotImplemented | Meaning::Missing | Meaning::Mismatch | Meaning::Archived => {
                "the store lacks a function of S3 that auditsync needs".to_owned()
            }
        };
        Error::Refused { action, location, remedy, cause }
    }

    /// Whether a store without a key service refused the encryption. It gives the same answer as for an unknown condition.
    fn is_about_encryption(&self, cause: &Cause) -> bool {
        let said = cause.to_string().to_ascii_lowercase();
        self.settings.encryption.is_some() && (said.contains("encrypt") || said.contains("kms"))
    }

    /// Names the permissions to grant. The star after the key covers the object of the probe.
    fn missing_permissions(&self, asked: Asked<'_>) -> String {
        let (bucket, key) = (&self.settings.bucket, &self.key);
        let by_kms = self.settings.encryption.as_ref().is_some_and(Encryption::uses_kms);
        let keys = if by_kms { ", and kms:GenerateDataKey and kms:Decrypt on the key" } else { "" };
        let what = match asked {
            Asked::Get => "s3:GetObject",
            // To compare the tag of an object needs the permission to read it.
            Asked::Put(Condition::Unchanged(_)) => "s3:PutObject and, for If-Match, s3:GetObject",
            Asked::Put(Condition::Absent) => "s3:PutObject",
        };
        format!("grant {what} on arn:aws:s3:::{bucket}/{key}*{keys}")
    }
}

#[async_trait]
impl StateStore for S3 {
    fn location(&self) -> String {
        format!("s3://{}/{}", self.settings.bucket, self.key)
    }

    async fn claim(&self) -> Result<Claim, Error> {
        Ok(Claim::ByLease)
    }

    async fn load(&self) -> Result<Option<(Document, Version)>, Error> {
        let found = self.read(READ).await?;
        Ok(found.map(|(bytes, version)| (Document::from_bytes(bytes), version)))
    }

    async fn save(&self, document: &Document, expected: Option<&Version>) -> Result<Version, Error> {
        match expected {
            None => self.save_if(document, Condition::Absent).await,
            Some(Version(tag)) => self.save_if(document, Condition::Unchanged(tag)).await,
        }
    }

    async fn probe(&self) -> Result<(), Error> {
        self.probe_now().await
    }
}
