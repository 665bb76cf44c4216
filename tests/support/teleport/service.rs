//! The answers of the Auth Service.

use std::future::pending;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::{Request, Response};
use jiff::Timestamp;
use prost::Message as _;

use super::grpc::{self, Body, Status};
use super::messages::{EventsUnstructured, GetUnstructuredEventsRequest, PingResponse, StreamRequest};
use super::{AuditEvent, PageKeys, SearchRequest, Shared, Trouble};

const INVALID_ARGUMENT: i32 = 3;
const NOT_FOUND: i32 = 5;
const PERMISSION_DENIED: i32 = 7;
const UNIMPLEMENTED: i32 = 12;
const OK: i32 = 0;

pub(super) async fn answer(
    request: Request<Incoming>,
    shared: &Arc<Shared>,
    connection: usize,
    client: Vec<u8>,
) -> Response<Body> {
    let (head, body) = request.into_parts();
    let header = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok());
    if head.method != "POST" || header("te") != Some("trailers") {
        shared.violate(format!("{} with te {:?}", head.method, header("te")));
    }
    if header("content-type") != Some("application/grpc") || header("version").is_some() {
        shared.violate(format!("content type {:?}, version {:?}", header("content-type"), header("version")));
    }
    let Ok(body) = body.collect().await else { return grpc::refused(&Status::new(1, "cancelled")) };
    let Some(message) = grpc::message(&body.to_bytes()) else {
        shared.violate("a request without exactly one message");
        return grpc::refused(&Status::new(13, "no message"));
    };
    super::super::fault::pause_for(shared.options.latency).await;
    let mut response = match head.uri.path() {
        "/teleport.auditlog.v1.AuditLogService/GetUnstructuredEvents" => {
            search(&message, shared, connection, client).await
        }
        "/teleport.auditlog.v1.AuditLogService/StreamUnstructuredSessionEvents" => session(&message, shared).await,
        "/proto.AuthService/Ping" => {
            shared.state.update(|state| state.pings += 1);
            let pong = PingResponse {
                cluster_name: shared.options.cluster.clone(),
                server_version: shared.options.version.clone(),
                proxy_public_addr: "proxy.example.com:443".to_owned(),
            };
            grpc::unary(pong.encode_to_vec())
        }
        // The fake does not offer the bulk export, because that omits events.
        path => {
            shared.violate(format!("a call of {path}"));
            grpc::refused(&Status::new(UNIMPLEMENTED, "unknown method"))
        }
    };
    if shared.options.dated {
        let date = jiff::fmt::rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&Timestamp::now());
        response.headers_mut().insert("date", date.expect("a year of four digits").parse().expect("a header"));
    }
    response
}

async fn search(message: &Bytes, shared: &Arc<Shared>, connection: usize, client: Vec<u8>) -> Response<Body> {
    let Ok(request) = GetUnstructuredEventsRequest::decode(message.clone()) else {
        shared.violate("a request that is no message");
        return grpc::refused(&Status::new(13, "no message"));
    };
    let time = |time: &Option<super::messages::Time>| time.as_ref().and_then(super::messages::Time::get);
    let (Some(from), Some(until)) = (time(&request.start_date), time(&request.end_date)) else {
        shared.violate("a request without its window");
        return grpc::refused(&Status::new(INVALID_ARGUMENT, "no window"));
    };
    if request.namespace != "default" || request.order != 1 || !(1..=10_000).contains(&request.limit) || from >= until {
        shared.violate(format!("{request:?}"));
    }
    if until > Timestamp::now() {
        shared.violate(format!("a window that ends in the future: {until}"));
    }
    let (number, trouble, denies) = shared.state.update(|state| {
        state.searches.push(SearchRequest {
            from,
            until,
            types: request.event_types.clone(),
            limit: request.limit,
            key: request.start_key.clone(),
            status: None,
            events: 0,
            connection,
            client,
        });
        let trouble = state.troubles.pop_front().or_else(|| state.always.clone());
        (state.searches.len() - 1, trouble, state.denies.search)
    });
    let answered = |status: i32, events: usize| {
        shared.state.update(|state| {
            (state.searches[number].status, state.searches[number].events) = (Some(status), events);
        });
    };
    let refused = |status: Status| {
        answered(status.code, 0);
        grpc::refused(&status)
    };
    if denies {
        return refused(Status::new(PERMISSION_DENIED, "access denied to perform action \"list\" on \"event\""));
    }
    match trouble {
        None => {}
        Some(Trouble::Status(code, text)) => return refused(Status::new(code, text)),
        Some(Trouble::StatusAndPushback(code, wait)) => {
            return refused(Status { pushback: Some(wait), ..Status::new(code, "too many requests") });
        }
        Some(Trouble::Hang) => return pending().await,
        Some(Trouble::Cut) => {
            shared.cut.send_replace(());
            return pending().await;
        }
        Some(Trouble::Garbage) => {
            answered(OK, 0);
            return grpc::unary(vec![0xff; 20]);
        }
        Some(Trouble::Circle) => {
            answered(OK, 0);
            let key =
                if request.start_key.is_empty() { shared.key(from, until, None) } else { request.start_key.clone() };
            return grpc::unary(EventsUnstructured { last_key: key, ..Default::default() }.encode_to_vec());
        }
        Some(Trouble::EmptyPage) => {
            answered(OK, 0);
            let position = shared.position(&request.start_key, from, until).unwrap_or_default();
            // Every answer has another key for the same position, because a server may make each one new.
            let key = format!("{}#{number}", shared.key(from, until, position));
            return grpc::unary(EventsUnstructured { last_key: key, ..Default::default() }.encode_to_vec());
        }
        Some(Trouble::BrokenOff) => {
            answered(OK, 0);
            return grpc::broken_off(&[0; 200]);
        }
    }
    let position = match shared.position(&request.start_key, from, until) {
        Ok(position) => position,
        Err(KeyFault::Foreign) => {
            shared.violate("a key left its window");
            answered(OK, 0);
            return grpc::unary(EventsUnstructured::default().encode_to_vec());
        }
        Err(KeyFault::Old) => {
            let (code, text) = shared.options.key_refusal;
            return refused(Status::new(code, text));
        }
    };
    let page = shared.page((from, until), position, &request.event_types, request.limit);
    answered(OK, page.0.len());
    let (items, last) = page;
    let last_key = last.map(|position| shared.key(from, until, Some(position))).unwrap_or_default();
    let answer = EventsUnstructured { items, last_key, unknown: "of a later version".to_owned() };
    grpc::unary(answer.encode_to_vec())
}

