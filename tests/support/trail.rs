//! An S3 with the bucket of a trail: listings, reads, and faults that no real server shows on demand.
//!
//! It checks the client against the protocol, and keeps each breach in `violations()`.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Query, Request, State};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::Response;
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use super::encoding::gzip;
use super::server::Server;
use super::watched::Watched;

/// The region of these tests.
pub const REGION: &str = "us-east-1";

/// A fault that a request meets instead of the usual answer.
#[derive(Clone, Debug)]
pub enum TrailFault {
    /// An error in S3's words.
    Error(u16, &'static str, &'static str),
    /// An error that names the bucket's region.
    Region(&'static str),
    /// Half of the body, and then the connection breaks off.
    Truncated,
    /// Half of the object, as if it were the whole.
    Half,
}

/// A request, as the fake understood it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// A listing of the keys that begin with `prefix`.
    List { prefix: String, after: Option<String>, is_of_folders: bool },
    /// An object, from this byte on.
    Get { key: String, from: Option<usize> },
}

/// A request and its headers.
#[derive(Clone, Debug)]
pub struct TrailRequest {
    pub asked: Asked,
    pub headers: HeaderMap,
}

/// An object of the bucket.
#[derive(Clone, Debug)]
pub struct TrailObject {
    pub bytes: Bytes,
    pub modified: Timestamp,
}

/// The objects, by their keys.
pub type TrailObjects = BTreeMap<String, TrailObject>;

type Change = Box<dyn FnOnce(&mut TrailObjects) + Send + Sync>;

struct Rule {
    /// A part of the key, or of the prefix of a listing.
    part: String,
    is_of_lists: bool,
    fault: TrailFault,
    times: usize,
}

struct Kept {
    objects: TrailObjects,
    /// The signatures in the metadata of objects, by their keys.
    signatures: HashMap<String, String>,
    rules: Vec<Rule>,
    /// A part of a key, and the delay of reads of keys with this part.
    slow: Option<(String, Duration)>,
    changes: Vec<(usize, Change)>,
    /// Another name of the bucket.
    alias: Option<&'static str>,
    /// How many seconds the clock is ahead.
    date_offset: i64,
    requests: Vec<TrailRequest>,
    page: usize,
    lists: usize,
    violations: Vec<String>,
}

/// The server. Its bucket is [`FakeTrail::BUCKET`], addressed by path.
pub struct FakeTrail {
    server: Server,
    kept: Arc<Watched<Kept>>,
}

impl FakeTrail {
    pub const BUCKET: &str = "trail";

    pub async fn start() -> Self {
        let kept = Arc::new(Watched::new(Kept {
            objects: BTreeMap::new(),
            signatures: HashMap::new(),
            rules: Vec::new(),
            slow: None,
            changes: Vec::new(),
            alias: None,
            date_offset: 0,
            requests: Vec::new(),
            page: 1000,
            lists: 0,
            violations: Vec::new(),
        }));
        let routes = Router::new().fallback(answer).with_state(Arc::clone(&kept));
        Self { server: Server::start(false, |_| routes).await, kept }
    }

    pub fn url(&self) -> String {
        self.server.url()
    }

    pub fn put(&self, key: &str, bytes: impl Into<Bytes>, modified: Timestamp) {
        let object = TrailObject { bytes: bytes.into(), modified };
        self.kept.update(|kept| kept.objects.insert(key.to_owned(), object));
    }

    /// Puts an object with a signature in its metadata, as digest files have it.
    pub fn put_signed(&self, key: &str, bytes: impl Into<Bytes>, modified: Timestamp, signature: String) {
        self.put(key, bytes, modified);
        self.kept.update(|kept| kept.signatures.insert(key.to_owned(), signature));
    }

    /// Removes an object.
    pub fn remove(&self, key: &str) {
        self.kept.update(|kept| kept.objects.remove(key)).expect("it was there");
    }

    /// Serves the objects as another bucket, too.
    pub fn also_as(&self, bucket: &'static str) {
        self.kept.update(|kept| kept.alias = Some(bucket));
    }

    /// Moves the server's clock ahead of this machine's by this many seconds.
    pub fn set_date_offset(&self, seconds: i64) {
        self.kept.update(|kept| kept.date_offset = seconds);
    }

