//! Server-side encryption of objects, and the two variables that choose it.

use aws_sdk_s3::types::ServerSideEncryption;

use crate::config::{Noted, Reader, Variable, parse};

/// Encryption by the store. Names are those of the header `x-amz-server-side-encryption`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Encryption {
    /// `AES256`: with keys of S3.
    Aes256,
    /// `aws:kms`: with a key of KMS.
    Kms {
        /// The key's identifier, ARN or alias; without it, the account's own key for S3.
        key_id: Option<String>,
    },
    /// `aws:kms:dsse`: twice, with a key of KMS.
    KmsDsse {
        /// The key's identifier, ARN or alias; without it, the account's own key for S3.
        key_id: Option<String>,
    },
}

/// A kind of encryption by the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// With keys of S3.
    Aes256,
    /// With a key of KMS.
    Kms,
    /// With a key of KMS, in two layers.
    KmsDsse,
}

/// The values of `x-amz-server-side-encryption`.
const KINDS: [(&str, Kind); 3] = [("AES256", Kind::Aes256), ("aws:kms", Kind::Kms), ("aws:kms:dsse", Kind::KmsDsse)];

/// Reads a kind.
pub(crate) fn kind(text: &str) -> Result<Kind, String> {
    parse::choice(text, &KINDS)
}

impl Encryption {
    /// The encryption that these two variables choose; none where the bucket's own holds.
    pub(crate) fn read(
        reader: &mut Reader<'_>,
        sse: &Variable<Kind>,
        kms_key_id: &Variable<String>,
    ) -> Result<Option<Self>, Noted> {
        let (kind, key_id) = (reader.find(sse), reader.find(kms_key_id));
        match (kind?, key_id?) {
            (None, None) => Ok(None),
            (Some(Kind::Aes256), None) => Ok(Some(Self::Aes256)),
            (Some(Kind::Kms), key_id) => Ok(Some(Self::Kms { key_id })),
            (Some(Kind::KmsDsse), key_id) => Ok(Some(Self::KmsDsse { key_id })),
            (None | Some(Kind::Aes256), Some(_)) => {
                let sse = reader.name(&sse.spec);
                Err(reader.refuse(&kms_key_id.spec, format!("needs {sse}=aws:kms or aws:kms:dsse")))
            }
        }
    }

    /// The value of the header.
    pub(crate) fn header(&self) -> ServerSideEncryption {
        match self {
            Self::Aes256 => ServerSideEncryption::Aes256,
            Self::Kms { .. } => ServerSideEncryption::AwsKms,
            Self::KmsDsse { .. } => ServerSideEncryption::AwsKmsDsse,
        }
    }

    /// The key that is named.
    pub(crate) fn key_id(&self) -> Option<String> {
        match self {
            Self::Aes256 => None,
            Self::Kms { key_id } | Self::KmsDsse { key_id } => key_id.clone(),
        }
    }

    /// Whether KMS is used, which needs permissions of its own.
    pub(crate) fn uses_kms(&self) -> bool {
        !matches!(self, Self::Aes256)
    }
}
