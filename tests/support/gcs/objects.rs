//! Objects: `get` with `alt=media`, and `insert`.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, HeaderName, Method, header};
use axum::response::Response;
use serde_json::json;

use super::super::encoding;
use super::super::fault::{self, Requested};
use super::super::reply::Reply;
use super::multipart::{self, Upload};
use super::{GcsState, Object, Shared};

pub(super) async fn read(
    State(gcs): State<Arc<Shared>>,
    Path((bucket, name)): Path<(String, String)>,
    Query(query): Query<HashMap<String, String>>,
    method: Method,
    headers: HeaderMap,
) -> Response {
    let mut breaches = breaches(&method, &Method::GET, &query, &["alt"], &headers);
    if query.get("alt").map(String::as_str) != Some("media") {
        breaches.push("not `alt=media`".to_owned());
    }
    let what = format!("read of {name:?}");
    answer(&gcs, &what, breaches, &headers, |state| state.read(&gcs, &bucket, &name)).await
}

pub(super) async fn insert(
    State(gcs): State<Arc<Shared>>,
    Path(bucket): Path<String>,
    Query(query): Query<HashMap<String, String>>,
    method: Method,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let known = ["uploadType", "name", "ifGenerationMatch"];
    let mut breaches = breaches(&method, &Method::POST, &query, &known, &headers);
    if query.get("uploadType").map(String::as_str) != Some("multipart") {
        breaches.push("not `uploadType=multipart`".to_owned());
    }
    let name = query.get("name").cloned().unwrap_or_default();
    let condition = query.get("ifGenerationMatch").and_then(|text| text.parse().ok());
    if condition.is_none() {
        breaches.push("no condition: without it a save could undo another's".to_owned());
    }
    let upload = multipart::parse(&text(&headers, &header::CONTENT_TYPE), &body);
    match &upload {
        Err(breach) => breaches.push(breach.clone()),
        Ok(upload) => breaches.extend(upload.breaches(&name)),
    }
    let what = format!("insert of {name:?}");
    answer(&gcs, &what, breaches, &headers, |state| match upload {
        Ok(upload) => state.insert(&gcs, &bucket, &name, condition, upload),
        Err(breach) => error(400, "badRequest", &breach),
    })
    .await
}

async fn answer(
    gcs: &Shared,
    what: &str,
    breaches: Vec<String>,
    headers: &HeaderMap,
    process: impl FnOnce(&mut GcsState) -> Reply,
) -> Response {
    let authorization = text(headers, &header::AUTHORIZATION);
    let fault = gcs.state.update(|state| {
        state.object_requests += 1;
        let number = state.object_requests;
        let breaches = breaches.iter().map(|breach| format!("{what} (request {number}): {breach}"));
        state.violations.extend(breaches);
        state.object_faults.next()
    });
    let requested = Requested { accepts_gzip: encoding::accepts_gzip(headers), secrets: vec![authorization.clone()] };
    let process = || {
        gcs.state.update(|state| {
            let token = authorization.strip_prefix("Bearer ").unwrap_or_default();
            if state.refresh_token.is_some() && !state.access_tokens.contains(token) {
                return error(401, "authError", "Invalid Credentials");
            }
            if !breaches.is_empty() {
                return error(400, "badRequest", &breaches.join(", "));
            }
            process(state)
        })
    };
    fault::answer(fault, requested, process).await.into_response()
}

impl GcsState {
    fn read(&self, gcs: &Shared, bucket: &str, name: &str) -> Reply {
        if bucket != gcs.options.bucket {
            return no_bucket();
        }
        match self.objects.get(name) {
            None if self.permissions.list => Reply::html(404, format!("No such object: {bucket}/{name}")),
            None => forbidden("list", bucket, name),
            Some(_) if !self.permissions.get => forbidden("get", bucket, name),
            Some(object) => object.media(gcs.options.omit_generation_read),
        }
    }

    fn insert(&mut self, gcs: &Shared, bucket: &str, name: &str, condition: Option<i64>, upload: Upload) -> Reply {
        let options = &gcs.options;
        if bucket != options.bucket {
            return no_bucket();
        }
        if !self.permissions.create {
            return forbidden("create", bucket, name);
        }
        let held = self.objects.get(name);
        let generation = held.map_or(0, |object| object.generation);
        if condition != Some(generation) && !options.ignore_conditions {
            return error(412, "conditionNotMet", "At least one of the pre-conditions you specified did not hold.");
        }
        if held.is_some() && !self.permissions.delete {
            return forbidden("delete", bucket, name);
        }
        let too_soon = |object: &Object| options.write_interval.is_some_and(|least| object.written.elapsed() < least);
        if held.is_some_and(too_soon) {
            let text = format!(
                "The object {bucket}/{name} exceeded the rate limit for object mutation operations (create, update, and \
                 delete). Please reduce your request rate. See https://cloud.google.com/storage/docs/gcs429."
            );
            return error(429, "rateLimitExceeded", &text);
        }
        let metadata = |field: &str| upload.metadata[field].as_str().unwrap_or_default().to_owned();
        let (content_type, cache_control) = (metadata("contentType"), metadata("cacheControl"));
        self.store(name, upload.media, &content_type, &cache_control);
        self.objects[name].resource(bucket, name, options.omit_generation_written)
    }
}

