//! Measures a process: time, CPU time and peak memory.

use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use wait4::Wait4 as _;

use crate::Failure;

/// How often the peak is read. Only a new peak in the last moment before the end can be missed.
const INTERVAL: Duration = Duration::from_millis(2);

/// The usage of one process, from its start to its end.
pub struct Usage {
    pub seconds: f64,
    pub cpu_seconds: f64,
    pub peak_mib: f64,
}

/// Runs a command, which must succeed.
pub async fn run(command: Command) -> Result<Usage, Failure> {
    tokio::task::spawn_blocking(move || metered(command)).await?
}

fn metered(mut command: Command) -> Result<Usage, Failure> {
    let program = command.get_program().display().to_string();
    let start = Instant::now();
    let child =
        command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().map_err(|error| format!("{program}: {error}"))?;
    // `wait4` also reports a peak, but the kernel includes this process's own memory in it.
    let mut peak_kib = None;
    while let Some(kib) = read_peak_kib(child.id()) {
        peak_kib = Some(kib);
        thread::sleep(INTERVAL);
    }
    let ended = child.wait4()?;
    if !ended.status.success() {
        return Err(format!("{program}: {}", ended.status).into());
    }
    Ok(Usage {
        seconds: start.elapsed().as_secs_f64(),
        cpu_seconds: (ended.rusage.utime + ended.rusage.stime).as_secs_f64(),
        peak_mib: peak_kib.ok_or("the kernel shows no peak of memory under /proc")? / 1024.0,
    })
}

/// Returns the peak of a process so far, or nothing once it has ended.
pub fn read_peak_kib(process: u32) -> Option<f64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    peak.trim().strip_suffix(" kB")?.parse().ok()
}
