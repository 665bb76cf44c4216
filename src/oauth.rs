//! Gets access tokens by the OAuth 2.0 client credentials grant (RFC 6749, 4.4).

use std::time::Duration;

use reqwest::StatusCode;
use reqwest::header::{HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use tokio::sync::Mutex;
use tokio::time::Instant;
use url::{Host, Url};

use crate::component::Component;
use crate::failure::Class;
use crate::http::{self, Address, Excerpt, Method, Redaction, Reply};
use crate::secret::{Outdated, Secret};
use crate::variable_name::VariableName;

/// The most bytes of a token answer, which is a small JSON object.
const LARGEST_ANSWER: usize = 1024 * 1024;

/// How long before its end a token is renewed, or a fifth of its life if that is less.
const EARLY: Duration = Duration::from_secs(60);

/// The assumed life of a token when the answer does not give one. If it is shorter, a 401 will show that.
const UNTOLD_LIFE: Duration = Duration::from_secs(300);

/// The longest life of a token that we accept.
const LONGEST_LIFE: Duration = Duration::from_secs(24 * 60 * 60);

/// Why there is no access token.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The token endpoint could not be reached, or its answer was not whole.
    #[error(transparent)]
    Http(#[from] http::Error),
    /// The token endpoint answered that it is unavailable.
    #[error("{address} answered {status}: {reason}")]
    Unavailable {
        /// The address of the call.
        address: Address,
        /// The answer's status.
        status: u16,
        /// The wait that the server requested.
        after: Option<Duration>,
        /// The beginning of its body.
        reason: Excerpt,
    },
    /// The token endpoint rejected the client credentials.
    #[error("{address} rejected the credentials ({status}: {reason}); check {variables}")]
    CredentialsRejected {
        /// The address of the call.
        address: Address,
        /// The answer's status.
        status: u16,
        /// The beginning of its body.
        reason: Excerpt,
        /// The variables to correct.
        variables: String,
    },
    /// The token endpoint rejected the client secret. The secret's file holds another one by now, or cannot be read.
    #[error("{address} rejected the client secret; {cause}")]
    SecretOutdated {
        /// The address of the call.
        address: Address,
        /// What the file shows.
        #[source]
        cause: Outdated,
    },
    /// The token endpoint refused the request.
    #[error("{address} answered {status}: {reason}; check {variable}")]
    Refused {
        /// The address of the call.
        address: Address,
        /// The answer's status.
        status: u16,
        /// The beginning of its body.
        reason: Excerpt,
        /// The variable that names the address.
        variable: VariableName,
    },
    /// The answer has no access token.
    #[error("the answer from {address} contains no access token: {reason}; if this persists, check {variable}")]
    NoToken {
        /// The address of the call.
        address: Address,
        /// Why there is no token in the answer.
        reason: String,
        /// The variable that names the address.
        variable: VariableName,
    },
}

impl Error {
    /// What the error means to the engine.
    pub fn class(&self) -> Class {
        match self {
            Self::Http(error) => error.class(),
            Self::NoToken { .. } | Self::SecretOutdated { cause: Outdated::Rotated(_), .. } => {
                Class::Retryable { after: None }
            }
            Self::Unavailable { after, .. } => Class::Retryable { after: *after },
            Self::CredentialsRejected { .. } | Self::SecretOutdated { .. } => Class::CredentialsRejected,
            Self::Refused { .. } => Class::Refused,
        }
    }
}

/// A client and its current access token.
#[derive(Debug)]
pub struct ClientCredentials {
    client_id: String,
    id_variable: VariableName,
    secret: Secret,
    endpoint_variable: VariableName,
    /// Locked while a token is fetched, so that only one renewal runs and other callers wait for it.
    issued: Mutex<Option<Issued>>,
}

#[derive(Debug)]
struct Issued {
    token: AccessToken,
    renew_at: Instant,
}

/// An access token, ready to be sent.
#[derive(Debug, Clone)]
pub struct AccessToken {
    secret: SecretString,
    header: HeaderValue,
}

impl AccessToken {
    fn new(secret: SecretString) -> Option<Self> {
        let mut header = HeaderValue::from_str(&format!("Bearer {}", secret.expose_secret())).ok()?;
        header.set_sensitive(true);
        Some(Self { secret, header })
    }

    /// The value of the `Authorization` header, marked as sensitive.
    pub fn header(&self) -> HeaderValue {
        self.header.clone()
    }
}

impl ClientCredentials {
    /// Makes a client. `id_variable` is the variable with its id, and `endpoint_variable` the one that sets its token endpoint.
    pub fn new(client_id: String, id_variable: VariableName, secret: Secret, endpoint_variable: VariableName) -> Self {
        Self { client_id, id_variable, secret, endpoint_variable, issued: Mutex::new(None) }
    }

    /// Returns the current access token, or a new one from `endpoint` if there is none or its end is near.
    pub async fn token(&self, http: &http::Client, endpoint: &Url) -> Result<AccessToken, Error> {
        let mut issued = self.issued.lock().await;
        if let Some(Issued { token, renew_at }) = issued.as_ref()
            && Instant::now() < *renew_at
        {
            return Ok(token.clone());
        }
        let asked = Instant::now();
        let (token, life) = match self.fetch(http, endpoint).await {
            Ok(fetched) => fetched,
            // While the endpoint is unavailable, an old token with some life left will do.
            Err(error) => match issued.as_ref() {
                Some(old) if matches!(error.class(), Class::Retryable { .. }) && asked < old.renew_at + EARLY / 2 => {
                    tracing::warn!(error = %crate::failure::Chain(&error), "cannot renew the access token yet");
                    return Ok(old.token.clone());
                }
                _ => return Err(error),
            },
        };
        let life = life.min(LONGEST_LIFE);
        tracing::debug!(expires_in = %humantime::format_duration(life), "access token obtained");
        *issued = Some(Issued { token: token.clone(), renew_at: asked + life - EARLY.min(life / 5) });
        Ok(token)
    }

    /// The secrets to hide in the API's answers: the token of a call, and the client secret, which the API may also know.
    pub fn redaction(&self, token: Option<&AccessToken>) -> Redaction {
        let secret = self.secret.current();
        Redaction::of(token.map(|token| &token.secret).into_iter().chain([&secret]))
    }

    /// Forgets a rejected token, but keeps a newer one.
    pub async fn forget(&self, rejected: &AccessToken) {
        let mut issued = self.issued.lock().await;
        if issued.as_ref().is_some_and(|issued| issued.token.header == rejected.header) {
            *issued = None;
        }
    }

    async fn fetch(&self, http: &http::Client, endpoint: &Url) -> Result<(AccessToken, Duration), Error> {
        let no_token = |address, reason| Error::NoToken { address, reason, variable: self.endpoint_variable.clone() };
        let address = Address::of(endpoint);
        let secret = self.secret.current();
        let form = [
            ("grant_type", "client_credentials"),
            ("client_id", self.client_id.as_str()),
            ("client_secret", secret.expose_secret()),
        ];
        let request = http.request(Method::POST, endpoint.clone())?.form(&form);
        let hidden = Redaction::of([&secret]);
        let exchange = http.exchange(Component::TokenEndpoint, request, &address, LARGEST_ANSWER, &hidden);
        let reply = exchange.await.map_err(|error| match error {
            // An answer of that size is not a token, and a smaller range would not help.
            http::Error::TooLarge { address, limit } => no_token(address, format!("it is larger than {limit} bytes")),
            other => other.into(),
        })?;
        if reply.status == StatusCode::OK {
            return issued(&reply).map_err(|reason| no_token(address, reason));
        }
        let status = reply.status.as_u16();
        let reason = Excerpt::of(&reply.body, &hidden);
        // Only an OAuth error is the token endpoint's own word. A proxy may answer 400 or 403 in its place for a moment.
        if status == 401 || (matches!(status, 400 | 403) && is_oauth_error(&reply.body)) {
            return Err(self.rejected(address, status, reason, &secret));
        }
        Err(match Class::of_status(status, reply.retry_after()) {
            Class::Retryable { after } => Error::Unavailable { address, status, after, reason },
            _ => Error::Refused { address, status, reason, variable: self.endpoint_variable.clone() },
        })
    }

    /// Makes the error for rejected credentials, depending on whether their file has newer ones.
    fn rejected(&self, address: Address, status: u16, reason: Excerpt, rejected: &SecretString) -> Error {
        if let Some(cause) = self.secret.after_rejection(rejected) {
            return Error::SecretOutdated { address, cause };
        }
        let variables = format!("{} and {}", self.id_variable, self.secret.variable());
        Error::CredentialsRejected { address, status, reason, variables }
    }
}

/// Whether the body is an OAuth error: a JSON object with `error` (RFC 6749, 5.2).
fn is_oauth_error(body: &[u8]) -> bool {
    serde_json::from_slice::<serde_json::Value>(body)
        .is_ok_and(|body| body.get("error").is_some_and(serde_json::Value::is_string))
}

/// Parses the token in an answer, and its life. The error does not quote the answer, which may contain a token.
fn issued(reply: &Reply) -> Result<(AccessToken, Duration), String> {
    #[derive(Deserialize)]
    struct Answer {
        access_token: SecretString,
        expires_in: Option<serde_json::Value>,
    }
    let answer: Answer = serde_json::from_slice(&reply.body).map_err(|cause| {
        format!("not a JSON object with access_token (line {}, {:?})", cause.line(), cause.classify())
    })?;
    let token = AccessToken::new(answer.access_token).ok_or("access_token cannot be sent in a header")?;
    // Some servers send the number as a string.
    let seconds = answer.expires_in.and_then(|value| match value {
        serde_json::Value::String(text) => text.trim().parse().ok(),
        other => other.as_f64(),
    });
    let life = seconds.map_or(UNTOLD_LIFE, |seconds: f64| {
        // A number out of range means a life that is over, or one without an end.
        let bound = if seconds > 0.0 { LONGEST_LIFE } else { Duration::ZERO };
        Duration::try_from_secs_f64(seconds).unwrap_or(bound)
    });
    Ok((token, life))
}

/// Finds the authorization server that a 401 names: `authorization_uri` in `WWW-Authenticate`.
pub fn authorization_uri(headers: &HeaderMap) -> Option<String> {
    headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok()).find_map(|challenge| {
        let at = challenge.to_ascii_lowercase().find("authorization_uri")?;
        let value = challenge.get(at + "authorization_uri".len()..)?.trim_start().strip_prefix('=')?.trim_start();
        let uri = match value.strip_prefix('"') {
            Some(quoted) => quoted.split('"').next(),
            None => value.split([',', ' ']).next(),
        };
        uri.filter(|uri| !uri.is_empty()).map(str::to_owned)
    })
}

