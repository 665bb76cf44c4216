//! `auditsync state`: the stored place, shown and set by hand.

use jiff::Timestamp;

use super::exit::Exit;
use super::{StateCommand, assemble, begin, print, say};
use crate::config::{StateConfig, Storage};
use crate::failure::Chain;
use crate::source::sectigo::{self, Sectigo};
use crate::state::{Claim, Document, Error, Nonce, State, StateStore};

/// Shows or sets the place.
pub(super) async fn state(command: StateCommand, config: &StateConfig) -> Exit {
    begin(config.telemetry, &[]);
    if matches!(config.storage, Storage::Memory) {
        say("auditsync: with SECTIGO_AUDIT_STORAGE_BACKEND=memory the state lives in the running process alone");
        return Exit::Configuration;
    }
    let store = assemble::store(&config.storage);
    let now = Timestamp::now();
    let done = match command {
        StateCommand::Show => show(store.as_ref()).await,
        StateCommand::Set { since, .. } if since > now => {
            say(&format!("auditsync: {since} is yet to come; events are delivered from a time in the past on"));
            return Exit::Usage;
        }
        StateCommand::Set { since, yes } => set(store.as_ref(), since, yes, now).await,
        StateCommand::Reset { yes } => {
            let since = now.checked_sub(config.lookback).unwrap_or(now);
            set(store.as_ref(), since, yes, now).await
        }
    };
    done.unwrap_or_else(|error| {
        say(&format!("auditsync: {}", Chain(&error)));
        Exit::from(&error)
    })
}

/// The document goes to standard output and nothing else does, so that it can be read by programs.
async fn show(store: &dyn StateStore) -> Result<Exit, Error> {
    let place = store.place();
    let Some((document, _)) = store.load().await? else {
        say(&format!("no state yet at {place}"));
        return Ok(Exit::Done);
    };
    say(&format!("the state at {place}:"));
    match document.read(&place) {
        Ok(state) => print(&serde_json::to_string_pretty(&state).map_err(Error::Unwritable)?),
        Err(error) => {
            // It is shown as it is; that it cannot be understood is said as well.
            print(String::from_utf8_lossy(document.as_bytes()).trim_end());
            return Err(error);
        }
    }
    Ok(Exit::Done)
}

async fn set(store: &dyn StateStore, since: Timestamp, yes: bool, now: Timestamp) -> Result<Exit, Error> {
    let place = store.place();
    let cursor = sectigo::cursor_at(since);
    let since = sectigo::position(&cursor).unwrap_or(since);
    let held = store.load().await?;
    let before = held.as_ref().map(|(document, _)| position(document, &place));
    if !yes {
        let before = before.unwrap_or_else(|| "there is none yet".to_owned());
        say(&format!(
            "the state at {place}: {before}. To have everything after {since} delivered, and nothing before it, say it again with --yes"
        ));
        return Ok(Exit::Usage);
    }
    if let Claim::Busy { holder } = store.claim().await? {
        return Err(Error::Busy { place, holder });
    }
    // Read again under the claim: a holder that has just ended may have written.
    let held = store.load().await?;
    if let Some((document, _)) = &held {
        say(&format!("it was: {}", String::from_utf8_lossy(document.as_bytes()).trim_end()));
    }
    let state = State::new(Sectigo::NAME, cursor, Nonce::of_new_writer(), now);
    store.save(&Document::of(&state)?, held.as_ref().map(|(_, version)| version)).await?;
    say(&format!("the next run goes on from {since}"));
    Ok(Exit::Done)
}

fn position(document: &Document, place: &str) -> String {
    let state = match document.read(place) {
        Ok(state) => state,
        Err(error) => return Chain(&error).to_string(),
    };
    match sectigo::position(&state.cursor) {
        Ok(since) => format!("everything up to {since} is delivered"),
        Err(error) => Chain(&error).to_string(),
    }
}
