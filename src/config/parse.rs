//! Parses the text of one value. An error is the rule that the value breaks.

use std::fmt;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use url::Url;

use crate::http::is_loopback;

/// The bounds of a time.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    least: Duration,
    most: Duration,
    above_zero: bool,
    whole_seconds: bool,
}

impl Bounds {
    /// From `least` to `most` seconds, inclusive.
    pub const fn seconds(least: u64, most: u64) -> Self {
        let (least, most) = (Duration::from_secs(least), Duration::from_secs(most));
        Self { least, most, above_zero: false, whole_seconds: false }
    }

    /// Excludes zero.
    pub const fn above_zero(self) -> Self {
        Self { above_zero: true, ..self }
    }

    /// Excludes fractions of a second.
    pub const fn whole_seconds(self) -> Self {
        Self { whole_seconds: true, ..self }
    }

    /// The time within the bounds that is nearest to `time`, without a fraction of a second where none may be.
    pub fn nearest(&self, time: Duration) -> Duration {
        let time = if self.whole_seconds { Duration::from_secs(time.as_secs()) } else { time };
        let least = if self.above_zero { self.least.max(Duration::from_secs(1)) } else { self.least };
        time.clamp(least, self.most)
    }

    fn hold(&self, time: Duration) -> bool {
        (self.least..=self.most).contains(&time)
            && !(self.above_zero && time.is_zero())
            && !(self.whole_seconds && time.subsec_nanos() != 0)
    }
}

impl fmt::Display for Bounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (least, most) = (short(self.least), short(self.most));
        let whole = if self.whole_seconds { " in whole seconds" } else { "" };
        if self.above_zero {
            write!(f, "more than {least} and at most {most}{whole}")
        } else {
            write!(f, "from {least} to {most}{whole}")
        }
    }
}

/// Writes a bound in its largest whole unit; three days or more are in days.
pub(crate) fn short(time: Duration) -> String {
    match time.as_secs() {
        seconds if seconds > 2 * 86_400 && seconds % 86_400 == 0 => format!("{}d", seconds / 86_400),
        seconds if seconds > 0 && seconds % 3600 == 0 => format!("{}h", seconds / 3600),
        seconds if seconds > 0 && seconds % 60 == 0 => format!("{}m", seconds / 60),
        seconds => format!("{seconds}s"),
    }
}

/// Parses a time such as `90s`, `5m` or `1h30m`.
pub(crate) fn duration(text: &str, bounds: Bounds) -> Result<Duration, String> {
    // Longer numbers are out of every bound, and humantime panics if their sum overflows.
    let too_long = text.len() > 64 || text.split(|c: char| !c.is_ascii_digit()).any(|digits| digits.len() > 9);
    let time = if too_long { None } else { humantime::parse_duration(text).ok() };
    time.filter(|time| bounds.hold(*time))
        .ok_or_else(|| format!("must be a time {bounds}, with its unit, such as 90s, 5m or 1h30m"))
}

/// Checks a key for a header. Anything but visible ASCII got into it by accident.
pub(crate) fn header_key(key: &str) -> Result<(), String> {
    if ['\'', '"'].iter().any(|quote| key.starts_with(*quote) && key.ends_with(*quote)) {
        return Err("is in quotes; leave them out (docker run --env-file makes them a part of the key)".to_owned());
    }
    match key.chars().find(|c| !c.is_ascii_graphic()) {
        None => Ok(()),
        Some('\n' | '\r') => Err("contains a line end; it must be only the key, on one line".to_owned()),
        Some(c) if c.is_whitespace() => Err("contains a blank; it must be only the key".to_owned()),
        Some(_) => Err("contains a character that no key has; it must be only the key".to_owned()),
    }
}

/// Parses true or false, in the usual spellings.
pub(crate) fn flag(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Ok(true),
        "false" | "0" | "no" | "off" => Ok(false),
        _ => Err("must be true or false".to_owned()),
    }
}

