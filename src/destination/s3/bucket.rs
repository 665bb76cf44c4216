//! Requests to S3, and what their answers mean.
//!
//! The SDK's futures are large, so they are boxed.

use std::error::Error as StdError;
use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{Object, StorageClass};
use bytes::Bytes;
use tokio::time::timeout;

use super::Settings;
use super::encoder::Compression;
use super::error::Error;
use crate::aws::answer::{Failure, Meaning};
use crate::aws::call::CallError;
use crate::aws::connection::{Connection, Options};
use crate::aws::digest::Sha256;
use crate::aws::encryption::Encryption;
use crate::aws::exchange::Exchange;
use crate::failure::Chain;
use crate::http;

/// The largest manifest that can be read. A manifest holds two cursors, and most of it is those.
const LARGEST_MANIFEST: usize = 8 * 1024 * 1024;

/// The purpose of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    Read,
    Write,
    List,
    ListUploads,
    Delete,
    Abort,
}

impl Action {
    fn verb(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::List => "list",
            Self::ListUploads => "list the uploads of",
            Self::Delete => "delete",
            Self::Abort => "abort the upload of",
        }
    }
}

/// The bucket of an archive.
pub(super) struct Bucket {
    connection: Connection,
    pub(super) name: String,
    prefix: String,
    pub(super) encryption: Option<Encryption>,
    pub(super) storage_class: Option<StorageClass>,
    pub(super) compression: Compression,
    http: http::Settings,
}

impl Bucket {
    pub(super) fn new(settings: &Settings, http: &http::Settings) -> Self {
        Self {
            connection: Connection::new(
                None,
                Options { force_path_style: settings.force_path_style, ..Options::default() },
            ),
            name: settings.bucket.clone(),
            prefix: settings.prefix.clone(),
            encryption: settings.encryption.clone(),
            storage_class: settings.storage_class.clone(),
            compression: settings.compression,
            http: http.clone(),
        }
    }

    /// The address of `key`, for messages.
    pub(super) fn location(&self, key: &str) -> String {
        format!("s3://{}/{key}", self.name)
    }

    /// Reads a manifest or a test object; none if there is none.
    pub(super) async fn get(&self, key: &str) -> Result<Option<Bytes>, Error> {
        let exchange = Exchange::up_to(LARGEST_MANIFEST);
        let call = async {
            let request = self.client(Action::Read, key).await?.get_object().bucket(&self.name).key(key);
            let object = match Box::pin(request.customize().interceptor(exchange.clone()).send()).await {
                Ok(object) => object,
                Err(error) => return self.unless_missing(Action::Read, key, &error, &exchange).await,
            };
            let bytes = object.body.collect().await.map_err(|error| self.broke_off(key, &error, &exchange))?;
            Ok(Some(bytes.into_bytes()))
        };
        self.in_time(key, call).await
    }

