//! Reads and writes one object by Google's JSON API. A call makes one request, within a time limit.
//!
//! By default, Google's library retries for up to five minutes, even after failed preconditions and refused connections. It has no time
//! limit for one request. Here it neither retries nor resumes, and a call is dropped when its time is up.

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

/// How long a call may take: credentials, access token, connection and the whole answer.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// The most bytes to read. A state has under 50 kB.
const LARGEST: usize = 1024 * 1024;

/// Looks for credentials.
pub(super) type FindCredentials = Box<dyn Fn() -> Result<Credentials, build_errors::Error> + Send + Sync>;

pub(super) struct Client {
    bucket: String,
    object: String,
    endpoint: Option<String>,
    credentials: FindCredentials,
    session: Mutex<Option<Session>>,
}

/// The connections, and the credentials that renew their own access token, which last from call to call.
#[derive(Clone)]
struct Session {
    credentials: Credentials,
    storage: Storage,
}

impl Client {
    pub(super) fn new(bucket: &str, object: String, endpoint: Option<String>, credentials: FindCredentials) -> Self {
        // The library's name for a bucket of any project, which it sends as the JSON API's `{bucket}`.
        let bucket = format!("projects/_/buckets/{bucket}");
        Self { bucket, object, endpoint, credentials, session: Mutex::default() }
    }

    pub(super) fn object(&self) -> &str {
        &self.object
    }

    /// Reads the object's bytes and their generation, both from one answer.
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

    /// Writes the object if it has this `generation` (0: if it does not exist), and returns the new one.
    pub(super) async fn write(&self, bytes: &[u8], generation: i64) -> Result<i64, Failure> {
        self.call(async |storage| {
            let written = storage
                .write_object(&self.bucket, &self.object, Bytes::copy_from_slice(bytes))
                .set_if_generation_match(generation)
                .set_content_type("application/json")
                // Otherwise caches serve an object of a public bucket for an hour, so a read could be stale.
                .set_cache_control("no-store")
                .with_user_agent(USER_AGENT)
                // This sends the checksum ahead, with the metadata. Not every emulator accepts one that follows.
                .send_buffered();
            // Boxed because the future holds the whole upload, which would make every caller's future large.
            let written = Box::pin(written).await.map_err(|error| Failure::of(&error))?;
            known(written.generation, Side::Write)
        })
        .await
    }

    /// Makes one call within [`LONGEST_WAIT`].
    ///
    /// A session with credentials that do not work is dropped, and the next call looks for credentials again. The library itself would treat
    /// a refusal as final, and would wait for ever for a token that never arrives.
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

    /// Returns the library's client with a valid access token.
    async fn storage(&self) -> Result<Storage, Failure> {
        let held = self.session.lock().clone();
        let credentials = match &held {
            Some(session) => session.credentials.clone(),
            None => (self.credentials)().map_err(|error| Failure::of_credentials(&error))?,
        };
        // Get a token before building the client. The builder may call the metadata server, and its error does not say what failed.
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

/// Checks the generation of an answer. The library returns 0 if the answer has none.
fn known(generation: i64, side: Side) -> Result<i64, Failure> {
    if generation > 0 { Ok(generation) } else { Err(Failure::NoGeneration(side)) }
}
