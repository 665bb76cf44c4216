//! Reads public keys from `CloudTrail`'s API:
//! <https://docs.aws.amazon.com/awscloudtrail/latest/APIReference/API_ListPublicKeys.html>.
//!
//! The SDK's crate for `CloudTrail` is large, and this source needs only one call of it.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::SystemTime;

use aws_credential_types::provider::ProvideCredentials as _;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use futures_util::TryFutureExt as _;
use jiff::{SignedDuration, Timestamp};
use reqwest::Method;
use secrecy::SecretString;
use serde::Deserialize;
use serde_json::json;
use url::Url;

use super::super::bucket::Buckets;
use super::super::error::Error;
use super::super::variables::DIGEST_PUBLIC_KEY;
use super::keys::PublicKeys;
use crate::aws::Cause;
use crate::aws::call::CallError;
use crate::component::Component;
use crate::http::{self, Address, Excerpt, Redaction};

const ACTION: &str = "list the public keys of";

/// The name of the action in a request.
const TARGET: &str = "com.amazonaws.cloudtrail.v20131101.CloudTrail_20131101.ListPublicKeys";

/// How far back keys may have been valid: digests of a backlog were signed with older keys.
pub(super) const BACK: SignedDuration = SignedDuration::from_hours(90 * 24);

/// The largest answer in bytes, and the most answers.
const LARGEST: usize = 1024 * 1024;
const MOST_PAGES: usize = 20;

/// The API.
pub(in crate::source::cloudtrail) struct Api {
    buckets: Arc<Buckets>,
    http: Arc<http::Client>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Page {
    #[serde(default)]
    public_key_list: Vec<Key>,
    next_token: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Key {
    /// Base64 of PKCS#1 in DER.
    value: String,
    #[serde(default)]
    fingerprint: String,
}

impl Api {
    pub(in crate::source::cloudtrail) fn new(buckets: Arc<Buckets>, http: Arc<http::Client>) -> Self {
        Self { buckets, http }
    }

    /// Reads the keys of a region that are valid at some time from `from` to `to`, and their fingerprints.
    pub(super) async fn keys(
        &self,
        region: &str,
        from: Timestamp,
        to: Timestamp,
    ) -> Result<(PublicKeys, HashSet<String>), Error> {
        let (mut ders, mut fingerprints, mut next) = (Vec::new(), HashSet::new(), None::<String>);
        for _ in 0..MOST_PAGES {
            let page = self.page(region, (from, to), next.as_deref()).await?;
            for Key { value, fingerprint } in page.public_key_list {
                ders.extend(BASE64_STANDARD.decode(value).ok());
                fingerprints.insert(fingerprint);
            }
            next = page.next_token;
            if next.is_none() {
                break;
            }
        }
        Ok((PublicKeys::of_ders(ders.iter().map(Vec::as_slice)), fingerprints))
    }

    async fn page(&self, region: &str, (from, to): (Timestamp, Timestamp), next: Option<&str>) -> Result<Page, Error> {
        let asking = async {
            let configuration = self.buckets.connection().configuration().await?;
            let domain = if region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" };
            let usual = format!("https://cloudtrail.{region}.{domain}/");
            let url = Url::parse(configuration.endpoint_url().unwrap_or(&usual))?;
            let provider = configuration.credentials_provider().ok_or("there are no AWS credentials")?;
            let credentials = provider.provide_credentials().await?;
            let hidden = Redaction::of(credentials.session_token().map(SecretString::from).as_ref());
            let mut body = json!({"StartTime": from.as_second(), "EndTime": to.as_second()});
            if let (Some(next), Some(members)) = (next, body.as_object_mut()) {
                members.insert("NextToken".to_owned(), next.into());
            }
            let body = body.to_string();
            let headers = [("content-type", "application/x-amz-json-1.1"), ("x-amz-target", TARGET)];
            let identity = credentials.into();
            let parameters = v4::SigningParams::builder()
                .identity(&identity)
                .region(region)
                .name("cloudtrail")
                .time(SystemTime::now())
                .settings(SigningSettings::default())
                .build()?;
            let signable = SignableBody::Bytes(body.as_bytes());
            let request = SignableRequest::new("POST", url.as_str(), headers.into_iter(), signable)?;
            let (instructions, _) = sign(request, &parameters.into())?.into_parts();
            let address = Address::of(&url);
            let mut request = self.http.request(Method::POST, url)?;
            for (name, value) in headers.into_iter().chain(instructions.headers()) {
                request = request.header(name, value);
            }
            let reply = self.http.exchange(Component::Source, request.body(body), &address, LARGEST, &hidden).await?;
            Ok::<_, Cause>((reply, address, hidden))
        };
        let asking = asking.map_err(|cause| unavailable(region, cause));
        // Some providers of credentials wait for ever.
        let (reply, address, hidden) = self.buckets.within_timeout(&place(region), asking).await?;
        if reply.status.is_success() {
            return serde_json::from_slice(&reply.body).map_err(|cause| unavailable(region, cause.into()));
        }
        let said = Excerpt::of(&reply.body, &hidden);
        let cause: Cause = format!("{address} answered {}: {said}", reply.status.as_u16()).into();
        let is_named = |name: &str| String::from_utf8_lossy(&reply.body).contains(name);
        if reply.status.is_server_error() || reply.status.as_u16() == 429 || is_named("Throttl") {
            return Err(unavailable(region, cause));
        }
        let is_denied = is_named("AccessDenied");
        let correct = if is_denied { "grant cloudtrail:ListPublicKeys" } else { "correct what the answer names" };
        Err(CallError::Refused {
            action: ACTION,
            location: place(region),
            remedy: format!("{correct}, or give the key in {}", DIGEST_PUBLIC_KEY.spec.name),
            is_about_credentials: is_denied,
            cause,
        }
        .into())
    }
}

fn place(region: &str) -> String {
    format!("CloudTrail in {region}")
}

fn unavailable(region: &str, cause: Cause) -> Error {
    CallError::Unavailable { action: ACTION, location: place(region), cause }.into()
}
