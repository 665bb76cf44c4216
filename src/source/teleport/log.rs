//! Reads pages of the audit log.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use jiff::Timestamp;

use super::Teleport;
use super::cursor::{Brought, Circle, Progress, Window};
use super::error::Error;
use super::filter::Filter;
use super::kept::{Kept, MOST};
use super::message::SearchRequest;
use super::record::{Answer, Message, Record, print_of, record, unreadable};
use super::variables::{DELAY, OVERLAP};
use crate::clock::LocalTime;
use crate::event::Event;
use crate::source::Page;
use crate::task;

/// The most events in one request. The server returns at most 1 MiB of them.
pub(super) const MOST_EVENTS: i32 = 1000;

/// The bytes of an answer above which the next request is for fewer events.
const LARGE: usize = 8 * 1024 * 1024;

/// The bytes of an answer below which the next request is for more events.
const SMALL: usize = 2 * 1024 * 1024;

/// The new events of an answer.
struct Sifted {
    events: Vec<Event>,
    /// The sessions whose recordings were stored, and the time of that.
    sessions: Vec<(String, Option<Timestamp>)>,
    deduplicated: usize,
    filtered: usize,
    reduced: Vec<String>,
    brought: Brought,
}

impl Teleport {
    /// Reads the next page of `window`.
    pub(super) async fn read_log(
        &self,
        mut progress: Progress,
        mut window: Window,
        begun: LocalTime,
    ) -> Result<Page, Error> {
        if window.key.as_ref().is_some_and(|key| self.refusals.lock().was_given_up(key)) {
            window = progress.log.without_key(&window);
        }
        let limit = self.limit.load(Ordering::Relaxed);
        tracing::debug!(from = %window.from, until = %window.until, first = window.key.is_none(), "requesting a page");
        let request = self.search(window.from, window.until, limit, window.key.clone().unwrap_or_default());
        let (answer, size) = match self.api.search(request).await {
            Ok(answer) => answer,
            Err(error) if self.is_at_fault(&window, &error) => {
                let key = window.key.as_deref().unwrap_or_default();
                if window.is_again {
                    self.refusals.lock().give_up(key);
                    return Err(error.of_key(progress.log.since));
                }
                tracing::warn!(
                    error = %crate::failure::Chain(&error),
                    "the server no longer accepts the key of a page, as after an upgrade; auditsync reads the window again without it, and drops \
                     delivered events"
                );
                let again = progress.log.without_key(&window);
                let log = progress.log.with(again);
                return self.page(&Progress { log, ..progress }, Vec::new(), 0, false, begun);
            }
            Err(error @ Error::TooLarge { .. }) if limit > 1 => {
                tracing::warn!(
                    error = %crate::failure::Chain(&error), limit,
                    "a page is too large; requesting fewer events at once"
                );
                // The server limits a page by its stored size, so the limit is far off. Growing back is quick.
                self.limit.store((limit / 8).max(1), Ordering::Relaxed);
                return self.page(&progress, Vec::new(), 0, false, begun);
            }
            Err(error) => return Err(error),
        };
        if size > LARGE {
            self.limit.store((limit / 2).max(1), Ordering::Relaxed);
        } else if size < SMALL {
            self.limit.store(limit.saturating_mul(2).min(MOST_EVENTS), Ordering::Relaxed);
        }
        let last_key = answer.last_key.clone();
        let sifted = self.sift(answer, progress.log.kept.clone(), &window).await?;
        let Sifted { events, sessions, deduplicated, filtered, reduced, brought } = sifted;
        self.metrics.filtered(filtered);
        for reason in reduced {
            tracing::error!(
                %reason,
                "the server sent an event that is malformed; auditsync delivers it in a reduced form, with its message in `auditsync_message`"
            );
        }
        for (session, stored) in sessions {
            let stored = stored.unwrap_or(window.from);
            if progress.wants_session(stored) {
                progress.add_session(session, stored);
            }
        }
        // Events that come again because a key was refused do not count as progress.
        let progressed = brought.is_new || !window.is_again;
        let proven = progress.proven(&window, self.settings().overlap, self.proven());
        let log = progress.log.after(window, brought, last_key, self.settings().overlap, proven);
        let log = log.map_err(|Circle| Error::Circling { address: self.api.address().clone() })?;
        self.warn_of_overlap(log.missing(self.settings().overlap).filter(|_| log.kept.is_full()));
        let mut next = Progress { log, ..progress };
        next.forget_finished();
        self.page(&next, events, deduplicated, progressed, begun)
    }

