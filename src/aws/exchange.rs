//! What is done with every request and its answer on the wire.

use std::sync::Arc;

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

/// Largest answer that is read, in bytes, where it is not streamed.
const LARGEST: usize = 1024 * 1024;

/// One request and its answer: the answer is bounded, and the session token that the request carried is known, so that an
/// answer that echoes it can be quoted without it. The secret key itself is never sent.
#[derive(Debug, Clone, Default)]
pub(crate) struct Exchange {
    token: Arc<Mutex<Option<SecretString>>>,
    is_streamed: bool,
}

impl Exchange {
    /// An exchange whose answer is read piece by piece, however long it is.
    pub(crate) fn streamed() -> Self {
        Self { is_streamed: true, ..Self::default() }
    }

    /// Takes out what the request carried.
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

    /// The SDK itself takes as much as it is sent, in particular of an error.
    fn modify_before_deserialization(
        &self,
        context: &mut BeforeDeserializationInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        if self.is_streamed && context.response().status().is_success() {
            return Ok(());
        }
        let body = context.response_mut().take_body();
        *context.response_mut().body_mut() = SdkBody::from_body_1_x(Limited::new(body, LARGEST));
        Ok(())
    }
}
