//! Finds the purpose of a request, from its method and path alone.

use hyper::Method;

/// The purpose of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Route<'a> {
    /// A load balancer or an agent checks that the server is there.
    Look,
    /// A Datadog client checks its key.
    Validate,
    /// Entries, as Datadog's clients send them.
    Logs(Version, Option<&'a str>),
    /// Records under a tag, as clients of Fluentd send them.
    Tagged(String),
    /// The method is wrong; the path allows these.
    Method(&'static str),
    /// The path is not ours.
    Nothing,
}

/// One of Datadog's two interfaces, whose answers differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    /// `/v1/input`
    V1,
    /// `/api/v2/logs`
    V2,
}

/// The longest tag, in bytes.
const LONGEST_TAG: usize = 200;

/// The purpose of `method` on `path`. A sender may append its own path to the one that an operator configured, so only
/// the end counts.
pub(super) fn route<'a>(method: &Method, path: &'a str) -> Route<'a> {
    let is_read = matches!(*method, Method::GET | Method::HEAD);
    let end = path.trim_end_matches('/');
    if end.is_empty() {
        return if is_read { Route::Look } else { Route::Method("GET, HEAD") };
    }
    if end.ends_with("/api/v1/validate") {
        return if is_read { Route::Validate } else { Route::Method("GET, HEAD") };
    }
    if let Some(logs) = logs(end) {
        return if *method == Method::POST { logs } else { Route::Method("POST") };
    }
    let is_foreign = end == "/intake" || ["/api/", "/v1/", "/intake/"].iter().any(|start| path.starts_with(start));
    match tag(end) {
        Some(tag) if *method == Method::POST && !is_foreign => Route::Tagged(tag),
        _ => Route::Nothing,
    }
}

fn logs(path: &str) -> Option<Route<'_>> {
    const INPUT: &str = "/v1/input";
    if path.ends_with("/api/v2/logs") {
        return Some(Route::Logs(Version::V2, None));
    }
    let behind = path.get(path.rfind(INPUT)? + INPUT.len()..)?;
    match behind.strip_prefix('/') {
        None if behind.is_empty() => Some(Route::Logs(Version::V1, None)),
        Some(key) if !key.is_empty() && !key.contains('/') => Some(Route::Logs(Version::V1, Some(key))),
        _ => None,
    }
}

/// The tag of a path: `/test.log` is `test.log`, and a further slash becomes a dot.
fn tag(path: &str) -> Option<String> {
    let tag = path.strip_prefix('/')?;
    let is_of_a_tag = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.' | b'/');
    (tag.len() <= LONGEST_TAG && tag.bytes().all(is_of_a_tag)).then(|| tag.replace('/', "."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_of_a_datadog_client_is_known() {
        for (method, path, expected) in [
            (Method::GET, "/", Route::Look),
            (Method::HEAD, "/", Route::Look),
            (Method::GET, "/api/v1/validate", Route::Validate),
            (Method::POST, "/api/v2/logs", Route::Logs(Version::V2, None)),
            (Method::POST, "/api/v2/logs/", Route::Logs(Version::V2, None)),
            (Method::POST, "/v1/input", Route::Logs(Version::V1, None)),
            (Method::POST, "/v1/input/", Route::Logs(Version::V1, None)),
            (Method::POST, "/v1/input/key-1", Route::Logs(Version::V1, Some("key-1"))),
            (Method::POST, "/api/v2/logs/v1/input/key-1", Route::Logs(Version::V1, Some("key-1"))),
            (Method::POST, "/api/v2/logs/api/v2/logs", Route::Logs(Version::V2, None)),
            (Method::GET, "/api/v2/logs", Route::Method("POST")),
            (Method::POST, "/", Route::Method("GET, HEAD")),
            (Method::DELETE, "/api/v1/validate", Route::Method("GET, HEAD")),
            (Method::POST, "/test.log", Route::Tagged("test.log".to_owned())),
            (Method::POST, "/session/8d38-a.log", Route::Tagged("session.8d38-a.log".to_owned())),
            (Method::POST, "/intake.log", Route::Tagged("intake.log".to_owned())),
            (Method::POST, "/intake", Route::Nothing),
            (Method::POST, "/intake/", Route::Nothing),
            (Method::POST, "/intake/v2/events", Route::Nothing),
            (Method::GET, "/test.log", Route::Nothing),
            (Method::POST, "/api/v1/series", Route::Nothing),
            (Method::POST, "/v1/inputs", Route::Nothing),
            (Method::POST, "/a%00b", Route::Nothing),
        ] {
            assert_eq!(route(&method, path), expected, "{method} {path}");
        }
    }
}
