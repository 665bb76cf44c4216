//! Tests `auditsync verify`: it finds every change and every loss.

use crate::archive::{Archive, PREFIX};
use crate::terminal::shown_by;

/// An archive of four objects.
async fn of_four() -> Archive {
    let archive = Archive::usual().await;
    for round in 0..4 {
        archive.run_with(5, 250 - 50 * round, 210 - 50 * round).await;
    }
    archive.assert_proven().await;
    archive
}

/// Checks that `verify` ends with 65 and names the flaw.
async fn assert_found(archive: &Archive, named: &[&str]) {
    let ended = archive.stage.setup.run(&["verify", "--pipeline", "sectigo:s3"]).await;
    assert_eq!(ended.code(), Some(65), "{}", ended.everything());
    assert!(ended.stdout.starts_with("NOT PROVEN s3://"), "{}", ended.stdout);
    for name in named {
        assert!(ended.stdout.contains(name), "{name}: {}", ended.stdout);
    }
}

/// Checks that `verify` finds each change of `sound`.
async fn assert_all_found(archive: &Archive, key: &str, changes: impl IntoIterator<Item = usize>) {
    let sound = archive.bucket.get(key).await.bytes;
    for at in changes {
        let mut flipped = sound.clone();
        flipped[at] ^= 1;
        archive.bucket.put(key, flipped).await;
        assert_found(archive, &[]).await;
    }
    archive.bucket.put(key, sound).await;
}

#[tokio::test]
async fn a_single_bit_changed_in_an_object_is_found() {
    let archive = of_four().await;
    let mut random = fastrand::Rng::with_seed(1);
    let keys = archive.bucket.object_keys().await;
    assert_eq!(keys.len(), 4);
    for key in &keys {
        let size = archive.bucket.get(key).await.bytes.len();
        // Positions in gzip's header, which holds little, at its end, and somewhere between.
        let changes = [4, 9, size - 1, random.usize(..size), random.usize(..size)];
        assert_all_found(&archive, key, changes).await;
    }
    archive.assert_proven().await;
}

#[tokio::test]
async fn a_single_bit_changed_in_any_member_of_a_manifest_is_found() {
    const MEMBERS: [&str; 13] = [
        "version",
        "pipeline",
        "archive",
        "number",
        "object",
        "bytes",
        "sha256",
        "rows",
        "first_event",
        "last_event",
        "previous",
        "from",
        "to",
    ];
    let archive = of_four().await;
    let keys = archive.bucket.manifest_keys().await;
    for key in [&keys[0], &keys[1], &keys[3]] {
        let sound = String::from_utf8(archive.bucket.get(key).await.bytes).unwrap();
        let of_member = |name| {
            let member = format!("\"{name}\":");
            let name_at = sound.find(&member).unwrap();
            let value_at = name_at + member.len();
            // The first digit or letter of the value, so that the value mostly keeps its form.
            let within = sound[value_at..].find(|c: char| c.is_ascii_alphanumeric()).unwrap();
            [name_at + 1, value_at + within]
        };
        // The line end, too.
        let changes = MEMBERS.into_iter().flat_map(of_member).chain([sound.len() - 1]);
        assert_all_found(&archive, key, changes).await;
    }
    archive.assert_proven().await;
}

async fn assert_each_removal_is_found(archive: &Archive, keys: Vec<String>) {
    assert_eq!(keys.len(), 4);
    for key in keys {
        let sound = archive.bucket.get(&key).await.bytes;
        archive.bucket.delete(&key).await;
        assert_found(archive, &[&key, "is missing"]).await;
        archive.bucket.put(&key, sound).await;
    }
    archive.assert_proven().await;
}

#[tokio::test]
async fn an_object_that_is_removed_is_found() {
    let archive = of_four().await;
    let keys = archive.bucket.object_keys().await;
    assert_each_removal_is_found(&archive, keys).await;
}

#[tokio::test]
async fn a_manifest_that_is_removed_is_found() {
    let archive = of_four().await;
    let keys = archive.bucket.manifest_keys().await;
    assert_each_removal_is_found(&archive, keys).await;
}

