//! `auditsync check` for the queue. It receives no message.

use super::Queue;
use super::sqs::Attributes;
use crate::component::{Check, Finding};

const PART: &str = "queue";

impl Queue {
    /// Reads the queue's attributes.
    pub(in super::super) async fn checks(&self) -> Vec<Check> {
        let Attributes { waiting, in_flight, has_redrive, is_fifo } = match self.shared.sqs.attributes().await {
            Ok(attributes) => attributes,
            Err(error) => return vec![Check::failed(PART, error)],
        };
        let location = self.location();
        let mut checks = vec![Check::works(
            PART,
            format!("{location}: about {waiting} messages wait, and {in_flight} are in flight"),
        )];
        let mut risk = |what: &str| checks.push(Check { part: PART, finding: Finding::Risk(what.to_owned()) });
        if !has_redrive {
            risk(
                "it has no redrive policy, so a message whose object cannot be read comes again until the queue forgets it; give it a \
                 dead-letter queue",
            );
        }
        if is_fifo {
            risk(
                "it is a FIFO queue, to which S3 sends no notifications, and which delivers one message of a group at a time",
            );
        }
        checks
    }
}
