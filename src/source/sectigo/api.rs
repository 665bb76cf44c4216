//! The calls to the audit API: addresses, access token, and what a status means.

use std::sync::Arc;

use parking_lot::Mutex;

use reqwest::StatusCode;
use reqwest::header::{ACCEPT, AUTHORIZATION};
use url::Url;

use super::error::Error;
use super::moment::Moment;
use super::page;
use super::range::PageToken;
use super::variables::{API_CLIENT_ID, API_TOKEN_URL};
use crate::clock::{Clock, LocalTime};
use crate::component::{Component, Context};
use crate::failure::Class;
use crate::http::{self, Address, Excerpt, Method, Reply};
use crate::oauth::{self, AccessToken, ClientCredentials};
use crate::secret::Secret;

/// Largest page, in bytes after decompression. Together with [`page::MOST_RECORDS`] it bounds the memory of the whole process.
///
/// Up to three bodies exist at once: the page in delivery, the page behind it, and the answer behind that. With them exist the events
/// and the compressed batches of two pages. A batch can exceed its part of the page, since a message repeats text of the record.
/// Nothing counts the bytes of batches: the tests of memory measure the sum.
const LARGEST_PAGE: usize = 8 * 1024 * 1024;

/// Longest page token, in bytes: it becomes a part of the state.
const LONGEST_TOKEN: usize = 4096;

/// The usual token endpoint (`audit.scm.devx.sectigo.com/docs/authentication`).
const USUAL_ENDPOINT: &str = "https://auth.sso.sectigo.com/auth/realms/apiclients/protocol/openid-connect/token";

/// The domain whose hosts may be given the client secret.
const FAMILY: &str = "sectigo.com";

/// The variable that corrects the token endpoint.
const TOKEN_URL_VARIABLE: &str = API_TOKEN_URL.spec.name;

/// The variable that names the client.
const CLIENT_VARIABLE: &str = API_CLIENT_ID.spec.name;

/// A page of a range, to be requested.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PageRequest {
    /// Where the range begins.
    pub(super) from: Moment,
    /// Where it ends.
    pub(super) until: Moment,
    /// The page; none for the first.
    pub(super) token: Option<PageToken>,
}

/// What came back for a page.
#[derive(Debug)]
pub(super) enum PageAnswer {
    /// A success; its body is to be a page.
    Page {
        /// The answer.
        reply: Box<Reply>,
        /// The token that the request carried.
        access: AccessToken,
        /// When it was requested, and when it was there.
        call: (LocalTime, LocalTime),
    },
    /// A 4xx for a page's token: it may be refused, or something passes.
    PageTokenRefused(Refusal),
}

/// How a page was refused.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) status: u16,
    /// The beginning of the answer's body.
    pub(super) reason: Excerpt,
}

#[derive(Debug)]
pub(super) struct Api {
    http: Arc<http::Client>,
    clock: Clock,
    records: Url,
    credentials: ClientCredentials,
    configured_endpoint: Option<Url>,
    discovered_endpoint: Mutex<Option<Url>>,
}

impl Api {
    pub(super) fn new(
        context: &Context,
        base: &Url,
        token_url: Option<Url>,
        client_id: String,
        client_secret: Secret,
    ) -> Self {
        let mut records = base.clone();
        records.set_path(&format!("{}/api/v1/records", base.path().trim_end_matches('/')));
        Self {
            http: Arc::clone(&context.http),
            clock: context.clock.clone(),
            records,
            credentials: ClientCredentials::new(client_id, CLIENT_VARIABLE, client_secret),
            configured_endpoint: token_url,
            discovered_endpoint: Mutex::new(None),
        }
    }

    pub(super) fn address(&self) -> Address {
        Address::of(&self.records)
    }

    /// Requests a page.
    pub(super) async fn get(&self, page: &PageRequest) -> Result<PageAnswer, Error> {
        let mut url = self.records.clone();
        let (start, value) = match &page.token {
            Some(PageToken(token)) => ("token", token.clone()),
            None => ("from", page.from.to_string()),
        };
        url.query_pairs_mut().append_pair(start, &value).append_pair("to", &page.until.to_string());
        let (endpoint, variable) = self.token_endpoint(&url).await?;
        let access = self.credentials.token(&self.http, &endpoint, variable).await?;
        let asked = self.clock.local();
        let reply = self.call(url, Some(&access)).await?;
        if reply.status == StatusCode::OK {
            return Ok(PageAnswer::Page { reply: Box::new(reply), access, call: (asked, self.clock.local()) });
        }
        self.refusal(&reply, &access, page.token.is_some()).await
    }

    pub(super) async fn check_token(&self) -> Result<String, Error> {
        let now = Moment::from(self.clock.now());
        let mut url = self.records.clone();
        let from = now.before(std::time::Duration::from_secs(60));
        url.query_pairs_mut().append_pair("from", &from.to_string()).append_pair("to", &now.to_string());
        let (endpoint, variable) = self.token_endpoint(&url).await?;
        self.credentials.token(&self.http, &endpoint, variable).await?;
        Ok(Address::of(&endpoint).to_string())
    }

    /// The token of the next page in an answer's header.
    pub(super) fn page_token(&self, reply: &Reply) -> Result<Option<PageToken>, Error> {
        let Some(value) = reply.headers.get("token") else { return Ok(None) };
        let unreadable = |reason: &str| Error::Unreadable { address: self.address(), reason: reason.to_owned() };
        let token = value.to_str().map_err(|_| unreadable("its page token is not plain text"))?.trim();
        if token.len() > LONGEST_TOKEN {
            return Err(unreadable("its page token is longer than 4096 bytes"));
        }
        Ok((!token.is_empty()).then(|| PageToken(token.to_owned())))
    }

