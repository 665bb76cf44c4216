//! `auditsync state`: the stored place, shown, set and moved by hand.

use std::sync::Arc;

use jiff::Timestamp;

use super::exit::Exit;
use super::{StateCommand, assemble, begin, print, say};
use crate::failure::Chain;
use crate::pipeline::{self, StateConfig};
use crate::source::sectigo::{self, Sectigo};
use crate::state::variables::Storage;
use crate::state::{Document, Error, Nonce, State, StateStore, Version, lease};
use crate::variable_name::VariableName;

/// Shows or sets the place.
pub(super) async fn state(command: StateCommand, config: StateConfig) -> Exit {
    begin(config.telemetry, &[]);
    if matches!(config.storage, Storage::Memory) {
        say(&format!("auditsync: with {}=memory the state lives in the running process alone", config.backend));
        return Exit::Configuration;
    }
    let store = assemble::store(config.storage);
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
        StateCommand::Migrate { to, yes } => match target(&to) {
            Ok(target) => {
                migrate(store.as_ref(), target.as_ref(), &Moved { backend: &to, variable: &config.backend }, yes, now)
                    .await
            }
            Err(exit) => return exit,
        },
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
    // Read again when nobody is at work any more: a holder that has just ended may have written.
    let held = idle(store).await?;
    if let Some((document, _)) = &held {
        say(&format!("it was: {}", String::from_utf8_lossy(document.as_bytes()).trim_end()));
    }
    let state = State::new(Sectigo::NAME, cursor, Nonce::of_new_writer(), now);
    store.save(&Document::of(&state)?, held.as_ref().map(|(_, version)| version)).await?;
    say(&format!("the next run goes on from {since}"));
    Ok(Exit::Done)
}

/// The store that the variables describe for another backend.
fn target(backend: &str) -> Result<Arc<dyn StateStore>, Exit> {
    match StateConfig::for_backend(pipeline::environment(), backend) {
        Ok(StateConfig { storage: Storage::Memory, .. }) => {
            say("auditsync: a state moved to memory would be forgotten at once");
            Err(Exit::Usage)
        }
        Ok(config) => Ok(assemble::store(config.storage)),
        Err(error) => Err(super::mistaken(&error)),
    }
}

/// The backend that a state moves to, and the variable that names it.
struct Moved<'a> {
    backend: &'a str,
    variable: &'a VariableName,
}

/// Copies the state. The one that is copied stays as it is.
async fn migrate(
    from: &dyn StateStore,
    to: &dyn StateStore,
    Moved { backend, variable }: &Moved<'_>,
    yes: bool,
    now: Timestamp,
) -> Result<Exit, Error> {
    let (place, target) = (from.place(), to.place());
    if place == target {
        say(&format!("auditsync: the state is at {target} already; --to names another backend than {variable}"));
        return Ok(Exit::Usage);
    }
    let Some((document, version)) = idle(from).await? else {
        say(&format!("auditsync: there is no state at {place}, so there is nothing to copy"));
        return Ok(Exit::Usage);
    };
    let state = document.read(&place)?;
    if state.source != Sectigo::NAME {
        return Err(Error::OtherSource { place, found: state.source, expected: Sectigo::NAME });
    }
    let there = idle(to).await?;
    if let (Some((there, _)), false) = (&there, yes) {
        let there = position(there, &target);
        say(&format!(
            "there is a state at {target} already: {there}. To replace it by the one at {place}, say it again with --yes"
        ));
        return Ok(Exit::Usage);
    }
    to.probe().await?;
    let copy = State::new(Sectigo::NAME, state.cursor, Nonce::of_new_writer(), now);
    let copy = Document::of(&copy)?;
    to.save(&copy, there.as_ref().map(|(_, version)| version)).await?;
    if from.load().await?.map(|(_, version)| version) != Some(version) {
        say(&format!(
            "auditsync: the state at {place} was changed while it was copied, so the copy at {target} is out of date; stop every \
             instance and say it again with --yes"
        ));
        return Ok(Exit::TryAgain);
    }
    say(&format!("copied from {place} to {target}: {}", position(&copy, &target)));
    say(&format!("before the next start set {variable}={backend}; the state at {place} is left as it was"));
    Ok(Exit::Done)
}

/// The document, once nobody works on it.
async fn idle(store: &dyn StateStore) -> Result<Option<(Document, Version)>, Error> {
    let place = store.place();
    lease::idle(store, |holder, longest| {
        let longest = humantime::format_duration(longest);
        say(&format!("the state at {place} is held by {holder}; waiting up to {longest} to see whether it is alive"));
    })
    .await
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
