//! Checks the proxy variables, which the HTTP library reads from the process environment. It ignores a value that it cannot use, and
//! silently calls servers directly. So this module refuses such a value before any secret is sent.
//!
//! `hyper_util::client::proxy::matcher` defines what the library accepts.

use std::ffi::OsStr;

use hyper::Uri;

use super::environment::Environment;
use super::mistakes::{Mistakes, Noted};

/// The pairs of names, in the order in which the library reads them. Calls to `http` addresses never use a proxy.
const PROXIES: [[&str; 2]; 2] = [["HTTPS_PROXY", "https_proxy"], ["ALL_PROXY", "all_proxy"]];

/// Web servers set it for CGI programs. If it is set, the library ignores all proxy variables.
const CGI: &str = "REQUEST_METHOD";

const RULE: &str = "must be http://host:port or https://host:port";

/// Refuses values that the library would ignore.
pub(super) fn check(environment: &Environment, mistakes: &mut Mistakes) -> Result<(), Noted> {
    let is_given = |name: &&str| environment.raw(name).is_some_and(|value| !value.is_empty());
    for [upper, lower] in PROXIES {
        let Some(name) = [upper, lower].into_iter().find(is_given) else { continue };
        let variable = name.into();
        if name == lower && environment.raw(upper).is_some() {
            let rule = format!("is ignored because {upper} is set, although it is empty; unset {upper}");
            return Err(mistakes.refuse_name(&variable, rule));
        }
        if environment.raw(CGI).is_some() {
            let rule =
                format!("is ignored because {CGI} is set; unset {CGI}, or unset {name} to call servers directly");
            return Err(mistakes.refuse_name(&variable, rule));
        }
        // The library uses the first usable variable, so the others do not matter.
        return match environment.raw(name).and_then(OsStr::to_str) {
            Some(value) if is_usable(value) => Ok(()),
            Some(_) => Err(mistakes.refuse_hidden(&variable, RULE)),
            None => Err(mistakes.refuse_name(&variable, "its value is not text in UTF-8")),
        };
    }
    Ok(())
}

/// Whether the library would use `proxy`. It assumes `http` if there is no scheme. It supports SOCKS only in builds with that feature,
/// and this is not one.
fn is_usable(proxy: &str) -> bool {
    let Ok(uri) = proxy.parse::<Uri>() else { return false };
    let Some(authority) = uri.authority() else { return false };
    let address = authority.as_str().rsplit_once('@').map_or(authority.as_str(), |(_, address)| address);
    // The parser of the address also accepts a port that is not a number up to 65535.
    let port_is_sound = match address.rsplit_once(':') {
        Some((_, port)) if !port.contains(']') => port.parse::<u16>().is_ok_and(|port| port > 0),
        _ => true,
    };
    let has_one_at_most = authority.as_str().matches('@').count() <= 1;
    matches!(uri.scheme_str(), None | Some("http" | "https"))
        && !authority.host().is_empty()
        && port_is_sound
        && has_one_at_most
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(pairs: &[(&str, &str)]) -> String {
        let environment = Environment::from_pairs(pairs.iter().map(|(name, value)| (name.into(), value.into())));
        let mut mistakes = Mistakes::default();
        let built = check(&environment, &mut mistakes);
        mistakes.conclude(built, &[]).err().map(|error| error.to_string()).unwrap_or_default()
    }

    #[test]
    fn a_proxy_that_the_library_uses_is_accepted() {
        for value in [
            "http://proxy.example.com:3128",
            "https://proxy.example.com",
            "http://me:hunter2@proxy.example.com:3128/",
            "proxy.example.com:3128",
            "me:hunter2@127.0.0.1:3128",
            "http://[::1]:3128",
            "http://[::1]",
            "HTTP://proxy",
        ] {
            for name in PROXIES.into_iter().flatten() {
                assert_eq!(message(&[(name, value)]), "", "{value}");
            }
        }
    }

    #[test]
    fn a_proxy_that_the_library_ignores_is_refused() {
        for value in [
            " http://proxy:3128",
            "http://proxy:3128 ",
            "http://pro xy:3128",
            " ",
            "http:/proxy:3128",
            "http//proxy:3128",
            "http://",
            "http://:3128",
            "/proxy",
            "socks5://proxy:1080",
            "socks5h://proxy:1080",
            "ftp://proxy:3128",
            "http://proxy:99999",
            "http://proxy:0",
            "http://proxy:port",
            "http://proxy:",
            "http://[::",
            "http://prõxy:3128",
            "me:hunter2@",
        ] {
            for name in PROXIES.into_iter().flatten() {
                let message = message(&[(name, value)]);
                assert!(message.contains(name) && message.ends_with(RULE), "{value:?}: {message}");
                assert!(!message.contains("hunter2"), "{message}");
            }
        }
    }

    #[test]
    fn a_password_is_not_shown() {
        for value in
            ["ftp://me:hunter2@proxy", "me hunter2", "http://hunter2#x", "hunter2", "http://me:hunter2%40proxy:x"]
        {
            assert!(!message(&[("HTTPS_PROXY", &format!("{value} "))]).contains("hunter2"), "{value}");
        }
    }

    #[test]
    fn an_empty_variable_is_not_set() {
        assert_eq!(message(&[("HTTPS_PROXY", ""), ("ALL_PROXY", "")]), "");
        assert_eq!(message(&[("HTTPS_PROXY", ""), ("ALL_PROXY", "http://proxy:3128")]), "");
        assert!(message(&[("HTTPS_PROXY", ""), ("all_proxy", "x://")]).contains("all_proxy"));
    }

    #[test]
    fn the_first_variable_that_is_given_counts() {
        assert_eq!(message(&[("all_proxy", "x://y"), ("HTTPS_PROXY", "http://proxy:3128")]), "");
        assert!(message(&[("ALL_PROXY", "http://proxy:3128"), ("https_proxy", "x://y")]).contains("https_proxy"));
    }

    #[test]
    fn an_empty_name_in_capitals_that_hides_the_other_one_is_refused() {
        let message = message(&[("HTTPS_PROXY", ""), ("https_proxy", "http://proxy:3128")]);
        assert!(message.contains("https_proxy: is ignored because HTTPS_PROXY is set"), "{message}");
    }

    #[test]
    fn a_proxy_that_a_cgi_variable_disables_is_refused() {
        let message = |proxy| message(&[("REQUEST_METHOD", ""), ("HTTPS_PROXY", proxy)]);
        assert!(message("http://proxy:3128").contains("HTTPS_PROXY: is ignored because REQUEST_METHOD is set"));
        assert_eq!(message(""), "");
    }
}
