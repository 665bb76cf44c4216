//! The floor: the cost of fetching, compressing and posting alone.
//!
//! Like the program, it fetches the next page while it sends the one before. It makes no entries, but posts one page of the program's
//! entries again and again.

use std::io::Write as _;
use std::path::PathBuf;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use reqwest::{Client, Response, Url};
use serde::Deserialize;

use crate::Failure;
use crate::support::{IntakeOptions, ScmOptions};

pub const RECORDS: &str = "/api/v1/records";

#[derive(clap::Args)]
pub struct Arguments {
    token_url: Url,
    records: Url,
    logs: Url,
    from: String,
    to: String,
    /// The file with the body to post for each page.
    entries: PathBuf,
}

/// Fetches all pages, and posts the entries once for each page with records.
pub async fn drain(arguments: Arguments) -> Result<(), Failure> {
    let http = Client::builder().user_agent("floor").build()?;
    let floor = Floor {
        access_token: access_token(&http, arguments.token_url).await?,
        http,
        records: arguments.records,
        logs: arguments.logs,
        to: arguments.to,
        entries: std::fs::read(arguments.entries)?.into(),
    };
    let mut token = floor.fetch("from", &arguments.from).await?;
    while let Some(next) = token {
        (token, ()) = tokio::try_join!(floor.fetch("token", &next), floor.post())?;
    }
    Ok(())
}

async fn access_token(http: &Client, token_url: Url) -> Result<String, Failure> {
    #[derive(Deserialize)]
    struct Granted {
        access_token: String,
    }
    let ScmOptions { client_id, client_secret, .. } = ScmOptions::default();
    let form = [("grant_type", "client_credentials"), ("client_id", &client_id), ("client_secret", &client_secret)];
    let granted = http.post(token_url).form(&form).send().await.and_then(Response::error_for_status)?.bytes().await?;
    Ok(serde_json::from_slice::<Granted>(&granted)?.access_token)
}

struct Floor {
    http: Client,
    access_token: String,
    records: Url,
    logs: Url,
    to: String,
    entries: Bytes,
}

impl Floor {
    /// Fetches a page and drops it. Returns the token of the next page; the empty page at the end has none.
    async fn fetch(&self, parameter: &str, value: &str) -> Result<Option<String>, Failure> {
        let url = Url::parse_with_params(self.records.as_str(), [(parameter, value), ("to", &self.to)])?;
        let page = self.http.get(url).bearer_auth(&self.access_token).send().await?.error_for_status()?;
        let token = page.headers().get("token").map(|token| token.to_str().map(str::to_owned)).transpose()?;
        page.bytes().await?;
        Ok(token)
    }

    /// Compresses and posts the entries, at the program's own level of compression.
    async fn post(&self) -> Result<(), Failure> {
        let entries = self.entries.clone();
        let compress = move || {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
            encoder.write_all(&entries)?;
            encoder.finish()
        };
        let compressed = tokio::task::spawn_blocking(compress).await??;
        let request = self
            .http
            .post(self.logs.clone())
            .header("dd-api-key", IntakeOptions::default().api_key)
            .header("content-type", "application/json")
            .header("content-encoding", "gzip");
        request.body(compressed).send().await?.error_for_status()?;
        Ok(())
    }
}
