//! Runs the real binary as a child process, with an environment of its own.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::support::{FakeIntake, FakeScm, IntakeOptions, PATIENCE, ScmOptions, until};

/// How to start `auditsync`: its variables, and a folder that is its current folder and holds its state.
#[derive(Debug)]
pub struct Setup {
    pub folder: TempDir,
    variables: BTreeMap<String, String>,
}

impl Setup {
    /// A one-shot run between these two fakes, with short waits, no delay, and the default overlap and window.
    pub fn between(scm: &FakeScm, intake: &FakeIntake) -> Self {
        Self::reading(scm).with_datadog(intake)
    }

    /// The same without the intake.
    pub fn reading(scm: &FakeScm) -> Self {
        let client = ScmOptions::default();
        Self::bare()
            .with("SECTIGO_AUDIT_API_URL", scm.url())
            .with("SECTIGO_AUDIT_API_CLIENT_ID", client.client_id)
            .with("SECTIGO_AUDIT_API_CLIENT_SECRET", client.client_secret)
            .with("SECTIGO_AUDIT_SYNC_LOOP", "false")
            .with("SECTIGO_AUDIT_SYNC_DELAY", "0s")
            .with("SECTIGO_AUDIT_SYNC_INTERVAL", "5s")
            .with("SECTIGO_AUDIT_RETRY_BUDGET", "30s")
            // A sync that delivers nothing logs at this level alone.
            .with("SECTIGO_AUDIT_LOG_LEVEL", "debug")
    }

    /// A setup without any variable.
    pub fn bare() -> Self {
        Self { folder: TempDir::new().expect("a temporary folder"), variables: BTreeMap::new() }
    }

    /// Sets a variable.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.variables.insert(name.into(), value.into());
        self
    }

    /// Delivers to this intake.
    #[must_use]
    pub fn with_datadog(self, intake: &FakeIntake) -> Self {
        self.with("DD_LOGS_CONFIG_LOGS_DD_URL", intake.url())
            .with("DD_API_KEY", IntakeOptions::default().api_key)
            .with("DD_HOSTNAME", "test-host")
    }

    /// Sets a region and keys that a fake of AWS accepts, and turns the metadata service off.
    #[must_use]
    pub fn with_aws_keys(self) -> Self {
        self.with("AWS_REGION", "us-east-1")
            .with("AWS_ACCESS_KEY_ID", "AKIAANYONE")
            .with("AWS_SECRET_ACCESS_KEY", "secret")
            .with("AWS_EC2_METADATA_DISABLED", "true")
    }

    /// Removes a variable.
    #[must_use]
    pub fn without(mut self, name: &str) -> Self {
        self.variables.remove(name);
        self
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The state document, parsed.
    pub fn state(&self) -> Option<serde_json::Value> {
        let bytes = std::fs::read(self.folder().join("auditsync-sectigo-datadog.json")).ok()?;
        Some(serde_json::from_slice(&bytes).expect("the state document is JSON"))
    }

    /// Waits until the stored cursor is behind this many pages of a range.
    pub async fn has_stored_pages(&self, pages: usize) {
        let is_behind = |state: serde_json::Value| state["cursor"]["pages"] == pages;
        until("the pages to be stored", || self.state().is_some_and(is_behind)).await;
    }

    /// The lines of the dead-letter file.
    pub fn dead_letters(&self) -> Vec<serde_json::Value> {
        let text = std::fs::read_to_string(self.folder().join("auditsync-sectigo-datadog.dead-letters.ndjson"))
            .unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).expect("a line is JSON")).collect()
    }

    /// Starts the binary.
    pub fn start(&self, arguments: &[&str]) -> Daemon {
        self.start_with(&[], arguments)
    }

    /// Starts the binary, with further variables.
    pub fn start_with(&self, more: &[(&str, &str)], arguments: &[&str]) -> Daemon {
        let mut command = self.command(arguments);
        command.envs(more.iter().copied());
        Self::spawn(command)
    }

    /// Starts the binary, with further variables and without one.
    pub fn start_without(&self, name: &str, more: &[(&str, &str)]) -> Daemon {
        let mut command = self.command(&[]);
        command.envs(more.iter().copied()).env_remove(name);
        Self::spawn(command)
    }

    /// Starts the binary with a limit on the size of files, in blocks of 512 bytes. That acts like a full disk, for
    /// root as well.
    pub fn start_with_files_limited(&self, blocks: usize) -> Daemon {
        let mut command = Command::new("sh");
        // A write past the limit then fails with EFBIG instead of ending the process.
        command.args(["-c", &format!("trap '' XFSZ; ulimit -f {blocks}; exec {}", env!("CARGO_BIN_EXE_auditsync"))]);
        self.prepare(&mut command);
        Self::spawn(command)
    }

    fn spawn(mut command: Command) -> Daemon {
        let mut child = command.spawn().expect("the binary starts");
        let (said, hears) = watch::channel(());
        let (stdout, stderr) = (Arc::default(), Arc::default());
        let readers = [
            listen(child.stdout.take().expect("piped"), &stdout, &said),
            listen(child.stderr.take().expect("piped"), &stderr, &said),
        ];
        Daemon { child, stdout, stderr, hears, readers }
    }

    /// The command that starts the binary, for a test that redirects its outputs.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_auditsync"));
        command.args(arguments);
        self.prepare(&mut command);
        command
    }

    fn prepare(&self, command: &mut Command) {
        command
            .env_clear()
            .envs(&self.variables)
            .current_dir(self.folder())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
    }

    /// Runs the binary to its end.
    pub async fn run(&self, arguments: &[&str]) -> Ended {
        self.start(arguments).ended().await
    }

    /// Runs it once, and expects this exit code.
    pub async fn run_to(&self, code: i32) -> Ended {
        let ended = self.run(&["run", "--once"]).await;
        assert_eq!(ended.code(), Some(code), "{}", ended.stderr);
        ended
    }
}

