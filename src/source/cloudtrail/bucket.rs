//! Requests to S3 for the contents of a bucket, and what their answers mean.
//!
//! This module writes nothing. It repeats a request in one case only: if the answer names another region, it reads the
//! bucket there.
//!
//! The SDK's futures are large, so they are boxed.

use std::collections::HashMap;
use std::error::Error as StdError;
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::RequestPayer;
use bytes::Bytes;
use futures_util::FutureExt as _;
use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::time::timeout;

use super::error::{Error, Unreadable};
use super::key::LogKey;
use super::variables::{ACCOUNTS, LOG_REGION};
use crate::aws::answer::{Failure, Meaning};
use crate::aws::call::CallError;
use crate::aws::connection::{Connection, Options};
use crate::aws::exchange::Exchange;
use crate::http;

/// The purpose of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    List,
    Read,
}

impl Action {
    const fn verb(self) -> &'static str {
        match self {
            Self::List => "list",
            Self::Read => "read",
        }
    }
}

/// An object as a listing shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Listed {
    pub(super) key: String,
    /// Its size in bytes.
    pub(super) size: u64,
    /// The bucket's own time of writing, in whole seconds.
    pub(super) modified: Timestamp,
}

/// One page of a listing.
#[derive(Debug, Default)]
pub(super) struct Listing {
    pub(super) objects: Vec<Listed>,
    /// The folders, each with a slash at its end, if the request was for folders.
    pub(super) folders: Vec<String>,
    /// The token of the next page; none after the last.
    pub(super) next: Option<String>,
    /// The server's clock.
    pub(super) date: Option<Timestamp>,
}

/// The scope of a listing.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct What<'a> {
    /// The beginning of the keys.
    pub(super) prefix: &'a str,
    /// The key after which the listing starts.
    pub(super) after: Option<&'a str>,
    /// [`Listing::next`] of the page before.
    pub(super) next: Option<&'a str>,
    /// Whether to list only the folders in the folder that the prefix names.
    pub(super) folders: bool,
    /// The most entries.
    pub(super) most: Option<i32>,
}

/// The buckets that one connection reads.
pub(super) struct Buckets {
    connection: Connection,
    requester_pays: bool,
    http: http::Settings,
    /// The regions of buckets that are in another region than expected.
    regions: Mutex<HashMap<String, String>>,
}

impl Buckets {
    pub(super) fn new(options: Options, requester_pays: bool, http: http::Settings) -> Self {
        Self { connection: Connection::new(None, options), requester_pays, http, regions: Mutex::default() }
    }

