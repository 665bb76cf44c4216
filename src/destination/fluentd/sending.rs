//! The delivery of a page: sends batch after batch, and halves a refused one until the record at fault stands alone.
//!
//! An attempt may be cut off at any await. So the delivery notes each answer at once, and the next attempt finishes a
//! dead letter that is being written.

use std::collections::HashMap;
use std::future::poll_fn;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use async_trait::async_trait;
use jiff::Timestamp;

use super::batch::Batch;
use super::client::{Client, LARGEST_USUAL, PERHAPS_TOO_LARGE, Setback};
use super::error::Error;
use super::evidence::{ByAddress, Evidence, Step, Suspect};
use super::{Compression, record};
use crate::dead_letter::Fate;
use crate::destination::letters::{Letter, Letters};
use crate::destination::{Acknowledged, Delivery, PageNumber, Progress, Shipment, Tally};
use crate::event::Event;
use crate::failure::{Chain, Failure};
use crate::http::Address;
use crate::task;
use crate::telemetry::liveness::Heartbeat;

/// The number of times after which a connection that closes on a large record means the same as a 413.
const OFTEN_ENOUGH: u32 = 4;

pub(super) struct Sending {
    client: Arc<Client>,
    page: PageNumber,
    progress: Progress,
    /// Events in the request that is under way.
    under_way: usize,
    letters: Letters,
    /// Whether each address has accepted a record of the page.
    has_accepted: ByAddress<bool>,
    /// For each large event that was sent alone, by its index, how often the connection closed without an answer.
    closed: HashMap<usize, u32>,
}

impl Sending {
    pub(super) fn new(client: Arc<Client>, shipment: Shipment) -> Self {
        let progress = Progress::new(shipment.events);
        let (letters, has_accepted, closed) = (Letters::default(), ByAddress::default(), HashMap::new());
        Self { client, page: shipment.page, progress, under_way: 0, letters, has_accepted, closed }
    }

    async fn send_all(&mut self, now: Timestamp, heart: &Heartbeat) -> Result<(), Error> {
        let mut work: Vec<_> = self.progress.outstanding().iter().rev().cloned().collect();
        let mut evidence = ByAddress::of(|is_of_sessions| {
            let has_convicted_alone = self.client.has_convicted_alone.get(is_of_sessions).load(Ordering::Relaxed);
            Evidence::new(*self.has_accepted.get(is_of_sessions), !has_convicted_alone)
        });
        while let Some(range) = work.pop() {
            let batch = self.batch(range.clone()).await?;
            let (sent, is_of_sessions, size) = (batch.range.clone(), batch.session.is_some(), batch.uncompressed);
            if sent.end < range.end {
                work.push(sent.end..range.end);
            }
            match self.send(batch, heart).await {
                Ok(()) => self.convict(evidence.get_mut(is_of_sessions).accepted()),
                Err(Setback::Refused { reason, is_too_large }) if sent.len() > 1 => {
                    tracing::warn!(events = sent.len(), %reason, "the receiver refused a batch; sending its halves");
                    if is_too_large {
                        self.client.was_too_large(size);
                    }
                    let middle = sent.start + sent.len() / 2;
                    work.extend([middle..sent.end, sent.start..middle]);
                }
                Err(Setback::Refused { reason, is_too_large }) => {
                    let evidence = evidence.get_mut(is_of_sessions);
                    let is_oversized = is_too_large && size > LARGEST_USUAL;
                    evidence.refused(Suspect { index: sent.start, reason, is_oversized });
                    if !work.is_empty() {
                        self.examine(evidence, false, heart).await?;
                    }
                }
                Err(Setback::Failed(error)) => return Err(error),
            }
            self.write_letters(now).await?;
        }
        for is_of_sessions in [false, true] {
            self.examine(evidence.get_mut(is_of_sessions), true, heart).await?;
            self.write_letters(now).await?;
        }
        Ok(())
    }