/// A running `auditsync`; killed when dropped.
pub struct Daemon {
    child: Child,
    stdout: Arc<Mutex<String>>,
    stderr: Arc<Mutex<String>>,
    hears: watch::Receiver<()>,
    readers: [JoinHandle<()>; 2],
}

/// The end of a process, and its outputs.
#[derive(Debug)]
pub struct Ended {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Ended {
    /// The exit code; a death by a signal has none.
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// Both outputs, to search for text that must not be there.
    pub fn everything(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }
}

impl Daemon {
    pub fn id(&self) -> u32 {
        self.child.id().expect("it has not been waited for")
    }

    /// Sends a signal at once, by its name without `SIG`.
    #[allow(clippy::unused_async, reason = "every caller awaits it")]
    pub async fn signal(&self, name: &str) {
        let signal = match name {
            "CONT" => Signal::CONT,
            "HUP" => Signal::HUP,
            "INT" => Signal::INT,
            "KILL" => Signal::KILL,
            "STOP" => Signal::STOP,
            "TERM" => Signal::TERM,
            _ => panic!("{name} is not a signal of these tests"),
        };
        let process = Pid::from_raw(self.id().try_into().expect("a process id")).expect("a process id");
        kill_process(process, signal).expect("it runs");
    }

    /// Its standard error so far.
    pub fn stderr(&self) -> String {
        self.stderr.lock().expect("no reader panics").clone()
    }

    /// Waits until its standard output is as `wanted`.
    pub async fn prints(&mut self, wanted: impl Fn(&str) -> bool) {
        let heard = async {
            while !wanted(&self.stdout.lock().expect("no reader panics")) {
                if self.hears.changed().await.is_err() {
                    break;
                }
            }
        };
        let in_time = tokio::time::timeout(PATIENCE, heard).await.is_ok();
        let printed = self.stdout.lock().expect("no reader panics").clone();
        assert!(in_time && wanted(&printed), "it never printed that, but:\n{printed}\nand logged:\n{}", self.stderr());
    }

    /// Waits until its standard error holds `text`.
    pub async fn says(&mut self, text: &str) {
        self.says_so_often(text, 1).await;
    }

    /// Waits until its standard error holds `text` this many times since its start.
    pub async fn says_so_often(&mut self, text: &str, times: usize) {
        let heard = async {
            while self.stderr.lock().expect("no reader panics").matches(text).count() < times {
                if self.hears.changed().await.is_err() {
                    break;
                }
            }
        };
        let in_time = tokio::time::timeout(PATIENCE, heard).await.is_ok();
        let said = self.stderr();
        let is_said = said.matches(text).count() >= times;
        assert!(in_time && is_said, "it never said {text:?} {times} times, but:\n{said}");
    }

    /// Waits for its end.
    pub async fn ended(mut self) -> Ended {
        let status = tokio::time::timeout(PATIENCE, self.child.wait()).await;
        let Ok(status) = status else { panic!("it does not end; it said:\n{}", self.stderr()) };
        for reader in self.readers {
            reader.await.expect("no reader panics");
        }
        let taken = |text: &Mutex<String>| text.lock().expect("no reader panics").clone();
        Ended {
            status: status.expect("it can be waited for"),
            stdout: taken(&self.stdout),
            stderr: taken(&self.stderr),
        }
    }
}

fn listen(
    pipe: impl AsyncRead + Unpin + Send + 'static,
    heard: &Arc<Mutex<String>>,
    said: &watch::Sender<()>,
) -> JoinHandle<()> {
    let (heard, said) = (Arc::clone(heard), said.clone());
    tokio::spawn(async move {
        let mut lines = BufReader::new(pipe).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            let mut heard = heard.lock().expect("no reader panics");
            heard.push_str(&line);
            heard.push('\n');
            drop(heard);
            let _ = said.send(());
        }
    })
}
