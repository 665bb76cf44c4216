//! The OAuth token endpoint, for client credentials only.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::rejection::RawFormRejection;
use axum::extract::{RawForm, State};
use axum::http::{HeaderMap, Method, header};
use axum::response::Response;
use serde_json::json;
use url::form_urlencoded;

use super::super::encoding;
use super::super::fault::{self, Requested};
use super::super::reply::Reply;
use super::endpoint::{header_breaches, header_text};
use super::{ScmState, Shared};

/// The path of the usual token endpoint, below the base URL.
pub(super) const TOKEN_PATH: &str = "/auth/realms/apiclients/protocol/openid-connect/token";

pub(super) async fn token(
    State(scm): State<Arc<Shared>>,
    method: Method,
    headers: HeaderMap,
    form: Result<RawForm, RawFormRejection>,
) -> Response {
    let form = match &form {
        Ok(RawForm(bytes)) if method == Method::POST => &bytes[..],
        _ => &[],
    };
    let field = |wanted: &str| {
        let mut fields = form_urlencoded::parse(form);
        fields.find_map(|(name, value)| (name == wanted).then(|| value.into_owned()))
    };
    let mut breaches = header_breaches(&headers);
    if method != Method::POST {
        breaches.push(format!("{method} instead of POST"));
    }
    if field("grant_type").as_deref() != Some("client_credentials") {
        breaches.push("no form with `grant_type=client_credentials`".into());
    }
    let (id, secret) = (field("client_id"), field("client_secret"));
    if id.is_none() || secret.is_none() {
        breaches.push("`client_id` or `client_secret` is missing in the form".into());
    }

    let fault = scm.state.update(|state| {
        state.token_requests += 1;
        let number = state.token_requests;
        let breaches = breaches.iter().map(|text| format!("token endpoint (request {number}): {text}"));
        state.violations.extend(breaches);
        state.token_faults.next()
    });
    let requested = Requested {
        accepts_gzip: encoding::accepts_gzip(&headers),
        secrets: vec![
            header_text(&headers, &header::AUTHORIZATION),
            secret.clone().unwrap_or_default(),
            String::from_utf8_lossy(form).into_owned(),
        ],
    };
    fault::pause_for(scm.options.latency).await;
    let grant = || {
        if !breaches.is_empty() {
            return oauth_error(400, "invalid_request", &breaches.join(", "));
        }
        scm.state.update(|state| {
            if id.as_deref() == Some(&scm.options.client_id) && secret.as_ref() == Some(&state.client_secret) {
                scm.grant(state)
            } else {
                oauth_error(401, "invalid_client", "Invalid client or Invalid client credentials")
            }
        })
    };
    let answer = fault::answer(fault, requested, grant).await;
    scm.finish(answer)
}

impl Shared {
    fn grant(&self, state: &mut ScmState) -> Reply {
        let token = format!("eyJ.{:032x}.{:032x}", fastrand::u128(..), fastrand::u128(..));
        let lifetime = self.options.token_lifetime;
        state.access_tokens.insert(token.clone(), Instant::now() + lifetime);
        let body = json!({
            "access_token": token,
            "expires_in": lifetime.as_secs(),
            "refresh_expires_in": 0,
            "token_type": "Bearer",
            "not-before-policy": 0,
            "scope": "audit",
        });
        Reply::json(200, body.to_string()).header(header::CACHE_CONTROL, "no-store")
    }
}

fn oauth_error(status: u16, error: &str, description: &str) -> Reply {
    Reply::json(status, json!({ "error": error, "error_description": description }).to_string())
}
