//! An interceptor that bounds every answer and notes the session token of every request.

use std::sync::Arc;

use jiff::Timestamp;
use parking_lot::Mutex;

use aws_sdk_s3::config::interceptors::{
    BeforeDeserializationInterceptorContextMut, BeforeTransmitInterceptorContextRef,
};
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::error::BoxError;
use aws_sdk_s3::primitives::SdkBody;
use http_body_util::Limited;
use secrecy::SecretString;

use crate::http::Redaction;

/// The largest answer, in bytes, unless an exchange has another bound. It always bounds the answer to a failed request.
const LARGEST: usize = 1024 * 1024;

/// One request and its answer. It bounds the answer, and notes the session token of the request, so that a quoted answer cannot show the
/// token. The secret key itself is never sent.
#[derive(Debug, Clone)]
pub(crate) struct Exchange {
    token: Arc<Mutex<Option<SecretString>>>,
    date: Arc<Mutex<Option<Timestamp>>>,
    /// The largest answer to a successful request, in bytes; none if the answer is streamed.
    most: Option<usize>,
}

impl Default for Exchange {
    fn default() -> Self {
        Self::up_to(LARGEST)
    }
}

impl Exchange {
    /// An exchange with an answer of at most `most` bytes.
    pub(crate) fn up_to(most: usize) -> Self {
        Self { token: Arc::default(), date: Arc::default(), most: Some(most) }
    }

    /// An exchange with an answer of any length, which is read piece by piece.
    pub(crate) fn streamed() -> Self {
        Self { most: None, ..Self::default() }
    }

    /// The answer's `Date`, if it has a valid one.
    pub(crate) fn date(&self) -> Option<Timestamp> {
        *self.date.lock()
    }

    /// A redaction that hides the session token of the request.
    pub(crate) fn redaction(&self) -> Redaction {
        Redaction::of(self.token.lock().as_ref())
    }
}

impl Intercept for Exchange {
    fn name(&self) -> &'static str {
        "Exchange"
    }

    fn read_before_transmit(
        &self,
        context: &BeforeTransmitInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let token = context.request().headers().get("x-amz-security-token").map(SecretString::from);
        *self.token.lock() = token;
        Ok(())
    }

    /// Bounds the answer. The SDK itself reads an answer of any size, in particular an error.
    fn modify_before_deserialization(
        &self,
        context: &mut BeforeDeserializationInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let date = context.response().headers().get("date").and_then(|date| httpdate::parse_http_date(date).ok());
        *self.date.lock() = date.and_then(|date| Timestamp::try_from(date).ok());
        let most = if context.response().status().is_success() { self.most } else { Some(LARGEST) };
        let Some(most) = most else { return Ok(()) };
        let body = context.response_mut().take_body();
        *context.response_mut().body_mut() = SdkBody::from_body_1_x(Limited::new(body, most));
        Ok(())
    }
}