    /// The most keys of one page of a listing.
    pub fn set_page(&self, keys: usize) {
        self.kept.update(|kept| kept.page = keys);
    }

    /// Delays the answer to each read of a key with this part.
    pub fn slow_reads(&self, part: &str, by: Duration) {
        self.kept.update(|kept| kept.slow = Some((part.to_owned(), by)));
    }

    /// Changes the objects after this many further listings.
    pub fn after_lists(&self, lists: usize, change: impl FnOnce(&mut TrailObjects) + Send + Sync + 'static) {
        self.kept.update(|kept| kept.changes.push((kept.lists + lists, Box::new(change))));
    }

    /// The next `times` reads of keys that contain `part` meet a fault.
    pub fn fail_reads(&self, part: &str, fault: TrailFault, times: usize) {
        self.rule(part, false, fault, times);
    }

    /// The next `times` listings whose prefix contains `part` meet a fault.
    pub fn fail_lists(&self, part: &str, fault: TrailFault, times: usize) {
        self.rule(part, true, fault, times);
    }

    fn rule(&self, part: &str, is_of_lists: bool, fault: TrailFault, times: usize) {
        let rule = Rule { part: part.to_owned(), is_of_lists, fault, times };
        self.kept.update(|kept| kept.rules.push(rule));
    }

    /// Ends all faults.
    pub fn recover(&self) {
        self.kept.update(|kept| kept.rules.clear());
    }

    pub fn requests(&self) -> Vec<TrailRequest> {
        self.kept.read().requests.clone()
    }

    /// The number of listings so far.
    pub fn lists(&self) -> usize {
        self.kept.read().lists
    }

    /// Waits until this many requests have arrived.
    pub async fn wait_for_requests(&self, count: usize) {
        self.kept.expect_count(count, "requests", |kept| kept.requests.len()).await;
    }

    pub fn violations(&self) -> Vec<String> {
        self.kept.read().violations.clone()
    }
}

