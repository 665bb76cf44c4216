//! The documents of the model's store. They survive every crash.

use std::collections::HashSet;
use std::time::Duration;

use tokio::time::Instant;

use auditsync::source::Cursor;
use auditsync::state::{Document, Nonce, Version};

use crate::ledger::Pages;

/// The number that stands for another writer's life.
const NOBODY: usize = usize::MAX;

/// One document as it was written.
#[derive(Debug, Clone)]
pub(crate) struct Written {
    pub(crate) document: Document,
    /// The life that wrote it.
    pub(crate) life: usize,
    /// The number of pages before its cursor.
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

/// All documents that were ever written, and the one that the store holds.
#[derive(Debug, Default)]
pub(crate) struct Documents {
    written: Vec<Written>,
    /// The cursors of all documents.
    cursors: HashSet<String>,
    held: Option<usize>,
    straggler: Option<Straggler>,
    /// The life whose document another writer replaced.
    overtaken: Option<usize>,
}

impl Documents {
    /// What a load returns.
    pub(crate) fn held(&self) -> Option<(&Written, Version)> {
        let held = self.held?;
        Some((&self.written[held], Version(format!("v{held}"))))
    }

    /// Whether the store ever held a document with this cursor.
    pub(crate) fn was_ever_held(&self, cursor: &Cursor) -> bool {
        self.cursors.contains(&cursor.to_string())
    }

    /// Whether a save that expects this version would succeed.
    pub(crate) fn is_at(&self, expected: Option<&Version>) -> bool {
        self.held().map(|(_, version)| version).as_ref() == expected
    }

    /// Replaces the held document.
    pub(crate) fn write(&mut self, document: Document, life: usize, behind: Pages) -> Version {
        self.cursors.insert(document.read("the model").unwrap().cursor.to_string());
        self.written.push(Written { document, life, behind, before: self.held });
        self.held = Some(self.written.len() - 1);
        Version(format!("v{}", self.written.len() - 1))
    }

    /// Lets another writer store the same cursor under its own name.
    pub(crate) fn overtake(&mut self, life: usize) {
        let Some(held) = self.held.map(|held| &self.written[held]) else { return };
        let mut foreign = held.document.read("the model").unwrap();
        foreign.nonce = Nonce::of_new_writer();
        let behind = held.behind;
        self.write(Document::of(&foreign).unwrap(), NOBODY, behind);
        self.overtaken = Some(life);
    }

    /// Whether another writer has saved since this life began.
    pub(crate) fn was_overtaken(&self, life: usize) -> bool {
        self.overtaken == Some(life)
    }

    /// Leaves a save to take effect later.
    pub(crate) fn delay(&mut self, document: Document, expected: Option<Version>, millis: u16) {
        let at = Instant::now() + Duration::from_millis(millis.into());
        self.straggler = Some(Straggler { document, expected, at });
    }

    /// Takes the straggler whose time has come; with `now`, any straggler.
    pub(crate) fn straggler(&mut self, now: bool) -> Option<Straggler> {
        self.straggler.take_if(|straggler| now || straggler.at <= Instant::now())
    }

    /// Goes back by this many saves, to a document of this life or to the one that it started with. Saves on their way
    /// to the server that failed are lost with it.
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
