//! A wrapper for a dry run: the server of the source never learns what was delivered.

use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;

use super::{Cursor, Page, Source};
use crate::clock::LocalTime;
use crate::component::Check;
use crate::failure::Failure;

/// Reads another source, but never lets its server drop anything.
pub(crate) struct Unconfirmed(pub(crate) Arc<dyn Source>);

#[async_trait]
impl Source for Unconfirmed {
    fn location(&self) -> String {
        self.0.location()
    }

    fn first_cursor(&self, now: Timestamp) -> Cursor {
        self.0.first_cursor(now)
    }

    fn reached(&self, cursor: &Cursor) -> Result<Timestamp, Failure> {
        self.0.reached(cursor)
    }

    async fn next_page(&self, cursor: &Cursor, begun: LocalTime) -> Result<Page, Failure> {
        self.0.next_page(cursor, begun).await
    }

    fn server_time(&self, now: LocalTime) -> Option<Timestamp> {
        self.0.server_time(now)
    }

    fn narrowed(&self, cursor: &Cursor, begun: LocalTime) -> Option<Cursor> {
        self.0.narrowed(cursor, begun)
    }

    fn pause(&self) {
        self.0.pause();
    }

    async fn check(&self, now: LocalTime) -> Vec<Check> {
        self.0.check(now).await
    }
}
