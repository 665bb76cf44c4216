//! The next page, requested before the present one is read.
//!
//! A page names the token of the next one in its header. Where the server is near, to read a page takes about as long as to fetch it. So the
//! next request goes out first.

use std::sync::Arc;

use parking_lot::Mutex;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::api::{Api, PageAnswer, PageRequest};
use super::error::Error;
use crate::task;

/// A failure counts for so long. When its turn comes later, the page is requested again: the failure may be over.
const FAILURE_COUNTS: Duration = Duration::from_secs(1);

/// A request that is under way, at most one. It is cut off when nobody wants its answer any more.
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
    /// Makes `request` without waiting for the answer.
    pub(super) fn get(&self, api: &Arc<Api>, request: PageRequest) {
        let (api, requested) = (Arc::clone(api), request.clone());
        let answer = AbortOnDropHandle::new(tokio::spawn(async move {
            let answer = api.get(&requested).await;
            Answered { at: Instant::now(), answer }
        }));
        self.replace(Some(UnderWay { request, answer }));
    }

    /// The answer to `request`, which may be under way or there already.
    pub(super) async fn answer(&self, api: &Api, request: &PageRequest) -> Result<PageAnswer, Error> {
        let under_way = self.replace(None).filter(|under_way| under_way.request == *request);
        let Some(under_way) = under_way else { return api.get(request).await };
        match task::outcome(under_way.answer.await) {
            Ok(Answered { at, answer }) if answer.is_ok() || at.elapsed() < FAILURE_COUNTS => answer,
            _ => api.get(request).await,
        }
    }

    /// Cuts off what is under way, and forgets its answer.
    pub(super) fn cut_off(&self) {
        self.replace(None);
    }

    fn replace(&self, under_way: Option<UnderWay>) -> Option<UnderWay> {
        std::mem::replace(&mut *self.0.lock(), under_way)
    }
}