    /// The connection, for clients of other services with the same credentials.
    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }

    fn payer(&self) -> Option<RequestPayer> {
        self.requester_pays.then_some(RequestPayer::Requester)
    }

    /// Reads a page of a listing.
    pub(super) async fn list(&self, bucket: &str, what: What<'_>) -> Result<Listing, Error> {
        let request = |client: Client, exchange: Exchange| {
            let request = client.list_objects_v2().bucket(bucket).prefix(what.prefix).set_request_payer(self.payer());
            let request = request
                .set_start_after(what.after.map(str::to_owned))
                .set_continuation_token(what.next.map(str::to_owned))
                .set_delimiter(what.folders.then(|| "/".to_owned()))
                .set_max_keys(what.most);
            Box::pin(request.customize().interceptor(exchange).send())
        };
        let (listed, exchange) = self.call(Action::List, bucket, what.prefix, Exchange::default, request).await?;
        let next = listed.next_continuation_token.filter(|_| listed.is_truncated == Some(true));
        let object = |object: aws_sdk_s3::types::Object| {
            let modified = Timestamp::from_second(object.last_modified?.secs()).ok()?;
            let size = u64::try_from(object.size.unwrap_or_default()).unwrap_or_default();
            Some(Listed { key: object.key?, size, modified })
        };
        let objects = listed.contents.unwrap_or_default().into_iter().filter_map(object).collect();
        let folders = listed.common_prefixes.unwrap_or_default().into_iter().filter_map(|folder| folder.prefix);
        Ok(Listing { objects, folders: folders.collect(), next, date: exchange.date() })
    }

    /// Begins to read an object, after its first `from` bytes. An object that is gone or archived is an
    /// [`Error::Object`].
    pub(super) async fn open(self: &Arc<Self>, bucket: &str, key: &str, from: Option<u64>) -> Result<Body, Error> {
        let request = |client: Client, exchange: Exchange| {
            let request = client.get_object().bucket(bucket).key(key).set_request_payer(self.payer());
            let request = request.set_range(from.map(|from| format!("bytes={from}-")));
            Box::pin(request.customize().interceptor(exchange).send())
        };
        let (object, exchange) = self.call(Action::Read, bucket, key, Exchange::streamed, request).await?;
        let metadata = object.metadata.unwrap_or_default();
        Ok(Body {
            buckets: Arc::clone(self),
            location: location(bucket, key),
            tag: object.e_tag.unwrap_or_default(),
            is_part: object.content_range.is_some(),
            modified: object.last_modified.and_then(|modified| Timestamp::from_second(modified.secs()).ok()),
            size: object.content_length.and_then(|length| u64::try_from(length).ok()).unwrap_or_default(),
            metadata,
            pieces: object.body,
            exchange,
        })
    }

    /// Makes a request, and a second one if the answer names another region.
    async fn call<T, E, F>(
        &self,
        action: Action,
        bucket: &str,
        key: &str,
        exchange: fn() -> Exchange,
        request: impl Fn(Client, Exchange) -> F,
    ) -> Result<(T, Exchange), Error>
    where
        E: ProvideErrorMetadata + StdError + Send + Sync + 'static,
        F: Future<Output = Result<T, SdkError<E>>> + Send,
    {
        let location = location(bucket, key);
        let mut is_moved = false;
        loop {
            let region = self.regions.lock().get(bucket).cloned();
            let exchange = exchange();
            let call = async {
                let client = self.client(action, &location, region.as_deref()).await?;
                Ok(request(client, exchange.clone()).await)
            };
            let error = match self.within_timeout(&location, call).await? {
                Ok(answer) => return Ok((answer, exchange)),
                Err(error) => error,
            };
            let decryption = Decryption::of(error.code().unwrap_or_default(), error.message().unwrap_or_default());
            let failure = Failure::of(&error, &exchange.redaction());
            if let Meaning::OtherRegion(Some(other)) = &failure.meaning
                && !is_moved
                && region.as_ref() != Some(other)
            {
                is_moved = true;
                tracing::info!(bucket, region = other, "the bucket is in another region and is read there");
                self.regions.lock().insert(bucket.to_owned(), other.clone());
                continue;
            }
            return Err(match decryption {
                Some(decryption) => decryption.failed(action, bucket, key, failure),
                None => self.failed(action, bucket, key, failure).await,
            });
        }
    }

    async fn client(&self, action: Action, location: &str, region: Option<&str>) -> Result<Client, Error> {
        self.connection.client_in(region).await.map_err(|cause| {
            let remedy = format!(
                "set {} or AWS_REGION to the bucket's region, or to us-east-1 for a store that has none",
                LOG_REGION.spec.name
            );
            CallError::unconfigured(action.verb(), location.to_owned(), remedy, cause).into()
        })
    }

    /// Waits for `call`, for as long as a request may take.
    pub(super) fn within_timeout<T>(
        &self,
        location: &str,
        call: impl Future<Output = Result<T, Error>>,
    ) -> impl Future<Output = Result<T, Error>> {
        let limit = self.http.timeout;
        timeout(limit, call).map(move |answer| answer.unwrap_or_else(|_| Err(self.slow(location, limit))))
    }

    fn slow(&self, location: &str, limit: Duration) -> Error {
        CallError::Slow { location: location.to_owned(), limit, variable: self.http.timeout_variable.clone() }.into()
    }

    async fn failed(&self, action: Action, bucket: &str, key: &str, Failure { meaning, cause }: Failure) -> Error {
        let location = location(bucket, key);
        let (remedy, is_about_credentials) = match meaning {
            Meaning::Unavailable => return CallError::Unavailable { action: action.verb(), location, cause }.into(),
            Meaning::Missing => return Error::Object { location, reason: Unreadable::Gone },
            Meaning::Archived => return Error::Object { location, reason: Unreadable::Archived },
            Meaning::Denied => (missing_permissions(action, bucket, key, &cause.to_string()), true),
            Meaning::Credentials(remedy) => {
                self.connection.forget().await;
                (remedy.to_owned(), true)
            }
            Meaning::NoBucket => (format!("there is no bucket {bucket:?}: correct its name"), false),
            Meaning::OtherRegion(region) => {
                let region = region.unwrap_or_else(|| "the one that it is in".to_owned());
                (format!("the bucket is in another region: set {} to {region}", LOG_REGION.spec.name), false)
            }
            Meaning::Rejected(remedy) => (remedy.to_owned(), false),
            Meaning::Mismatch | Meaning::NotImplemented => {
                ("the store does not do what is needed of S3".to_owned(), false)
            }
        };
        CallError::Refused { action: action.verb(), location, remedy, is_about_credentials, cause }.into()
    }
}

