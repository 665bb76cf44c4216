//! A bucket as its owner sees it, with the objects that a pipeline archived in it.

use std::io::Read as _;

use aws_sdk_s3::Client;
use aws_sdk_s3::primitives::ByteStream;
use serde_json::Value;

use super::moto::Moto;

/// A bucket that no other test uses.
pub struct Bucket {
    client: Client,
    pub name: String,
}

/// An object, with the headers of its upload.
pub struct Stored {
    pub bytes: Vec<u8>,
    pub content_type: String,
    pub content_encoding: String,
}

impl Bucket {
    pub async fn of(moto: &Moto) -> Self {
        let config = aws_sdk_s3::config::Builder::from(&moto.anyone()).force_path_style(true).build();
        Self { client: Client::from_conf(config), name: moto.bucket().await }
    }

    /// The keys that begin with `beginning`, in order.
    pub async fn keys(&self, beginning: &str) -> Vec<String> {
        let mut pages = self.client.list_objects_v2().bucket(&self.name).prefix(beginning).into_paginator().send();
        let mut keys = Vec::new();
        while let Some(page) = pages.next().await {
            let objects = page.expect("a bucket").contents.unwrap_or_default();
            keys.extend(objects.into_iter().map(|object| object.key.expect("a key")));
        }
        keys
    }

    pub async fn get(&self, key: &str) -> Stored {
        let object = self.client.get_object().bucket(&self.name).key(key).send().await.expect("an object");
        let content_type = object.content_type.clone().unwrap_or_default();
        let content_encoding = object.content_encoding.clone().unwrap_or_default();
        let bytes = object.body.collect().await.expect("all of it").to_vec();
        Stored { bytes, content_type, content_encoding }
    }

    pub async fn put(&self, key: &str, bytes: Vec<u8>) {
        let put = self.client.put_object().bucket(&self.name).key(key).body(ByteStream::from(bytes));
        put.send().await.expect("it is written");
    }

    pub async fn delete(&self, key: &str) {
        self.client.delete_object().bucket(&self.name).key(key).send().await.expect("it is deleted");
    }

    /// Begins an upload in parts.
    pub async fn begin_upload(&self, key: &str) {
        let begun = self.client.create_multipart_upload().bucket(&self.name).key(key).send().await;
        begun.expect("it is begun");
    }

    /// The number of uploads that were begun and neither completed nor aborted.
    pub async fn open_uploads(&self) -> usize {
        let uploads = self.client.list_multipart_uploads().bucket(&self.name).send().await.expect("uploads");
        uploads.uploads.unwrap_or_default().len()
    }

    /// The keys of all manifests, in order.
    pub async fn manifest_keys(&self) -> Vec<String> {
        self.keys("").await.into_iter().filter(|key| key.contains("_manifests/")).collect()
    }

    /// All manifests, in order.
    pub async fn manifests(&self) -> Vec<Value> {
        self.manifests_in("").await
    }

    async fn manifests_in(&self, prefix: &str) -> Vec<Value> {
        let mut manifests = Vec::new();
        for key in self.manifest_keys().await.into_iter().filter(|key| key.starts_with(prefix)) {
            manifests.push(serde_json::from_slice(&self.get(&key).await.bytes).expect("a manifest is JSON"));
        }
        manifests
    }

    /// The keys of all objects of rows, in a manifest or not.
    pub async fn object_keys(&self) -> Vec<String> {
        let is_object = |key: &String| key.ends_with(".json.gz") || key.ends_with(".json.zst");
        self.keys("").await.into_iter().filter(is_object).collect()
    }

    /// The rows of an object.
    pub async fn rows(&self, key: &str) -> Vec<String> {
        let stored = self.get(key).await.bytes;
        let mut text = String::new();
        if key.ends_with(".json.zst") {
            text = String::from_utf8(zstd::stream::decode_all(&stored[..]).expect("zstd")).expect("text");
        } else {
            flate2::read::MultiGzDecoder::new(&stored[..]).read_to_string(&mut text).expect("gzip of text");
        }
        assert!(text.is_empty() || text.ends_with('\n'), "the last row of {key} is whole");
        text.lines().map(str::to_owned).collect()
    }

    /// The rows of every object that has a manifest, in the order of the manifests. `prefix` is the archive's.
    pub async fn archived(&self, prefix: &str) -> Vec<String> {
        let mut rows = Vec::new();
        for manifest in self.manifests_in(prefix).await {
            let object = manifest["object"].as_str().expect("a key");
            let key = if prefix.is_empty() { object.to_owned() } else { format!("{prefix}/{object}") };
            let found = self.rows(&key).await;
            assert_eq!(manifest["rows"], found.len(), "{key}");
            rows.extend(found);
        }
        rows
    }

    /// The rows of every object, in a manifest or not.
    pub async fn all_rows(&self) -> Vec<String> {
        let mut rows = Vec::new();
        for key in self.object_keys().await {
            rows.extend(self.rows(&key).await);
        }
        rows
    }
}
