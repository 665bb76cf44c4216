//! Names that look as if they were meant for us: a misspelt variable is otherwise silently without effect.

use super::variables::VARIABLES;
use super::{DATADOG_PREFIX, sectigo};

/// Names in use by other Datadog software that are one letter from one of ours.
const NEIGHBOURS: &[&str] = &["DD_APP_KEY"];

/// What to say about the unknown variable `name`, if anything.
pub(super) fn warning(name: &str) -> Option<String> {
    let upper = name.to_ascii_uppercase();
    let nearest = nearest(&upper);
    if upper.starts_with(sectigo::PREFIX) {
        let hint = nearest.map(|nearest| format!("; did you mean {nearest}?")).unwrap_or_default();
        return Some(format!("{name} is set, but there is no such variable{hint}"));
    }
    // Other Datadog software has its own DD_ variables: only a near miss is worth a word.
    if !upper.starts_with(DATADOG_PREFIX) || NEIGHBOURS.contains(&name) {
        return None;
    }
    nearest.map(|nearest| format!("{name} is set, but nothing here reads it; did you mean {nearest}?"))
}

/// The variable whose name is nearly `name`.
fn nearest(name: &str) -> Option<&'static str> {
    let prefixes = [sectigo::PREFIX, DATADOG_PREFIX];
    let prefix = prefixes.into_iter().find(|prefix| name.starts_with(prefix))?;
    let rows = VARIABLES.iter().filter(|row| row.name.starts_with(prefix));
    let nearest = rows.map(|row| (strsim::osa_distance(name, row.name), row.name)).min()?;
    // A short name has many neighbours.
    let allowed = ((nearest.1.len() - prefix.len()) / 4).clamp(1, 4);
    (nearest.0 <= allowed).then_some(nearest.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_name_is_named_with_the_one_that_was_meant() {
        for (name, meant) in [
            ("SECTIGO_AUDIT_API_ULR", "SECTIGO_AUDIT_API_URL"),
            ("SECTIGO_AUDIT_SYNC_INTERVALL", "SECTIGO_AUDIT_SYNC_INTERVAL"),
            ("SECTIGO_AUDIT_CLIENT_SECRET", "SECTIGO_AUDIT_API_CLIENT_SECRET"),
            ("sectigo_audit_api_url", "SECTIGO_AUDIT_API_URL"),
            ("DD_TAG", "DD_TAGS"),
            ("DD_APIKEY", "DD_API_KEY"),
        ] {
            let warning = warning(name).unwrap_or_default();
            assert!(warning.ends_with(&format!("did you mean {meant}?")), "{name}: {warning}");
            assert!(warning.starts_with(&format!("{name} is set")), "{name}: {warning}");
        }
    }

    #[test]
    fn an_unknown_name_under_our_prefix_is_always_named() {
        let warning = warning("SECTIGO_AUDIT_COLOUR").unwrap();
        assert_eq!(warning, "SECTIGO_AUDIT_COLOUR is set, but there is no such variable");
    }

    #[test]
    fn variables_of_other_software_are_left_alone() {
        for name in [
            "PATH",
            "SECTIGO_URL",
            "DD_APP_KEY",
            "DD_URL",
            "DD_VERSION",
            "DD_AGENT_HOST",
            "DD_LOGS_ENABLED",
            "DD_LOGS_CONFIG_USE_COMPRESSION",
            "DD_LOGS_CONFIG_COMPRESSION_LEVEL",
            "DD_TRACE_ENABLED",
        ] {
            assert_eq!(warning(name), None);
        }
    }
}
