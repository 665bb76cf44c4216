//! Calls to the audit API: addresses, the access token, and what a status means.

use std::sync::Arc;

use parking_lot::Mutex;

use reqwest::StatusCode;
use reqwest::header::{ACCEPT, AUTHORIZATION};
use url::Url;

use super::error::Error;
use super::moment::Moment;
use super::page;
use super::range::PageToken;
use super::{Names, Settings};
use crate::clock::{Clock, LocalTime};
use crate::component::{Component, Context};
use crate::failure::Class;
use crate::http::{self, Address, Excerpt, Method, Reply};
use crate::oauth::{self, AccessToken, ClientCredentials};

/// The largest page, in bytes after decompression. Together with [`page::MOST_RECORDS`] it bounds the memory of the
/// whole process.
///
/// Up to three bodies exist at once: the page in delivery, the page after it, and the answer after that. With them
/// exist the events and the compressed batches of two pages. A batch can exceed its part of the page, because a message
/// repeats text of the record. No code counts the bytes of batches; the tests of memory measure the sum.
const LARGEST_PAGE: usize = 8 * 1024 * 1024;

/// The longest page token, in bytes. The limit is there because the token becomes a part of the state.
const LONGEST_TOKEN: usize = 4096;

/// The usual token endpoint (`audit.scm.devx.sectigo.com/docs/authentication`).
const USUAL_ENDPOINT: &str = "https://auth.sso.sectigo.com/auth/realms/apiclients/protocol/openid-connect/token";

/// The domain whose hosts may receive the client secret.
const FAMILY: &str = "sectigo.com";

/// A request for a page of a range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PageRequest {
    /// Where the range begins.
    pub(super) from: Moment,
    /// Where it ends.
    pub(super) until: Moment,
    /// The page; none for the first.
    pub(super) token: Option<PageToken>,
}

/// The answer to a request for a page.
#[derive(Debug)]
pub(super) enum PageAnswer {
    /// A success, whose body should be a page.
    Page {
        /// The answer.
        reply: Box<Reply>,
        /// The token that the request carried.
        access: AccessToken,
        /// The times of the request and of its answer.
        call: (LocalTime, LocalTime),
    },
    /// A 4xx for a page's token: the API refuses the token, or has a passing fault.
    PageTokenRefused {
        status: u16,
        /// The beginning of the answer's body.
        reason: Excerpt,
    },
}

#[derive(Debug)]
pub(super) struct Api {
    http: Arc<http::Client>,
    clock: Clock,
    records: Url,
    credentials: ClientCredentials,
    configured_endpoint: Option<Url>,
    discovered_endpoint: Mutex<Option<Url>>,
    pub(super) names: Names,
    /// Whether values of records are redacted.
    is_redacting: bool,
}