/// Parses the name of one of the `choices`, in upper or lower case.
pub(crate) fn choice<T: Clone>(text: &str, choices: &[(&str, T)]) -> Result<T, String> {
    choices.iter().find(|(name, _)| name.eq_ignore_ascii_case(text)).map(|(_, choice)| choice.clone()).ok_or_else(
        || {
            let names: Vec<_> = choices.iter().map(|(name, _)| *name).collect();
            format!("must be one of {}", names.join(", "))
        },
    )
}

/// Parses an IP address and a port to listen on.
pub(crate) fn listen(text: &str) -> Result<SocketAddr, String> {
    let address = text.parse::<SocketAddr>().ok().filter(|address| address.port() != 0);
    address.ok_or_else(|| "must be an IP address and a port, such as 127.0.0.1:9090 or [::]:9090".to_owned())
}

/// Parses an address to which a secret may be sent: `https`, or `http` to this machine.
pub(crate) fn api_url(text: &str) -> Result<Url, String> {
    let url = http_url(text)?;
    if url.scheme() == "http" && !is_loopback(&url) {
        return Err("must begin with https://; plain http:// would show the secrets to others".to_owned());
    }
    Ok(url)
}

/// Parses an `http` or `https` address without user, password, query or fragment.
pub(crate) fn http_url(text: &str) -> Result<Url, String> {
    let scheme = text.split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase());
    if !matches!(scheme.as_deref(), Some("https" | "http")) {
        return Err("must be an address that begins with https://".to_owned());
    }
    if text.contains('@') {
        return Err("must not contain a user or a password".to_owned());
    }
    if text.contains(['?', '#']) {
        return Err("must end with the path, without ? or #".to_owned());
    }
    // The URL standard drops line ends and turns backslashes into slashes, so the address would not be the one that was meant.
    if text.contains(|c: char| c.is_whitespace() || c.is_control() || c == '\\') {
        return Err("must not contain blanks or backslashes".to_owned());
    }
    Url::parse(text).map_err(|cause| format!("is not an address: {cause}"))
}

/// Removes slashes at the end of the address, so that a path can follow. The path `/` alone stays, since an address needs it.
pub(crate) fn without_trailing_slash(mut url: Url) -> Url {
    let path = url.path().trim_end_matches('/').to_owned();
    url.set_path(&path);
    url
}

/// Checks that a folder exists. The rule calls it `which`, since a message may have to hide its name.
pub(crate) fn existing_folder(which: &str, path: &Path) -> Result<(), String> {
    match path.metadata() {
        Ok(found) if found.is_dir() => Ok(()),
        Ok(_) => Err(format!("{which} is not a folder")),
        Err(cause) if cause.kind() == ErrorKind::NotFound => {
            Err(format!("{which} does not exist; create the folder or name another"))
        }
        Err(cause) => Err(format!("{which} cannot be used: {cause}")),
    }
}

/// Parses the bare name of a bucket.
#[cfg(any(feature = "s3", feature = "gcs"))]
pub(crate) fn bucket(text: &str) -> Result<String, String> {
    if text.contains("://") || text.contains('/') || text.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err("must be only the name of a bucket, without scheme or path".to_owned());
    }
    Ok(text.to_owned())
}

