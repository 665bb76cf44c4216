//! The meaning of a failed call to S3.
//!
//! Codes and statuses are those of <https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html>; for conditional
//! writes, <https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-writes.html>.

use std::error::Error as StdError;
use std::fmt;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_s3::error::{ErrorMetadata, ProvideErrorMetadata, SdkError};
use aws_sdk_s3::operation::RequestId as _;
use http_body_util::LengthLimitError;

use super::Cause;
use crate::failure::Chain;
use crate::http::{Excerpt, Redaction};

/// A failed call.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) meaning: Meaning,
    pub(crate) cause: Cause,
}

/// The meaning of a failed call.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Meaning {
    /// There is no such object.
    Missing,
    /// The condition of a write is not met.
    Mismatch,
    /// A permission is missing.
    Denied,
    /// The object's storage class is an archive, from which someone has to restore it first.
    Archived,
    /// The store does not support a function that the request uses.
    NotImplemented,
    /// There is no such bucket.
    NoBucket,
    /// The bucket is in another region, which the answer may name.
    OtherRegion(Option<String>),
    /// The credentials do not work. The text says what to do.
    Credentials(&'static str),
    /// The store refuses the request for another reason. The text says what to do.
    Rejected(&'static str),
    /// The call may work later.
    Unavailable,
}

/// An answer, as a person reads it.
#[derive(Debug, thiserror::Error)]
#[error("the store answered {status}{code}{message}{request}")]
struct Answer {
    status: u16,
    code: String,
    message: String,
    request: String,
}

/// Why there was no answer, as a person reads it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct NoAnswer(Excerpt);

const FIND: &str = "found no AWS credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile \
                    (AWS_PROFILE, ~/.aws), a web identity (AWS_ROLE_ARN and AWS_WEB_IDENTITY_TOKEN_FILE), or the container or \
                    the instance a role";
const CONFIGURE: &str = "correct the AWS variables or the profile that it names";
const ASSUME: &str = "correct the role to assume, or the credentials that assume it";
const ACCESS_KEY: &str =
    "the store does not know the access key; correct AWS_ACCESS_KEY_ID, or the profile that it comes from";
const SECRET_KEY: &str = "the secret key does not belong to the access key; correct AWS_SECRET_ACCESS_KEY, or the profile that it comes from";
const EXPIRED: &str = "the temporary credentials have expired; renew them, or use a role";
const TOKEN: &str =
    "the session token does not belong to the keys; correct AWS_SESSION_TOKEN, or unset it if they are not temporary";
const CLOCK: &str = "this machine's clock is wrong by more than the store accepts; set the clock";
const ENDPOINT: &str = "it does not look like an answer of S3; correct AWS_ENDPOINT_URL or the proxy";
const LOOK: &str = "correct what the answer names";

impl Failure {
    /// Classifies `error`. The cause shows no secret in `redaction`.
    pub(crate) fn of<E>(error: &SdkError<E>, redaction: &Redaction) -> Self
    where
        E: ProvideErrorMetadata + StdError + Send + Sync + 'static,
    {
        match error {
            SdkError::ServiceError(refusal) => {
                let (meta, raw) = (refusal.err().meta(), refusal.raw());
                let status = raw.status().as_u16();
                let region = raw.headers().get("x-amz-bucket-region");
                let meaning = meaning(status, meta.code(), meta.message(), region);
                let body = raw.body().bytes().unwrap_or_default();
                Self { meaning, cause: Answer::new(status, meta, body, redaction).into() }
            }
            SdkError::ConstructionFailure(_) => Self::unanswered(Meaning::Rejected(CONFIGURE), error, redaction),
            _ if is_too_large(error) => Self::too_large(),
            // The SDK's own words come first and say little: "dispatch failure: other".
            _ => {
                let told = causes(error).nth(2).unwrap_or(error);
                Self::unanswered(without_an_answer(error), told, redaction)
            }
        }
    }

    /// Makes a failure without an answer; `error` says why there is none.
    pub(crate) fn unanswered(meaning: Meaning, error: &(dyn StdError + 'static), redaction: &Redaction) -> Self {
        let why = Chain(error).to_string();
        let why = Excerpt::of(why.split_whitespace().collect::<Vec<_>>().join(" ").as_bytes(), redaction);
        Self { meaning, cause: NoAnswer(why).into() }
    }

    fn too_large() -> Self {
        Self {
            meaning: Meaning::Unavailable,
            cause: "the answer is larger than 1 MiB, so it does not come from S3".into(),
        }
    }
}

/// Whether `error` comes from an answer that was too large.
pub(crate) fn is_too_large(error: &(dyn StdError + 'static)) -> bool {
    causes(error).any(<dyn StdError>::is::<LengthLimitError>)
}

fn causes<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |error| (**error).source())
}

/// The meaning of a request without an answer, which may also be one that could not be signed.
fn without_an_answer(error: &(dyn StdError + 'static)) -> Meaning {
    match causes(error).find_map(<dyn StdError>::downcast_ref::<CredentialsError>) {
        Some(CredentialsError::CredentialsNotLoaded(_)) => Meaning::Credentials(FIND),
        Some(CredentialsError::InvalidConfiguration(_)) => Meaning::Credentials(CONFIGURE),
        // STS, which issues the credentials of a role, has answered.
        Some(_) if causes(error).any(denies_a_role) => Meaning::Credentials(ASSUME),
        _ => Meaning::Unavailable,
    }
}

fn denies_a_role(error: &(dyn StdError + 'static)) -> bool {
    let code = error.downcast_ref::<ErrorMetadata>().and_then(ErrorMetadata::code);
    code.is_some_and(|code| {
        ["AccessDenied", "InvalidClientTokenId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidIdentityToken"]
            .contains(&code)
    })
}

fn meaning(status: u16, code: Option<&str>, message: Option<&str>, region: Option<&str>) -> Meaning {
    match (status, code.unwrap_or_default()) {
        (_, "NoSuchKey" | "NoSuchUpload") => Meaning::Missing,
        (_, "NoSuchBucket") => Meaning::NoBucket,
        (412, _) | (_, "PreconditionFailed") => Meaning::Mismatch,
        (_, "AccessDenied") => Meaning::Denied,
        (_, "InvalidObjectState") => Meaning::Archived,
        (_, "NotImplemented") | (501, _) => Meaning::NotImplemented,
        (_, "InvalidAccessKeyId") => Meaning::Credentials(ACCESS_KEY),
        (_, "SignatureDoesNotMatch") => Meaning::Credentials(SECRET_KEY),
        (_, "ExpiredToken" | "TokenRefreshRequired") => Meaning::Credentials(EXPIRED),
        (_, "InvalidToken") => Meaning::Credentials(TOKEN),
        (_, "RequestTimeTooSkewed") => Meaning::Credentials(CLOCK),
        (301, _) | (_, "PermanentRedirect" | "AuthorizationHeaderMalformed" | "IllegalLocationConstraintException") => {
            Meaning::OtherRegion(
                region.or_else(|| expected_region(message?)).filter(|name| is_region(name)).map(str::to_owned),
            )
        }
        // 307: DNS does not know a new bucket everywhere yet.
        // InternalError: the end of a multipart upload may fail after a 200.
        (307 | 408 | 409 | 429 | 500..=599, _) | (_, "RequestTimeout" | "SlowDown" | "InternalError") => {
            Meaning::Unavailable
        }
        (_, code) if code.contains("Throttl") => Meaning::Unavailable,
        (_, "") => Meaning::Rejected(ENDPOINT),
        _ => Meaning::Rejected(LOOK),
    }
}

/// Finds the region in "the region 'us-east-1' is wrong; expecting 'eu-west-1'".
fn expected_region(message: &str) -> Option<&str> {
    message.split_once("expecting '")?.1.split('\'').next()
}

/// Whether `name` looks like a region. The message tells the operator to put it into a variable.
fn is_region(name: &str) -> bool {
    (1..=40).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

impl Answer {
    /// Describes an answer. One without a code is quoted as it is.
    fn new(status: u16, meta: &ErrorMetadata, body: &[u8], redaction: &Redaction) -> Self {
        let quote = |text: &[u8]| Excerpt::of(text, redaction);
        let part = |before: &str, text: Option<&dyn fmt::Display>, after: &str| {
            text.map(|text| format!("{before}{text}{after}")).unwrap_or_default()
        };
        let word = |text: &str| plain(&quote(text.as_bytes()).to_string());
        let code = meta.code().map(word);
        let message = match (&code, meta.message()) {
            (Some(_), message) => message.map(|message| quote(message.as_bytes())),
            (None, _) => Some(quote(body)),
        };
        let request = meta.request_id().map(word);
        Self {
            status,
            code: part(" ", code.as_ref().map(|code| code as _), ""),
            message: part(": ", message.as_ref().map(|message| message as _), ""),
            request: part(" (request ", request.as_ref().map(|request| request as _), ")"),
        }
    }
}

/// Keeps the characters of a code or an identifier, which are few and plain in a real one.
fn plain(text: &str) -> String {
    text.chars().filter(|c| c.is_ascii_alphanumeric() || "._-+/=".contains(*c)).take(80).collect()
}
