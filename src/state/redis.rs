//! Stores the state in Redis, under one key.
//!
//! One script reads the document with its version, and one compares and swaps, so the server does either atomically. The version is the
//! document's SHA-1, which the server computes. SHA-1 is enough: it only tells apart documents that auditsync wrote, and no two of those
//! are equal.

mod replication;
pub(crate) mod variables;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ErrorKind, FromRedisValue, IntoConnectionInfo as _,
    RedisConnectionInfo, RedisError, ServerErrorKind,
};
use secrecy::{ExposeSecret as _, SecretString};
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::{Cause, Caution, Claim, Document, Error, Kind, StateStore, Version};
use crate::component::Configured;
use crate::http::{Excerpt, Redaction};
use crate::secret::{Outdated, Secret};

/// The longest call, including a new connection if needed. The shortest lease must last for two calls.
const LONGEST_CALL: Duration = Duration::from_secs(3);

/// Returns the document and its version; nothing if there is no document.
const LOAD: &str = "\
local held = redis.call('GET', KEYS[1])
if not held then return false end
return {held, redis.sha1hex(held)}";

/// Replaces the document if its version is `ARGV[1]`, which is empty if there must be no document. Returns 1 and the new version, or 0 and
/// the version that the server holds, which is empty if it holds none.
const SAVE: &str = "\
local held = redis.call('GET', KEYS[1])
local version = held and redis.sha1hex(held) or ''
if version ~= ARGV[1] then return {0, version} end
redis.call('SET', KEYS[1], ARGV[2])
return {1, redis.sha1hex(ARGV[2])}";

/// Writes the document that is there; `XX` writes nothing if there is none.
const PROBE: &str = "redis.call('SET', KEYS[1], redis.call('GET', KEYS[1]) or '', 'XX')";

/// The store in the registry.
pub const KIND: Kind = Kind {
    name: "redis",
    variables: variables::VARIABLES,
    is_lasting: true,
    folder: |_| None,
    read: |reader, pipeline| {
        let settings = variables::settings(reader, pipeline)?;
        let password = settings.password.clone();
        let build = move |(): &()| -> Arc<dyn StateStore> { Arc::new(Redis::new(settings.clone())) };
        Ok(Configured::new(build).with_secrets(password))
    },
};

/// The address of the server, the login and the key.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The server's name or address.
    pub host: String,
    /// The server's port.
    pub port: u16,
    /// Whether to use TLS.
    pub tls: bool,
    /// The ACL user; none for the default user.
    pub username: Option<String>,
    /// The user's password; none for a server without passwords.
    pub password: Option<Secret>,
    /// The number of the database.
    pub database: u32,
    /// The key of the document.
    pub key: String,
}

/// Keeps the document as the value of a key.
pub struct Redis {
    settings: Settings,
    connection: Mutex<Option<MultiplexedConnection>>,
    has_warned: AtomicBool,
}

impl Redis {
    /// Makes the store, which connects at the first call.
    pub fn new(settings: Settings) -> Self {
        Self { settings, connection: Mutex::default(), has_warned: AtomicBool::new(false) }
    }