    /// A request for events, the oldest first.
    pub(super) fn search(&self, from: Timestamp, until: Timestamp, limit: i32, start_key: String) -> SearchRequest {
        SearchRequest {
            namespace: "default".to_owned(),
            start_date: Some(from.into()),
            end_date: Some(until.into()),
            event_types: self.filter.requested(),
            limit,
            start_key,
            order: 1,
        }
    }

    /// Whether a request failed because of the key of `window`.
    fn is_at_fault(&self, window: &Window, error: &Error) -> bool {
        let (Some(key), Some(most)) = (&window.key, error.blames_key_after()) else { return false };
        self.refusals.lock().refused(key, most)
    }

    /// Finds the new events of an answer, on a thread for blocking work, because a large page takes long.
    async fn sift(&self, answer: Answer, kept: Kept, window: &Window) -> Result<Sifted, Error> {
        let (filter, window) = (Arc::clone(&self.filter), window.clone());
        let sifting = tokio::task::spawn_blocking(move || sift(&answer, kept, &window, &filter));
        task::outcome(sifting.await)
            .map_err(|cause: io::Error| Error::Broken { address: self.api.address().clone(), cause: cause.into() })
    }

    fn warn_of_overlap(&self, missing: Option<std::time::Duration>) {
        let Some(missing) = missing else { return self.warned_of_overlap.store(false, Ordering::Relaxed) };
        if !self.warned_of_overlap.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                most = MOST,
                missing = %humantime::format_duration(std::time::Duration::from_secs(missing.as_secs())),
                "{} covers more events than the state can hold; the overlap is shorter for now, so raise {} if events come late",
                OVERLAP.spec.name,
                DELAY.spec.name
            );
        }
    }
}

fn sift(answer: &Answer, kept: Kept, window: &Window, filter: &Filter) -> Sifted {
    let mut known = kept.prints();
    let mut sifted = Sifted {
        events: Vec::with_capacity(answer.items.len()),
        sessions: Vec::new(),
        deduplicated: 0,
        filtered: 0,
        reduced: Vec::new(),
        brought: Brought { kept, is_new: false, newest: None },
    };
    for item in &answer.items {
        let message = Message::read(item);
        let message = message.as_ref().ok();
        // The time by which the server searches.
        let time = message.and_then(|message| message.time);
        sifted.brought.newest = sifted.brought.newest.max(time.filter(|time| *time <= window.until));
        let is_known = message.is_some_and(|message| {
            let is_delivered = print_of(&message.id).is_some_and(|print| known.contains(&print));
            // The server includes the start of the window, and events of exactly that time are delivered already.
            is_delivered || time.is_some_and(|time| time <= window.from)
        });
        if is_known {
            sifted.deduplicated += 1;
            continue;
        }
        let is_wanted = message.is_none_or(|message| filter.wants(&message.kind));
        let is_upload = message.is_some_and(|message| filter.is_upload(&message.kind));
        if !is_wanted && !is_upload {
            sifted.filtered += 1;
            continue;
        }
        let Record { event, print, session, reduced } = match message {
            Some(message) => record(message, item),
            None => unreadable(item),
        };
        if !known.insert(print) {
            sifted.deduplicated += 1;
            continue;
        }
        sifted.brought.is_new = true;
        sifted.brought.kept.push(time, print, window.until);
        if let Some(unfit) = reduced {
            let id = message.map(|message| message.id.as_str()).unwrap_or_default();
            let id = crate::http::Excerpt::of(id.as_bytes(), &crate::http::Redaction::none());
            sifted.reduced.push(format!("{id}: {unfit}"));
        }
        if let Some(session) = session.filter(|_| is_upload) {
            sifted.sessions.push((session, event.time()));
        }
        if is_wanted {
            sifted.events.push(event);
        } else {
            sifted.filtered += 1;
        }
    }
    sifted
}
