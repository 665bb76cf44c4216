//! `auditsync verify`: proves that the archives of the pipelines are complete and unchanged.

use indicatif::{ProgressBar, ProgressStyle};

use super::exit::Exit;
use super::{print, say};
use crate::destination::{Advance, Mark};
use crate::failure::Chain;
use crate::pipeline::ArchiveConfig;
use crate::state::{Error, StateStore};

/// Verifies one archive after another and prints a line for each. Returns the gravest exit code.
pub(super) async fn verify(archives: Vec<ArchiveConfig>) -> Exit {
    if archives.is_empty() {
        say("auditsync: none of these pipelines has an archive");
        return Exit::Usage;
    }
    let mut gravest = Exit::Done;
    for archive in &archives {
        gravest = gravest.max(verify_one(archive).await.unwrap_or_else(|error| {
            say(&format!("auditsync: {}", Chain(&error)));
            Exit::from(&error)
        }));
    }
    gravest
}

async fn verify_one(config: &ArchiveConfig) -> Result<Exit, Error> {
    let (archive, store) = (config.archive(), config.store.build());
    let location = archive.location();
    let stored = mark(config, store.as_ref()).await?;
    let bar = bar();
    let advance = |Advance { done, total }| {
        if let Some(total) = total {
            bar.set_length(total.max(done));
        }
        bar.set_position(done);
    };
    let proof = archive.verify(stored.as_ref().and_then(Option::as_ref), &advance).await;
    bar.finish_and_clear();
    let proof = match proof {
        Ok(proof) => proof,
        Err(failure) => {
            say(&format!("auditsync: {}", Chain(&failure)));
            return Ok(match failure.class().into() {
                Exit::TryAgain => Exit::State,
                exit => exit,
            });
        }
    };
    let proven = proof.proven;
    if let Some(flaw) = proof.flaw {
        print(&format!("NOT PROVEN {location}: {flaw}; before that, {proven} are in order"));
        return Ok(Exit::Unproven);
    }
    let Some(stored) = stored.flatten() else {
        print(&format!(
            "NOT PROVEN {location}: {proven} are in order, but the last manifest is unproven: no state at {} names it",
            store.location()
        ));
        return Ok(Exit::Unproven);
    };
    if proof.mark.as_ref() == Some(&stored) {
        print(&format!("proven {location}: {proven}"));
        return Ok(Exit::Done);
    }
    // The daemon may have written manifests after the one that the state named before.
    let now = mark(config, store.as_ref()).await?.flatten();
    if now.is_some() && now == proof.mark {
        print(&format!("proven {location}: {proven}"));
        return Ok(Exit::Done);
    }
    if now != Some(stored) {
        say(&format!("auditsync: {location} grew while it was read; repeat the command"));
        return Ok(Exit::TryAgain);
    }
    print(&format!(
        "NOT PROVEN {location}: {proven} are in order, but the last manifest is unproven: the state does not name it yet. The next run \
         corrects that"
    ));
    Ok(Exit::Unproven)
}

/// The archive's mark in the state; none without a state.
async fn mark(config: &ArchiveConfig, store: &dyn StateStore) -> Result<Option<Option<Mark>>, Error> {
    let Some((document, _)) = store.load().await? else { return Ok(None) };
    Ok(Some(document.read_for(&config.name, &store.location())?.mark))
}

/// A progress bar, shown only if standard error is a terminal.
fn bar() -> ProgressBar {
    let bar = ProgressBar::no_length();
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} objects, {per_sec}");
    if let Ok(style) = style {
        bar.set_style(style);
    }
    bar
}
