//! `auditsync check`: tries to list the bucket, and to read and decrypt a log file.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use super::ahead::Wanted;
use super::bucket::What;
use super::cursor::Progress;
use super::error::Error;
use super::key::Class;
use super::reader::{Filling, Reader, Taken};
use super::survey::{Survey, Terrain};
use crate::clock::LocalTime;
use crate::component::Check;

/// How far back it looks for a log file.
const BACK: SignedDuration = SignedDuration::from_hours(24);

/// Runs the checks. They deliver nothing.
pub(super) async fn checks(terrain: &Terrain, now: LocalTime) -> Vec<Check> {
    let (bucket, root) = (&terrain.bucket, terrain.root());
    // A policy may allow listing below this path only.
    let accounts = terrain.accounts_path();
    let one = What { prefix: &accounts, most: Some(1), ..What::default() };
    if let Err(error) = terrain.buckets.list(bucket, one).await {
        return vec![Check::failed("bucket", error)];
    }
    let mut survey = Survey::new(terrain.clone(), &Progress::since(before(now.wall)), Class::VeryLate);
    if let Err(error) = survey.run().await {
        return vec![Check::failed("list", error)];
    }
    let folders = survey.folders();
    let listed = match folders {
        0 => Check::unknown("list", format!("there is no folder of log files in {root}")),
        1 => Check::works("list", format!("{root} has log files of one account and region")),
        _ => Check::works("list", format!("{root} has log files of {folders} accounts and regions")),
    };
    let plan = survey.into_plan();
    let Some(file) =
        plan.last().map(|file| Wanted { bucket: Arc::clone(bucket), key: plan.key(file), size: file.size })
    else {
        return vec![listed, Check::unknown("read", "no log file of the last day was found to try".to_owned())];
    };
    vec![listed, read(terrain, &file).await]
}

/// Reads the newest file, up to its end or up to one page.
async fn read(terrain: &Terrain, file: &Wanted) -> Check {
    let mut reader = Reader::new(Arc::clone(&terrain.buckets), Timestamp::MIN, false, false);
    let (mut records, mut page) = (0, Filling::default());
    match reader.take(file, &mut records, &mut page).await {
        Ok(Taken::Whole { .. }) => Check::works("read", format!("{} has {records} records", file.key)),
        Ok(Taken::Part) => Check::works("read", format!("{} has more than {records} records", file.key)),
        Ok(Taken::Unreadable(reason)) => Check::failed("read", Error::Object { location: file.key.clone(), reason }),
        Err(error) => Check::failed("read", error),
    }
}

fn before(now: Timestamp) -> Timestamp {
    now.checked_sub(BACK).unwrap_or(now)
}