/// Parses a path in a bucket. It drops slashes at both ends: no name begins with one, and one follows in any case.
#[cfg(any(feature = "s3", feature = "gcs"))]
pub(crate) fn prefix(text: &str) -> Result<String, String> {
    const LONGEST: usize = 900;
    let prefix = text.trim_matches('/');
    if prefix.len() > LONGEST || prefix.chars().any(char::is_control) {
        return Err(format!("must be a path of at most {LONGEST} bytes without control characters"));
    }
    Ok(prefix.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Bounds = Bounds::seconds(5, 64_800);

    #[test]
    fn durations_are_taken_up_to_their_bounds() {
        for (text, seconds) in [("5s", 5), ("18h", 64_800), ("90s", 90), ("1h 30m", 5400), ("1h30m", 5400)] {
            assert_eq!(duration(text, INTERVAL), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in ["4s", "4999ms", "18h 1s", "0s", "60", "-5s", "soon", "5 apples", "1d", "9999999999999999999999s"] {
            let rule = duration(text, INTERVAL).unwrap_err();
            assert!(rule.starts_with("must be a time from 5s to 18h, with its unit"), "{text}: {rule}");
        }
    }

    #[test]
    fn bounds_may_exclude_zero_and_fractions() {
        let lookback = Bounds::seconds(0, 64_800).above_zero();
        assert!(duration("0s", lookback).unwrap_err().contains("more than 0s and at most 18h"));
        assert_eq!(duration("1s", lookback), Ok(Duration::from_secs(1)));
        let window = Bounds::seconds(1, 86_400).whole_seconds();
        assert!(duration("1500ms", window).unwrap_err().contains("from 1s to 24h in whole seconds"));
        assert_eq!(duration("24h", window), Ok(Duration::from_hours(24)));
        assert!(duration("1500ms", Bounds::seconds(1, 2)).is_ok());
    }

    #[test]
    fn no_number_is_too_long_for_a_duration() {
        for text in ["18446744073709551615s1000ms", "18446744073709551615s 1000000000ns", &"1y ".repeat(1000)] {
            assert!(duration(text, INTERVAL).is_err(), "{text}");
        }
    }

    #[test]
    fn flags_are_read_in_every_usual_spelling() {
        for (text, expected) in
            [("true", true), ("YES", true), ("On", true), ("1", true), ("False", false), ("no", false), ("OFF", false)]
        {
            assert_eq!(flag(text), Ok(expected), "{text}");
        }
        assert_eq!(flag("0"), Ok(false));
        for text in ["2", "ja", "t", "enabled"] {
            assert!(flag(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_choice_lists_what_there_is() {
        let choices = [("text", 1), ("json", 2)];
        assert_eq!(choice("JSON", &choices), Ok(2));
        assert_eq!(choice("xml", &choices), Err("must be one of text, json".to_owned()));
    }

    #[test]
    fn what_to_listen_on_is_an_ip_address_and_a_port() {
        for text in ["127.0.0.1:9090", "0.0.0.0:1", "[::]:9090", "[::1]:65535"] {
            assert!(listen(text).is_ok(), "{text}");
        }
        for text in ["localhost:9090", ":9090", "9090", "127.0.0.1", "127.0.0.1:0", "::9090", "127.0.0.1:65536"] {
            assert!(listen(text).unwrap_err().contains("such as 127.0.0.1:9090"), "{text}");
        }
    }

    #[test]
    fn an_address_for_secrets_is_encrypted_or_on_this_machine() {
        for text in
            ["https://audit.example.com", "HTTPS://audit.example.com/", "http://127.0.0.1:8080", "http://[::1]/x"]
        {
            assert!(api_url(text).is_ok(), "{text}");
        }
        for (text, rule) in [
            ("http://audit.example.com", "must begin with https://"),
            ("http://localhost.example.com", "must begin with https://"),
            ("audit.example.com", "begins with https://"),
            ("localhost:8080", "begins with https://"),
            ("ftp://audit.example.com", "begins with https://"),
            ("https://me:pw@audit.example.com", "user or a password"),
            ("https://@audit.example.com", "user or a password"),
            ("https://audit.example.com?", "without ? or #"),
            ("https://audit.example.com/#x", "without ? or #"),
            ("https://audit.example.com\\x", "backslashes"),
            ("https://audit.\nexample.com", "blanks"),
            ("https://", "is not an address"),
            ("https://a b", "blanks"),
            ("https://audit.example.com:99999", "is not an address"),
        ] {
            assert!(api_url(text).unwrap_err().contains(rule), "{text}: {:?}", api_url(text));
        }
    }

    #[test]
    fn a_base_path_is_kept_without_its_slash() {
        for (text, expected) in [
            ("https://a.example.com", "https://a.example.com/"),
            ("https://a.example.com//", "https://a.example.com/"),
            ("https://a.example.com/scm/", "https://a.example.com/scm"),
        ] {
            assert_eq!(without_trailing_slash(Url::parse(text).unwrap()).as_str(), expected);
        }
    }
}