    /// Makes the batch at the beginning of `range`. It compresses on a thread for blocking work.
    async fn batch(&self, range: Range<usize>) -> Result<Batch, Error> {
        let (limits, compression) = (self.client.limits(), self.client.settings.compression);
        let events = Arc::clone(self.progress.events());
        let filled = match compression {
            Compression::None => Batch::fill(&events, &range, limits, compression),
            Compression::Gzip => {
                let filling = tokio::task::spawn_blocking(move || Batch::fill(&events, &range, limits, compression));
                task::outcome(filling.await).flatten()
            }
        };
        filled.map_err(Error::Batch)
    }

    async fn send(&mut self, batch: Batch, heart: &Heartbeat) -> Result<(), Setback> {
        let Batch { range, session, body, uncompressed } = batch;
        let is_of_sessions = session.is_some();
        let may_be_too_large = range.len() == 1 && body.len() > PERHAPS_TOO_LARGE;
        self.progress.count(Tally { requests: 1, bytes: body.len() as u64, ..Tally::default() });
        self.under_way = range.len();
        let client = Arc::clone(&self.client);
        let answer = client.post(session.as_deref(), body, uncompressed).await;
        if let Err(Setback::Failed(error)) = &answer
            && error.may_have_arrived()
        {
            self.note_unanswered();
            if may_be_too_large && error.is_closed_connection() {
                let times = self.closed.entry(range.start).or_default();
                *times += 1;
                if *times >= OFTEN_ENOUGH {
                    let reason = format!("{times} requests with this event alone: {}", Chain(error));
                    return Err(Setback::Refused { reason, is_too_large: true });
                }
            }
            return answer;
        }
        self.under_way = 0;
        heart.beat();
        if answer.is_ok() {
            self.progress.settle(&range);
            self.progress.count(Tally { accepted: range.len(), ..Tally::default() });
            *self.has_accepted.get_mut(is_of_sessions) = true;
            client.has_convicted_alone.get(is_of_sessions).store(false, Ordering::Relaxed);
            let events = self.progress.events().get(range.clone()).unwrap_or_default();
            client.metrics.accepted(range.len(), 0, 0, events.iter().filter_map(Event::time).max());
        }
        answer
    }

    fn note_unanswered(&mut self) {
        self.progress.note_unanswered(std::mem::take(&mut self.under_way));
    }

    /// Decides about the suspects of one address, if it is time to. Fails if nothing shows that the receiver accepts
    /// other records there.
    async fn examine(&mut self, evidence: &mut Evidence, is_last: bool, heart: &Heartbeat) -> Result<(), Error> {
        let (step, suspect) = (evidence.step(is_last), evidence.last().cloned());
        let Some(Suspect { index, reason, .. }) = suspect.filter(|_| step != Step::GoOn) else { return Ok(()) };
        let (mut refused, mut session) = (Vec::new(), None);
        if let Some(event) = self.progress.events().get(index) {
            record::write(&mut refused, event);
            session = self.client.limits().session_of(event);
        }
        let session = session.as_deref();
        if step == Step::SendStandIn && self.send_stand_in(&refused, session, heart).await? {
            if !is_last {
                return Ok(());
            }
            let convicted = evidence.stand_in_accepted();
            let is_any_usual = convicted.iter().any(|suspect| !suspect.is_oversized);
            if is_any_usual && !self.has_accepted.get(session.is_some()) {
                self.client.has_convicted_alone.get(session.is_some()).store(true, Ordering::Relaxed);
            }
            self.convict(convicted);
        }
        if evidence.is_clear() {
            return Ok(());
        }
        let address = Address::of(&self.client.target(session).0);
        Err(self.client.refuses_all(address, reason, Some(&refused)))
    }

