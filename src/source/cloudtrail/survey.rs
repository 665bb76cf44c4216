//! Searches the bucket: finds the folders of all accounts and regions, and then the files in each.
//!
//! Each listing searches the folders again, so a new account or region is read from its first file on. A failed request
//! stops the survey, and the next call continues there. So a bucket that throttles now and then is still listed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::stream::{self, StreamExt as _};
use jiff::Timestamp;
use parking_lot::Mutex;

use super::bucket::{Buckets, Listing, What, location};
use super::cursor::{Coverage, Progress, Selection};
use super::error::Error;
use super::key::{ACCOUNTS, Class, Files, Filter, Folder, is_account, is_organisation};
use super::plan::{Gathering, Plan};
use crate::clock::Clock;
use crate::server_time::ServerClock;

/// The most requests at a time.
const AT_A_TIME: usize = 16;

/// The input of a survey.
#[derive(Clone)]
pub(super) struct Terrain {
    pub(super) buckets: Arc<Buckets>,
    pub(super) bucket: Arc<str>,
    /// The beginning of all keys, without a slash at either end; may be empty.
    pub(super) prefix: String,
    pub(super) accounts: Filter,
    pub(super) regions: Filter,
    pub(super) files: Files,
    pub(super) clock: Clock,
    pub(super) server_clock: Arc<ServerClock>,
}

/// A survey under way.
pub(super) struct Survey {
    terrain: Terrain,
    class: Class,
    selection: Selection,
    earliest: Timestamp,
    /// Folders whose subfolders are not known yet.
    unexplored: Vec<Unexplored>,
    folders: Vec<Folder>,
    /// Folders whose files are not listed yet; none before all folders are known.
    unlisted: Option<Vec<Unlisted>>,
    /// The server's time at the first answer; none before it.
    began: Mutex<Option<Timestamp>>,
    /// Whether a folder of files is listed.
    is_begun: bool,
    gathering: Mutex<Gathering>,
    requests: Mutex<usize>,
    /// Set at each answer.
    has_answered: Arc<AtomicBool>,
}

/// A folder with folders of interest in it: its path, with a slash at its end.
#[derive(Debug, Clone)]
enum Unexplored {
    /// A folder of accounts or of organisations.
    Accounts(String),
    /// The folder of an organisation, with accounts.
    Organisation(String),
    /// A folder of regions.
    Regions(String),
}

/// A folder of files, by its number, and the key up to which its files are listed.
#[derive(Debug, Clone)]
struct Unlisted {
    folder: usize,
    after: String,
}

impl Terrain {
    /// The address of the folder with all accounts, for messages.
    pub(super) fn root(&self) -> String {
        location(&self.bucket, &self.accounts_path())
    }

    /// Whether a listing shows the log file `key`.
    pub(super) fn shows(&self, key: &str) -> bool {
        let Some(rest) = key.strip_prefix(&self.accounts_path()) else { return false };
        let rest = match rest.split_once('/') {
            Some((organisation, rest)) if is_organisation(organisation) => rest,
            _ => rest,
        };
        // <account>/CloudTrail/<region>/YYYY/MM/DD/<name>
        rest.matches('/').count() == 6
    }

    pub(super) fn accounts_path(&self) -> String {
        if self.prefix.is_empty() { format!("{ACCOUNTS}/") } else { format!("{}/{ACCOUNTS}/", self.prefix) }
    }
}

impl Survey {
    /// Makes a survey that covers `class`, and looks for the files after `progress`.
    pub(super) fn new(terrain: Terrain, progress: &Progress, class: Class) -> Self {
        Self {
            class,
            selection: progress.selection(class),
            earliest: progress.earliest_slot(class),
            unexplored: vec![Unexplored::Accounts(terrain.accounts_path())],
            folders: Vec::new(),
            unlisted: None,
            began: Mutex::default(),
            is_begun: false,
            gathering: Mutex::default(),
            requests: Mutex::default(),
            has_answered: Arc::default(),
            terrain,
        }
    }

    /// Runs until everything is listed. After an error, the next call continues there.
    pub(super) async fn run(&mut self) -> Result<(), Error> {
        self.explore_all().await?;
        if self.unlisted.is_none() {
            self.folders.sort();
            self.folders.dedup();
            let unlisted = |(folder, path): (usize, &Folder)| Unlisted { folder, after: path.before(self.earliest) };
            self.unlisted = Some(self.folders.iter().enumerate().map(unlisted).collect());
        }
        self.list_all().await
    }

