//! The real moto server (<https://docs.getmoto.org>), an S3 and an IAM that keep everything in memory.

use std::env;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;

use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_s3::config::{Credentials, SharedCredentialsProvider};

use super::within::PATIENCE;

/// Ends the server with this process: its parent waits for the end of a pipe that this process holds. The system closes
/// the pipe when this process ends, however it ends. A `Drop` would not do, because a static is never dropped.
const WATCHED: &str = r#""$0" -H 127.0.0.1 -p 0 & server=$!; exec 2>&-; trap 'kill "$server"' EXIT; read -r _"#;

/// A server that the tests of one binary share.
pub struct Moto {
    url: String,
    buckets: AtomicUsize,
    watch: Child,
}

/// A user's keys.
pub struct Keys {
    pub id: String,
    pub secret: String,
}

impl Moto {
    /// # Panics
    /// Without moto.
    pub fn start() -> Self {
        let program = program();
        let mut watch = Command::new("sh");
        watch.args(["-c", WATCHED]).arg(&program);
        watch.env("PYTHONPATH", concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/moto"));
        watch.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut watch = watch.spawn().expect("a shell");
        let said = BufReader::new(watch.stderr.take().expect("a pipe"));
        let (found, url) = mpsc::channel();
        // It reads to the end, so that the server never blocks on its output.
        thread::spawn(move || {
            for line in said.lines().map_while(Result::ok) {
                let at = line.split_once("Running on ").map(|(_, url)| url.trim().to_owned());
                let _ = found.send(at.ok_or(line));
            }
        });
        let mut before = Vec::new();
        loop {
            match url.recv_timeout(PATIENCE) {
                Ok(Ok(url)) => return Self { url, buckets: AtomicUsize::new(0), watch },
                Ok(Err(line)) => before.push(line),
                Err(RecvTimeoutError::Disconnected) => {
                    panic!("{} did not start; {INSTALL}\n{}", program.display(), before.join("\n"))
                }
                Err(RecvTimeoutError::Timeout) => panic!("{} did not say its port in {PATIENCE:?}", program.display()),
            }
        }
    }

    /// The configuration that AWS tools would read from variables with `keys`.
    pub fn config(&self, keys: &Keys) -> SdkConfig {
        config(&self.url, Credentials::new(&keys.id, &keys.secret, None, None, "tests"))
    }

    /// The configuration for a server that does not check its callers.
    pub fn anyone(&self) -> SdkConfig {
        self.config(&Keys { id: "AKIAANYONE".to_owned(), secret: "secret".to_owned() })
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    /// Suspends its process: it accepts connections and does not answer.
    pub fn pause(&self) {
        self.signal("-STOP");
    }

    /// Lets it continue.
    pub fn resume(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        let watch = self.watch.id();
        let servers = std::fs::read_to_string(format!("/proc/{watch}/task/{watch}/children")).expect("its server");
        let sent = Command::new("kill").arg(signal).args(servers.split_whitespace()).status();
        assert!(sent.expect("kill").success());
    }

    /// The address on which it listens.
    pub fn address(&self) -> SocketAddr {
        self.url.trim_start_matches("http://").parse().expect("an address")
    }

    /// [`Self::anyone`] through another address.
    pub fn anyone_at(address: SocketAddr) -> SdkConfig {
        config(&format!("http://{address}"), Credentials::new("AKIAANYONE", "secret", None, None, "tests"))
    }

    /// Creates an empty bucket that no other test uses.
    pub async fn bucket(&self) -> String {
        let name = format!("bucket-{}", self.buckets.fetch_add(1, Ordering::Relaxed));
        let client = aws_sdk_s3::Client::from_conf(
            aws_sdk_s3::config::Builder::from(&self.anyone()).force_path_style(true).build(),
        );
        client.create_bucket().bucket(&name).send().await.expect("a bucket");
        name
    }

    /// Creates a user with a policy; only while the server does not check its callers.
    pub async fn user(&self, name: &str, policy: &str) -> Keys {
        self.iam(&[("Action", "CreateUser"), ("UserName", name)]).await;
        let document =
            [("Action", "PutUserPolicy"), ("UserName", name), ("PolicyName", "p"), ("PolicyDocument", policy)];
        self.iam(&document).await;
        let made = self.iam(&[("Action", "CreateAccessKey"), ("UserName", name)]).await;
        let of = |tag: &str| {
            let (_, rest) = made.split_once(&format!("<{tag}>")).expect("a key");
            rest.split_once('<').expect("the end of a key").0.to_owned()
        };
        Keys { id: of("AccessKeyId"), secret: of("SecretAccessKey") }
    }

    /// Makes the server check signatures and policies.
    pub async fn check_everyone(&self) {
        let url = format!("{}/moto-api/reset-auth", self.url);
        let answer = reqwest::Client::new().post(url).body("0").send().await.expect("moto");
        assert!(answer.status().is_success(), "{answer:?}");
    }

    async fn iam(&self, parameters: &[(&str, &str)]) -> String {
        // The server distinguishes its services by the signature's scope.
        let scope =
            "AWS4-HMAC-SHA256 Credential=any/20260101/us-east-1/iam/aws4_request, SignedHeaders=host, Signature=none";
        let form = [("Version", "2010-05-08")].iter().chain(parameters).collect::<Vec<_>>();
        let call = reqwest::Client::new().post(&self.url).header("Authorization", scope).form(&form);
        let answer = call.send().await.expect("moto");
        let (status, body) = (answer.status(), answer.text().await.expect("an answer"));
        assert!(status.is_success(), "{body}");
        body
    }
}

/// The configuration for a server at `url`.
pub(super) fn config(url: &str, credentials: Credentials) -> SdkConfig {
    SdkConfig::builder()
        .behavior_version(BehaviorVersion::v2026_01_12())
        .region(Region::new("us-east-1"))
        .endpoint_url(url)
        .credentials_provider(SharedCredentialsProvider::new(credentials))
        .build()
}

const INSTALL: &str = "install it with `python3 -m venv target/servers/moto && target/servers/moto/bin/pip install 'moto[s3,server]==5.2.5'`, \
                       or name it in AUDITSYNC_MOTO_SERVER";

/// The program that the variable names, else the one installed for the tests, else the system's.
fn program() -> PathBuf {
    if let Some(named) = env::var_os("AUDITSYNC_MOTO_SERVER") {
        let named = PathBuf::from(named);
        assert!(named.is_file(), "AUDITSYNC_MOTO_SERVER: there is no {}", named.display());
        return named;
    }
    let ours = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/target/servers/moto/bin/moto_server"));
    let path = env::var_os("PATH").unwrap_or_default();
    let candidates = [ours].into_iter().chain(env::split_paths(&path).map(|folder| folder.join("moto_server")));
    candidates
        .into_iter()
        .find(|program| program.is_file())
        .unwrap_or_else(|| panic!("there is no moto_server; {INSTALL}"))
}
