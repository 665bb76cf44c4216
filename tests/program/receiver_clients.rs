//! Tests the receiver with Datadog's own client.

use std::path::PathBuf;

use serde_json::Value;
use tokio::process::Command;

use crate::receiver::{KEY, Reception};
use crate::stage::stop;

/// The Python interpreter that has Datadog's client.
fn python() -> PathBuf {
    let given = std::env::var_os("AUDITSYNC_DATADOG_PYTHON").map(PathBuf::from);
    given.unwrap_or_else(|| concat!(env!("CARGO_MANIFEST_DIR"), "/target/servers/datadog/bin/python").into())
}

/// Runs Datadog's Python client. Returns the result of each call.
async fn calls(reception: &Reception, key: &str) -> Vec<String> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/program/clients/datadog.py");
    let mut client = Command::new(python());
    let ended = client.args([script, &reception.probe.address(), key]).output().await;
    let ended =
        ended.unwrap_or_else(|error| panic!("{}: {error}; run .ci/test once to install it", python().display()));
    let (said, complained) = (String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr));
    assert!(ended.status.success(), "{said}{complained}");
    said.lines().map(str::to_owned).collect()
}

#[tokio::test]
async fn datadogs_own_client_tries_its_key_and_sends_by_both_versions_and_every_encoding() {
    let reception = Reception::usual();
    let mut daemon = reception.started().await;
    let called = calls(&reception, KEY).await;
    assert_eq!(called, ["validate 200", "v2 None 202", "v2 gzip 202", "v2 deflate 202", "v1 200"]);
    daemon.prints(|text| text.lines().count() == 7).await;
    let refused = calls(&reception, "another-key-0123456789").await;
    assert_eq!(refused.len(), 5);
    assert!(refused.iter().all(|call| call.contains(" 403 ")), "{refused:?}");
    let printed = stop(daemon).await.stdout;
    let entries: Vec<Value> = printed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let numbers: Vec<_> = entries.iter().map(|entry| entry["n"].to_string().trim_matches('"').to_owned()).collect();
    assert_eq!(numbers, ["0", "1", "2", "3", "4", "5", "6"]);
    assert!(entries[..6].iter().all(|entry| entry["ddtags"] == "env:test" && entry["service"] == "s"), "{printed}");
}