    /// The flag that is set at each answer.
    pub(super) fn has_answered(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.has_answered)
    }

    /// The number of folders of log files.
    pub(super) fn folders(&self) -> usize {
        self.folders.len()
    }

    /// Makes a plan of the files found.
    pub(super) fn into_plan(self) -> Plan {
        let began = self.began.into_inner().unwrap_or(Timestamp::UNIX_EPOCH);
        let (folders, requests) = (self.folders.len(), self.requests.into_inner());
        let plan = self.gathering.into_inner().into_plan(self.folders.into(), Coverage { class: self.class, began });
        tracing::debug!(folders, requests, files = plan.len(), covers = ?self.class, more = plan.is_cut, "the bucket is listed");
        plan
    }

    async fn explore_all(&mut self) -> Result<(), Error> {
        while !self.unexplored.is_empty() {
            let unexplored = std::mem::take(&mut self.unexplored);
            let this = &*self;
            let explored = unexplored.into_iter().map(|folder| async move {
                let found = this.explore(&folder).await;
                (folder, found)
            });
            let explored: Vec<_> = stream::iter(explored).buffer_unordered(AT_A_TIME).collect().await;
            let mut failed = None;
            for (folder, found) in explored {
                match found {
                    Ok((unexplored, folders)) => {
                        self.unexplored.extend(unexplored);
                        self.folders.extend(folders);
                    }
                    Err(error) => {
                        self.unexplored.push(folder);
                        failed.get_or_insert(error);
                    }
                }
            }
            if let Some(error) = failed {
                return Err(error);
            }
        }
        Ok(())
    }

    /// Finds the folders of interest in a folder: those to explore further, and those of files.
    async fn explore(&self, folder: &Unexplored) -> Result<(Vec<Unexplored>, Vec<Folder>), Error> {
        let (Unexplored::Accounts(path) | Unexplored::Organisation(path) | Unexplored::Regions(path)) = folder;
        let (mut unexplored, mut folders, mut next) = (Vec::new(), Vec::new(), None::<String>);
        loop {
            let page =
                self.list(What { prefix: path, next: next.as_deref(), folders: true, ..What::default() }).await?;
            for found in page.folders {
                let name =
                    found.strip_prefix(path.as_str()).and_then(|name| name.strip_suffix('/')).unwrap_or_default();
                match folder {
                    Unexplored::Regions(_) if self.terrain.regions.takes(name) => folders.extend(Folder::at(found)),
                    Unexplored::Regions(_) => {}
                    _ if is_account(name) && self.terrain.accounts.takes(name) => {
                        unexplored.push(Unexplored::Regions(format!("{found}{}/", self.terrain.files.folder())));
                    }
                    Unexplored::Accounts(_) if is_organisation(name) => {
                        unexplored.push(Unexplored::Organisation(found));
                    }
                    _ => {}
                }
            }
            match page.next {
                Some(following) => next = Some(following),
                None => return Ok((unexplored, folders)),
            }
        }
    }

    async fn list_all(&mut self) -> Result<(), Error> {
        let mut unlisted = self.unlisted.take().unwrap_or_default();
        if !self.is_begun
            && let Some(first) = unlisted.pop()
        {
            // Without a `Date`, the files in it tell the server's time before any other folder is listed.
            let (shown, listed) = self.list_folder(first).await;
            self.is_begun = shown.is_some() || listed.is_ok();
            let began = self.began.get_mut();
            *began = shown.map_or(*began, |shown| began.map(|began| began.min(shown)));
            if let Err((folder, error)) = listed {
                unlisted.push(folder);
                self.unlisted = Some(unlisted);
                return Err(error);
            }
        }
        let this = &*self;
        let listed = unlisted.into_iter().map(|folder| async move { this.list_folder(folder).await.1 });
        let listed: Vec<_> = stream::iter(listed).buffer_unordered(AT_A_TIME).collect().await;
        let mut failed = None;
        let mut left = Vec::new();
        for (folder, error) in listed.into_iter().filter_map(Result::err) {
            left.push(folder);
            failed.get_or_insert(error);
        }
        self.unlisted = Some(left);
        failed.map_or(Ok(()), Err)
    }

    /// Lists a folder to its end. Returns the server's time in the first answer and, after a failure, the position and
    /// the error.
    async fn list_folder(&self, mut unlisted: Unlisted) -> (Option<Timestamp>, Result<(), (Unlisted, Error)>) {
        let (mut next, mut date) = (None::<String>, None);
        loop {
            let Some(path) = self.folders.get(unlisted.folder).map(Folder::path) else { return (date, Ok(())) };
            let what = What {
                prefix: path,
                after: next.is_none().then_some(unlisted.after.as_str()),
                next: next.as_deref(),
                ..What::default()
            };
            let page = match self.list(what).await {
                Ok(page) => page,
                Err(error) => return (date, Err((unlisted, error))),
            };
            date = date.or(page.date).or(page.objects.iter().map(|object| object.modified).max());
            let is_beyond = self.gather(unlisted.folder, path, &page);
            if let Some(last) = page.objects.last() {
                unlisted.after.clone_from(&last.key);
            }
            match page.next {
                Some(following) if !is_beyond => next = Some(following),
                _ => return (date, Ok(())),
            }
        }
    }

    /// Takes the wanted files of a page. True if no later page can hold any.
    fn gather(&self, folder: usize, path: &str, page: &Listing) -> bool {
        let mut gathering = self.gathering.lock();
        let mut is_beyond = false;
        for object in &page.objects {
            let (Some(slot), Some(name)) = (self.terrain.files.slot(&object.key), object.key.strip_prefix(path)) else {
                continue;
            };
            gathering.show(object.modified);
            if let Some(class) = self.selection.wants(slot, object.modified, &object.key) {
                gathering.add(u32::try_from(folder).unwrap_or(u32::MAX), name, object.size, object.modified, class);
            }
            is_beyond = gathering.is_beyond(self.terrain.files.earliest_behind(slot));
        }
        is_beyond
    }

    async fn list(&self, what: What<'_>) -> Result<Listing, Error> {
        let terrain = &self.terrain;
        *self.requests.lock() += 1;
        let asked = terrain.clock.local();
        let listing = terrain.buckets.list(&terrain.bucket, what).await?;
        self.has_answered.store(true, Ordering::Relaxed);
        let bucket = location(&terrain.bucket, "");
        let answered = terrain.clock.local();
        terrain.server_clock.note(&bucket, listing.date, (asked, answered));
        // If no answer tells the server's time, our clock's time counts.
        let known = || listing.date.or_else(|| terrain.server_clock.past(asked, answered)).unwrap_or(asked.wall);
        self.began.lock().get_or_insert_with(known);
        Ok(listing)
    }
}
