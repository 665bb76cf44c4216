//! The layout of an archive's keys.

use jiff::Timestamp;
use jiff::fmt::strtime;

use crate::aws::digest::Sha256;
use crate::pipeline_name::PipelineName;

/// The placeholder for the part of a key that tells objects apart.
const ID: &str = "{id}";

/// The placeholder for the source's product.
const SOURCE: &str = "{source}";

/// The folder of the manifests. Tools that read a bucket as a table skip names that begin with `_`.
const MANIFESTS: &str = "_manifests";

/// A template that makes the key of an object from a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Template {
    before: String,
    after: String,
}

impl Template {
    /// Reads a template: directives of `strftime`, `{source}`, and `{id}`.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let parts: Vec<_> = text.trim_matches('/').split(ID).collect();
        let [before, after] = parts[..] else { return Err(format!("must hold {ID} once")) };
        let template = Self { before: before.to_owned(), after: after.to_owned() };
        for part in [before, after] {
            let rest = part.replace(SOURCE, "");
            if rest.contains(['{', '}']) {
                return Err(format!("knows {SOURCE} and {ID} in braces, and nothing else"));
            }
            if part.chars().any(|c| c.is_control() || c.is_whitespace()) {
                return Err("must not hold blanks".to_owned());
            }
            strtime::format(part, Timestamp::UNIX_EPOCH).map_err(|error| format!("cannot be used: {error}"))?;
        }
        let sample = Self::render(&template.before, "x", Timestamp::UNIX_EPOCH);
        if sample.starts_with(MANIFESTS) || text.len() > 500 {
            return Err(format!("must be at most 500 bytes and not begin with {MANIFESTS}"));
        }
        Ok(template)
    }

    fn render(part: &str, source: &str, since: Timestamp) -> String {
        let part = part.replace(SOURCE, source);
        // `parse` has formatted each part once, so this does not fail.
        strtime::format(&part, since).unwrap_or(part)
    }
}

/// The keys of one pipeline's archive.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    prefix: String,
    template: Template,
    ending: &'static str,
    source: &'static str,
    pipeline: PipelineName,
}

impl Layout {
    pub(super) fn new(
        prefix: &str,
        template: Template,
        ending: &'static str,
        source: &'static str,
        pipeline: &PipelineName,
    ) -> Self {
        Self { prefix: prefix.to_owned(), template, ending, source, pipeline: pipeline.clone() }
    }

    /// The beginning of all keys.
    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The key `name` under the prefix.
    pub(super) fn under_prefix(&self, name: &str) -> String {
        if self.prefix.is_empty() { name.to_owned() } else { format!("{}/{name}", self.prefix) }
    }

    /// The part of `key` after the prefix.
    pub(super) fn behind_prefix<'a>(&self, key: &'a str) -> &'a str {
        key.strip_prefix(&self.prefix).map_or(key, |behind| behind.trim_start_matches('/'))
    }

    /// The beginning of the manifests' keys.
    pub(super) fn manifests(&self) -> String {
        self.under_prefix(&format!("{MANIFESTS}/{}/", self.pipeline.file_stem()))
    }

    /// The key of a manifest. Sorted keys are in the order of the chain.
    pub(super) fn manifest(&self, number: u64) -> String {
        format!("{}{number:012}.json", self.manifests())
    }

    /// The beginning of the key of each attempt at an object. No other object's key begins so.
    pub(super) fn attempts(&self, number: u64, since: Timestamp) -> String {
        let before = Template::render(&self.template.before, self.source, since);
        self.under_prefix(&format!("{before}{}", self.id(number)))
    }

    /// The same beginning, taken from the `key` of one attempt; none if `key` belongs to no attempt at the object.
    pub(super) fn attempts_like<'a>(&self, number: u64, key: &'a str) -> Option<&'a str> {
        let id = self.id(number);
        let at = key.find(&id)?;
        key.get(..at + id.len())
    }

    fn id(&self, number: u64) -> String {
        let digest = Sha256::of(format!("{}\n{number}", self.pipeline).as_bytes()).to_string();
        format!("{}-", digest.get(..16).unwrap_or_default())
    }

    /// Makes the key of a new attempt at the object `number`, whose events follow the time `since` that the source had
    /// reached.
    pub(super) fn attempt(&self, number: u64, since: Timestamp) -> String {
        let after = Template::render(&self.template.after, self.source, since);
        format!("{}{:016x}{after}{}", self.attempts(number, since), fastrand::u64(..), self.ending)
    }
}

#[cfg(test)]
mod tests {
    use super::super::variables::USUAL_TEMPLATE;
    use super::*;

    fn layout(prefix: &str, template: &str) -> Layout {
        let template = Template::parse(template).unwrap();
        Layout::new(prefix, template, ".json.gz", "sectigo", &"sectigo:s3".into())
    }

    fn since() -> Timestamp {
        "2026-03-02T01:02:03Z".parse().unwrap()
    }

    #[test]
    fn objects_are_laid_out_by_time_and_told_apart_by_number_and_attempt() {
        let layout = layout("pki/audit", USUAL_TEMPLATE);
        let attempts = layout.attempts(7, since());
        assert!(attempts.starts_with("pki/audit/2026/03/02/010203-sectigo-audit-"), "{attempts}");
        let (one, other) = (layout.attempt(7, since()), layout.attempt(7, since()));
        assert_ne!(one, other);
        for key in [&one, &other] {
            assert!(key.starts_with(&attempts) && key.ends_with(".json.gz"), "{key}");
            assert_eq!(layout.attempts_like(7, key), Some(attempts.as_str()));
        }
        assert!(!layout.attempt(8, since()).starts_with(&attempts));
        assert_eq!(layout.manifest(7), "pki/audit/_manifests/auditsync-sectigo-s3/000000000007.json");
    }

    #[test]
    fn a_template_may_name_folders_as_tables_want_them() {
        let layout = layout("", "source={source}/year=%Y/month=%m/{id}-rows");
        let key = layout.attempt(0, since());
        assert!(key.starts_with("source=sectigo/year=2026/month=03/") && key.ends_with("-rows.json.gz"), "{key}");
    }

    #[test]
    fn a_template_that_cannot_tell_objects_apart_is_refused() {
        for (text, rule) in [
            ("%Y/%m/%d", "must hold {id} once"),
            ("{id}/{id}", "must hold {id} once"),
            ("{day}/{id}", "knows {source} and {id}"),
            ("%J/{id}", "cannot be used"),
            ("a b/{id}", "must not hold blanks"),
            ("_manifests/{id}", "not begin with _manifests"),
        ] {
            let refused = Template::parse(text).unwrap_err();
            assert!(refused.contains(rule), "{text}: {refused}");
        }
    }
}