    /// Makes one call. A connection is not used again after any error: its server may have become a replica, or a late answer may still
    /// arrive.
    async fn call<T: FromRedisValue>(&self, action: &'static str, command: &Cmd) -> Result<T, Error> {
        let answer = timeout(LONGEST_CALL, async {
            let mut connection = self.connection().await?;
            command.query_async(&mut connection).await.map_err(Failure::from)
        });
        let failure = match answer.await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(failure)) => failure,
            Err(_) => Failure::Timeout,
        };
        self.connection.lock().await.take();
        Err(self.error(action, &failure))
    }

    async fn connection(&self) -> Result<MultiplexedConnection, Failure> {
        let mut held = self.connection.lock().await;
        if let Some(connection) = &*held {
            return Ok(connection.clone());
        }
        let connection = self.connect().await?;
        *held = Some(connection.clone());
        Ok(connection)
    }

    async fn connect(&self) -> Result<MultiplexedConnection, Failure> {
        let Settings { host, port, tls, database, .. } = &self.settings;
        let (host, port) = (host.clone(), *port);
        let address = if *tls {
            ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None }
        } else {
            ConnectionAddr::Tcp(host, port)
        };
        // We log in ourselves, since the client's own login would hide the server's answer. We do not send the client's name, which would
        // need a permission.
        let handshake = RedisConnectionInfo::default().set_skip_set_lib_name();
        let client = Client::open(address.into_connection_info()?.set_redis_settings(handshake))?;
        let bounds = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(LONGEST_CALL))
            .set_response_timeout(Some(LONGEST_CALL));
        let mut connection = client.get_multiplexed_async_connection_with_config(&bounds).await?;
        if let Some(password) = &self.settings.password {
            self.log_in(&mut connection, password).await?;
        }
        if *database != 0 {
            redis::cmd("SELECT").arg(database).query_async::<()>(&mut connection).await.map_err(Failure::Database)?;
        }
        Ok(connection)
    }

    /// Logs in. If the server rejects the password, reads its file again and tries a changed one.
    async fn log_in(&self, connection: &mut MultiplexedConnection, password: &Secret) -> Result<(), Failure> {
        let tried = password.current();
        let Err(refusal) = self.authenticate(connection, &tried).await else { return Ok(()) };
        if is_refused_login(&refusal) && matches!(password.after_rejection(&tried), Some(Outdated::Rotated(_))) {
            return self.authenticate(connection, &password.current()).await.map_err(Failure::Login);
        }
        Err(Failure::Login(refusal))
    }

    async fn authenticate(
        &self,
        connection: &mut MultiplexedConnection,
        password: &SecretString,
    ) -> Result<(), RedisError> {
        let mut login = redis::cmd("AUTH");
        login.arg(&self.settings.username).arg(password.expose_secret());
        login.query_async(connection).await
    }

    fn error(&self, action: &'static str, failure: &Failure) -> Error {
        let location = self.location();
        let secret = self.settings.password.as_ref().map(Secret::current);
        let cause = Cause::from(failure.told(&Redaction::of(&secret)));
        match self.remedy(failure) {
            Some(remedy) => Error::Refused { action, location, remedy, cause },
            None => Error::Unavailable { action, location, cause },
        }
    }

    /// What the operator has to do; none if the call may work later without an operator.
    fn remedy(&self, failure: &Failure) -> Option<String> {
        let Settings { key, username, password, .. } = &self.settings;
        let (Failure::Login(error) | Failure::Database(error) | Failure::Call(error)) = failure else { return None };
        let said = error.detail().unwrap_or_default();
        match (error.code().unwrap_or_default(), failure) {
            ("NOAUTH", _) => Some(format!("the server requires a password: set {}", variables::PASSWORD.spec.name)),
            (_, Failure::Login(error)) if is_refused_login(error) => {
                let variable =
                    password.as_ref().map_or(variables::PASSWORD.spec.name, |password| password.variable().as_str());
                Some(format!("correct {variable} or {}", variables::USERNAME.spec.name))
            }
            ("NOPERM", _) => Some(self.permissions(username.as_deref())),
            _ if said.contains("executing the script can't") => Some(self.permissions(username.as_deref())),
            ("WRONGTYPE", _) => {
                let variable = variables::PREFIX.spec.name;
                Some(format!("the key {key} holds something else; choose another beginning with {variable}"))
            }
            ("MOVED" | "ASK" | "CLUSTERDOWN" | "CROSSSLOT", _) => {
                Some("this is a Redis Cluster, which is not supported; use a server that is not one".to_owned())
            }
            ("ERR", Failure::Database(_)) => Some(format!("correct {}", variables::DB.spec.name)),
            _ if said.contains("unknown command") => {
                Some("the server does not run scripts (EVAL), which auditsync needs to compare and swap".to_owned())
            }
            _ => None,
        }
    }

    fn permissions(&self, username: Option<&str>) -> String {
        let (user, key, database) = (username.unwrap_or("default"), &self.settings.key, variables::DB.spec.name);
        format!("grant it with: ACL SETUSER {user} ~{key} +eval +get +set (and +select where {database} is set)")
    }

    /// Warns once of a server that can lose the state, as far as we may read its settings.
    async fn warn_of_forgetting(&self) {
        if self.has_warned.swap(true, Ordering::Relaxed) {
            return;
        }
        let (snapshots, log) = (self.setting("save").await, self.setting("appendonly").await);
        let (bound, policy) = (self.setting("maxmemory").await, self.setting("maxmemory-policy").await);
        let location = self.location();
        if snapshots.as_deref() == Some("") && log.as_deref() == Some("no") {
            tracing::warn!(
                location,
                "this Redis keeps nothing on disk (save \"\" and appendonly no): a restart of it loses the cursor, and with it events; \
                 set appendonly yes"
            );
        }
        if bound.is_some_and(|bound| bound != "0") && policy.is_some_and(|policy| policy.starts_with("allkeys-")) {
            tracing::warn!(
                location,
                "this Redis may evict any key when its memory is full (maxmemory-policy allkeys-…), the state too; set noeviction or a \
                 volatile policy"
            );
        }
    }

    /// A setting of the server, if we may read it.
    async fn setting(&self, name: &str) -> Option<String> {
        let mut command = redis::cmd("CONFIG");
        command.arg("GET").arg(name);
        let mut connection = self.connection().await.ok()?;
        let answer = timeout(LONGEST_CALL, command.query_async::<Vec<String>>(&mut connection));
        answer.await.ok()?.ok()?.into_iter().nth(1)
    }
}

