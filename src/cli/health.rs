//! `auditsync health`: asks the daemon beside it how it is, so that an image needs no other client.

use std::error::Error;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use url::Url;

use super::exit::Exit;
use super::{print, say};
use crate::failure::Chain;
use crate::http::{self, Method, Place, Redaction};
use crate::pipeline::HealthConfig;

/// What answers is on this machine.
const TIMEOUT: Duration = Duration::from_secs(5);

/// As much of an answer as is worth reading.
const LARGEST_ANSWER: usize = 64 * 1024;

/// Asks whether the daemon is alive or, with `ready`, whether it does its part, and prints what it says.
pub(super) async fn health(config: HealthConfig, ready: bool) -> Exit {
    let path = if ready { "readyz" } else { "healthz" };
    let asked = match ask(config.listen, path).await {
        Ok(reply) => reply,
        Err(error) => {
            say(&format!(
                "auditsync: {}; is the daemon running, with the same {}?",
                Chain(error.as_ref()),
                config.name
            ));
            return Exit::TryAgain;
        }
    };
    print(String::from_utf8_lossy(&asked.body).trim_end());
    if asked.status.is_success() { Exit::Done } else { Exit::TryAgain }
}

async fn ask(listen: SocketAddr, path: &str) -> Result<http::Reply, Box<dyn Error>> {
    // It is counted nowhere: this process has no recorder.
    let client = http::Client::new(http::Settings { timeout: TIMEOUT });
    let url = Url::parse(&format!("http://{}/{path}", reachable(listen)))?;
    let place = Place::of(&url);
    let request = client.request(Method::GET, url)?;
    Ok(http::exchange(http::Server::Source, request, &place, LARGEST_ANSWER, &Redaction::none()).await?)
}

/// Where the listener is reached from this machine: who listens everywhere is asked at loopback.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_listens_everywhere_is_asked_at_loopback() {
        for (listen, asked) in [
            ("0.0.0.0:9090", "127.0.0.1:9090"),
            ("[::]:9090", "[::1]:9090"),
            ("127.0.0.2:9090", "127.0.0.2:9090"),
            ("[fd00::1]:80", "[fd00::1]:80"),
        ] {
            assert_eq!(reachable(listen.parse().unwrap()), asked.parse().unwrap());
        }
    }
}
