//! Uploads of objects in parts.

use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{ChecksumAlgorithm, CompletedMultipartUpload, CompletedPart};
use bytes::Bytes;

use super::bucket::{Action, Bucket, CONTENT_TYPE};
use super::error::Error;
use crate::aws::digest::Sha256;
use crate::aws::encryption::Encryption;
use crate::aws::exchange::Exchange;
use crate::failure::Chain;

/// The log message for an upload that could not be given up. Nothing depends on that: the bucket's lifecycle ends such
/// uploads, too.
const LEFT: &str = "an abandoned upload could not be removed; the bucket's lifecycle rules can remove it";

/// A part that the store has received.
#[derive(Debug, Clone)]
pub(super) struct Part(CompletedPart);

impl Bucket {
    /// Begins an upload in parts, and returns its identifier.
    pub(super) async fn begin_upload(&self, key: &str) -> Result<String, Error> {
        let exchange = Exchange::default();
        let call = async {
            let request = self.client(Action::Write, key).await?.create_multipart_upload().bucket(&self.name).key(key);
            let encryption = self.encryption.as_ref();
            let request = request
                .content_type(CONTENT_TYPE)
                .content_encoding(self.compression.content_encoding())
                .checksum_algorithm(ChecksumAlgorithm::Sha256)
                .set_storage_class(self.storage_class.clone())
                .set_server_side_encryption(encryption.map(Encryption::header))
                .set_ssekms_key_id(encryption.and_then(Encryption::key_id));
            let sent = Box::pin(request.customize().interceptor(exchange.clone()).send()).await;
            let begun = self.done(Action::Write, key, sent, &exchange).await?;
            begun.upload_id.ok_or_else(|| self.unavailable(Action::Write, key, "the answer names no upload"))
        };
        self.in_time(key, call).await
    }

    /// Uploads a part. It replaces an earlier part of the same number.
    pub(super) async fn upload_part(&self, key: &str, upload: &str, number: i32, rows: Bytes) -> Result<Part, Error> {
        let exchange = Exchange::default();
        let call = async {
            let request = self.client(Action::Write, key).await?.upload_part().bucket(&self.name).key(key);
            let checksum = Sha256::of(&rows).base64();
            let request =
                request.upload_id(upload).part_number(number).checksum_sha256(&checksum).body(ByteStream::from(rows));
            let part = match Box::pin(request.customize().interceptor(exchange.clone()).send()).await {
                Ok(part) => part,
                Err(error) => {
                    let part = self.unless_missing(Action::Write, key, &error, &exchange).await?;
                    part.ok_or_else(|| Error::UploadGone { location: self.location(key) })?
                }
            };
            let done = CompletedPart::builder().part_number(number).checksum_sha256(checksum);
            Ok(Part(done.e_tag(self.stored(key, part.e_tag)?).build()))
        };
        self.in_time(key, call).await
    }

    /// Makes an object of the parts; false if the upload is gone, perhaps because an earlier such request completed it.
    pub(super) async fn complete_upload(&self, key: &str, upload: &str, parts: &[Part]) -> Result<bool, Error> {
        let exchange = Exchange::default();
        let call = async {
            let request = self.client(Action::Write, key).await?.complete_multipart_upload();
            let parts = parts.iter().map(|Part(part)| part.clone()).collect();
            let parts = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
            let request = request.bucket(&self.name).key(key).upload_id(upload).multipart_upload(parts);
            let answer = Box::pin(request.customize().interceptor(exchange.clone()).send()).await;
            match answer {
                Ok(done) => self.stored(key, done.e_tag).map(|_| true),
                Err(error) => {
                    let gone: Option<()> = self.unless_missing(Action::Write, key, &error, &exchange).await?;
                    Ok(gone.is_some())
                }
            }
        };
        self.in_time(key, call).await
    }

    /// Gives up an upload, which may be gone already.
    pub(super) async fn abort(&self, key: &str, upload: &str) {
        let exchange = Exchange::default();
        let call = async {
            let request = self.client(Action::Abort, key).await?.abort_multipart_upload();
            let request = request.bucket(&self.name).key(key).upload_id(upload);
            match Box::pin(request.customize().interceptor(exchange.clone()).send()).await {
                Ok(_) => Ok(Some(())),
                Err(error) => self.unless_missing(Action::Abort, key, &error, &exchange).await,
            }
        };
        if let Err(error) = self.in_time(key, call).await {
            tracing::warn!(error = %Chain(&error), "{LEFT}");
        }
    }

    /// Gives up every upload of an object whose key begins with `beginning`. Logs a failure only at the debug level,
    /// because the credentials may lack the right to list uploads.
    pub(super) async fn abort_all(&self, beginning: &str) {
        let exchange = Exchange::default();
        let call = async {
            let request = self.client(Action::ListUploads, beginning).await?.list_multipart_uploads();
            let request = request.bucket(&self.name).prefix(beginning);
            let sent = Box::pin(request.customize().interceptor(exchange.clone()).send()).await;
            self.done(Action::ListUploads, beginning, sent, &exchange).await
        };
        let uploads = match self.in_time(beginning, call).await {
            Ok(listed) => listed.uploads.unwrap_or_default(),
            Err(error) => {
                tracing::debug!(error = %Chain(&error), "{LEFT}");
                return;
            }
        };
        for upload in uploads {
            // A gateway may ignore the prefix.
            if let (Some(key), Some(id)) = (upload.key, upload.upload_id)
                && key.starts_with(beginning)
            {
                self.abort(&key, &id).await;
            }
        }
    }
}
