//! The OAuth token endpoint, for refresh tokens only: the kind of credentials that `gcloud` leaves on a disk.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::State;
use axum::response::Response;
use serde_json::{Value, json};

use super::super::fault::{self, Requested};
use super::super::reply::Reply;
use super::Shared;

pub(super) const TOKEN_PATH: &str = "/token";

pub(super) async fn token(State(gcs): State<Arc<Shared>>, body: Bytes) -> Response {
    let fault = gcs.state.update(|state| {
        state.token_requests += 1;
        state.token_faults.next()
    });
    let secrets = vec![String::from_utf8_lossy(&body).into_owned()];
    let requested = Requested { accepts_gzip: false, secrets };
    let grant = || {
        gcs.state.update(|state| {
            let form: Value = serde_json::from_slice(&body).unwrap_or_default();
            let refresh_token = form["refresh_token"].as_str();
            if refresh_token.is_none() || refresh_token != state.refresh_token.as_deref() {
                let refusal =
                    json!({ "error": "invalid_grant", "error_description": "Token has been expired or revoked." });
                return Reply::json(400, refusal.to_string());
            }
            let token = format!("ya29.a0{:032x}Zz{:032x}", fastrand::u128(..), fastrand::u128(..));
            state.access_tokens.insert(token.clone());
            let grant = json!({ "access_token": token, "expires_in": 3599, "token_type": "Bearer" });
            Reply::json(200, grant.to_string())
        })
    };
    fault::answer(fault, requested, grant).await.into_response()
}
