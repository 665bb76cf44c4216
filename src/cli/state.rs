//! `auditsync state`: shows, sets and moves the stored state.

use std::sync::Arc;

use jiff::Timestamp;

use super::exit::Exit;
use super::{StateCommand, mistaken, print, say};
use crate::config::{self, Reader};
use crate::failure::Chain;
use crate::pipeline::registry::Wanted;
use crate::pipeline::{self, StateConfig};
use crate::source::Cursor;
use crate::state::needless::WHY;
use crate::state::{Document, Error, Nonce, State, StateStore, Version, lease};

/// Shows the states, or changes the one that the command names.
pub(super) async fn state(command: StateCommand, states: Vec<StateConfig>, wanted: &[Wanted]) -> Exit {
    let is_show = matches!(command, StateCommand::Show);
    for StateConfig { name, store, .. } in &states {
        if store.is_needless && !is_show {
            say(&format!("auditsync: {name} has no state: {WHY}"));
            return Exit::Usage;
        }
        if store.is_forgetful() {
            let (variable, kind) = (&store.variable, store.kind.name);
            say(&format!("auditsync: with {variable}={kind} the state exists only in the running process"));
            return Exit::Configuration;
        }
    }
    if is_show {
        let mut gravest = Exit::Done;
        for state in &states {
            if state.store.is_needless {
                say(&format!("{} has no state: {WHY}", state.name));
                continue;
            }
            let shown = show(&Stored::of(state)).await;
            gravest = gravest.max(shown.unwrap_or_else(|error| failed(&error)));
        }
        return gravest;
    }
    let ([state], [wanted]) = (&states[..], wanted) else {
        let names: Vec<_> = states.iter().map(|state| state.name.as_str()).collect();
        say(&format!("auditsync: name the pipeline with --pipeline: {}", names.join(", ")));
        return Exit::Usage;
    };
    let (stored, now) = (Stored::of(state), Timestamp::now());
    let done = match command {
        StateCommand::Set { since, .. } if since > now => {
            say(&format!("auditsync: {since} is in the future; give a time in the past"));
            return Exit::Usage;
        }
        StateCommand::Set { since, yes } => stored.set(since, yes, now).await,
        StateCommand::Reset { yes } => {
            let environment = pipeline::environment();
            let first = |reader: &mut Reader<'_>| (wanted.source.first)(reader, now);
            match config::read(&environment, &wanted.owner(), first) {
                Ok(cursor) => stored.put(cursor, |_| None, yes, now).await,
                Err(error) => return mistaken(error),
            }
        }
        StateCommand::Migrate { to, yes } => match StateConfig::for_backend(pipeline::environment(), wanted, &to) {
            Ok(target) if !target.store.kind.is_lasting => {
                say(&format!("auditsync: a state in {} is lost when the process ends", target.store.kind.name));
                return Exit::Usage;
            }
            Ok(target) => migrate(&stored, &Stored::of(&target), yes, now).await,
            Err(error) => return mistaken(error),
        },
        StateCommand::Show => return Exit::Done,
    };
    done.unwrap_or_else(|error| failed(&error))
}

/// Stores `cursor`. It replaces an existing state only with `yes`.
#[cfg(feature = "teleport")]
pub(super) async fn begin_at(state: &StateConfig, cursor: Cursor, yes: bool) -> Exit {
    let stored = Stored::of(state);
    let is_there = match stored.store.load().await {
        Ok(held) => held.is_some(),
        Err(error) => return failed(&error),
    };
    let done = stored.put(cursor, |_| None, yes || !is_there, Timestamp::now()).await;
    done.unwrap_or_else(|error| failed(&error))
}

fn failed(error: &Error) -> Exit {
    say(&format!("auditsync: {}", Chain(error)));
    Exit::from(error)
}

/// The state of a pipeline in its store.
struct Stored<'a> {
    config: &'a StateConfig,
    store: Arc<dyn StateStore>,
    location: String,
}

/// Shows the state. Standard output gets only the document, so that programs can read it.
async fn show(stored: &Stored<'_>) -> Result<Exit, Error> {
    let location = &stored.location;
    let Some((document, _)) = stored.store.load().await? else {
        say(&format!("there is no state yet at {location}"));
        return Ok(Exit::Done);
    };
    say(&format!("the state at {location}:"));
    match document.read(location) {
        Ok(state) => print(&serde_json::to_string_pretty(&state).map_err(Error::Unwritable)?),
        Err(error) => {
            // An unreadable document is printed as it is, beside the error.
            print(String::from_utf8_lossy(document.as_bytes()).trim_end());
            return Err(error);
        }
    }
    Ok(Exit::Done)
}

impl<'a> Stored<'a> {
    fn of(config: &'a StateConfig) -> Self {
        let store = config.store.build();
        Self { config, location: store.location(), store }
    }

