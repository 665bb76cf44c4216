//! Decides by its type whether an event is delivered.

use std::collections::BTreeSet;

use super::variables::Types;

/// The type of the event after a session's recording is stored.
pub(super) const UPLOAD: &str = "session.upload";

/// The types of events to deliver.
#[derive(Debug)]
pub(super) struct Filter {
    /// The wanted types; all if it is empty.
    pub(super) types: Types,
    pub(super) skipped: Types,
    pub(super) skipped_of_sessions: Types,
    /// Whether recorded sessions are read.
    pub(super) sessions: bool,
}

impl Filter {
    /// The types to request; empty for all.
    pub(super) fn requested(&self) -> Vec<String> {
        if self.types.is_empty() {
            return Vec::new();
        }
        let upload = self.sessions.then(|| UPLOAD.to_owned());
        let wanted = self.types.iter().filter(|kind| !self.skipped.contains(*kind)).cloned();
        let all: BTreeSet<_> = wanted.chain(upload).collect();
        // An empty list would request all types. So request the skipped ones; `wants` drops them.
        if all.is_empty() { self.types.iter().cloned().collect() } else { all.into_iter().collect() }
    }

    /// Whether an event of this type is delivered. This does not rely on the server's filter.
    pub(super) fn wants(&self, kind: &str) -> bool {
        (self.types.is_empty() || self.types.contains(kind)) && !self.skipped.contains(kind)
    }

    /// Whether an event of this type in a recorded session is delivered.
    pub(super) fn wants_of_session(&self, kind: &str) -> bool {
        !self.skipped_of_sessions.contains(kind)
    }

    /// Whether an event of this type means that a session can be read.
    pub(super) fn is_upload(&self, kind: &str) -> bool {
        self.sessions && kind == UPLOAD
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(types: &[&str], skipped: &[&str], sessions: bool) -> Filter {
        let names = |names: &[&str]| names.iter().map(ToString::to_string).collect();
        Filter { types: names(types), skipped: names(skipped), skipped_of_sessions: names(&["print"]), sessions }
    }

    #[test]
    fn sessions_are_found_whatever_types_are_wanted() {
        assert_eq!(filter(&["user.login"], &[], true).requested(), ["session.upload", "user.login"]);
        assert!(filter(&[], &["user.login"], true).requested().is_empty(), "all");
        let filter = filter(&["user.login"], &[UPLOAD], true);
        assert!(filter.is_upload(UPLOAD) && !filter.wants(UPLOAD));
    }

    #[test]
    fn what_is_skipped_never_turns_into_everything() {
        let filter = filter(&["user.login"], &["user.login"], false);
        assert_eq!(filter.requested(), ["user.login"]);
        assert!(!filter.wants("user.login") && !filter.is_upload(UPLOAD));
    }

    #[test]
    fn types_and_skipped_types_both_count() {
        let filter = filter(&["a", "b"], &["b"], false);
        assert!(filter.wants("a") && !filter.wants("b") && !filter.wants("c"));
        assert!(filter.wants_of_session("b") && !filter.wants_of_session("print"));
    }
}
