//! Requests the next page before the present one is read.
//!
//! A page names the token of the next one in its header. If the server is near, reading a page takes about as long as
//! fetching it. So the next request goes out first.

use std::sync::Arc;

use parking_lot::Mutex;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::api::{Api, PageAnswer, PageRequest};
use super::error::Error;
use crate::task;

/// How long a failure counts. After that the page is requested again, because the failure may be over.
const FAILURE_COUNTS: Duration = Duration::from_secs(1);

/// At most one request that is under way. Replacing or dropping it cuts it off.
#[derive(Debug, Default)]
pub(super) struct Ahead(Mutex<Option<UnderWay>>);

#[derive(Debug)]
struct UnderWay {
    request: PageRequest,
    answer: AbortOnDropHandle<Answered>,
}

#[derive(Debug)]
struct Answered {
    at: Instant,
    answer: Result<PageAnswer, Error>,
}

impl Ahead {
    /// Sends `request` without waiting for the answer.
    pub(super) fn get(&self, api: &Arc<Api>, request: PageRequest) {
        let (api, requested) = (Arc::clone(api), request.clone());
        let answer = AbortOnDropHandle::new(tokio::spawn(async move {
            let answer = api.get(&requested).await;
            Answered { at: Instant::now(), answer }
        }));
        self.replace(Some(UnderWay { request, answer }));
    }

    /// Returns the answer to `request`, which may be under way or complete already.
    pub(super) async fn answer(&self, api: &Api, request: &PageRequest) -> Result<PageAnswer, Error> {
        let under_way = self.replace(None).filter(|under_way| under_way.request == *request);
        let Some(under_way) = under_way else { return api.get(request).await };
        match task::outcome(under_way.answer.await) {
            Ok(Answered { at, answer }) if answer.is_ok() || at.elapsed() < FAILURE_COUNTS => answer,
            _ => api.get(request).await,
        }
    }

    /// Cuts off the request that is under way, and forgets its answer.
    pub(super) fn cut_off(&self) {
        self.replace(None);
    }

    fn replace(&self, under_way: Option<UnderWay>) -> Option<UnderWay> {
        std::mem::replace(&mut *self.0.lock(), under_way)
    }
}
