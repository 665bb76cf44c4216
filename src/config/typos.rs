//! Warns about names that look like misspelt variables of ours. Otherwise a misspelt variable would silently have no effect.

use super::variable::SHARED_PREFIX;

/// Variables of other Datadog software with a name one letter from one of ours.
const NEIGHBOURS: &[&str] = &["DD_APP_KEY"];

/// The warning about the variable `name`, which nothing reads; none if it does not look like ours. `names` are all names that can be
/// read. A name that begins with one of `prefixes` can only be ours.
pub(super) fn warning(name: &str, names: &[String], prefixes: &[String]) -> Option<String> {
    let upper = name.to_ascii_uppercase();
    let nearest = nearest(&upper, names);
    if upper.starts_with(SHARED_PREFIX) || prefixes.iter().any(|prefix| upper.starts_with(prefix)) {
        let hint = nearest.map(|nearest| format!("; did you mean {nearest}?")).unwrap_or_default();
        return Some(format!("{name} is set, but there is no such variable{hint}"));
    }
    // Other programs have variables that begin like ours, so only a near miss is worth a warning.
    let nearest = nearest.filter(|nearest| is_related(&upper, nearest) && !NEIGHBOURS.contains(&name))?;
    Some(format!("{name} is set, but nothing here reads it; did you mean {nearest}?"))
}

/// Whether both begin with the same word, and `name` has more than that word.
fn is_related(name: &str, other: &str) -> bool {
    name.split('_').next() == other.split('_').next() && name.contains('_')
}

/// The name in `names` that is most like `name`, if any is nearly the same.
fn nearest<'a>(name: &str, names: &'a [String]) -> Option<&'a str> {
    let first = name.split_inclusive('_').next()?;
    let related = names.iter().filter(|other| other.starts_with(first));
    let (distance, nearest) = related.map(|other| (strsim::osa_distance(name, other), other.as_str())).min()?;
    // A short name has many neighbours, so its limit is low. The prefix that all names of a source share does not count.
    let own = nearest.rsplit_once(super::variable::SOURCE_INFIX).map_or(&nearest[first.len()..], |(_, own)| own);
    (distance <= (own.len() / 4).clamp(1, 4)).then_some(nearest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(name: &str) -> Option<String> {
        let names = ["SECTIGO_AUDIT_API_URL", "SECTIGO_AUDIT_API_CLIENT_SECRET", "AUDITSYNC_SYNC_INTERVAL"];
        let names =
            [&names[..], &["SECTIGO_AUDIT_SYNC_INTERVAL", "DD_TAGS", "DD_API_KEY", "DD_SITE", "DD_SOURCE"]].concat();
        warning(name, &names.map_to_owned(), &["SECTIGO_AUDIT_".to_owned()])
    }

    trait MapToOwned {
        fn map_to_owned(&self) -> Vec<String>;
    }

    impl MapToOwned for Vec<&str> {
        fn map_to_owned(&self) -> Vec<String> {
            self.iter().map(|name| (*name).to_owned()).collect()
        }
    }

    #[test]
    fn a_misspelt_name_is_named_with_the_one_that_was_meant() {
        for (name, meant) in [
            ("SECTIGO_AUDIT_API_ULR", "SECTIGO_AUDIT_API_URL"),
            ("SECTIGO_AUDIT_SYNC_INTERVALL", "SECTIGO_AUDIT_SYNC_INTERVAL"),
            ("AUDITSYNC_SYNC_INTERVAL_", "AUDITSYNC_SYNC_INTERVAL"),
            ("SECTIGO_AUDIT_CLIENT_SECRET", "SECTIGO_AUDIT_API_CLIENT_SECRET"),
            ("sectigo_audit_api_url", "SECTIGO_AUDIT_API_URL"),
            ("DD_TAG", "DD_TAGS"),
            ("DD_APIKEY", "DD_API_KEY"),
        ] {
            let warning = told(name).unwrap_or_default();
            assert!(warning.ends_with(&format!("did you mean {meant}?")), "{name}: {warning}");
            assert!(warning.starts_with(&format!("{name} is set")), "{name}: {warning}");
        }
    }

    #[test]
    fn an_unknown_name_under_our_prefix_is_always_named() {
        for name in ["SECTIGO_AUDIT_COLOUR", "AUDITSYNC_COLOUR"] {
            assert_eq!(told(name).unwrap(), format!("{name} is set, but there is no such variable"));
        }
    }

    #[test]
    fn variables_of_other_software_are_left_alone() {
        for name in ["PATH", "SECTIGO_URL", "DD_APP_KEY", "DD_URL", "DD_VERSION", "DD_AGENT_HOST", "DD_LOGS_ENABLED"] {
            assert_eq!(told(name), None);
        }
    }
}
