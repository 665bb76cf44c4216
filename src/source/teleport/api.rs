//! Calls to the Auth Service over one connection. A new one is made when it breaks, or when the identity's files
//! change.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::BoxStream;
use futures_util::{StreamExt as _, TryFutureExt as _, TryStreamExt as _};
use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper::http::uri::PathAndQuery;
use hyper::{Request, Response, Uri};
use hyper_util::client::proxy::matcher::Matcher;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use jiff::Timestamp;
use parking_lot::Mutex;
use prost::Message;
use tokio::time::timeout;
use tonic::body::Body;
use tonic::client::{Grpc, GrpcService};
use tonic::metadata::MetadataMap;
use tonic::{Code, Status};

use super::Settings;
use super::codec::Encoded;
use super::dial::dial;
use super::error::{Error, Refusal};
use super::identity::{Identity, IdentityError, SERVER_NAME};
use super::message::{PING, PingRequest, Pong, SEARCH, SESSION, SearchRequest, SessionRequest};
use super::record::{Answer, NoPage};
use super::variables::Address;
use crate::clock::Clock;
use crate::component::{Component, Context};
use crate::failure::Chain;
use crate::fingerprint::Fingerprint;
use crate::http::{self, Excerpt, Redaction};
use crate::server_time::ServerClock;
use crate::telemetry::metrics::Metrics;

/// The largest answer, in bytes. The server limits a page to 1 MiB of stored JSON or one event, but a Struct takes more
/// room.
pub(super) const LARGEST_ANSWER: usize = 64 * 1024 * 1024;

/// The longest time to make a connection.
const DIAL_TIMEOUT: Duration = Duration::from_secs(30);

/// The interval of keep-alive pings on an unused connection, as in Teleport's own client.
const KEEP_ALIVE: Duration = Duration::from_secs(60);

/// The longest wait for the answer to such a ping.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(20);

/// The Auth Service of one cluster.
pub(super) struct Api {
    pub(super) settings: Settings,
    http: http::Settings,
    matcher: Matcher,
    metrics: Metrics,
    clock: Clock,
    pub(super) server_clock: ServerClock,
    connected: tokio::sync::Mutex<Option<Connected>>,
    /// The subject of the last warning about the files, so that each is logged once.
    warned: Mutex<Option<String>>,
}

impl fmt::Debug for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Api").field("settings", &self.settings).finish_non_exhaustive()
    }
}

struct Connected {
    channel: Channel,
    content: Fingerprint,
    dates: (Timestamp, Timestamp),
}

/// A connection for requests.
#[derive(Clone)]
struct Channel(SendRequest<Body>);

impl GrpcService<Body> for Channel {
    type ResponseBody = Incoming;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = hyper::Result<Response<Incoming>>> + Send>>;

