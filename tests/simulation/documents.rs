//! The documents of the model's store. They survive every crash.

use std::collections::HashSet;
use std::time::Duration;

use tokio::time::Instant;

use auditsync::source::Cursor;
use auditsync::state::{Document, Nonce, Version};

use crate::ledger::Pages;

/// The life of someone else.
const NOBODY: usize = usize::MAX;

/// One document as it was written.
#[derive(Debug, Clone)]
pub(crate) struct Written {
    pub(crate) document: Document,
    /// Which life wrote it.
    pub(crate) life: usize,
    /// How many pages are behind its cursor.
    pub(crate) behind: Pages,
    /// The document that it replaced.
    before: Option<usize>,
}

/// A save that failed and takes effect later.
#[derive(Debug)]
pub(crate) struct Straggler {
    pub(crate) document: Document,
    pub(crate) expected: Option<Version>,
    at: Instant,
}

/// All that was ever written, and which of it is held.
#[derive(Debug, Default)]
pub(crate) struct Documents {
    written: Vec<Written>,
    /// The cursors of all of them.
    cursors: HashSet<String>,
    held: Option<usize>,
    straggler: Option<Straggler>,
    /// The life that someone else came between.
    overtaken: Option<usize>,
}

impl Documents {
    /// What a load gives.
    pub(crate) fn held(&self) -> Option<(&Written, Version)> {
        let held = self.held?;
        Some((&self.written[held], Version(format!("v{held}"))))
    }

    /// Whether a document with this cursor was ever held.
    pub(crate) fn was_ever_held(&self, cursor: &Cursor) -> bool {
        self.cursors.contains(&cursor.to_string())
    }

    /// Whether a save that expects this would go through.
    pub(crate) fn is_at(&self, expected: Option<&Version>) -> bool {
        self.held().map(|(_, version)| version).as_ref() == expected
    }

    /// Replaces what is held.
    pub(crate) fn write(&mut self, document: Document, life: usize, behind: Pages) -> Version {
        self.cursors.insert(document.read("the model").unwrap().cursor.to_string());
        self.written.push(Written { document, life, behind, before: self.held });
        self.held = Some(self.written.len() - 1);
        Version(format!("v{}", self.written.len() - 1))
    }

    /// Someone else writes the same cursor under a name of their own.
    pub(crate) fn overtake(&mut self, life: usize) {
        let Some(held) = self.held.map(|held| &self.written[held]) else { return };
        let mut foreign = held.document.read("the model").unwrap();
        foreign.nonce = Nonce::of_new_writer();
        let behind = held.behind;
        self.write(Document::of(&foreign).unwrap(), NOBODY, behind);
        self.overtaken = Some(life);
    }

    /// Whether someone else has written since this life began.
    pub(crate) fn was_overtaken(&self, life: usize) -> bool {
        self.overtaken == Some(life)
    }

    /// Leaves a save to take effect later.
    pub(crate) fn delay(&mut self, document: Document, expected: Option<Version>, millis: u16) {
        let at = Instant::now() + Duration::from_millis(millis.into());
        self.straggler = Some(Straggler { document, expected, at });
    }

    /// The straggler whose time has come, or with `now` any.
    pub(crate) fn straggler(&mut self, now: bool) -> Option<Straggler> {
        self.straggler.take_if(|straggler| now || straggler.at <= Instant::now())
    }

    /// Holds a document again that is so many saves older: one of this life's or the one that it started with. What was under way to the
    /// server that failed is gone with it.
    pub(crate) fn go_back(&mut self, saves: usize, life: usize) {
        self.straggler = None;
        for _ in 0..saves {
            let Some(held) = self.held.map(|held| &self.written[held]) else { return };
            if held.life != life || held.before.is_none() {
                return;
            }
            self.held = held.before;
        }
    }
}
