//! `auditsync check` for a receiver. It does not disturb a daemon with the same variables.

use std::io::ErrorKind;

use tokio::net::TcpListener;

use super::error::Error;
use super::spool;
use super::variables::{CLIENT_CA, Settings};
use crate::component::Check;

const LISTEN: &str = "listen address";
const SPOOL: &str = "spool";
const SENDERS: &str = "senders";

pub(super) async fn checks(settings: &Settings) -> Vec<Check> {
    vec![listen(settings).await, senders(settings), spool(settings)]
}

async fn listen(settings: &Settings) -> Check {
    let (address, variable) = (settings.listen, settings.listen_variable.clone());
    match TcpListener::bind(address).await {
        Ok(_) => Check::works(LISTEN, format!("{address} is free")),
        Err(cause) if cause.kind() == ErrorKind::AddrInUse => {
            Check::unknown(LISTEN, format!("{address} is in use: by a running auditsync, if there is one"))
        }
        Err(cause) => Check::failed(LISTEN, Error::listen(variable, address, cause)),
    }
}

fn senders(settings: &Settings) -> Check {
    let encryption = match &settings.tls {
        None => "plain HTTP".to_owned(),
        Some(files) if files.client_ca.is_some() => format!("TLS, with client certificates of {}", CLIENT_CA.spec.name),
        Some(_) => "TLS".to_owned(),
    };
    let keys = if settings.keys.is_some() { "API keys" } else { "no API key" };
    let rules = match settings.rules.events() {
        0 => "built-in rules".to_owned(),
        events => format!("rules for {events} events, and the built-in ones"),
    };
    Check::works(SENDERS, format!("{encryption}, {keys}; {rules}"))
}

/// Checks the folder, which the first start makes.
fn spool(settings: &Settings) -> Check {
    let folder = &settings.spool;
    if !folder.exists() {
        return Check::works(SPOOL, format!("{} will be made at the first start", folder.display()));
    }
    match spool::is_owned(folder).and_then(|owned| Ok((owned, spool::look(folder, None)?.1))) {
        Ok((is_owned, waiting)) => {
            let more = if waiting.is_end { "" } else { " or more" };
            let owner = if is_owned { "; a process is using it" } else { "" };
            let count = waiting.entries.len();
            Check::works(SPOOL, format!("{}: {count}{more} entries wait for delivery{owner}", folder.display()))
        }
        Err(cause) => Check::failed(SPOOL, Error::Unread(cause)),
    }
}
