//! What dotenvy would do to a value, read in the same way as dotenvy reads it.

use std::borrow::Cow;

/// What in a value is not taken as it is.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Scan {
    /// The names after each `$` that is replaced; empty where none follows.
    pub(super) names: Vec<String>,
    /// Whether the last character is a backslash with nothing behind it, which disappears.
    pub(super) ends_in_backslash: bool,
    /// Whether it was hardly meant so, if it is a secret: it is neither plain text nor all in quotes, or it is plain
    /// text in front of a comment, which may as well be the rest of it.
    pub(super) loses_characters: bool,
}

impl Scan {
    /// Reads the text behind the equals sign.
    pub(super) fn of(text: &str) -> Self {
        let mut scan = Self { loses_characters: text.starts_with('#'), ..Self::default() };
        let text = text.trim();
        if text.starts_with('#') {
            return scan;
        }
        let quoted = text.starts_with(['\'', '"']);
        let mut quote = None;
        let mut rest = text.chars();
        while let Some(c) = rest.next() {
            match (quote, c) {
                (Some('\''), '\'') | (Some('"'), '"') => quote = None,
                (Some('\''), _) => {}
                (_, '$') => scan.reference(&mut rest),
                (_, '\\') => {
                    scan.loses_characters |= quote.is_none() && !quoted;
                    scan.ends_in_backslash = rest.next().is_none();
                }
                (Some(_), _) => {}
                (None, '\'' | '"') => {
                    scan.loses_characters |= !quoted;
                    quote = Some(c);
                }
                (None, ' ' | '\t') => {
                    scan.loses_characters |= !quoted;
                    break;
                }
                (None, _) => scan.loses_characters |= quoted,
            }
        }
        scan
    }

    /// Reads what follows a `$`: a name in braces, or letters and digits. The character behind the latter is taken as
    /// it is, even a quote, unless it is another `$`.
    fn reference(&mut self, rest: &mut std::str::Chars<'_>) {
        if let Some(inner) = rest.as_str().strip_prefix('{') {
            self.names.push(inner.chars().take_while(|c| *c != '}').collect());
            rest.by_ref().find(|c| *c == '}');
            return;
        }
        let name: String = rest.as_str().chars().take_while(|c| c.is_alphanumeric()).collect();
        *rest = rest.as_str()[name.len()..].chars();
        self.names.push(name);
        if !rest.as_str().starts_with('$') {
            rest.next();
        }
    }
}

/// `line` such that a backslash before its closing single quote does not open it again.
///
/// Between single quotes a backslash is a character like others, but when dotenvy looks for the end of an entry, it
/// takes `\'` for no end, and goes on into the next lines.
pub(super) fn closed(line: &str) -> Cow<'_, str> {
    let entry = line.split_once('=').and_then(|(_, value)| value.trim_start().strip_prefix('\'')?.split_once('\''));
    let Some((inner, after)) = entry else { return Cow::Borrowed(line) };
    let ends = after.trim().is_empty() || (after.starts_with([' ', '\t']) && after.trim_start().starts_with('#'));
    let before = inner.trim_end_matches('\\');
    let backslashes = inner.len() - before.len();
    if !ends || backslashes % 2 == 0 || line.trim_start().starts_with('#') {
        return Cow::Borrowed(line);
    }
    let head = &line[..line.len() - after.len() - 1 - backslashes];
    Cow::Owned(format!("{head}'{}{after}", "\\".repeat(2 * backslashes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaced_names_are_found_where_dotenvy_replaces() {
        for (text, names) in [
            ("a$b", vec!["b"]),
            ("$FOO_BAR", vec!["FOO"]),
            ("${FOO_BAR}x", vec!["FOO_BAR"]),
            ("\"a$b c\"", vec!["b"]),
            ("a$", vec![""]),
            ("a$!b", vec![""]),
            ("$a$b", vec!["a", "b"]),
            ("$$", vec!["", ""]),
            ("'a$b'", vec![]),
            ("a\\$b", vec![]),
            ("\"a\\$b\"", vec![]),
            ("a # $b", vec![]),
            ("'a'$b'c'", vec!["b"]),
        ] {
            assert_eq!(Scan::of(text).names, names, "{text}");
        }
    }

    #[test]
    fn a_secret_is_plain_or_all_in_quotes() {
        for text in
            ["abc", "=a#b!]c", "'a b'", "\"a\\\"b\"", "'a' # why", "'it'\"'\"'s'", "'it'\\''s'", "'a'\\\\", "", " # x"]
        {
            assert!(!Scan::of(text).loses_characters, "{text}");
        }
        for text in ["a'b'c", "\"a\"b", "a\\\\b", "a\\ b", "\\'a", "abc # why", "abc #def", "#abc", r"\\''"] {
            assert!(Scan::of(text).loses_characters, "{text}");
        }
    }

    #[test]
    fn a_backslash_at_the_end_is_seen() {
        for (text, expected) in [("ab\\", true), ("ab\\\\", false), ("'ab\\'", false), ("'ab'\\", true), ("ab", false)]
        {
            assert_eq!(Scan::of(text).ends_in_backslash, expected, "{text}");
        }
    }

    #[test]
    fn a_backslash_before_a_closing_quote_is_moved_out() {
        for (line, expected) in [
            (r"A='b\'", r"A='b'\\"),
            (r"A = 'b\\\'  ", r"A = 'b'\\\\\\  "),
            (r"A='b\' # it's", r"A='b'\\ # it's"),
            (r"A='b\'#", r"A='b\'#"),
            (r"A='\'", r"A=''\\"),
            (r"A='b\\'", r"A='b\\'"),
            (r"A='b'", r"A='b'"),
            (r"A='b\'c'", r"A='b\'c'"),
            (r"# A='b\'", r"# A='b\'"),
            ("A='", "A='"),
        ] {
            assert_eq!(closed(line), expected);
        }
    }
}
