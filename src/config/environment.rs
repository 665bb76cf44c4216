//! The variables that were given: ours by name, and the names that look as if they were meant for us.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;

use super::mistakes::Mistakes;
use super::variables::{self, Variable};

/// What is set, by name. No value is empty.
#[derive(Default)]
pub(super) struct Environment {
    values: BTreeMap<&'static str, String>,
    strangers: BTreeSet<String>,
}

impl Environment {
    /// Takes the variables of the table that are `wanted` out of `pairs`. Of a name given twice the first one holds,
    /// so that what has precedence comes first.
    pub(super) fn gather(
        pairs: impl IntoIterator<Item = (OsString, OsString)>,
        wanted: impl Fn(&Variable) -> bool,
        mistakes: &mut Mistakes,
    ) -> Self {
        let mut environment = Self::default();
        let mut seen = BTreeSet::new();
        for (name, value) in pairs {
            let Ok(name) = name.into_string() else { continue };
            let Some(row) = variables::find(&name) else {
                environment.strangers.insert(name);
                continue;
            };
            if wanted(row) && seen.insert(row.name) {
                environment.take(row, value, mistakes);
            }
        }
        environment
    }

    fn take(&mut self, row: &Variable, value: OsString, mistakes: &mut Mistakes) {
        let value = match value.into_string() {
            // A secret is what it is, blanks included.
            Ok(value) if row.secret => value,
            Ok(value) => value.trim().to_owned(),
            Err(_) => {
                mistakes.refuse_name(row.name, "its value is not text in UTF-8");
                return;
            }
        };
        if !value.is_empty() {
            self.values.insert(row.name, value);
        }
    }

    /// What is set, for envy.
    pub(super) fn pairs(&self) -> impl Iterator<Item = (String, String)> {
        self.values.iter().map(|(name, value)| ((*name).to_owned(), value.clone()))
    }

    /// The names that are not in the table.
    pub(super) fn strangers(&self) -> impl Iterator<Item = &str> {
        self.strangers.iter().map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gather(pairs: &[(&str, &str)]) -> Environment {
        let pairs = pairs.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
        Environment::gather(pairs, |_| true, &mut Mistakes::default())
    }

    #[test]
    fn secrets_keep_every_byte_and_other_values_lose_blanks_around_them() {
        let environment = gather(&[("DD_API_KEY", " k \t"), ("DD_SITE", " datadoghq.eu\r\n")]);
        assert_eq!(environment.values["DD_API_KEY"], " k \t");
        assert_eq!(environment.values["DD_SITE"], "datadoghq.eu");
    }

    #[test]
    fn an_empty_value_is_not_set() {
        assert!(gather(&[("DD_API_KEY", ""), ("DD_SITE", ""), ("DD_ENV", "  ")]).values.is_empty());
    }

    #[test]
    fn the_first_of_two_values_holds_even_if_it_is_empty() {
        assert_eq!(gather(&[("DD_SITE", "one.example"), ("DD_SITE", "two.example")]).values["DD_SITE"], "one.example");
        assert!(gather(&[("DD_SITE", ""), ("DD_SITE", "two.example")]).values.is_empty());
    }

    #[cfg(unix)]
    #[test]
    fn bytes_that_are_not_text_are_a_mistake_in_our_variables_alone() {
        use std::os::unix::ffi::OsStringExt;
        let broken = || OsString::from_vec(vec![b'a', 0xff]);
        let mut mistakes = Mistakes::default();
        let pairs = [("DD_SITE".into(), broken()), ("LANG".into(), broken()), (broken(), "x".into())];
        Environment::gather(pairs, |_| true, &mut mistakes);
        let message = mistakes.conclude(Ok(()), &[]).unwrap_err().to_string();
        assert_eq!(message, "the configuration has a mistake:\n  DD_SITE: its value is not text in UTF-8");
    }
}