    /// Sends a stand-in for a written record, and returns whether the receiver accepted it.
    async fn send_stand_in(&mut self, refused: &[u8], session: Option<&str>, heart: &Heartbeat) -> Result<bool, Error> {
        let kept_in = self.client.dead_letters.location();
        let note = format!(
            "stands in for a record that this receiver refuses, to find out whether it refuses all; dead letters are kept in {kept_in}"
        );
        self.progress.count(Tally { requests: 1, ..Tally::default() });
        let answer = self.client.post_own(session, record::stand_in(refused, &note)).await;
        match answer {
            Ok(()) => {
                heart.beat();
                Ok(true)
            }
            Err(Setback::Refused { .. }) => Ok(false),
            Err(Setback::Failed(error)) => Err(error),
        }
    }

    /// Makes dead letters of records that are at fault.
    fn convict(&mut self, suspects: Vec<Suspect>) {
        let letter = |Suspect { index, reason, .. }| Letter::new(index, Fate::Refused, reason);
        self.letters.add(suspects.into_iter().map(letter));
    }

    /// Writes the dead letters that are due. After an error the rest is still due.
    async fn write_letters(&mut self, now: Timestamp) -> Result<(), Error> {
        let dead_letters = &self.client.dead_letters;
        loop {
            let next = poll_fn(|context| self.letters.poll_next(dead_letters, self.progress.events(), now, context));
            let Some(written) = next.await else { return Ok(()) };
            let Letter { index, .. } = written?;
            self.progress.settle(&(index..index + 1));
            self.progress.count(Tally { dead_lettered: 1, ..Tally::default() });
            self.client.metrics.dead_lettered();
        }
    }
}

#[async_trait]
impl Delivery for Sending {
    async fn attempt(&mut self, now: Timestamp, heart: &Heartbeat) -> Result<Acknowledged, Failure> {
        // An earlier attempt may have been cut off during a request.
        self.note_unanswered();
        self.write_letters(now).await?;
        self.send_all(now, heart).await?;
        Ok(Acknowledged::up_to(self.page))
    }

    fn tally(&self) -> Tally {
        self.progress.tally()
    }