    /// Opens a large object, to be read piece by piece; none if there is none. Each piece may take as long as a whole
    /// request.
    pub(super) async fn stream(&self, key: &str) -> Result<Option<Pieces<'_>>, Error> {
        let exchange = Exchange::streamed();
        let call = async {
            let request = self.client(Action::Read, key).await?.get_object().bucket(&self.name).key(key);
            match Box::pin(request.customize().interceptor(exchange.clone()).send()).await {
                Ok(object) => Ok(Some(object.body)),
                Err(error) => self.unless_missing(Action::Read, key, &error, &exchange).await,
            }
        };
        let body = self.in_time(key, call).await?;
        let (bucket, key) = (self, key.to_owned());
        Ok(body.map(|body| Pieces { bucket, key, body, exchange: exchange.clone() }))
    }

    /// Writes a manifest or a test object; false if the key is taken.
    pub(super) async fn put_new(&self, key: &str, bytes: Bytes, content_type: &str) -> Result<bool, Error> {
        let exchange = Exchange::default();
        let call = async {
            let request = self.client(Action::Write, key).await?.put_object().bucket(&self.name).key(key);
            let encryption = self.encryption.as_ref();
            let request = request
                .if_none_match("*")
                .content_type(content_type)
                .checksum_sha256(Sha256::of(&bytes).base64())
                .set_server_side_encryption(encryption.map(Encryption::header))
                .set_ssekms_key_id(encryption.and_then(Encryption::key_id))
                .body(ByteStream::from(bytes));
            let error = match Box::pin(request.customize().interceptor(exchange.clone()).send()).await {
                Ok(put) => return self.stored(key, put.e_tag).map(|_| true),
                Err(error) => error,
            };
            match Failure::of(&error, &exchange.redaction()) {
                Failure { meaning: Meaning::Mismatch, .. } => Ok(false),
                failure => Err(self.failed(Action::Write, key, failure).await),
            }
        };
        self.in_time(key, call).await
    }

    /// Writes an object of rows in one request.
    pub(super) async fn put_rows(&self, key: &str, rows: Bytes) -> Result<(), Error> {
        let exchange = Exchange::default();
        let call = async {
            let request = self.client(Action::Write, key).await?.put_object().bucket(&self.name).key(key);
            let encryption = self.encryption.as_ref();
            let request = request
                .content_type(CONTENT_TYPE)
                .content_encoding(self.compression.content_encoding())
                .checksum_sha256(Sha256::of(&rows).base64())
                .set_storage_class(self.storage_class.clone())
                .set_server_side_encryption(encryption.map(Encryption::header))
                .set_ssekms_key_id(encryption.and_then(Encryption::key_id))
                .body(ByteStream::from(rows));
            let sent = Box::pin(request.customize().interceptor(exchange.clone()).send()).await;
            let put = self.done(Action::Write, key, sent, &exchange).await?;
            self.stored(key, put.e_tag).map(drop)
        };
        self.in_time(key, call).await
    }

    /// Lists the first thousand keys that begin with `beginning`, in order.
    pub(super) async fn list(&self, beginning: &str) -> Result<Vec<String>, Error> {
        self.list_after(beginning, None).await
    }

    /// Lists the first thousand such keys that follow `after`.
    pub(super) async fn list_after(&self, beginning: &str, after: Option<&str>) -> Result<Vec<String>, Error> {
        Ok(self.listed(beginning, after).await?.into_iter().map(|(key, _)| key).collect())
    }

    /// The size of the object under `key`; none if there is none. A listing also shows an object that nobody can read
    /// before it is restored.
    pub(super) async fn size(&self, key: &str) -> Result<Option<u64>, Error> {
        Ok(self.listed(key, None).await?.into_iter().find_map(|(listed, size)| (listed == key).then_some(size)))
    }

    async fn listed(&self, beginning: &str, after: Option<&str>) -> Result<Vec<(String, u64)>, Error> {
        let exchange = Exchange::default();
        let call = async {
            let request = self.client(Action::List, beginning).await?.list_objects_v2();
            let request = request.bucket(&self.name).prefix(beginning).set_start_after(after.map(str::to_owned));
            let sent = Box::pin(request.customize().interceptor(exchange.clone()).send()).await;
            let listed = self.done(Action::List, beginning, sent, &exchange).await?;
            let sized = |object: Object| Some((object.key?, object.size?.try_into().ok()?));
            let objects = listed.contents.unwrap_or_default().into_iter().filter_map(sized);
            // The archiver deletes keys from a listing, and a gateway may ignore the prefix.
            Ok(objects.filter(|(key, _)| key.starts_with(beginning)).collect())
        };
        self.in_time(beginning, call).await
    }

    pub(super) async fn delete(&self, key: &str) -> Result<(), Error> {
        let exchange = Exchange::default();
        let call = async {
            let request = self.client(Action::Delete, key).await?.delete_object().bucket(&self.name).key(key);
            let sent = Box::pin(request.customize().interceptor(exchange.clone()).send()).await;
            self.done(Action::Delete, key, sent, &exchange).await.map(drop)
        };
        self.in_time(key, call).await
    }

    /// Deletes an object that no manifest will name. If the credentials may not delete it, it stays, and a warning
    /// names it.
    pub(super) async fn delete_leftover(&self, key: &str) -> Result<(), Error> {
        match self.delete(key).await {
            Err(error @ Error::Call(CallError::Refused { .. })) => {
                tracing::warn!(
                    error = %Chain(&error),
                    "an interrupted attempt left an object that no manifest names; another object has its rows"
                );
                Ok(())
            }
            deleted => deleted,
        }
    }

    pub(super) async fn in_time<T>(
        &self,
        key: &str,
        call: impl Future<Output = Result<T, Error>> + Send,
    ) -> Result<T, Error> {
        let limit = self.http.timeout;
        timeout(limit, call).await.unwrap_or_else(|_| Err(self.slow(key, limit)))
    }

    fn slow(&self, key: &str, limit: Duration) -> Error {
        CallError::Slow { location: self.location(key), limit, variable: self.http.timeout_variable.clone() }.into()
    }

    pub(super) async fn client(&self, action: Action, key: &str) -> Result<Client, Error> {
        self.connection.client().await.map_err(|cause| {
            let remedy = "set AWS_REGION to the bucket's region, or to us-east-1 for a store that has none".to_owned();
            CallError::unconfigured(action.verb(), self.location(key), remedy, cause).into()
        })
    }

    pub(super) async fn done<T, E>(
        &self,
        action: Action,
        key: &str,
        answer: Result<T, SdkError<E>>,
        exchange: &Exchange,
    ) -> Result<T, Error>
    where
        E: ProvideErrorMetadata + StdError + Send + Sync + 'static,
    {
        match answer {
            Ok(done) => Ok(done),
            Err(error) => Err(self.failed(action, key, Failure::of(&error, &exchange.redaction())).await),
        }
    }

    pub(super) async fn unless_missing<T, E>(
        &self,
        action: Action,
        key: &str,
        error: &SdkError<E>,
        exchange: &Exchange,
    ) -> Result<Option<T>, Error>
    where
        E: ProvideErrorMetadata + StdError + Send + Sync + 'static,
    {
        match Failure::of(error, &exchange.redaction()) {
            Failure { meaning: Meaning::Missing, .. } => Ok(None),
            failure => Err(self.failed(action, key, failure).await),
        }
    }

    fn broke_off(&self, key: &str, error: &(dyn StdError + 'static), exchange: &Exchange) -> Error {
        let failure = Failure::unanswered(Meaning::Unavailable, error, &exchange.redaction());
        CallError::Unavailable { action: Action::Read.verb(), location: self.location(key), cause: failure.cause }
            .into()
    }

    /// Checks that S3 itself answered a write: only then the answer has the `ETag` of what is stored. A proxy may answer
    /// 200, too, and store nothing.
    pub(super) fn stored(&self, key: &str, e_tag: Option<String>) -> Result<String, Error> {
        let why = "the answer has no ETag, so it does not come from S3; check AWS_ENDPOINT_URL and the proxy";
        e_tag.filter(|tag| !tag.is_empty()).ok_or_else(|| self.unavailable(Action::Write, key, why))
    }

    pub(super) fn unavailable(&self, action: Action, key: &str, why: &str) -> Error {
        CallError::Unavailable { action: action.verb(), location: self.location(key), cause: why.into() }.into()
    }

    async fn failed(&self, action: Action, key: &str, Failure { meaning, cause }: Failure) -> Error {
        let (remedy, is_about_credentials) = match meaning {
            Meaning::Unavailable => {
                return CallError::Unavailable { action: action.verb(), location: self.location(key), cause }.into();
            }
            Meaning::Denied => (self.missing_permissions(action), true),
            Meaning::Credentials(remedy) => {
                self.connection.forget().await;
                (remedy.to_owned(), true)
            }
            Meaning::NoBucket => (format!("there is no bucket {:?}: create it, or correct its name", self.name), false),
            Meaning::OtherRegion(Some(region)) => {
                (format!("the bucket is in another region: set AWS_REGION={region}"), false)
            }
            Meaning::OtherRegion(None) => {
                ("the bucket is in another region: set AWS_REGION to that one".to_owned(), false)
            }
            Meaning::Rejected(remedy) => (remedy.to_owned(), false),
            Meaning::Archived => ("its storage class is an archive: restore the object first".to_owned(), false),
            Meaning::NotImplemented | Meaning::Missing | Meaning::Mismatch => {
                ("the store lacks a function of S3 that the archive needs".to_owned(), false)
            }
        };
        CallError::Refused { action: action.verb(), location: self.location(key), remedy, is_about_credentials, cause }
            .into()
    }

    fn missing_permissions(&self, action: Action) -> String {
        let bucket = &self.name;
        let all = if self.prefix.is_empty() { "*".to_owned() } else { format!("{}/*", self.prefix) };
        let uses_kms = self.encryption.as_ref().is_some_and(Encryption::uses_kms);
        let keys = if uses_kms { ", and kms:GenerateDataKey and kms:Decrypt on the key" } else { "" };
        match action {
            // S3 answers alike for a missing object if the credentials may not list the bucket.
            Action::Read => {
                format!(
                    "grant s3:GetObject on arn:aws:s3:::{bucket}/{all} and s3:ListBucket on arn:aws:s3:::{bucket}{keys}"
                )
            }
            Action::Write => format!("grant s3:PutObject on arn:aws:s3:::{bucket}/{all}{keys}"),
            Action::List => format!("grant s3:ListBucket on arn:aws:s3:::{bucket}"),
            Action::ListUploads => format!("grant s3:ListBucketMultipartUploads on arn:aws:s3:::{bucket}"),
            Action::Delete => format!("grant s3:DeleteObject on arn:aws:s3:::{bucket}/{all}"),
            Action::Abort => format!("grant s3:AbortMultipartUpload on arn:aws:s3:::{bucket}/{all}"),
        }
    }
}

/// The content type of objects of rows.
pub(super) const CONTENT_TYPE: &str = "application/x-ndjson";

/// An object that is read piece by piece.
pub(super) struct Pieces<'a> {
    bucket: &'a Bucket,
    key: String,
    body: ByteStream,
    exchange: Exchange,
}

impl Pieces<'_> {
    /// The next piece; none after the last.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        let (bucket, key) = (self.bucket, &self.key);
        let limit = bucket.http.timeout;
        match timeout(limit, self.body.next()).await {
            Ok(None) => Ok(None),
            Ok(Some(Ok(piece))) => Ok(Some(piece)),
            Ok(Some(Err(error))) => Err(bucket.broke_off(key, &error, &self.exchange)),
            Err(_) => Err(bucket.slow(key, limit)),
        }
    }
}
