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

/// Largest answer that is read, in bytes. The document is a thousandth of it.
const LARGEST: usize = 1024 * 1024;

/// One request and its answer: the answer is bounded, and the session token that the request carried is known, so that an
/// answer that echoes it can be quoted without it. The secret key itself is never sent.
#[derive(Debug, Clone, Default)]
pub(super) struct Exchange(Arc<Mutex<Option<SecretString>>>);

impl Exchange {
    /// Takes out what the request carried.
    pub(super) fn redaction(&self) -> Redaction {
        Redaction::of(self.0.lock().as_ref())
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
        *self.0.lock() = token;
        Ok(())
    }

    /// The SDK itself takes as much as it is sent, in particular of an error.
    fn modify_before_deserialization(
        &self,
        context: &mut BeforeDeserializationInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let body = context.response_mut().take_body();
        *context.response_mut().body_mut() = SdkBody::from_body_1_x(Limited::new(body, LARGEST));
        Ok(())
    }
}