#[tokio::test]
async fn the_end_of_an_archive_that_is_removed_whole_is_found() {
    let archive = of_four().await;
    let (objects, manifests) = (archive.bucket.object_keys().await, archive.bucket.manifest_keys().await);
    for key in [&objects[3], &manifests[3]] {
        archive.bucket.delete(key).await;
    }
    assert_found(&archive, &[&manifests[3], "is missing: the state names 4 manifests"]).await;
    for key in objects[..3].iter().chain(&manifests[..3]) {
        archive.bucket.delete(key).await;
    }
    assert_found(&archive, &[&manifests[0], "is missing"]).await;
}

#[tokio::test]
async fn without_a_state_the_last_manifest_is_unproven_and_all_else_is_proven() {
    let archive = of_four().await;
    let path = archive.stage.setup.folder().join("auditsync-sectigo-s3.json");
    let state = std::fs::read(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    assert_found(&archive, &["4 objects, 20 rows", "the last manifest is unproven: no state at"]).await;
    let manifests = archive.bucket.manifest_keys().await;
    let sound = archive.bucket.get(&manifests[1]).await.bytes;
    archive.bucket.delete(&manifests[1]).await;
    assert_found(&archive, &[&manifests[1], "is missing, and s3://"]).await;
    archive.bucket.put(&manifests[1], sound).await;
    std::fs::write(&path, state).unwrap();
    archive.assert_proven().await;
}

#[tokio::test]
async fn a_manifest_behind_the_one_in_the_state_is_unproven_until_it_is_adopted() {
    let archive = of_four().await;
    let path = archive.stage.setup.folder().join("auditsync-sectigo-s3.json");
    let before = std::fs::read(&path).unwrap();
    archive.run_with(5, 40, 2).await;
    std::fs::write(&path, before).unwrap();
    assert_found(&archive, &["5 objects, 25 rows", "the state does not name it yet"]).await;
    archive.stage.run_to(0).await;
    archive.assert_proven().await;
    archive.assert_all_once().await;
}

#[tokio::test]
async fn keys_of_others_under_the_prefix_do_not_count() {
    let archive = of_four().await;
    let folder = format!("{PREFIX}/_manifests/auditsync-sectigo-s3");
    for key in
        [format!("{PREFIX}/auditsync-sectigo-s3.json"), format!("{folder}/notes.txt"), format!("{folder}/~.json")]
    {
        archive.bucket.put(&key, b"{}".to_vec()).await;
    }
    archive.assert_proven().await;
    archive.stage.run_to(0).await;
    archive.assert_proven().await;
}

#[tokio::test]
async fn an_empty_archive_and_a_store_that_cannot_be_read_have_codes_of_their_own() {
    let archive = Archive::usual().await;
    let ended = archive.stage.setup.run(&["verify"]).await;
    assert_eq!(ended.code(), Some(65), "without a state nothing is proven: {}", ended.everything());
    archive.stage.run_to(0).await;
    archive.assert_proven().await;
    let down = archive.with("AWS_ENDPOINT_URL", "http://127.0.0.1:1");
    let ended = down.stage.setup.run(&["verify"]).await;
    assert_eq!(ended.code(), Some(74), "{}", ended.everything());
    let elsewhere = down.with("ARCHIVE_S3_BUCKET", "a/b");
    let ended = elsewhere.stage.setup.run(&["verify"]).await;
    assert_eq!(ended.code(), Some(78), "{}", ended.everything());
    let other = elsewhere.with("AUDITSYNC_PIPELINES", "sectigo:stdout");
    let ended = other.stage.setup.run(&["verify"]).await;
    assert_eq!(ended.code(), Some(64), "{}", ended.everything());
}

#[tokio::test]
async fn a_terminal_shows_how_far_it_is() {
    let archive = of_four().await.with("TERM", "xterm");
    let shown = shown_by(&archive.stage.setup, &["verify"]).await;
    assert!(shown.contains("/4 objects"), "{shown:?}");
}