/// The start of a page: after the event with this time and number.
type Position = (i128, usize);

enum KeyFault {
    /// It belongs to another window.
    Foreign,
    /// It is of another version of the server.
    Old,
}

impl Shared {
    fn key(&self, from: Timestamp, until: Timestamp, position: Option<Position>) -> String {
        let (time, number) = position.unwrap_or((i128::MIN, 0));
        let generation = self.state.read().generation;
        format!("v{generation}|{from}|{until}|{time}|{number}")
    }

    fn position(&self, key: &str, from: Timestamp, until: Timestamp) -> Result<Option<Position>, KeyFault> {
        if key.is_empty() {
            return Ok(None);
        }
        if self.options.keys == PageKeys::None {
            return Err(KeyFault::Old);
        }
        let key = key.split('#').next().unwrap_or_default();
        let parts: Vec<_> = key.split('|').collect();
        let [generation, key_from, key_until, time, number] = parts[..] else { return Err(KeyFault::Old) };
        if generation != format!("v{}", self.state.read().generation) {
            return Err(KeyFault::Old);
        }
        if (key_from, key_until) != (from.to_string().as_str(), until.to_string().as_str()) {
            return Err(KeyFault::Foreign);
        }
        Ok(Some((time.parse().map_err(|_| KeyFault::Old)?, number.parse().map_err(|_| KeyFault::Old)?)))
    }

    /// The page after `position`, and the start of the next one, if there is one.
    fn page(
        &self,
        (from, until): (Timestamp, Timestamp),
        position: Option<Position>,
        types: &[String],
        limit: i32,
    ) -> (Vec<Bytes>, Option<Position>) {
        let grain = |time: Timestamp| {
            if self.options.whole_seconds { i128::from(time.as_second()) * 1_000_000_000 } else { time.as_nanosecond() }
        };
        let state = self.state.read();
        let mut found: Vec<_> = state
            .log
            .iter()
            .enumerate()
            .map(|(number, logged)| ((grain(logged.event.time), number), logged))
            .filter(|((time, _), _)| (grain(from)..=grain(until)).contains(time))
            .filter(|(_, logged)| types.is_empty() || self.options.ignores_types || types.contains(&logged.event.kind))
            .filter(|(place, _)| position.is_none_or(|position| *place > position))
            .collect();
        found.sort_by_key(|(place, _)| *place);
        let most = usize::try_from(limit).unwrap_or(1).min(self.options.page_size);
        let (mut events, mut bytes, mut last) = (Vec::new(), 0, None);
        let total = found.len();
        for (place, logged) in found {
            let size = logged.stored_size;
            if events.len() >= most || (!events.is_empty() && bytes + size > self.options.page_bytes) {
                break;
            }
            bytes += size;
            last = Some(place);
            events.push(logged.encoded.clone());
        }
        let is_more = events.len() < total;
        (events, last.filter(|_| is_more))
    }
}

async fn session(message: &Bytes, shared: &Arc<Shared>) -> Response<Body> {
    let Ok(request) = StreamRequest::decode(message.clone()) else {
        shared.violate("a request that is no message");
        return grpc::refused(&Status::new(13, "no message"));
    };
    let StreamRequest { session_id, start_index, .. } = request;
    let (recording, denies) = shared.state.update(|state| {
        state.streams.push((session_id.clone(), start_index));
        let recording = state.recordings.get(&session_id).cloned();
        if let Some(recording) = state.recordings.get_mut(&session_id) {
            recording.breaks_after = None;
        }
        (recording, state.denies.sessions)
    });
    if denies {
        return grpc::refused(&Status::new(
            PERMISSION_DENIED,
            "access denied to perform action \"read\" on \"session\"",
        ));
    }
    let Some(recording) = recording.filter(|recording| !recording.missing) else {
        return grpc::refused(&Status::new(NOT_FOUND, "a recording for session was not found"));
    };
    let events: Vec<_> = recording
        .events
        .iter()
        .filter(|event| event.index >= i64::from(start_index))
        .map(AuditEvent::encoded)
        .collect();
    // Like grpc-go, it sends the head of its answer with the first event only, and loads the whole recording before.
    super::super::fault::pause_for(recording.loading).await;
    if recording.held {
        return pending().await;
    }
    match recording.breaks_after {
        Some(count) => {
            let events: Vec<_> = events.into_iter().take(count).collect();
            grpc::streaming(stream::iter(events), Err(io::Error::other("broken")))
        }
        None => grpc::streaming(stream::iter(events), Ok(Status::new(OK, ""))),
    }
}
