//! The next page, asked for before the present one is read.
//!
//! A page names the token of the next one in its header. To read a page takes about as long as to fetch it where the server is near, and a
//! backlog is drained page after page: so the next question goes out first.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::api::{Api, PageAnswer, Question};
use crate::source::Error;

/// A failure holds for so long. When its turn comes later, the question is asked again: what failed may long be well.
const FAILURE_HOLDS: Duration = Duration::from_secs(1);

/// A question that is under way, at most one. It is broken off when it turns out that nobody wants it.
#[derive(Debug, Default)]
pub(super) struct Ahead(Mutex<Option<UnderWay>>);

#[derive(Debug)]
struct UnderWay {
    question: Question,
    answer: AbortOnDropHandle<Answered>,
}

#[derive(Debug)]
struct Answered {
    at: Instant,
    answer: Result<PageAnswer, Error>,
}

impl Ahead {
    /// Asks `question` without waiting for the answer.
    pub(super) fn ask(&self, api: &Arc<Api>, question: Question) {
        let (api, asked) = (Arc::clone(api), question.clone());
        let answer = AbortOnDropHandle::new(tokio::spawn(async move {
            let answer = api.ask(&asked).await;
            Answered { at: Instant::now(), answer }
        }));
        self.replace(Some(UnderWay { question, answer }));
    }

    /// The answer to `question`, which may be under way or there already.
    pub(super) async fn answer(&self, api: &Api, question: &Question) -> Result<PageAnswer, Error> {
        let under_way = self.replace(None).filter(|under_way| under_way.question == *question);
        let Some(under_way) = under_way else { return api.ask(question).await };
        match under_way.answer.await {
            Ok(Answered { at, answer }) if answer.is_ok() || at.elapsed() < FAILURE_HOLDS => answer,
            // A bug is to end the process as one.
            Err(stopped) if stopped.is_panic() => std::panic::resume_unwind(stopped.into_panic()),
            _ => api.ask(question).await,
        }
    }

    /// Gives up what is under way, or was answered.
    pub(super) fn break_off(&self) {
        self.replace(None);
    }

    fn replace(&self, under_way: Option<UnderWay>) -> Option<UnderWay> {
        std::mem::replace(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner), under_way)
    }
}