    fn poll_ready(&mut self, context: &mut TaskContext<'_>) -> Poll<hyper::Result<()>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}

impl Api {
    pub(super) fn new(settings: Settings, context: &Context) -> Self {
        Self {
            settings,
            http: context.http.settings().clone(),
            matcher: Matcher::from_env(),
            metrics: context.metrics.clone(),
            clock: context.clock.clone(),
            server_clock: ServerClock::default(),
            connected: tokio::sync::Mutex::new(None),
            warned: Mutex::default(),
        }
    }

    pub(super) fn address(&self) -> &Address {
        &self.settings.address
    }

    /// The longest time for one call.
    pub(super) fn timeout(&self) -> Duration {
        self.http.timeout
    }

    /// Reads the identity from its files.
    pub(super) fn identity(&self) -> Result<Identity, IdentityError> {
        self.settings.files.load(self.settings.cluster.as_deref())
    }

    /// Returns a connection made with the present identity.
    async fn channel(&self) -> Result<Channel, Error> {
        let mut connected = self.connected.lock().await;
        let now = self.clock.now();
        let identity = self.identity().and_then(|identity| {
            self.settings.files.verify_dates((identity.not_before, identity.not_after), now)?;
            Ok(identity)
        });
        if let Some(Connected { channel, content, dates }) = &*connected
            && channel.0.is_ready()
            && self.settings.files.verify_dates(*dates, now).is_ok()
        {
            match &identity {
                Ok(identity) if identity.content == *content => return Ok(channel.clone()),
                Ok(_) => tracing::info!("the identity changed; making a new connection with it"),
                Err(error) => {
                    self.warn(error);
                    return Ok(channel.clone());
                }
            }
        }
        *connected = None;
        let identity = identity.map_err(Error::Identity)?;
        let dates = (identity.not_before, identity.not_after);
        *self.warned.lock() = None;
        let channel = self.connect(&identity).await?;
        self.verify_cluster(&channel).await?;
        *connected = Some(Connected { channel: channel.clone(), content: identity.content, dates });
        Ok(channel)
    }

    /// Warns about unusable files. The connection stays, because somebody may be about to replace them.
    fn warn(&self, error: &IdentityError) {
        let shown = Chain(error).to_string();
        // The text shows the time if the identity is not valid yet.
        let about = match error {
            IdentityError::NotValid { not_before, not_after, .. } => format!("{not_before} to {not_after}"),
            _ => shown.clone(),
        };
        let mut warned = self.warned.lock();
        if warned.as_ref() != Some(&about) {
            let variable = error.variable();
            tracing::warn!(error = %shown, %variable, "the identity changed and cannot be used; keeping the connection with the old one");
            *warned = Some(about);
        }
    }

    async fn connect(&self, identity: &Identity) -> Result<Channel, Error> {
        let within = DIAL_TIMEOUT.min(self.http.timeout);
        let dialling = async {
            let stream = dial(self.address(), identity, &self.matcher).await.map_err(|cause| self.undialled(cause))?;
            let mut builder = Builder::new(TokioExecutor::new());
            builder
                .timer(TokioTimer::new())
                .keep_alive_interval(KEEP_ALIVE)
                .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
                .keep_alive_while_idle(true);
            let (channel, connection) =
                builder.handshake(TokioIo::new(stream)).await.map_err(|cause| self.broken(cause.into()))?;
            // This task ends with the last of its channels. A failure reaches every call that waits for an answer.
            tokio::spawn(async move { drop(connection.await) });
            Ok::<_, Error>(Channel(channel))
        };
        let connected = timeout(within, dialling).await;
        let channel = connected.map_err(|_| Error::Unanswered { address: self.address().clone(), within })??;
        tracing::debug!(address = %self.address(), cluster = identity.cluster, "connected");
        Ok(channel)
    }

    /// Fails if `channel` leads to another cluster than the wanted one. An Auth Service does not look at the route.
    async fn verify_cluster(&self, channel: &Channel) -> Result<(), Error> {
        let Some(wanted) = &self.settings.cluster else { return Ok(()) };
        let found = self.ping_on(Self::grpc_on(channel.clone())).await?.cluster_name;
        if found == *wanted {
            return Ok(());
        }
        Err(Error::OtherCluster {
            address: self.address().clone(),
            found: Excerpt::of(found.as_bytes(), &Redaction::none()),
            wanted: wanted.clone(),
            variable: self.settings.cluster_variable.clone(),
        })
    }

    async fn grpc(&self) -> Result<Grpc<Channel>, Error> {
        Ok(Self::grpc_on(self.channel().await?))
    }

    fn grpc_on(channel: Channel) -> Grpc<Channel> {
        // The connection already has TLS. The authority is the name that TLS verified.
        let origin = Uri::builder().scheme("https").authority(SERVER_NAME).path_and_query("/").build();
        let origin = origin.unwrap_or_default();
        Grpc::with_origin(channel, origin).max_decoding_message_size(LARGEST_ANSWER)
    }

    fn request<M>(&self, message: M) -> tonic::Request<M> {
        let mut request = tonic::Request::new(message);
        // Makes the server give up when we do.
        request.set_timeout(self.http.timeout);
        if let Ok(agent) = http::USER_AGENT.parse() {
            request.metadata_mut().insert("user-agent", agent);
        }
        request
    }

    async fn unary<M: Message + 'static>(
        &self,
        mut grpc: Grpc<Channel>,
        path: &'static str,
        message: M,
    ) -> Result<Bytes, Error> {
        let mut exchange = self.metrics.exchange(Component::Source);
        let asked = self.clock.local();
        let calling = async {
            grpc.ready().await.map_err(|cause| self.broken(cause.into()))?;
            let codec = Encoded::<M>::default();
            grpc.unary(self.request(message), PathAndQuery::from_static(path), codec)
                .await
                .map_err(|status| self.refused(status))
        };
        let answer = timeout(self.http.timeout, calling).await;
        let answer = answer.map_err(|_| self.timed_out())?;
        match answer {
            Ok(answer) => {
                exchange.answered(200);
                self.note_date(answer.metadata(), asked);
                Ok(answer.into_inner())
            }
            Err(error) => {
                if let Some(status) = error.http_status() {
                    exchange.answered(status);
                }
                Err(error)
            }
        }
    }

    fn note_date(&self, metadata: &MetadataMap, asked: crate::clock::LocalTime) {
        let date = metadata.get("date").and_then(|date| date.to_str().ok());
        let date = date.and_then(|date| httpdate::parse_http_date(date).ok());
        let date = date.and_then(|date| Timestamp::try_from(date).ok());
        self.server_clock.note(self.address(), date, (asked, self.clock.local()));
    }

    /// Reads one page of the audit log.
    pub(super) async fn search(&self, request: SearchRequest) -> Result<(Answer, usize), Error> {
        let bytes = self.unary(self.grpc().await?, SEARCH, request).await?;
        let address = self.address();
        let answer = Answer::read(&bytes).map_err(|fault| match fault {
            NoPage::Malformed => Error::Unreadable { address: address.clone() },
            NoPage::TooMany => Error::TooMany { address: address.clone() },
        })?;
        Ok((answer, bytes.len()))
    }

    /// Reads the Auth Service's version and cluster.
    pub(super) async fn ping(&self) -> Result<Pong, Error> {
        self.ping_on(self.grpc().await?).await
    }

    async fn ping_on(&self, grpc: Grpc<Channel>) -> Result<Pong, Error> {
        let bytes = self.unary(grpc, PING, PingRequest {}).await?;
        Pong::decode(bytes).map_err(|_| Error::Unreadable { address: self.address().clone() })
    }

    /// Begins a request for the events of a recorded session, each still encoded.
    ///
    /// The server loads the whole recording before it sends the first event, and even the head of its answer. So the
    /// wait for that head is a part of the stream, and the caller bounds each wait for an event.
    pub(super) async fn session(
        self: &Arc<Self>,
        request: SessionRequest,
    ) -> Result<BoxStream<'static, Result<Bytes, Error>>, Error> {
        // The connection is made here: the audit log would wait for a connection that nobody goes on to make.
        let mut grpc = self.grpc().await?;
        let (api, of_events) = (Arc::clone(self), Arc::clone(self));
        let answering = async move {
            let mut exchange = api.metrics.exchange(Component::Source);
            grpc.ready().await.map_err(|cause| api.broken(cause.into()))?;
            let codec = Encoded::<SessionRequest>::default();
            // The call has no time limit, because a long recording takes long.
            let request = tonic::Request::new(request);
            match grpc.server_streaming(request, PathAndQuery::from_static(SESSION), codec).await {
                Ok(answer) => {
                    exchange.answered(200);
                    Ok(answer.into_inner().map_err(move |status| of_events.refused(status)))
                }
                Err(status) => {
                    let error = api.refused(status);
                    if let Some(status) = error.http_status() {
                        exchange.answered(status);
                    }
                    Err(error)
                }
            }
        };
        Ok(answering.try_flatten_stream().boxed())
    }

