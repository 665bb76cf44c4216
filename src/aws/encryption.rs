//! Server-side encryption of objects, which two variables choose.

use aws_sdk_s3::types::ServerSideEncryption;

use crate::config::{Noted, Reader, Variable, parse};

/// Encryption by the store. The names are those of the header `x-amz-server-side-encryption`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Encryption {
    /// `AES256`: with S3's own keys.
    Aes256,
    /// `aws:kms`: with a KMS key.
    Kms {
        /// The key's identifier, ARN or alias; without it, the account's own key for S3.
        key_id: Option<String>,
    },
    /// `aws:kms:dsse`: twice, with a KMS key.
    KmsDsse {
        /// The key's identifier, ARN or alias; without it, the account's own key for S3.
        key_id: Option<String>,
    },
}

/// The values of `x-amz-server-side-encryption`.
const KINDS: [(&str, Encryption); 3] = [
    ("AES256", Encryption::Aes256),
    ("aws:kms", Encryption::Kms { key_id: None }),
    ("aws:kms:dsse", Encryption::KmsDsse { key_id: None }),
];

/// Parses the kind of an encryption. It names no key, so KMS takes the account's own.
pub(crate) fn kind(text: &str) -> Result<Encryption, String> {
    parse::choice(text, &KINDS)
}

impl Encryption {
    /// Reads the encryption that these two variables choose; none leaves the choice to the bucket.
    pub(crate) fn read(
        reader: &mut Reader<'_>,
        sse: &Variable<Self>,
        kms_key_id: &Variable<String>,
    ) -> Result<Option<Self>, Noted> {
        let (kind, key_id) = (reader.find(sse), reader.find(kms_key_id));
        match (kind?, key_id?) {
            (kind, None) => Ok(kind),
            (Some(Self::Kms { .. }), key_id) => Ok(Some(Self::Kms { key_id })),
            (Some(Self::KmsDsse { .. }), key_id) => Ok(Some(Self::KmsDsse { key_id })),
            (None | Some(Self::Aes256), Some(_)) => {
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

    /// The configured key.
    pub(crate) fn key_id(&self) -> Option<String> {
        match self {
            Self::Aes256 => None,
            Self::Kms { key_id } | Self::KmsDsse { key_id } => key_id.clone(),
        }
    }

    /// Whether the encryption uses KMS, which needs further permissions.
    pub(crate) fn uses_kms(&self) -> bool {
        !matches!(self, Self::Aes256)
    }
}
