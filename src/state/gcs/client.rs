//! One object of one bucket, by Google's JSON API: one request to a call, and an end to each.
//!
//! Google's library retries for up to five minutes, lost preconditions and refused connections included, and has no limit of
//! time for one request. Here it neither retries nor resumes, and a call is dropped when its time is up.

use parking_lot::Mutex;
use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use google_cloud_auth::build_errors;
use google_cloud_auth::credentials::Credentials;
use google_cloud_gax::retry_policy::NeverRetry;
use google_cloud_storage::client::Storage;
use google_cloud_storage::read_resume_policy::NeverResume;
use tokio::time::{Instant, timeout_at};

use super::failure::{Failure, Side};
use crate::http::USER_AGENT;

/// How long a call may take: finding credentials, an access token, connecting and the whole answer.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// The most that is read, in bytes. A state has under 50 kB.
const LARGEST: usize = 1024 * 1024;

/// Where credentials come from.
pub(super) type FindCredentials = Box<dyn Fn() -> Result<Credentials, build_errors::Error> + Send + Sync>;

pub(super) struct Client {
    bucket: String,
    object: String,
    endpoint: Option<String>,
    credentials: FindCredentials,
    session: Mutex<Option<Session>>,
}

/// What lasts from call to call: the connections, and credentials that renew their access token by themselves.
#[derive(Clone)]
struct Session {
    credentials: Credentials,
    storage: Storage,
}

impl Client {
    pub(super) fn new(bucket: &str, object: String, endpoint: Option<String>, credentials: FindCredentials) -> Self {
        // The library's name of a bucket: it is the JSON API's `{bucket}`, whatever its project.
        let bucket = format!("projects/_/buckets/{bucket}");
        Self { bucket, object, endpoint, credentials, session: Mutex::default() }
    }

    pub(super) fn object(&self) -> &str {
        &self.object
    }

    /// The object's bytes and their generation, both of one answer.
    pub(super) async fn read(&self) -> Result<(Vec<u8>, i64), Failure> {
        self.call(async |storage| {
            let request = storage.read_object(&self.bucket, &self.object).with_user_agent(USER_AGENT);
            let mut answer = request.send().await.map_err(|error| Failure::of(&error))?;
            let mut bytes = Vec::new();
            while let Some(chunk) = answer.next().await {
                let chunk = chunk.map_err(|error| Failure::of(&error))?;
                if bytes.len() + chunk.len() > LARGEST {
                    return Err(Failure::TooLarge { most: LARGEST });
                }
                bytes.extend_from_slice(&chunk);
            }
            Ok((bytes, known(answer.object().generation, Side::Read)?))
        })
        .await
    }

    /// Writes the object if it has this `generation` (0: if there is none), and gives its new one.
    pub(super) async fn write(&self, bytes: &[u8], generation: i64) -> Result<i64, Failure> {
        self.call(async |storage| {
            let written = storage
                .write_object(&self.bucket, &self.object, Bytes::copy_from_slice(bytes))
                .set_if_generation_match(generation)
                .set_content_type("application/json")
                // What a bucket shows to everyone is else served from caches for an hour, and could be read stale.
                .set_cache_control("no-store")
                .with_user_agent(USER_AGENT)
                // The checksum goes ahead with the metadata; that it can also follow, not every emulator knows.
                .send_buffered();
            // A future on the stack of every caller would be large: it holds the whole upload.
            let written = Box::pin(written).await.map_err(|error| Failure::of(&error))?;
            known(written.generation, Side::Write)
        })
        .await
    }

    /// Makes one call, within the time for it.
    ///
    /// A session whose credentials do not work is given up: the library takes a refusal for final, and where a token never
    /// arrives it waits for ever. The next call starts from the credentials as they are then.
    async fn call<T, F>(&self, make: impl FnOnce(Storage) -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let deadline = Instant::now() + LONGEST_WAIT;
        let late = |what: &str| Failure::Unavailable(format!("no {what} within {} s", LONGEST_WAIT.as_secs()));
        let storage = match timeout_at(deadline, self.storage()).await {
            Ok(Ok(storage)) => storage,
            Ok(Err(failure)) => {
                self.hold(None);
                return Err(failure);
            }
            Err(_) => {
                self.hold(None);
                return Err(late("access token"));
            }
        };
        let done = timeout_at(deadline, make(storage)).await.unwrap_or_else(|_| Err(late("answer")));
        if let Err(Failure::Status { code: 401, .. } | Failure::Credentials(_)) = &done {
            self.hold(None);
        }
        done
    }

    /// The library's client, with an access token at hand.
    async fn storage(&self) -> Result<Storage, Failure> {
        let held = self.session.lock().clone();
        let credentials = match &held {
            Some(session) => session.credentials.clone(),
            None => (self.credentials)().map_err(|error| Failure::of_credentials(&error))?,
        };
        // Before the client is built, which may ask the metadata server for more, and does not say what failed.
        #[allow(clippy::default_trait_access, reason = "the type's crate is not a dependency")]
        credentials.headers(Default::default()).await.map_err(|error| Failure::of_credentials(&error))?;
        if let Some(session) = held {
            return Ok(session.storage);
        }
        let mut builder = Storage::builder()
            .with_credentials(credentials.clone())
            .with_retry_policy(NeverRetry)
            .with_read_resume_policy(NeverResume);
        if let Some(endpoint) = &self.endpoint {
            builder = builder.with_endpoint(endpoint);
        }
        let storage = builder.build().await.map_err(|error| Failure::of_credentials(&error))?;
        self.hold(Some(Session { credentials, storage: storage.clone() }));
        Ok(storage)
    }

    fn hold(&self, session: Option<Session>) {
        *self.session.lock() = session;
    }
}

/// Where the answer has no generation, the library gives 0.
fn known(generation: i64, side: Side) -> Result<i64, Failure> {
    if generation > 0 { Ok(generation) } else { Err(Failure::NoGeneration(side)) }
}