/// Finds the token endpoint of a Keycloak realm from any address of the realm.
pub fn token_endpoint(named: &Url) -> Url {
    let mut endpoint = named.clone();
    endpoint.set_query(None);
    endpoint.set_fragment(None);
    let path = named.path().trim_end_matches('/');
    if let Some(realm) = path.strip_suffix("/protocol/openid-connect/auth") {
        endpoint.set_path(&format!("{realm}/protocol/openid-connect/token"));
    } else if path.rsplit('/').nth(1) == Some("realms") {
        endpoint.set_path(&format!("{path}/protocol/openid-connect/token"));
    }
    endpoint
}

/// Whether the client secret may be sent to a token endpoint that `api` named. Its host must be the API's own, a sibling of it under a
/// domain that someone owns, or under `family`.
pub fn is_trusted(named: &Url, api: &Url, family: &str) -> bool {
    let protected = named.scheme() == "https" || (named.scheme() == "http" && http::is_loopback(named));
    if !protected || !named.username().is_empty() || named.password().is_some() {
        return false;
    }
    match (named.host(), api.host()) {
        (Some(named), Some(api)) if named == api => true,
        (Some(Host::Domain(named)), Some(Host::Domain(api))) => {
            let (named, api) = (named.trim_end_matches('.'), api.trim_end_matches('.'));
            let in_family = named.strip_suffix(family).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
            let sibling = match (named.split_once('.'), api.split_once('.')) {
                // Names under a public suffix such as co.uk, which is nobody's domain, are not siblings.
                (Some((_, parent)), Some((_, other))) => parent == other && psl::domain_str(parent).is_some(),
                _ => false,
            };
            named == api || in_family || sibling
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_authorization_uri_is_found_in_every_usual_spelling() {
        for challenge in [
            r#"Bearer realm="x", authorization_uri="https://auth.example.com/t""#,
            r#"Bearer authorization_uri = "https://auth.example.com/t", error="invalid_token""#,
            "Bearer Authorization_URI=https://auth.example.com/t, realm=x",
        ] {
            let mut headers = HeaderMap::new();
            headers.append(WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=y"));
            headers.append(WWW_AUTHENTICATE, HeaderValue::from_str(challenge).unwrap());
            assert_eq!(authorization_uri(&headers).as_deref(), Some("https://auth.example.com/t"), "{challenge}");
        }
        assert_eq!(authorization_uri(&HeaderMap::new()), None);
    }

    #[test]
    fn an_oauth_error_is_told_from_a_page_of_a_proxy() {
        assert!(is_oauth_error(br#"{"error_description":"no such client","error":"invalid_client"}"#));
        for body in ["", "<html>400 Bad Request</html>", "{}", "[]", r#"{"error":null}"#, r#"{"error":{"code":400}}"#] {
            assert!(!is_oauth_error(body.as_bytes()), "{body}");
        }
    }

    #[test]
    fn any_address_of_a_realm_leads_to_its_token_endpoint() {
        let token = "https://auth.sectigo.com/auth/realms/apiclients/protocol/openid-connect/token";
        for named in [
            token,
            "https://auth.sectigo.com/auth/realms/apiclients/protocol/openid-connect/auth?x=y",
            "https://auth.sectigo.com/auth/realms/apiclients/",
            "https://auth.sectigo.com/auth/realms/apiclients",
        ] {
            assert_eq!(token_endpoint(&Url::parse(named).unwrap()).as_str(), token, "{named}");
        }
        assert_eq!(token_endpoint(&Url::parse("https://x/oauth/token").unwrap()).as_str(), "https://x/oauth/token");
    }

    #[test]
    fn the_secret_goes_to_the_apis_own_family_alone() {
        let api = "https://audit.enterprise.sectigo.com";
        for (named, api, expected) in [
            ("https://audit.enterprise.sectigo.com/t", api, true),
            ("https://auth.enterprise.sectigo.com/t", api, true),
            ("https://auth.sso.sectigo.com/t", api, true),
            ("https://sectigo.com/t", api, true),
            ("http://auth.sso.sectigo.com/t", api, false),
            ("https://evilsectigo.com/t", api, false),
            ("https://sectigo.com.evil.net/t", api, false),
            ("https://me@auth.sso.sectigo.com/t", api, false),
            ("https://auth.pki.example.com/t", "https://audit.pki.example.com", true),
            ("https://auth.example.com/t", "https://audit.pki.example.com", false),
            ("https://evil.com/t", "https://example.com", false),
            ("https://evil.co.uk/t", "https://example.co.uk", false),
            ("https://evil.azurewebsites.net/t", "https://audit.azurewebsites.net", false),
            ("http://127.0.0.1:1/t", "http://127.0.0.1:2", true),
            ("http://127.0.0.1:1/t", "https://audit.example.com", false),
            ("https://10.0.0.2/t", "https://10.0.0.1", false),
        ] {
            let (named, api) = (Url::parse(named).unwrap(), Url::parse(api).unwrap());
            assert_eq!(is_trusted(&named, &api, "sectigo.com"), expected, "{named} for {api}");
        }
    }
}