    /// What is wrong with a page, with its beginning: audit records may be shown, but what is no page may be an echo.
    pub(super) fn describe(&self, reply: &Reply, access: &AccessToken, cause: &page::Error) -> String {
        format!("{cause}; it begins with {}", Excerpt::of(&reply.body, &self.credentials.redaction(Some(access))))
    }

    async fn call(&self, url: Url, access: Option<&AccessToken>) -> Result<Reply, Error> {
        let mut request = self.http.request(Method::GET, url)?.header(ACCEPT, "application/json");
        if let Some(access) = access {
            request = request.header(AUTHORIZATION, access.header());
        }
        let hidden = self.credentials.redaction(access);
        Ok(self.http.exchange(Component::Source, request, &self.address(), LARGEST_PAGE, &hidden).await?)
    }

    /// What an answer other than 200 means.
    async fn refusal(&self, reply: &Reply, access: &AccessToken, paged: bool) -> Result<PageAnswer, Error> {
        let address = self.address();
        let status = reply.status.as_u16();
        let reason = Excerpt::of(&reply.body, &self.credentials.redaction(Some(access)));
        Err(match status {
            401 => {
                self.credentials.forget(access).await;
                if self.configured_endpoint.is_none() {
                    self.learn_endpoint(reply)?;
                }
                Error::TokenRejected { address, reason, variable: CLIENT_VARIABLE }
            }
            403 => {
                // Rights that were given since are in a new token alone.
                self.credentials.forget(access).await;
                Error::CredentialsRejected { address, status, reason, variable: CLIENT_VARIABLE }
            }
            400.. => match Class::of_status(status, reply.retry_after()) {
                Class::Retryable { after } => Error::Unavailable { address, status, after, reason },
                _ if paged => return Ok(PageAnswer::PageTokenRefused(Refusal { status, reason })),
                _ => Error::Refused { address, status, reason },
            },
            // Another success than 200 is no page. Neither is anything that HTTP may define later.
            _ => Error::NotAPage { address, reason: format!("status {status}, {reason}") },
        })
    }

    /// The token endpoint, and the variable that corrects it: the configured one, else the one that the API names when asked without a
    /// token, else the usual one.
    async fn token_endpoint(&self, request: &Url) -> Result<(Url, &'static str), Error> {
        if let Some(endpoint) = &self.configured_endpoint {
            return Ok((endpoint.clone(), TOKEN_URL_VARIABLE));
        }
        let known = self.discovered_endpoint.lock().clone();
        if let Some(endpoint) = known {
            return Ok((endpoint, TOKEN_URL_VARIABLE));
        }
        let reply = self.call(request.clone(), None).await?;
        if let Some(endpoint) = self.learn_endpoint(&reply)? {
            return Ok((endpoint, TOKEN_URL_VARIABLE));
        }
        let (address, status) = (self.address(), reply.status.as_u16());
        let reason = Excerpt::of(&reply.body, &self.credentials.redaction(None));
        match status {
            // A success without a page comes from something between us and the API. The API itself is called again.
            200..300 if page::records(&reply.body).is_err() => {
                Err(Error::NotAPage { address, reason: format!("status {status}, {reason}") })
            }
            200..300 | 401 | 403 => Ok((self.usual_endpoint()?, TOKEN_URL_VARIABLE)),
            _ => Err(match Class::of_status(status, reply.retry_after()) {
                Class::Retryable { after } => Error::Unavailable { address, status, after, reason },
                _ => Error::Refused { address, status, reason },
            }),
        }
    }

    /// An address that the API names, without user, password and query.
    fn shown(&self, named: &str) -> Excerpt {
        let hidden = self.credentials.redaction(None);
        let shown = Url::parse(named).map_or_else(|_| named.to_owned(), |url| Address::of(&url).to_string());
        Excerpt::of(shown.as_bytes(), &hidden)
    }

    fn usual_endpoint(&self) -> Result<Url, Error> {
        let endpoint = Url::parse(USUAL_ENDPOINT)
            .map_err(|cause| Error::Unreadable { address: self.address(), reason: cause.to_string() })?;
        *self.discovered_endpoint.lock() = Some(endpoint.clone());
        Ok(endpoint)
    }

    /// Takes up the endpoint that a 401 names, if it names one, and if it may be trusted.
    fn learn_endpoint(&self, reply: &Reply) -> Result<Option<Url>, Error> {
        if reply.status != StatusCode::UNAUTHORIZED {
            return Ok(None);
        }
        let Some(named) = oauth::authorization_uri(&reply.headers) else { return Ok(None) };
        let endpoint = Url::parse(&named).ok().filter(|url| oauth::is_trusted(url, &self.records, FAMILY));
        let Some(endpoint) = endpoint else {
            let named = self.shown(&named);
            return Err(Error::Untrusted { address: self.address(), named, variable: TOKEN_URL_VARIABLE });
        };
        let endpoint = oauth::token_endpoint(&endpoint);
        let mut known = self.discovered_endpoint.lock();
        if known.as_ref() != Some(&endpoint) {
            tracing::info!(endpoint = %Address::of(&endpoint), "the API names its token endpoint");
            *known = Some(endpoint.clone());
        }
        Ok(Some(endpoint))
    }
}