    fn unanswered(&self) -> usize {
        self.progress.unanswered() + self.under_way
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use wiremock::matchers::{method, path, path_regex};
    use wiremock::{Mock, MockServer, ResponseTemplate};

    use super::*;
    use crate::component::Context;
    use crate::config::read_pairs;
    use crate::dead_letter::DeadLetters;
    use crate::destination::fluentd::variables;
    use crate::event::{Field, Fields};
    use crate::http;
    use crate::source::Cursor;

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;

    fn event(session: Option<&'static str>) -> Event {
        let event = Event::new(Bytes::from_static(b"{}"), None, Fields::default());
        event.with_derived(session.map(|id| (Field::SessionId, id.into())).into_iter().collect())
    }

    fn delivery(server: &str, letters: Option<&std::path::Path>, events: Vec<Event>) -> Sending {
        let (url, sessions) = (format!("{server}/audit.log"), format!("{server}/session"));
        let settings = read_pairs(&[("FLUENTD_URL", &url), ("FLUENTD_SESSION_URL", &sessions)], variables::settings);
        let http =
            http::Settings { timeout: Duration::from_secs(60), timeout_variable: "AUDITSYNC_HTTP_TIMEOUT".into() };
        let path = letters.map(|folder| folder.join("dead-letters.ndjson"));
        let letters = DeadLetters::new("here:there".into(), path, "AUDITSYNC_DEAD_LETTER_PATH".into());
        let client = Arc::new(Client::new(settings.unwrap(), &Context::new("here:there".into(), http, letters)));
        let shipment =
            Shipment { page: PageNumber(1), from: Cursor::default(), to: Cursor::default(), events: events.into() };
        Sending::new(client, shipment)
    }

    async fn server(answer: ResponseTemplate) -> MockServer {
        let server = MockServer::start().await;
        Mock::given(method("POST")).respond_with(answer).mount(&server).await;
        server
    }

    #[tokio::test]
    async fn events_of_a_recorded_session_go_to_an_address_of_their_own() {
        let server = server(ResponseTemplate::new(200)).await;
        let session = Some("8d38-44");
        let mut sending = delivery(&server.uri(), None, vec![event(None), event(session), event(session), event(None)]);
        sending.attempt(NOW, &Heartbeat::default()).await.unwrap();
        let requests = server.received_requests().await.unwrap();
        let sent: Vec<_> =
            requests.iter().map(|request| (request.url.path(), std::str::from_utf8(&request.body).unwrap())).collect();
        assert_eq!(sent, [("/audit.log", "[{}]"), ("/session.8d38-44.log", "[{},{}]"), ("/audit.log", "[{}]")]);
    }

    #[tokio::test]
    async fn an_address_for_sessions_that_refuses_everything_makes_no_dead_letter_beside_one_that_accepts() {
        let (server, folder) = (MockServer::start().await, tempfile::tempdir().unwrap());
        let accepts = Mock::given(method("POST")).and(path("/audit.log")).respond_with(ResponseTemplate::new(200));
        accepts.mount(&server).await;
        let refuses =
            Mock::given(method("POST")).and(path_regex("^/session[.]")).respond_with(ResponseTemplate::new(400));
        refuses.mount(&server).await;
        let session = || event(Some("8d38"));
        for events in [vec![session(), event(None), session(), event(None)], vec![event(None), session()]] {
            let mut sending = delivery(&server.uri(), Some(folder.path()), events);
            for _ in 0..3 {
                let failure = sending.attempt(NOW, &Heartbeat::default()).await.unwrap_err();
                assert!(failure.to_string().contains("/session.8d38.log"), "{failure}");
            }
            assert_eq!(sending.tally().dead_lettered, 0);
        }
        assert!(!folder.path().join("dead-letters.ndjson").exists());
    }

    #[tokio::test]
    async fn a_receiver_that_closes_every_connection_makes_no_dead_letter_of_a_large_event() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = format!("http://{}", listener.local_addr().unwrap());
        let closing = tokio::spawn(async move { while listener.accept().await.is_ok() {} });
        let large = Bytes::from(format!(r#"{{"details":"{}"}}"#, "x".repeat(PERHAPS_TOO_LARGE)));
        let mut sending = delivery(&server, None, vec![Event::new(large, None, Fields::default())]);
        for _ in 0..=2 * OFTEN_ENOUGH {
            let failure = sending.attempt(NOW, &Heartbeat::default()).await.unwrap_err();
            assert!(failure.to_string().contains("no answer"), "{failure}");
        }
        assert_eq!(sending.tally().dead_lettered, 0);
        closing.abort();
    }

    #[tokio::test]
    async fn a_request_that_is_cut_off_counts_as_one_without_an_answer() {
        let server = server(ResponseTemplate::new(200).set_delay(Duration::from_secs(60))).await;
        let mut sending = delivery(&server.uri(), None, vec![event(None); 3]);
        let heart = Heartbeat::default();
        let cut_off = async {
            while server.received_requests().await.unwrap().is_empty() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::select! {
            _ = sending.attempt(NOW, &heart) => panic!("it was answered"),
            () = cut_off => {}
        }
        assert_eq!((sending.unanswered(), sending.tally().accepted), (3, 0));
        assert!(sending.has_begun());
    }

    #[tokio::test]
    async fn a_dead_letter_whose_writing_is_cut_off_is_written_once() {
        let (server, folder) = (server(ResponseTemplate::new(200)).await, tempfile::tempdir().unwrap());
        let mut sending = delivery(&server.uri(), Some(folder.path()), vec![event(None); 2]);
        sending.convict(vec![Suspect { index: 1, reason: "400".to_owned(), is_oversized: false }]);
        // Begins the writing without waiting for its end.
        assert!(futures_util::future::poll_immediate(Box::pin(sending.write_letters(NOW))).await.is_none());
        sending.attempt(NOW, &Heartbeat::default()).await.unwrap();
        let written = std::fs::read_to_string(folder.path().join("dead-letters.ndjson")).unwrap();
        assert_eq!(written.lines().count(), 1);
        let Tally { accepted, dead_lettered, .. } = sending.tally();
        assert_eq!((accepted, dead_lettered), (1, 1));
    }
}