impl Api {
    pub(super) fn new(context: &Context, settings: Settings) -> Self {
        let Settings { api_url, client_id, client_secret, token_url, tls, names, .. } = settings;
        Self {
            http: context.http.with_tls(tls),
            clock: context.clock.clone(),
            records: http::below(&api_url, "api/v1/records"),
            credentials: ClientCredentials::new(
                client_id,
                names.client_id.clone(),
                client_secret,
                names.token_url.clone(),
            ),
            configured_endpoint: token_url,
            discovered_endpoint: Mutex::new(None),
            names,
            is_redacting: context.dead_letters.is_redacting(),
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
        let endpoint = self.token_endpoint(&url).await?;
        let access = self.credentials.token(&self.http, &endpoint).await?;
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
        let endpoint = self.token_endpoint(&url).await?;
        self.credentials.token(&self.http, &endpoint).await?;
        Ok(Address::of(&endpoint).to_string())
    }

    /// Reads the token of the next page from an answer's header.
    pub(super) fn page_token(&self, reply: &Reply) -> Result<Option<PageToken>, Error> {
        let Some(value) = reply.headers.get("token") else { return Ok(None) };
        let unreadable = |reason: &str| Error::Unreadable { address: self.address(), reason: reason.to_owned() };
        let token = value.to_str().map_err(|_| unreadable("its page token is not plain text"))?.trim();
        if token.len() > LONGEST_TOKEN {
            return Err(unreadable("its page token is longer than 4096 bytes"));
        }
        Ok((!token.is_empty()).then(|| PageToken(token.to_owned())))
    }

    /// Describes what is wrong with a page, and shows the beginning of the page.
    pub(super) fn describe(&self, reply: &Reply, access: &AccessToken, cause: &page::Error) -> String {
        format!("{cause}; it begins with {}", self.beginning(reply, Some(access)))
    }

    /// The beginning of an answer, for messages. A successful answer may hold records.
    fn beginning(&self, reply: &Reply, access: Option<&AccessToken>) -> Excerpt {
        let is_redacting = self.is_redacting && reply.status.is_success();
        Excerpt::of_records(&reply.body, &self.credentials.redaction(access), is_redacting)
    }

    async fn call(&self, url: Url, access: Option<&AccessToken>) -> Result<Reply, Error> {
        let mut request = self.http.request(Method::GET, url)?.header(ACCEPT, "application/json");
        if let Some(access) = access {
            request = request.header(AUTHORIZATION, access.header());
        }
        let hidden = self.credentials.redaction(access);
        Ok(self.http.exchange(Component::Source, request, &self.address(), LARGEST_PAGE, &hidden).await?)
    }

    /// Classifies an answer other than 200.
    async fn refusal(&self, reply: &Reply, access: &AccessToken, paged: bool) -> Result<PageAnswer, Error> {
        let address = self.address();
        let status = reply.status.as_u16();
        let reason = self.beginning(reply, Some(access));
        Err(match status {
            401 => {
                self.credentials.forget(access).await;
                if self.configured_endpoint.is_none() {
                    self.learn_endpoint(reply)?;
                }
                Error::TokenRejected { address, reason, variable: self.names.client_id.clone() }
            }
            403 => {
                // Only a new token holds rights that were granted later.
                self.credentials.forget(access).await;
                Error::CredentialsRejected { address, status, reason, variable: self.names.client_id.clone() }
            }
            400.. => match Class::of_status(status, reply.retry_after()) {
                Class::Retryable { after } => Error::Unavailable { address, status, after, reason },
                _ if paged => return Ok(PageAnswer::PageTokenRefused { status, reason }),
                _ if status == 400 => {
                    let (variable, lookback) = (self.names.api_url.clone(), self.names.lookback.clone());
                    Error::RangeRefused { address, status, reason, variable, lookback }
                }
                _ => Error::Refused { address, status, reason, variable: self.names.api_url.clone() },
            },
            // No other success holds a page, and no status that HTTP may define later.
            _ => self.not_a_page(format!("status {status}, {reason}")),
        })
    }

    /// The answer of another server, which holds no page at all.
    pub(super) fn not_a_page(&self, reason: String) -> Error {
        Error::NotAPage { address: self.address(), reason, variable: self.names.api_url.clone() }
    }

    /// The token endpoint: the configured one, or else the one that the API names in answer to a call without a token,
    /// or else the usual one.
    async fn token_endpoint(&self, request: &Url) -> Result<Url, Error> {
        if let Some(endpoint) = &self.configured_endpoint {
            return Ok(endpoint.clone());
        }
        let known = self.discovered_endpoint.lock().clone();
        if let Some(endpoint) = known {
            return Ok(endpoint);
        }
        let reply = self.call(request.clone(), None).await?;
        if let Some(endpoint) = self.learn_endpoint(&reply)? {
            return Ok(endpoint);
        }
        let (address, status) = (self.address(), reply.status.as_u16());
        let reason = self.beginning(&reply, None);
        match status {
            // A success without a page comes from a server between us and the API. The next attempt calls the API
            // again.
            200..300 if page::records(&reply.body).is_err() => {
                Err(self.not_a_page(format!("status {status}, {reason}")))
            }
            200..300 | 401 | 403 => self.usual_endpoint(),
            _ => Err(match Class::of_status(status, reply.retry_after()) {
                Class::Retryable { after } => Error::Unavailable { address, status, after, reason },
                _ => Error::Refused { address, status, reason, variable: self.names.api_url.clone() },
            }),
        }
    }

    /// Shows an address that the API names, without user, password and query.
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

    /// Stores the endpoint that a 401 names. Fails if that endpoint cannot be trusted.
    fn learn_endpoint(&self, reply: &Reply) -> Result<Option<Url>, Error> {
        if reply.status != StatusCode::UNAUTHORIZED {
            return Ok(None);
        }
        let Some(named) = oauth::authorization_uri(&reply.headers) else { return Ok(None) };
        let endpoint = Url::parse(&named).ok().filter(|url| oauth::is_trusted(url, &self.records, FAMILY));
        let Some(endpoint) = endpoint else {
            let named = self.shown(&named);
            return Err(Error::Untrusted { address: self.address(), named, variable: self.names.token_url.clone() });
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
