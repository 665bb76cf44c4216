//! `auditsync check` for the Auth Service and the identity.

use std::time::Duration;

use futures_util::TryStreamExt as _;
use jiff::Timestamp;

use super::Teleport;
use super::error::Error;
use super::identity::Identity;
use super::message::SessionRequest;
use crate::component::{Check, Finding};
use crate::http::{Excerpt, Redaction};

const IDENTITY: &str = "identity";
const SERVER: &str = "server";
const EVENTS: &str = "audit events";
const SESSIONS: &str = "sessions";

/// The rest of an identity's life that is a risk.
const SOON: Duration = Duration::from_secs(24 * 3600);

/// An id that no session has.
const NO_SESSION: &str = "00000000-0000-4000-8000-000000000000";

impl Teleport {
    /// Checks the identity, and reads a page of the last hour from the server. It delivers nothing.
    pub(super) async fn checks(&self, now: Timestamp) -> Vec<Check> {
        let identity = match self.api.identity() {
            Ok(identity) => identity,
            Err(error) => return vec![Check::failed(IDENTITY, Error::Identity(error))],
        };
        let dates = (identity.not_before, identity.not_after);
        if let Err(error) = self.settings().files.verify_dates(dates, now) {
            return vec![Check::failed(IDENTITY, Error::Identity(error))];
        }
        let mut checks = vec![Check { part: IDENTITY, finding: about(&identity, now) }];
        match self.api.ping().await {
            Ok(pong) => {
                let shown = |text: &str| Excerpt::of(text.as_bytes(), &Redaction::none());
                let seen = format!("Teleport {}, cluster {}", shown(&pong.server_version), shown(&pong.cluster_name));
                checks.push(Check::works(SERVER, seen));
            }
            Err(error) => {
                checks.push(Check::failed(SERVER, error));
                return checks;
            }
        }
        checks.push(match self.check_page(now).await {
            Ok(events) => Check::works(EVENTS, format!("a page of the last hour has {events}")),
            Err(error) => Check::failed(EVENTS, error),
        });
        if self.filter.sessions {
            checks.push(self.check_sessions().await);
        }
        checks
    }

    async fn check_page(&self, now: Timestamp) -> Result<usize, Error> {
        let from = now.saturating_sub(Duration::from_secs(3600)).unwrap_or(now);
        Ok(self.api.search(self.search(from, now, 100, String::new())).await?.0.items.len())
    }

    /// Requests a session that does not exist. An identity that may read sessions gets the answer that there is none.
    async fn check_sessions(&self) -> Check {
        let request = SessionRequest { session_id: NO_SESSION.to_owned(), start_index: 0 };
        let answer = match self.api.session(request).await {
            Ok(mut events) => match tokio::time::timeout(self.api.timeout(), events.try_next()).await {
                Ok(answer) => answer.map(drop),
                Err(_) => Err(self.api.no_event(self.api.timeout())),
            },
            Err(error) => Err(error),
        };
        match answer {
            Ok(()) | Err(Error::NotFound { .. }) => Check::works(SESSIONS, "recordings may be read"),
            Err(error) => Check::failed(SESSIONS, error),
        }
    }
}

/// Describes how long the identity is valid. A file that a bot renews is fresh. If a certificate is past half of its
/// life, no bot renews it.
fn about(identity: &Identity, now: Timestamp) -> Finding {
    let Identity { cluster, not_before, not_after, .. } = identity;
    let seen = format!("of the cluster {cluster}, valid until {not_after}");
    let life = not_after.duration_since(*not_before);
    let left = not_after.duration_since(now);
    let is_fresh = now.duration_since(*not_before) < life / 2;
    if is_fresh || Duration::try_from(left).is_ok_and(|left| left >= SOON) {
        return Finding::Works(seen);
    }
    Finding::Risk(format!("{seen}; nothing seems to renew it. Let tbot renew the file, or replace it before then"))
}
