//! Measures the receiver: senders on loopback push entries, which go to standard output.
//!
//! The senders share the processors with the program. An entry counts once its request was answered with 202, which means
//! that it is on the disk. The program must print as many entries as it accepted.

use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use wait4::Wait4 as _;

use crate::support::Port;
use crate::{Failure, meter};

const SENDERS: usize = 100;
const ENTRY_SIZE: usize = 500;
const KEY: &str = "throughput-0123456789";
/// The patience for the program's start, and for the delivery of what the senders pushed.
const PATIENCE: Duration = Duration::from_secs(120);

/// Prints a table for requests of these sizes, each measured for so long.
pub async fn measure(binary: &Path, folder: &Path, seconds: u64) -> Result<(), Failure> {
    println!("The disk makes {:.0} appends of 50 kB durable each second.", appends(&folder.join("appends"))?);
    println!("{SENDERS} connections push entries of {ENTRY_SIZE} bytes over plain HTTP:\n");
    println!("| entries a request | entries a second | entries per CPU-second | median answer | 99 % | peak memory |");
    println!("|---|---|---|---|---|---|");
    for entries in [1, 10, 100, 500] {
        let receiver = Receiver::start(binary, &tempfile::tempdir_in(folder)?.keep()).await?;
        let (accepted, mut answers) = receiver.load(entries, Duration::from_secs(seconds)).await?;
        let (cpu_seconds, peak_mib) = receiver.deliver(accepted).await?;
        answers.sort_unstable();
        let at = |percent: usize| answers[(answers.len() - 1) * percent / 100].as_millis();
        println!(
            "| {entries} | {:.0} | {:.0} | {} ms | {} ms | {peak_mib:.0} MiB |",
            accepted as f64 / seconds as f64,
            accepted as f64 / cpu_seconds,
            at(50),
            at(99)
        );
    }
    Ok(())
}

/// Returns how many appends of 50 kB the disk makes durable in a second.
fn appends(file: &Path) -> Result<f64, Failure> {
    const PERIOD: Duration = Duration::from_secs(3);
    let (mut file, block) = (std::fs::File::create(file)?, vec![b'x'; 50_000]);
    let (start, mut count) = (Instant::now(), 0_u32);
    while start.elapsed() < PERIOD {
        file.write_all(&block)?;
        file.sync_data()?;
        count += 1;
    }
    Ok(f64::from(count) / start.elapsed().as_secs_f64())
}

/// Returns a request's body.
fn body(entries: usize) -> String {
    let entry = |n: usize| {
        let start = format!(
            "{{\"ddsource\":\"throughput\",\"service\":\"test\",\"hostname\":\"host\",\"n\":\"{n:06}\",\"message\":\""
        );
        format!("{start}{}\"}}", "x".repeat(ENTRY_SIZE - start.len() - 2))
    };
    format!("[{}]", (0..entries).map(entry).collect::<Vec<_>>().join(","))
}

/// The program as a receiver. It ends when this is dropped.
struct Receiver {
    /// The process, until it was waited for.
    child: Option<Child>,
    url: String,
    /// The lines that the program has printed.
    printed: Arc<AtomicUsize>,
    reader: Option<JoinHandle<std::io::Result<()>>>,
    _port: Port,
}

impl Receiver {
    async fn start(binary: &Path, folder: &Path) -> Result<Self, Failure> {
        let port = Port::free();
        let address = format!("127.0.0.1:{}", port.number());
        let mut child = Command::new(binary)
            .env_clear()
            .current_dir(folder)
            .envs([
                ("AUDITSYNC_PIPELINES", "receiver:stdout"),
                ("AUDITSYNC_LOG_LEVEL", "warn"),
                ("RECEIVER_AUDIT_LISTEN", &address),
                ("RECEIVER_AUDIT_API_KEYS", KEY),
                // The senders are faster than the program's output.
                ("RECEIVER_AUDIT_SPOOL_SIZE", "4GiB"),
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut output = child.stdout.take().ok_or("the program has no standard output")?;
        let printed = Arc::new(AtomicUsize::new(0));
        let lines = Arc::clone(&printed);
        let reader = std::thread::spawn(move || {
            let mut buffer = vec![0; 1 << 16];
            loop {
                match output.read(&mut buffer)? {
                    0 => return Ok(()),
                    read => lines.fetch_add(memchr::memchr_iter(b'\n', &buffer[..read]).count(), Ordering::Relaxed),
                };
            }
        });
        let receiver =
            Self { child: Some(child), url: format!("http://{address}"), printed, reader: Some(reader), _port: port };
        let (http, start) = (client()?, Instant::now());
        let validate = format!("{}/api/v1/validate", receiver.url);
        while http.get(&validate).header("DD-API-KEY", KEY).send().await.is_err() {
            if start.elapsed() > PATIENCE {
                return Err("the receiver does not open its port".into());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(receiver)
    }

    /// Pushes for so long, and returns the number of accepted entries and the time of each answer.
    async fn load(&self, entries: usize, period: Duration) -> Result<(usize, Vec<Duration>), Failure> {
        let (http, body) = (client()?, bytes::Bytes::from(body(entries)));
        let start = Instant::now();
        let senders: Vec<_> = (0..SENDERS)
            .map(|_| {
                let (http, body, url) = (http.clone(), body.clone(), format!("{}/api/v2/logs", self.url));
                tokio::spawn(async move {
                    let mut answers = Vec::new();
                    while start.elapsed() < period {
                        let sent = Instant::now();
                        let request =
                            http.post(&url).header("DD-API-KEY", KEY).header("Content-Type", "application/json");
                        let answer = request.body(body.clone()).send().await?;
                        if answer.status() != 202 {
                            return Err(format!("the receiver answered {}", answer.status()).into());
                        }
                        answers.push(sent.elapsed());
                    }
                    Ok::<_, Failure>(answers)
                })
            })
            .collect();
        let mut answers = Vec::new();
        for sender in senders {
            answers.extend(sender.await??);
        }
        Ok((answers.len() * entries, answers))
    }

    /// Waits until so many entries came out, and returns the program's CPU seconds and its peak memory in MiB.
    async fn deliver(mut self, accepted: usize) -> Result<(f64, f64), Failure> {
        let start = Instant::now();
        while self.printed.load(Ordering::Relaxed) < accepted {
            if start.elapsed() > PATIENCE {
                return Err(
                    format!("{accepted} entries accepted, {} delivered", self.printed.load(Ordering::Relaxed)).into()
                );
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let mut child = self.child.take().ok_or("the program has ended")?;
        let peak_kib = meter::read_peak_kib(child.id()).ok_or("the kernel shows no peak of memory under /proc");
        child.kill()?;
        let ended = child.wait4()?;
        if let Some(reader) = self.reader.take() {
            reader.join().map_err(|_| "the reader panicked")??;
        }
        let printed = self.printed.load(Ordering::Relaxed);
        if printed != accepted {
            return Err(format!("{accepted} entries accepted, {printed} delivered").into());
        }
        Ok(((ended.rusage.utime + ended.rusage.stime).as_secs_f64(), peak_kib? / 1024.0))
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn client() -> Result<reqwest::Client, Failure> {
    Ok(reqwest::Client::builder().no_proxy().timeout(PATIENCE).build()?)
}