/// A reason why S3 cannot decrypt an object.
enum Decryption {
    /// Its key in KMS cannot be used for now: it is disabled, or awaits its deletion or its material.
    KeyOff,
    /// Nobody can read the object here.
    Never(Unreadable),
}

impl Decryption {
    /// Reads the code and the message of an answer. S3 hands on the codes of KMS.
    fn of(code: &str, message: &str) -> Option<Self> {
        match code {
            "KMS.DisabledException" | "KMS.KMSInvalidStateException" => Some(Self::KeyOff),
            "KMS.NotFoundException" => Some(Self::Never(Unreadable::KeyGone)),
            "InvalidRequest" if message.contains("Server Side Encryption") => Some(Self::Never(Unreadable::OwnKey)),
            _ => None,
        }
    }

    fn failed(self, action: Action, bucket: &str, key: &str, Failure { cause, .. }: Failure) -> Error {
        let location = location(bucket, key);
        match self {
            Self::Never(reason) => Error::Object { location, reason },
            Self::KeyOff => {
                let leave_out = leave_out(key);
                let remedy = format!(
                    "enable the KMS key that encrypts the object, or cancel the deletion of the key{leave_out}"
                );
                CallError::Refused { action: action.verb(), location, remedy, is_about_credentials: true, cause }.into()
            }
        }
    }
}

/// The address of `key`, for messages.
pub(super) fn location(bucket: &str, key: &str) -> String {
    format!("s3://{bucket}/{key}")
}

/// The permissions to grant after an answer that denies access. `said` is the server's text.
fn missing_permissions(action: Action, bucket: &str, key: &str, said: &str) -> String {
    let leave_out = leave_out(key);
    match action {
        // For encrypted objects, the text names KMS.
        _ if said.contains("kms:") => {
            format!(
                "grant kms:Decrypt on the key that the answer names, in the role's policy and in the key's{leave_out}"
            )
        }
        Action::List => format!("grant s3:ListBucket on arn:aws:s3:::{bucket}{leave_out}"),
        Action::Read => format!(
            "grant s3:GetObject on arn:aws:s3:::{bucket}/*, and kms:Decrypt on its key where objects are encrypted with one; without \
             s3:ListBucket, S3 answers this for an object that is gone, too{leave_out}"
        ),
    }
}

/// How to go on without the account of a log file.
pub(super) fn leave_out(key: &str) -> String {
    LogKey::parse(key)
        .map(|LogKey { account, .. }| format!("; to go on without this account, set {}=-{account}", ACCOUNTS.spec.name))
        .unwrap_or_default()
}

/// An object that is read piece by piece.
pub(super) struct Body {
    buckets: Arc<Buckets>,
    location: String,
    /// The tag of this version of the object.
    pub(super) tag: String,
    /// Whether it begins where the request wanted, and not at the start.
    pub(super) is_part: bool,
    /// The time of its writing, by the bucket's clock.
    pub(super) modified: Option<Timestamp>,
    /// Its size in bytes; 0 if the answer does not give it.
    pub(super) size: u64,
    /// The object's own metadata, which holds the signature of a digest file.
    pub(super) metadata: HashMap<String, String>,
    pieces: ByteStream,
    exchange: Exchange,
}

impl Body {
    /// Reads the next piece; none after the last. Each piece may take as long as a whole request.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        let limit = self.buckets.http.timeout;
        match timeout(limit, self.pieces.next()).await {
            Ok(piece) => piece.transpose().map_err(|error| {
                let failure = Failure::unanswered(Meaning::Unavailable, &error, &self.exchange.redaction());
                CallError::Unavailable {
                    action: Action::Read.verb(),
                    location: self.location.clone(),
                    cause: failure.cause,
                }
                .into()
            }),
            Err(_) => Err(self.buckets.slow(&self.location, limit)),
        }
    }
}
