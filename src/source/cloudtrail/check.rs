//! `auditsync check`: tries to list the bucket, and to read and decrypt a log file.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use super::ahead::Wanted;
use super::bucket::What;
use super::cursor::Progress;
use super::error::Error;
use super::key::Class;
use super::plan::Planned;
use super::reader::{Filling, Reader, Taken};
use super::survey::{Survey, Terrain};
use crate::clock::LocalTime;
use crate::component::Check;

/// How far back it looks for a file.
const BACK: SignedDuration = SignedDuration::from_hours(24);

/// Runs the checks. They deliver nothing.
pub(super) async fn checks(terrain: &Terrain, now: LocalTime) -> Vec<Check> {
    let root = terrain.root();
    // A policy may allow listing below this path only.
    let accounts = terrain.accounts_path();
    let one = What { prefix: &accounts, most: Some(1), ..What::default() };
    if let Err(error) = terrain.buckets.list(&terrain.bucket, one).await {
        return vec![Check::failed("bucket", error)];
    }
    let (folders, newest) = match newest(terrain, now.wall).await {
        Ok(found) => found,
        Err(error) => return vec![Check::failed("list", error)],
    };
    let listed = match folders {
        0 => Check::unknown("list", format!("there is no folder of log files in {root}")),
        1 => Check::works("list", format!("{root} has log files of one account and region")),
        _ => Check::works("list", format!("{root} has log files of {folders} accounts and regions")),
    };
    let Some(file) = newest else {
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

/// Looks for the newest file. Also returns the number of folders.
pub(super) async fn newest(terrain: &Terrain, now: Timestamp) -> Result<(usize, Option<Wanted>), Error> {
    let since = Progress::since(now.checked_sub(BACK).unwrap_or(now));
    let mut survey = Survey::new(terrain.clone(), &since, Class::VeryLate);
    survey.run().await?;
    let folders = survey.folders();
    let plan = survey.into_plan();
    let wanted = |file: &Planned| Wanted { bucket: Arc::clone(&terrain.bucket), key: plan.key(file), size: file.size };
    Ok((folders, plan.last().map(wanted)))
}