/// Why a call failed.
enum Failure {
    /// There was no answer in time.
    Timeout,
    /// The server rejected the login.
    Login(RedisError),
    /// The server refused to select the database.
    Database(RedisError),
    /// Anything else.
    Call(RedisError),
}

impl From<RedisError> for Failure {
    fn from(error: RedisError) -> Self {
        Self::Call(error)
    }
}

impl Failure {
    /// Describes the failure in one line that is safe to log.
    fn told(&self, redaction: &Redaction) -> String {
        let error = match self {
            Self::Timeout => return format!("no answer within {}", humantime::format_duration(LONGEST_CALL)),
            Self::Login(error) | Self::Database(error) | Self::Call(error) => error,
        };
        // Only the server's words need quotes; those of the operating system are trusted.
        match error.kind() {
            ErrorKind::Server(_) | ErrorKind::Extension => {
                let said = format!("{} {}", error.code().unwrap_or_default(), error.detail().unwrap_or_default());
                format!("the server said {}", Excerpt::of(said.trim().as_bytes(), redaction))
            }
            _ => {
                let told = Excerpt::of(error.to_string().as_bytes(), redaction).to_string();
                told.trim_matches('"').to_owned()
            }
        }
    }
}

/// Whether the server refused the login itself, rather than not being ready for one.
fn is_refused_login(error: &RedisError) -> bool {
    match error.kind() {
        ErrorKind::AuthenticationFailed => true,
        ErrorKind::Extension => error.code() == Some("WRONGPASS"),
        // We sent a password to a server without one, or a user name to a server that does not know users yet.
        ErrorKind::Server(ServerErrorKind::ResponseError) => error.detail().is_some_and(|said| said.contains("AUTH")),
        _ => false,
    }
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redis").field("location", &self.location()).finish_non_exhaustive()
    }
}

#[async_trait]
impl StateStore for Redis {
    fn location(&self) -> String {
        let Settings { host, port, tls, database, key, .. } = &self.settings;
        let scheme = if *tls { "rediss" } else { "redis" };
        let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
        format!("{scheme}://{host}:{port}/{database} key {key}")
    }

    async fn claim(&self) -> Result<Claim, Error> {
        Ok(Claim::ByLease)
    }

    async fn load(&self) -> Result<Option<(Document, Version)>, Error> {
        let held: Option<(Vec<u8>, String)> = self.call("read", &script(LOAD, &self.settings.key)).await?;
        Ok(held.map(|(bytes, version)| (Document::from_bytes(bytes), Version(version))))
    }

    async fn save(&self, document: &Document, expected: Option<&Version>) -> Result<Version, Error> {
        let mut command = script(SAVE, &self.settings.key);
        command.arg(expected.map_or("", |version| &version.0)).arg(document.as_bytes());
        let (is_written, version): (bool, String) = self.call("write", &command).await?;
        if is_written {
            return Ok(Version(version));
        }
        let cause = format!("the server holds version {}", Excerpt::of(version.as_bytes(), &Redaction::none()));
        Err(Error::Conflict { location: self.location(), cause: Some(cause.into()) })
    }

    async fn probe(&self) -> Result<(), Error> {
        self.call::<()>("write", &script(PROBE, &self.settings.key)).await?;
        self.warn_of_forgetting().await;
        Ok(())
    }

    async fn cautions(&self) -> Vec<Caution> {
        self.caution_of_replicas().await.into_iter().collect()
    }
}

/// Makes a call of `script` on one key. It sends the whole script each time. To have the server keep the script would need a further
/// permission, and would save only some two hundred bytes.
fn script(script: &str, key: &str) -> Cmd {
    let mut command = redis::cmd("EVAL");
    command.arg(script).arg(1).arg(key);
    command
}
