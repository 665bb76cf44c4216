//! `auditsync health`: asks the daemon on this machine for its health. So a container image needs no other client.

use std::error::Error;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use url::Url;

use super::exit::Exit;
use super::{print, say};
use crate::component::Component;
use crate::failure::Chain;
use crate::http::{self, Address, Method, Redaction};
use crate::pipeline::HealthConfig;
use crate::pipeline::registry::Wanted;
use crate::telemetry::metrics::Metrics;

/// How long an answer may take. The daemon is on this machine.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Stands for the variable that sets the timeout: there is none.
const TIMEOUT_VARIABLE: &str = "no variable";

/// The most that is read of an answer, in bytes.
const LARGEST_ANSWER: usize = 64 * 1024;

/// Asks whether the daemon is alive or, with `ready`, whether it is ready, and prints its answer. `only` limits the question to one
/// pipeline.
pub(super) async fn health(config: HealthConfig, ready: bool, only: Option<&[Wanted]>) -> Exit {
    let path = if ready { "readyz" } else { "healthz" };
    let pipeline = only.and_then(<[_]>::first).map(|wanted| wanted.name.as_str());
    let answer = match ask(config.listen, path, pipeline).await {
        Ok(reply) => reply,
        Err(error) => {
            say(&format!(
                "auditsync: {}; is the daemon running, with the same {}?",
                Chain(error.as_ref()),
                config.variable
            ));
            return Exit::TryAgain;
        }
    };
    print(String::from_utf8_lossy(&answer.body).trim_end());
    if answer.status.is_success() { Exit::Done } else { Exit::TryAgain }
}

async fn ask(listen: SocketAddr, path: &str, pipeline: Option<&str>) -> Result<http::Reply, Box<dyn Error>> {
    // The client needs metrics, but this process has no recorder, so nothing is counted.
    let metrics = Metrics::of(&pipeline.unwrap_or_default().into());
    let settings = http::Settings { timeout: TIMEOUT, timeout_variable: TIMEOUT_VARIABLE.into() };
    let client = http::Client::new(settings, metrics);
    let mut url = Url::parse(&format!("http://{}/{path}", reachable(listen)))?;
    if let Some(pipeline) = pipeline {
        url.query_pairs_mut().append_pair("pipeline", pipeline);
    }
    let address = Address::of(&url);
    let request = client.request(Method::GET, url)?;
    Ok(client.exchange(Component::Source, request, &address, LARGEST_ANSWER, &Redaction::none()).await?)
}

/// The address at which this machine reaches the listener: loopback if it listens on every address.
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
