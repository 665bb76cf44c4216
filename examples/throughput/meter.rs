//! What a process used: CPU time and the most memory it ever held.
//!
//! The kernel counts the memory of whoever starts a process as that process's own until it runs its own code. So each is
//! started by a small process made for that alone: this very example in its mode `meter`, which tells the figures as JSON.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use wait4::Wait4 as _;

use crate::Failure;

/// Starts a program and tells what it used.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Asks the program to stop after so many seconds.
    #[arg(long)]
    stop_after: Option<f64>,
    /// Kills the program after so many seconds.
    #[arg(long)]
    kill_after: f64,
    /// The program and its arguments.
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

/// What a process used.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Usage {
    /// Seconds since 1970 when it was started.
    pub started: f64,
    /// Seconds of CPU time, its own and the kernel's for it.
    pub user: f64,
    pub system: f64,
    /// Bytes of memory at the peak.
    pub peak: u64,
}

impl Usage {
    pub fn cpu(&self) -> f64 {
        self.user + self.system
    }
}

/// Seconds since 1970.
pub fn seconds(time: SystemTime) -> f64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// The mode `meter`.
pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    let started = seconds(SystemTime::now());
    let (program, rest) = arguments.command.split_first().ok_or("no program")?;
    let child = Command::new(program).args(rest).stdin(Stdio::null()).stdout(Stdio::null()).spawn()?;
    let pid = child.id();
    let signals = [(arguments.stop_after, "-TERM"), (Some(arguments.kill_after), "-KILL")];
    for (after, signal) in signals.into_iter().filter_map(|(after, signal)| Some((after?, signal))) {
        // Ends with this process, which ends with the program.
        thread::spawn(move || {
            thread::sleep(Duration::from_secs_f64(after));
            Command::new("/bin/kill").args([signal, &pid.to_string()]).status()
        });
    }
    let ended = child.wait4()?;
    if !ended.status.success() {
        return Err(format!("{}: {}", Path::new(program).display(), ended.status).into());
    }
    let of = ended.rusage;
    let usage = Usage { started, user: of.utime.as_secs_f64(), system: of.stime.as_secs_f64(), peak: of.maxrss };
    println!("{}", serde_json::to_string(&usage)?);
    Ok(())
}

/// A program to be measured.
pub struct Metered {
    pub program: PathBuf,
    pub arguments: Vec<OsString>,
    /// All its variables.
    pub variables: Vec<(&'static str, String)>,
    pub folder: PathBuf,
    pub stop_after: Option<Duration>,
    /// Nothing that is measured here takes longer.
    pub kill_after: Duration,
}

impl Metered {
    /// Runs it to its end, which must be a good one.
    pub async fn run(self) -> Result<Usage, Failure> {
        let mut meter = tokio::process::Command::new(std::env::current_exe()?);
        meter.arg("meter").arg(format!("--kill-after={}", self.kill_after.as_secs_f64()));
        if let Some(after) = self.stop_after {
            meter.arg(format!("--stop-after={}", after.as_secs_f64()));
        }
        meter.arg("--").arg(&self.program).args(&self.arguments);
        meter.env_clear().envs(self.variables).current_dir(self.folder);
        let ended = meter.stdin(Stdio::null()).output().await?;
        if ended.status.success() {
            return Ok(serde_json::from_slice(&ended.stdout)?);
        }
        Err(String::from_utf8_lossy(&ended.stderr).trim_end().to_owned().into())
    }
}