    fn timed_out(&self) -> Error {
        Error::TimedOut {
            address: self.address().clone(),
            timeout: humantime::format_duration(self.http.timeout),
            variable: self.http.timeout_variable.clone(),
        }
    }

    pub(super) fn no_event(&self, within: Duration) -> Error {
        Error::NoEvent { address: self.address().clone(), within: humantime::format_duration(within) }
    }

    /// Classifies the status that ended a call.
    pub(super) fn refused(&self, status: Status) -> Error {
        // A status that our own client made has a source: the connection's error.
        if std::error::Error::source(&status).is_some() {
            return self.broken(status.into());
        }
        let address = self.address().clone();
        let refusal = Refusal::of(&status);
        match status.code() {
            Code::PermissionDenied | Code::Unauthenticated => {
                Error::Denied { address, refusal, variable: self.settings.files.first().variable.clone() }
            }
            Code::InvalidArgument => Error::Invalid { address, refusal },
            Code::NotFound => Error::NotFound { address, refusal },
            Code::Unimplemented => {
                Error::NotAuditLog { address, refusal, variable: self.settings.address_variable.clone() }
            }
            // The server never sends this status. Our client makes it for a message over the limit.
            Code::OutOfRange => Error::TooLarge { address },
            _ => Error::Unavailable { address, refusal },
        }
    }

    fn broken(&self, cause: Box<dyn std::error::Error + Send + Sync>) -> Error {
        let address = self.address().clone();
        match http::tls_fault(cause.as_ref()) {
            Some(http::TlsFault::ClientRefused) => {
                Error::ClientRefused { address, variable: self.settings.files.first().variable.clone(), cause }
            }
            _ => Error::Broken { address, cause },
        }
    }
}

/// The wait that a status requests, under the key of gRPC's retries (`github.com/grpc/proposal`, A6) or of HTTP.
pub(super) fn pushback(metadata: &MetadataMap) -> Option<Duration> {
    let number = |key: &str| metadata.get(key)?.to_str().ok()?.trim().parse::<u64>().ok();
    number("grpc-retry-pushback-ms")
        .map(Duration::from_millis)
        .or_else(|| number("retry-after").map(Duration::from_secs))
}
