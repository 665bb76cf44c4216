//! The next page, asked for before the present one is read.
//!
//! A page names the token of the next one in its header. To read a page takes about as long as to fetch it where the server is near, and a
//! backlog is drained page after page: so the next question goes out first.

use std::sync::{Arc, Mutex, PoisonError};

use tokio_util::task::AbortOnDropHandle;

use super::api::{Api, PageAnswer, Question};
use crate::source::Error;

/// A question that is under way, at most one. It is broken off when it turns out that nobody wants it.
#[derive(Debug, Default)]
pub(super) struct Ahead(Mutex<Option<UnderWay>>);

#[derive(Debug)]
struct UnderWay {
    question: Question,
    answer: AbortOnDropHandle<Result<PageAnswer, Error>>,
}

impl Ahead {
    /// Asks `question` without waiting for the answer.
    pub(super) fn ask(&self, api: &Arc<Api>, question: Question) {
        let (api, asked) = (Arc::clone(api), question.clone());
        let answer = AbortOnDropHandle::new(tokio::spawn(async move { api.ask(&asked).await }));
        self.replace(Some(UnderWay { question, answer }));
    }

    /// The answer to `question`, which may be under way or there already.
    pub(super) async fn answer(&self, api: &Api, question: &Question) -> Result<PageAnswer, Error> {
        let under_way = self.replace(None).filter(|under_way| under_way.question == *question);
        let Some(under_way) = under_way else { return api.ask(question).await };
        match under_way.answer.await {
            Ok(answer) => answer,
            // A bug is to end the process as one.
            Err(stopped) if stopped.is_panic() => std::panic::resume_unwind(stopped.into_panic()),
            Err(_) => api.ask(question).await,
        }
    }

    fn replace(&self, under_way: Option<UnderWay>) -> Option<UnderWay> {
        std::mem::replace(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner), under_way)
    }
}
