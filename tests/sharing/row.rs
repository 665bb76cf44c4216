//! The source: rows of numbered events, each with a cursor of its own, and reports that it has to make before pages can
//! be read.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use tokio::time::sleep;

use auditsync::clock::LocalTime;
use auditsync::component::Check;
use auditsync::event::{Event, Fields};
use auditsync::failure::{Class, Failure};
use auditsync::source::{Cursor, Page, Source, Then};

use crate::plan::Confirmations;
use crate::world::{Numbers, ORIGIN, World};

/// The number of pages of each report.
const PAGES_OF_A_REPORT: usize = 4;

/// All rows, as one instance sees them.
pub(crate) struct Rows {
    pub(crate) world: Arc<World>,
    pub(crate) instance: usize,
}

impl Rows {
    fn read(cursor: &Cursor) -> Result<Numbers, Failure> {
        cursor.decode().map_err(|cause| Failure::new(Class::Fatal, cause))
    }
}

#[async_trait]
impl Source for Rows {
    fn location(&self) -> String {
        "the model's rows".to_owned()
    }

    /// At the very first start this is the beginning. Later it is ahead of what was delivered, as if a backlog reached
    /// back further than the first sync would.
    fn first_cursor(&self, now: Timestamp) -> Cursor {
        // Every instance that starts in the first quarter of an hour gets the beginning.
        let late = usize::try_from(now.duration_since(ORIGIN).as_secs() / 900).unwrap();
        let stored = self.world.stored();
        let begin = |row: &String| stored.as_ref().map_or(late, |stored| stored[row] + 50);
        let rows = self.world.rows.iter().map(|(row, length)| (row.clone(), begin(row).min(*length)));
        Cursor::encode(&rows.chain([(self.world.reports(), 0)]).collect::<Numbers>()).unwrap()
    }

    fn reached(&self, cursor: &Cursor) -> Result<Timestamp, Failure> {
        let read_to = Self::read(cursor)?;
        let earliest = self.world.rows.keys().map(|row| read_to[row]).min().unwrap();
        Ok(ORIGIN + SignedDuration::from_secs(i64::try_from(earliest).unwrap()))
    }

    async fn next_page(&self, cursor: &Cursor, _: LocalTime) -> Result<Page, Failure> {
        self.world.is_read(self.instance);
        sleep(Duration::from_millis(50)).await;
        let (mut read_to, page) = (Self::read(cursor)?, self.world.plan.page);
        let unread = |read_to: &Numbers| {
            let unread = self.world.rows.iter().filter(|(row, length)| read_to[*row] < **length);
            unread.min_by_key(|(row, _)| read_to[*row]).map(|(row, length)| (row.clone(), *length))
        };
        let (mut events, mut then) = (Vec::new(), Then::CaughtUp);
        if let Some((row, length)) = unread(&read_to) {
            let read: usize = self.world.rows.keys().map(|row| read_to[row]).sum();
            let reports = read_to.get_mut(&self.world.reports()).unwrap();
            match self.world.plan.report {
                Some(seconds) if *reports * PAGES_OF_A_REPORT * page <= read => {
                    *reports += 1;
                    let time = Duration::from_secs(seconds.into());
                    self.world.is_making_report(self.instance, time);
                    then = Then::After(time);
                }
                _ => {
                    let from = read_to.insert(row.clone(), length.min(read_to[&row] + page)).unwrap();
                    let event = |number| Event::new(Bytes::from(format!("{row} {number}")), None, Fields::default());
                    events = (from..read_to[&row]).map(event).collect();
                    then = unread(&read_to).map_or(Then::CaughtUp, |_| Then::Now);
                }
            }
        }
        let next = Cursor::encode(&read_to).unwrap();
        Ok(Page { events, deduplicated: 0, progressed: next != *cursor, next, then })
    }

    async fn committed(&self, cursor: &Cursor) -> Result<(), Failure> {
        match self.world.confirmations() {
            Confirmations::Succeed => {}
            Confirmations::Fail => {
                return Err(Failure::new(Class::Retryable { after: None }, "the model confirms nothing"));
            }
            Confirmations::Late(seconds) => sleep(Duration::from_secs(seconds.into())).await,
        }
        self.world.confirmed(cursor);
        Ok(())
    }

    fn pause(&self) {
        self.world.paused(self.instance);
    }

    async fn check(&self, _: LocalTime) -> Vec<Check> {
        Vec::new()
    }
}
