//! The variables of Teleport's audit log.

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use url::Host;

use super::Settings;
use super::filter::Filter;
use super::identity::Files;
use crate::config::{Bounds, Noted, Preset, Reader, Scope, Spec, Variable};
use crate::failure::Chain;
use crate::http::PemFile;
use crate::source::variables::LOOKBACK;

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;

/// The address of an Auth Service, or of a Proxy before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Address {
    /// A name or an IP address; an IPv6 address is in brackets.
    pub(super) host: String,
    pub(super) port: u16,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// The Auth Service or a Proxy before it.
pub(crate) const ADDRESS: Variable<Address> = Variable::new(
    Scope::Source,
    "TELEPORT_AUDIT_ADDRESS",
    Preset::Required,
    |text, _| address(text),
    "Address of a Proxy or an Auth Service of Teleport with its port, such as teleport.example.com:443.",
);

/// The identity in one file.
pub(crate) const IDENTITY: Variable<PathBuf> = Variable::new(
    Scope::Source,
    "TELEPORT_AUDIT_IDENTITY",
    Preset::Derived("or the three files below"),
    |text, _| Ok(PathBuf::from(text)),
    "Identity file, as tbot or tctl auth sign writes it. auditsync re-reads it when it changes.",
);

/// The identity's certificate.
pub(crate) const CERT: Variable<PathBuf> = Variable::new(
    Scope::Source,
    "TELEPORT_AUDIT_CERT",
    Preset::Nothing,
    |text, _| Ok(PathBuf::from(text)),
    "File with the TLS certificate of the identity in PEM, instead of an identity file.",
);

/// The identity's key.
pub(crate) const KEY: Variable<PathBuf> = Variable::new(
    Scope::Source,
    "TELEPORT_AUDIT_KEY",
    Preset::Nothing,
    |text, _| Ok(PathBuf::from(text)),
    "File with the private key of that certificate in PEM.",
);

/// The cluster's authorities.
pub(crate) const CA: Variable<PathBuf> = Variable::new(
    Scope::Source,
    "TELEPORT_AUDIT_CA",
    Preset::Nothing,
    |text, _| Ok(PathBuf::from(text)),
    "File with the TLS certificate authorities of the cluster in PEM.",
);

/// The cluster to read.
pub(crate) const CLUSTER: Variable<String> = Variable::text(
    Scope::Source,
    "TELEPORT_AUDIT_CLUSTER",
    Preset::Derived("the one that issued the identity"),
    "Name of the leaf cluster to read, if not the cluster that issued the identity.",
);

/// The start of the first sync.
pub(crate) const START: Variable<Timestamp> = Variable::new(
    Scope::Source,
    "TELEPORT_AUDIT_START",
    Preset::Derived("the lookback before now"),
    |text, _| text.parse().map_err(|_| "must be a time in RFC 3339, such as 2026-03-01T12:00:00Z".to_owned()),
    "Time of the oldest event that the first sync delivers. Later changes have no effect.",
);

/// The types that are read.
pub(crate) const TYPES: Variable<Types> = Variable::new(
    Scope::Source,
    "TELEPORT_AUDIT_TYPES",
    Preset::Derived("all types"),
    |text, _| types(text),
    "Types of events to read, such as user.login,session.start. Exact names, separated by commas.",
);

/// The types to skip.
pub(crate) const SKIP_TYPES: Variable<Types> = Variable::new(
    Scope::Source,
    "TELEPORT_AUDIT_SKIP_TYPES",
    Preset::Derived("none"),
    |text, _| types(text),
    "Types of events to leave out.",
);

/// Whether recorded sessions are read.
pub(crate) const SESSIONS: Variable<bool> = Variable::flag(
    Scope::Source,
    "TELEPORT_AUDIT_SESSIONS",
    Preset::Value("false"),
    "Also read the events of recorded sessions: true or false. Each read adds an event to the audit log.",
);

/// The types to skip in recorded sessions.
pub(crate) const SKIP_SESSION_TYPES: Variable<Types> = Variable::new(
    Scope::Source,
    "TELEPORT_AUDIT_SKIP_SESSION_TYPES",
    Preset::Value("print,desktop.recording"),
    |text, _| types(text),
    "Types of events to leave out of recorded sessions. The word none leaves out no type.",
);

/// The longest window.
pub(crate) const WINDOW: Variable<Duration> = Variable::time(
    Scope::Source,
    "TELEPORT_AUDIT_WINDOW",
    "24h",
    Bounds::seconds(MINUTE, 7 * 24 * HOUR).whole_seconds(),
    "Longest window of time that auditsync searches at once.",
);

/// How long an event may take to become visible.
pub(crate) const DELAY: Variable<Duration> = Variable::time(
    Scope::Source,
    "TELEPORT_AUDIT_SYNC_DELAY",
    "2m",
    Bounds::seconds(0, HOUR),
    "How long an event may take to become visible. auditsync does not request newer ones.",
);

/// How far a window reaches back into the window before it.
pub(crate) const OVERLAP: Variable<Duration> = Variable::time(
    Scope::Source,
    "TELEPORT_AUDIT_SYNC_OVERLAP",
    "10m",
    Bounds::seconds(1, 24 * HOUR).whole_seconds(),
    "How far each window reaches back into the one before, for events that came late.",
);

/// All variables, for the tables.
pub(crate) const VARIABLES: &[&Spec] = &[
    &ADDRESS.spec,
    &IDENTITY.spec,
    &CERT.spec,
    &KEY.spec,
    &CA.spec,
    &CLUSTER.spec,
    &START.spec,
    &TYPES.spec,
    &SKIP_TYPES.spec,
    &SESSIONS.spec,
    &SKIP_SESSION_TYPES.spec,
    &WINDOW.spec,
    &DELAY.spec,
    &OVERLAP.spec,
];

