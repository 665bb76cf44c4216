//! `auditsync check`: every part tried by itself, one line each.

use std::error::Error;
use std::fmt::Display;
use std::sync::Arc;

use jiff::Timestamp;

use super::exit::Exit;
use super::{assemble, begin, print};
use crate::config::Config;
use crate::destination::datadog::Datadog;
use crate::failure::{Chain, Class};
use crate::http;
use crate::server_time::LocalTime;
use crate::source::sectigo::{self, Sectigo};
use crate::source::{self, Source as _};
use crate::state::{self, Caution, Claim, State, StateStore};

/// Tries everything, prints a line for each part, and ends with the first failure's code.
pub(super) async fn check(config: Config) -> Exit {
    begin(config.telemetry, &config.warnings);
    let mut failures = Failures { exit: Exit::Done };
    line("ok", "configuration", "every variable is understood");

    let http = Arc::new(http::Client::new(config.http));
    let source = Sectigo::new(config.sectigo, Arc::clone(&http));
    let destination = Datadog::new(config.datadog, Sectigo::NAME, http);
    let now = Timestamp::now();

    match source.check_token().await {
        Ok(endpoint) => {
            line("ok", "access token", format!("issued by {endpoint}"));
            match source.check_page(now).await {
                Ok(records) => line("ok", "audit records", format!("a page of the last hour has {records}")),
                Err(error) => failures.failed("audit records", &error, Exit::from(&error)),
            }
        }
        Err(error) => failures.failed("access token", &error, Exit::from(&error)),
    }
    match destination.check_key().await {
        Ok(()) => line("ok", "API key", "valid"),
        // This is another host than the intake; a firewall may block it alone, and nothing else needs it.
        Err(error) if matches!(error.class(), Class::Retryable { .. }) => line("unknown", "API key", Chain(&error)),
        Err(error) => failures.failed("API key", &error, Exit::from(&error)),
    }
    match destination.check_entry(source.server_time(LocalTime::now()).unwrap_or(now)).await {
        Ok(()) => line("ok", "test entry", format!("accepted by {}", destination.place())),
        Err(error) => failures.failed("test entry", &error, Exit::from(&error)),
    }
    let is_conditional = config.storage.is_conditional();
    let store = assemble::store(config.storage);
    match check_state(store.as_ref(), is_conditional).await {
        Ok(state) => {
            line("ok", "state", state);
            for caution in store.cautions().await {
                match caution {
                    Caution::Risk(what) => line("warning", "state", what),
                    Caution::Unknown(what) => line("unknown", "state", what),
                }
            }
        }
        Err(error) => failures.failed("state", &error, Exit::from(&error)),
    }
    failures.exit
}

/// Reads the state and proves that it can be written, without changing it: another instance may be at work.
async fn check_state(store: &dyn StateStore, is_conditional: bool) -> Result<String, state::Error> {
    let place = store.place();
    let claim = store.claim().await?;
    let held = match store.load().await? {
        Some((document, _)) => Some(document.read(&place)?),
        None => None,
    };
    let position = match &held {
        None => "nothing yet".to_owned(),
        Some(state) => format!("delivered up to {}", position(state, &place)?),
    };
    match claim {
        Claim::Busy { holder } => return Ok(format!("{place}: {position}; in use by {holder}, so it was not written")),
        Claim::Granted => {
            store.probe().await?;
            return Ok(format!("{place}: {position}; can be written"));
        }
        Claim::ByLease => store.probe().await?,
    }
    let writers = if is_conditional {
        "can be written, by one instance at a time"
    } else {
        "can be written, by several instances at a time (SECTIGO_AUDIT_S3_UNCONDITIONAL=true)"
    };
    let holder = match held.and_then(|state| state.lease) {
        Some(lease) => {
            let ttl = humantime::format_duration(lease.length());
            format!("the lease is with {}, for {ttl} after each sign of life", lease.holder)
        }
        None => "the lease is free".to_owned(),
    };
    Ok(format!("{place}: {position}; {writers}; {holder}"))
}

fn position(state: &State, place: &str) -> Result<Timestamp, state::Error> {
    if state.source != Sectigo::NAME {
        let (place, found) = (place.to_owned(), state.source.clone());
        return Err(state::Error::OtherSource { place, found, expected: Sectigo::NAME });
    }
    sectigo::position(&state.cursor).map_err(|error| match error {
        source::Error::Cursor(cause) => state::Error::Corrupt { place: place.to_owned(), cause },
        other => state::Error::Io { action: "read", place: place.to_owned(), cause: std::io::Error::other(other) },
    })
}

/// Prints a line for a part.
fn line(verdict: &str, part: &str, line: impl Display) {
    print(&format!("{verdict:<8} {part:<14} {line}"));
}

/// The first failure's exit code.
struct Failures {
    exit: Exit,
}

impl Failures {
    fn failed(&mut self, part: &str, error: &(dyn Error + 'static), exit: Exit) {
        line("FAILED", part, Chain(error));
        if self.exit == Exit::Done {
            self.exit = exit;
        }
    }
}
