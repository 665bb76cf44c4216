//! Reads a page, with every retry.

use super::decision::Decision;
use super::{Engine, Error, Halt};
use crate::clock::LocalTime;
use crate::component::Component;
use crate::failure::Chain;
use crate::source::{Cursor, Page};

impl Engine {
    /// Reads the page after `cursor`. A shutdown ends the call at once: an unread answer loses nothing.
    pub(super) async fn fetch(&self, cursor: &Cursor, begun: LocalTime) -> Result<Page, Halt> {
        let mut call = self.retries.call(Component::Source);
        let mut from = cursor.clone();
        loop {
            let calling = call.begins();
            let answer = tokio::select! {
                biased;
                () = self.shutdown.requested() => return Err(Halt::Stopped),
                answer = self.source.next_page(&from, begun) => answer,
            };
            drop(calling);
            let cause = match answer {
                Ok(page) => {
                    call.succeeded();
                    if page.progressed {
                        self.retries.progress();
                    }
                    return Ok(page);
                }
                Err(cause) => cause,
            };
            let mut decision = call.failed(cause.class());
            if decision == Decision::Narrow {
                if let Some(narrowed) = self.source.narrowed(&from, begun) {
                    tracing::warn!(error = %Chain(&cause), "auditsync cannot read a page; it requests a shorter range");
                    from = narrowed;
                    call.narrowed();
                    continue;
                }
                decision = call.cannot_narrow();
                from = cursor.clone();
            }
            if let Some(reason) = call.wait(decision, &cause).await? {
                return Err(Error::GivenUp { component: Component::Source, reason, cause }.into());
            }
        }
    }
}