/// Names of types.
pub(crate) type Types = BTreeSet<String>;

/// Reads the settings of the audit log.
pub(super) fn settings(reader: &mut Reader<'_>) -> Result<Settings, Noted> {
    let address = reader.get(&ADDRESS);
    let files = files(reader);
    let cluster = reader.find(&CLUSTER);
    let start = reader.find(&START);
    let types = reader.find(&TYPES);
    let skip_types = reader.find(&SKIP_TYPES);
    let sessions = reader.get(&SESSIONS);
    let skip_session_types = reader.get(&SKIP_SESSION_TYPES);
    let window = reader.get(&WINDOW);
    let delay = reader.get(&DELAY);
    let overlap = reader.get(&OVERLAP);
    let lookback = reader.get(&LOOKBACK);
    let (files, cluster) = (files?, cluster?);
    // Whether the identity is still valid is checked at its use, because a bot may be about to replace it.
    if let Err(error) = files.load(cluster.as_deref()) {
        let specs = [&IDENTITY.spec, &CERT.spec, &KEY.spec, &CA.spec];
        let spec = specs.into_iter().find(|spec| reader.name(spec) == *error.variable());
        return Err(reader.refuse(spec.unwrap_or(&IDENTITY.spec), Chain(&error).to_string()));
    }
    Ok(Settings {
        address: address?,
        address_variable: reader.name(&ADDRESS.spec),
        files,
        cluster,
        cluster_variable: reader.name(&CLUSTER.spec),
        start: start?,
        lookback: lookback?,
        filter: Arc::new(Filter {
            types: types?.unwrap_or_default(),
            skipped: skip_types?.unwrap_or_default(),
            skipped_of_sessions: skip_session_types?,
            sessions: sessions?,
        }),
        window: window?,
        delay: delay?,
        overlap: overlap?,
    })
}

fn files(reader: &mut Reader<'_>) -> Result<Files, Noted> {
    let found = [&IDENTITY, &CERT, &KEY, &CA].map(|variable| reader.find(variable));
    let [identity, certificate, key, ca] = found;
    let (identity, certificate, key, ca) = (identity?, certificate?, key?, ca?);
    let file = |variable: &Variable<PathBuf>, path: PathBuf| PemFile { path, variable: reader.name(&variable.spec) };
    match (identity, certificate, key, ca) {
        (Some(identity), None, None, None) => Ok(Files::Identity(file(&IDENTITY, identity))),
        (None, Some(certificate), Some(key), Some(ca)) => {
            Ok(Files::Separate { certificate: file(&CERT, certificate), key: file(&KEY, key), ca: file(&CA, ca) })
        }
        (None, None, None, None) => {
            let names = [&CERT, &KEY, &CA].map(|variable| reader.name(&variable.spec).to_string());
            let rule = format!("is required but not set, and neither are {}", names.join(", "));
            Err(reader.refuse(&IDENTITY.spec, rule))
        }
        (Some(_), ..) => {
            let rule = "holds everything by itself; set it, or a certificate, its key and the authorities, not both";
            Err(reader.refuse(&IDENTITY.spec, rule))
        }
        (None, certificate, key, ca) => {
            let given = [(&CERT, certificate), (&KEY, key), (&CA, ca)];
            let missing = given.iter().find(|(_, path)| path.is_none()).map_or(&CERT, |(variable, _)| variable);
            let rule = "is required beside the other two of certificate, key and authorities";
            Err(reader.refuse(&missing.spec, rule))
        }
    }
}

fn address(text: &str) -> Result<Address, String> {
    const RULE: &str = "must be a host and a port, such as teleport.example.com:443";
    let bare = text.strip_prefix("https://").unwrap_or(text);
    let (host, port) = bare.rsplit_once(':').ok_or(RULE)?;
    let port = port.parse().ok().filter(|port| *port != 0).ok_or(RULE)?;
    let host = Host::parse(host).map_err(|_| RULE)?.to_string();
    Ok(Address { host, port })
}

fn types(text: &str) -> Result<Types, String> {
    let is_name = |name: &str| name.len() <= 200 && name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'*');
    let names: Vec<_> = text.split(',').map(str::trim).filter(|name| !name.is_empty()).collect();
    match names.iter().find(|name| !is_name(name)) {
        Some(_) => Err("must name types exactly, such as user.login,session.start, without wildcards".to_owned()),
        None if names == ["none"] => Ok(Types::new()),
        None => Ok(names.into_iter().map(str::to_owned).collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_a_host_and_a_port() {
        for (text, expected) in [
            ("teleport.example.com:443", "teleport.example.com:443"),
            ("https://teleport.example.com:3080", "teleport.example.com:3080"),
            ("10.0.0.1:3025", "10.0.0.1:3025"),
            ("[::1]:3025", "[::1]:3025"),
        ] {
            assert_eq!(address(text).map(|address| address.to_string()).as_deref(), Ok(expected));
        }
        for text in ["teleport.example.com", "host:0", "host:99999", ":443", "::1", "a b:1", "https://h:1/path", ""] {
            assert!(address(text).unwrap_err().contains("a host and a port"), "{text}");
        }
    }

    #[test]
    fn types_are_exact_names_in_a_list() {
        assert_eq!(types(" a.b, c ,").unwrap(), Types::from(["a.b".to_owned(), "c".to_owned()]));
        assert!(types("none").unwrap().is_empty());
        assert!(types("session.*").unwrap_err().contains("without wildcards"));
        assert!(types("a b").is_err());
    }
}
