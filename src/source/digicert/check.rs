//! `auditsync check` for the report. It starts no run.

use super::cursor::Baseline;
use super::error::Unread;
use super::history::{Shown, Status};
use super::quotes::Quotes;
use super::reading;
use super::{Cut, Digicert};
use crate::component::Check;
use crate::failure::{Class, Failure};

const REPORT: &str = "report";
const COLUMNS: &str = "columns";

impl Digicert {
    /// Reads the history, and the newest run that is ready.
    pub(super) async fn checks(&self) -> Vec<Check> {
        let is_ready = |shown: &Shown| shown.status == Status::Ready;
        let runs = match self.runs(&Baseline::default(), Cut::Warned, is_ready).await {
            Ok(runs) => runs,
            Err(error) => return vec![Check::failed(REPORT, error)],
        };
        let key = Check::works("API key", "accepted");
        let Some(newest) = runs.last() else {
            let id = &self.settings.report_id;
            let seen = format!("no run of the report {id} is in the history; the first sync starts one");
            return vec![key, Check::unknown(REPORT, seen)];
        };
        let report = Check::works(REPORT, described(newest, &self.api.quotes));
        let columns = match runs.iter().rfind(|shown| is_ready(shown)) {
            Some(ready) => self.check_columns(ready).await,
            None => Check::unknown(COLUMNS, "no run of the report is ready"),
        };
        vec![key, report, columns]
    }

    async fn check_columns(&self, ready: &Shown) -> Check {
        match reading::columns(&self.api, &ready.run, &self.settings.time_column).await {
            Ok(None) => Check::unknown(COLUMNS, format!("the run {} has no row", ready.run.id)),
            Ok(Some(columns)) => Check::works(COLUMNS, columns.to_string()),
            Err(Unread::Other(error)) => Check::failed(COLUMNS, error),
            Err(Unread::Content(cause)) => {
                let class = if cause.is_configuration() { Class::Refused } else { Class::Retryable { after: None } };
                Check::failed(COLUMNS, Failure::new(class, cause))
            }
        }
    }
}

fn described(shown: &Shown, quotes: &Quotes) -> String {
    let Shown { run, status, report, report_name, formats, .. } = shown;
    let name = report_name.as_ref().map(|name| format!("{}, ", quotes.text(name))).unwrap_or_default();
    let status = format!("{status:?}").to_uppercase();
    let formats = quotes.text(&formats.join(" and "));
    format!("{name}{report}, format {formats}; newest run {}, began {}, {status}", run.id, run.began)
}