impl Object {
    fn media(&self, omit_generation: bool) -> Reply {
        let mut reply = Reply::json(200, self.bytes.clone());
        if !omit_generation {
            reply = reply.header(HeaderName::from_static("x-goog-generation"), self.generation.to_string());
        }
        reply
            .header(HeaderName::from_static("x-goog-metageneration"), "1")
            .header(HeaderName::from_static("x-goog-stored-content-encoding"), "identity")
            .header(HeaderName::from_static("x-goog-stored-content-length"), self.bytes.len().to_string())
            // There is no MD5, as with Google's composite objects.
            .header(HeaderName::from_static("x-goog-hash"), format!("crc32c={}", multipart::crc32c(&self.bytes)))
    }

    fn resource(&self, bucket: &str, name: &str, omit_generation: bool) -> Reply {
        let mut resource = json!({
            "kind": "storage#object",
            "id": format!("{bucket}/{name}/{}", self.generation),
            "name": name,
            "bucket": bucket,
            "generation": self.generation.to_string(),
            "metageneration": "1",
            "contentType": self.content_type,
            "cacheControl": self.cache_control,
            "storageClass": "STANDARD",
            "size": self.bytes.len().to_string(),
            "crc32c": multipart::crc32c(&self.bytes),
            "timeCreated": "2026-01-01T00:00:00.000Z",
            "updated": "2026-01-01T00:00:00.000Z",
        });
        if omit_generation && let Some(fields) = resource.as_object_mut() {
            fields.remove("generation");
        }
        Reply::json(200, resource.to_string())
    }
}

impl Upload {
    fn breaches(&self, name: &str) -> Vec<String> {
        let mut breaches = Vec::new();
        match self.metadata.get("name") {
            None => {}
            Some(other) if other == name => {}
            Some(other) => breaches.push(format!("named {other} in the metadata")),
        }
        let computed = multipart::crc32c(&self.media);
        match &self.crc32c {
            None => breaches.push("no CRC32C".to_owned()),
            Some(sent) if *sent == computed => {}
            Some(sent) => breaches.push(format!("CRC32C {sent:?} where the media have {computed:?}")),
        }
        breaches
    }
}

/// The breaches that any request can commit.
fn breaches(
    method: &Method,
    expected: &Method,
    query: &HashMap<String, String>,
    known: &[&str],
    headers: &HeaderMap,
) -> Vec<String> {
    let mut breaches = Vec::new();
    if method != expected {
        breaches.push(format!("{method} instead of {expected}"));
    }
    let unknown = query.keys().filter(|name| !known.contains(&name.as_str()));
    breaches.extend(unknown.map(|name| format!("parameter {name:?}")));
    if !text(headers, &header::USER_AGENT).starts_with("auditsync/") {
        breaches.push("no User-Agent of ours".to_owned());
    }
    breaches
}

fn no_bucket() -> Reply {
    error(404, "notFound", "The specified bucket does not exist.")
}

fn forbidden(permission: &str, bucket: &str, name: &str) -> Reply {
    let text = format!(
        "audit@project.iam.gserviceaccount.com does not have storage.objects.{permission} access to the Google Cloud Storage \
         object. Permission 'storage.objects.{permission}' denied on resource \
         '//storage.googleapis.com/projects/_/buckets/{bucket}/objects/{name}' (or it may not exist)."
    );
    error(403, "forbidden", &text)
}

/// An error in the words of the JSON API.
fn error(status: u16, reason: &str, text: &str) -> Reply {
    let errors = json!([{ "message": text, "domain": "global", "reason": reason }]);
    Reply::json(status, json!({ "error": { "code": status, "message": text, "errors": errors } }).to_string())
}

/// The value of a header; empty if there is none.
fn text(headers: &HeaderMap, name: &HeaderName) -> String {
    let value = headers.get(name).map(axum::http::HeaderValue::as_bytes);
    String::from_utf8_lossy(value.unwrap_or_default()).into_owned()
}