    async fn set(&self, since: Timestamp, yes: bool, now: Timestamp) -> Result<Exit, Error> {
        let cursor_at = self.config.source.cursor_at;
        if let Some(cursor) = cursor_at(since, None, None) {
            return self.put(cursor, |before| cursor_at(since, None, Some(before)), yes, now).await;
        }
        say(&format!("auditsync: the source {} cannot continue from a time of your choice", self.config.source.name));
        Ok(Exit::Usage)
    }

    /// Stores `cursor`, or the one that `keeping` derives from the stored cursor. It replaces an existing state only with `yes`.
    async fn put(
        &self,
        cursor: Cursor,
        keeping: impl Fn(&Cursor) -> Option<Cursor>,
        yes: bool,
        now: Timestamp,
    ) -> Result<Exit, Error> {
        let location = &self.location;
        let since = (self.config.source.reached)(&cursor);
        let since = since.map_or_else(|error| Chain(&error).to_string(), |since| since.to_string());
        let held = self.store.load().await?;
        let before = held.as_ref().map(|(document, _)| self.describe(document));
        if !yes {
            let before = before.unwrap_or_else(|| "there is none yet".to_owned());
            say(&format!(
                "the state at {location}: {before}. To deliver everything after {since} and nothing before it, repeat the command with --yes"
            ));
            return Ok(Exit::Usage);
        }
        // An instance that has just ended may have saved, so the state is read again once none is active.
        let held = self.idle().await?;
        if let Some((document, _)) = &held {
            say(&format!("it was: {}", String::from_utf8_lossy(document.as_bytes()).trim_end()));
        }
        let before = held.as_ref().and_then(|(document, _)| document.read_for(&self.config.name, location).ok());
        let kept = before.and_then(|state| keeping(&state.cursor)).filter(|kept| *kept != cursor);
        if kept.is_some() {
            say("the new state keeps the work that waits in the old one");
        }
        let cursor = kept.unwrap_or(cursor);
        let state = State::new(self.config.name.clone(), cursor, Nonce::of_new_writer(), now);
        self.store.save(&Document::of(&state)?, held.as_ref().map(|(_, version)| version)).await?;
        say(&format!("the next run with the state at {location} continues from {since}"));
        Ok(Exit::Done)
    }

    /// Waits until no instance is active, and returns the document.
    async fn idle(&self) -> Result<Option<(Document, Version)>, Error> {
        let location = &self.location;
        lease::idle(self.store.as_ref(), |holder, longest| {
            let longest = humantime::format_duration(longest);
            say(&format!(
                "{holder} holds the lease of the state at {location}; waiting up to {longest} for its heartbeat"
            ));
        })
        .await
    }

    fn describe(&self, document: &Document) -> String {
        let state = match document.read(&self.location) {
            Ok(state) => state,
            Err(error) => return Chain(&error).to_string(),
        };
        match (self.config.source.reached)(&state.cursor) {
            Ok(since) => format!("everything up to {since} is delivered"),
            Err(error) => Chain(&error).to_string(),
        }
    }
}

/// Copies the state, and leaves the original as it is.
async fn migrate(from: &Stored<'_>, to: &Stored<'_>, yes: bool, now: Timestamp) -> Result<Exit, Error> {
    let (location, target, variable) = (&from.location, &to.location, &from.config.store.variable);
    let backend = to.config.store.kind.name;
    if location == target {
        say(&format!("auditsync: the state is already at {target}; --to must name another store than {variable}"));
        return Ok(Exit::Usage);
    }
    let Some((document, version)) = from.idle().await? else {
        say(&format!("auditsync: there is no state at {location}, so there is nothing to copy"));
        return Ok(Exit::Usage);
    };
    let state = document.read_for(&from.config.name, location)?;
    let there = to.idle().await?;
    if let (Some((there, _)), false) = (&there, yes) {
        let there = to.describe(there);
        say(&format!(
            "there is already a state at {target}: {there}. To replace it by the one at {location}, repeat the command with --yes"
        ));
        return Ok(Exit::Usage);
    }
    to.store.probe().await?;
    let mut copy = State::new(state.pipeline, state.cursor, Nonce::of_new_writer(), now);
    copy.mark = state.mark;
    let copy = Document::of(&copy)?;
    to.store.save(&copy, there.as_ref().map(|(_, version)| version)).await?;
    if from.store.load().await?.map(|(_, version)| version) != Some(version) {
        say(&format!(
            "auditsync: the state at {location} was changed while it was copied, so the copy at {target} is out of date; stop every \
             instance and repeat the command with --yes"
        ));
        return Ok(Exit::TryAgain);
    }
    say(&format!("copied from {location} to {target}: {}", to.describe(&copy)));
    say(&format!("before the next start, set {variable}={backend}; the state at {location} is unchanged"));
    Ok(Exit::Done)
}