/// The key of a log file.
pub fn log_key(account: &str, region: &str, slot: Timestamp, n: usize) -> String {
    let slot = slot.to_zoned(TimeZone::UTC);
    let (day, name) = (slot.strftime("%Y/%m/%d"), slot.strftime("%Y%m%dT%H%MZ"));
    // The random part must not follow the order.
    let random = format!("{:016x}", (n as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    format!("AWSLogs/{account}/CloudTrail/{region}/{day}/{account}_CloudTrail_{region}_{name}_{random}.json.gz")
}

/// A record of `CloudTrail`'s.
pub fn trail_record(account: &str, n: usize, time: Timestamp) -> String {
    let time = time.to_zoned(TimeZone::UTC).strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    format!(
        "{{\"eventVersion\":\"1.11\",\"userIdentity\":{{\"type\":\"IAMUser\",\"principalId\":\"AIDA\",\"arn\":\"arn:aws:iam::{account}:user/ann\",\
         \"accountId\":\"{account}\",\"userName\":\"ann\"}},\"eventTime\":\"{time}\",\"eventSource\":\"s3.amazonaws.com\",\
         \"eventName\":\"PutObject\",\"awsRegion\":\"{REGION}\",\"sourceIPAddress\":\"192.0.2.{}\",\"userAgent\":\"cli\",\
         \"requestParameters\":{{\"bucketName\":\"b\",\"key\":\"k\\\"]}}\"}},\"responseElements\":null,\"requestID\":\"r{n}\",\
         \"eventID\":\"event-{n:06}\",\"readOnly\":false,\"eventType\":\"AwsApiCall\",\"managementEvent\":false,\
         \"recipientAccountId\":\"{account}\",\"eventCategory\":\"Data\"}}",
        n % 250
    )
}

/// A log file with these records.
pub fn log_file(records: &[String]) -> Vec<u8> {
    gzip(format!("{{\"Records\":[{}]}}", records.join(",")).as_bytes())
}

async fn answer(
    State(kept): State<Arc<Watched<Kept>>>,
    Query(query): Query<HashMap<String, String>>,
    request: Request,
) -> Response {
    let (head, _) = request.into_parts();
    let path = percent_decoded(head.uri.path().trim_start_matches('/'));
    let slow = kept.read().slow.clone().filter(|(part, _)| path.contains(part));
    if let Some((_, by)) = slow {
        tokio::time::sleep(by).await;
    }
    let mut response = kept.update(|kept| kept.answer(&head.method, &path, &query, head.headers));
    let date = Timestamp::now() + SignedDuration::from_secs(kept.read().date_offset);
    let date = date.to_zoned(TimeZone::UTC).strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
    response.headers_mut().insert("date", date.parse().expect("a header"));
    response
}

impl Kept {
    fn answer(&mut self, method: &Method, path: &str, query: &HashMap<String, String>, headers: HeaderMap) -> Response {
        let (bucket, key) = path.split_once('/').unwrap_or((path, ""));
        if method != Method::GET {
            self.violations.push(format!("{method} {path}: nothing is written"));
        }
        if bucket != FakeTrail::BUCKET && self.alias != Some(bucket) {
            return error(404, "NoSuchBucket", "The specified bucket does not exist");
        }
        if !headers.get("authorization").is_some_and(|signed| signed.as_bytes().starts_with(b"AWS4-HMAC-SHA256 ")) {
            self.violations.push(format!("{path}: it is not signed"));
        }
        let asked = if key.is_empty() {
            let parameter = |name: &str| query.get(name).cloned();
            if parameter("list-type").as_deref() != Some("2") {
                self.violations.push("a listing is not one of ListObjectsV2".to_owned());
            }
            Asked::List {
                prefix: parameter("prefix").unwrap_or_default(),
                after: parameter("continuation-token").or(parameter("start-after")),
                is_of_folders: query.contains_key("delimiter"),
            }
        } else {
            let range = headers.get("range").and_then(|range| range.to_str().ok()?.strip_prefix("bytes="));
            let from = range.and_then(|range| range.strip_suffix('-')?.parse().ok());
            Asked::Get { key: key.to_owned(), from }
        };
        self.requests.push(TrailRequest { asked: asked.clone(), headers });
        let fault = self.fault(&asked);
        if let Some(TrailFault::Error(status, code, message)) = fault {
            return error(status, code, message);
        }
        if let Some(TrailFault::Region(region)) = fault {
            let signed = self.requests.last().and_then(|request| request.headers.get("authorization"));
            let scope = format!("/{region}/s3/");
            if !signed.is_some_and(|signed| String::from_utf8_lossy(signed.as_bytes()).contains(&scope)) {
                let mut response = error(301, "PermanentRedirect", "The bucket must be addressed at its own endpoint.");
                response.headers_mut().insert("x-amz-bucket-region", region.parse().expect("a header"));
                return response;
            }
        }
        match asked {
            Asked::List { prefix, after, is_of_folders } => {
                let most = query.get("max-keys").and_then(|most| most.parse().ok()).unwrap_or(1000);
                self.list(&prefix, after.as_deref(), is_of_folders, most)
            }
            Asked::Get { key, from } => self.get(&key, from, fault.as_ref()),
        }
    }

    fn fault(&mut self, asked: &Asked) -> Option<TrailFault> {
        let (text, is_list) = match asked {
            Asked::List { prefix, .. } => (prefix, true),
            Asked::Get { key, .. } => (key, false),
        };
        let is_it = |rule: &&mut Rule| rule.times > 0 && rule.is_of_lists == is_list && text.contains(&rule.part);
        let rule = self.rules.iter_mut().find(is_it)?;
        rule.times -= 1;
        Some(rule.fault.clone())
    }

    fn list(&mut self, prefix: &str, after: Option<&str>, is_of_folders: bool, most: usize) -> Response {
        let most = most.min(self.page);
        let mut body = String::from("<?xml version=\"1.0\"?><ListBucketResult>");
        let (mut count, mut last, mut is_truncated) = (0, String::new(), false);
        for (key, object) in self.objects.range(prefix.to_owned()..) {
            let Some(rest) = key.strip_prefix(prefix) else { break };
            let folder = rest.find('/').filter(|_| is_of_folders).map(|end| &key[..=prefix.len() + end]);
            let shown = folder.unwrap_or(key);
            if after.is_some_and(|after| shown <= after) || shown == last {
                continue;
            }
            if count == most {
                is_truncated = true;
                break;
            }
            count += 1;
            shown.clone_into(&mut last);
            let _ = match folder {
                Some(folder) => write!(body, "<CommonPrefixes><Prefix>{folder}</Prefix></CommonPrefixes>"),
                None => write!(
                    body,
                    "<Contents><Key>{key}</Key><LastModified>{}</LastModified><ETag>\"{}\"</ETag><Size>{}</Size></Contents>",
                    object.modified.to_zoned(TimeZone::UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z"),
                    tag(&object.bytes),
                    object.bytes.len()
                ),
            };
        }
        let _ = write!(body, "<KeyCount>{count}</KeyCount><IsTruncated>{is_truncated}</IsTruncated>");
        if is_truncated {
            let _ = write!(body, "<NextContinuationToken>{last}</NextContinuationToken>");
        }
        body.push_str("</ListBucketResult>");
        self.lists += 1;
        let lists = self.lists;
        let (due, later) = std::mem::take(&mut self.changes).into_iter().partition(|(at, _)| *at <= lists);
        self.changes = later;
        let due: Vec<(usize, Change)> = due;
        for (_, change) in due {
            change(&mut self.objects);
        }
        response(200, Body::from(body))
    }

    fn get(&mut self, key: &str, from: Option<usize>, fault: Option<&TrailFault>) -> Response {
        let Some(object) = self.objects.get(key) else {
            return error(404, "NoSuchKey", "The specified key does not exist.");
        };
        let size = object.bytes.len();
        let rest = object.bytes.slice(from.unwrap_or_default().min(size)..);
        let mut answer = match fault {
            Some(TrailFault::Truncated) => {
                let half = rest.slice(..rest.len() / 2);
                let body = stream::once(async { Ok(half) }).chain(stream::once(async {
                    tokio::task::yield_now().await;
                    Err(std::io::Error::other("broken off"))
                }));
                let mut answer = response(200, Body::from_stream(body));
                answer.headers_mut().insert("content-length", rest.len().into());
                answer
            }
            Some(TrailFault::Half) => response(200, Body::from(rest.slice(..rest.len() / 2))),
            _ => response(200, Body::from(rest)),
        };
        let modified = object.modified.to_zoned(TimeZone::UTC).strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
        answer.headers_mut().insert("last-modified", modified.parse().expect("a header"));
        if let Some(signature) = self.signatures.get(key) {
            answer.headers_mut().insert("x-amz-meta-signature", signature.parse().expect("a header"));
            answer.headers_mut().insert("x-amz-meta-signature-algorithm", "SHA256withRSA".parse().expect("a header"));
        }
        answer.headers_mut().insert("etag", format!("\"{}\"", tag(&object.bytes)).parse().expect("a header"));
        if let Some(from) = from {
            *answer.status_mut() = StatusCode::PARTIAL_CONTENT;
            let range = format!("bytes {from}-{}/{size}", size.saturating_sub(1));
            answer.headers_mut().insert("content-range", range.parse().expect("a header"));
        }
        answer
    }
}

fn error(status: u16, code: &str, message: &str) -> Response {
    let message = message.replace('&', "&amp;").replace('<', "&lt;");
    let text = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>{message}</Message></Error>");
    response(status, text.into())
}

fn response(status: u16, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(status).expect("a status from 100 to 999");
    response
}

fn tag(bytes: &Bytes) -> String {
    use std::hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher};
    format!("{:016x}", BuildHasherDefault::<DefaultHasher>::default().hash_one(bytes))
}

fn percent_decoded(text: &str) -> String {
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let Some((first, behind)) = rest.split_first() {
        let code = (*first == b'%').then(|| std::str::from_utf8(behind.get(..2)?).ok()).flatten();
        if let Some(byte) = code.and_then(|code| u8::from_str_radix(code, 16).ok()) {
            bytes.push(byte);
            rest = &behind[2..];
        } else {
            bytes.push(*first);
            rest = behind;
        }
    }
    String::from_utf8(bytes).expect("a path is text")
}

/// The full minute this many minutes ago. It is the same wherever a test names it, since each test has its own thread.
pub fn minutes_ago(minutes: i64) -> Timestamp {
    thread_local!(static NOW: Timestamp = Timestamp::now());
    let minute = NOW.with(|now| now.as_second()) / 60;
    Timestamp::from_second((minute - minutes) * 60).expect("a time")
}
