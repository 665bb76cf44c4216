//! The variables of the receiver.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytesize::ByteSize;

use super::rules::Rules;
use super::tls::Files;
use crate::component::{Claim, Exclusive};
use crate::config::{Bounds, Noted, Preset, Reader, Scope, SecretVariable, Spec, Variable, parse};
use crate::http::PemFile;
use crate::secret::Secret;
use crate::variable_name::VariableName;

/// The least size of a spool.
const SMALLEST_SPOOL: ByteSize = ByteSize::mib(1);

/// The address where senders connect.
pub(crate) const LISTEN: Variable<SocketAddr> = Variable::new(
    Scope::Source,
    "RECEIVER_AUDIT_LISTEN",
    Preset::Required,
    |text, _| parse::listen(text),
    "IP address and port where senders connect, such as [::]:8443.",
);

/// The keys of senders.
pub(crate) const API_KEYS: SecretVariable = SecretVariable::checked(
    Scope::Source,
    "RECEIVER_AUDIT_API_KEYS",
    Preset::Nothing,
    |text| keys(text).map(drop),
    "API keys, comma-separated. Without keys and without RECEIVER_AUDIT_CLIENT_CA, RECEIVER_AUDIT_LISTEN must be a loopback \
     address.",
)
.renewed("auditsync re-reads it on SIGHUP, and when a request comes, at most once a second.");

/// The server's certificate.
pub(crate) const TLS_CERT: Variable<PathBuf> = Variable::new(
    Scope::Source,
    "RECEIVER_AUDIT_TLS_CERT",
    Preset::Nothing,
    |text, _| Ok(PathBuf::from(text)),
    "File with the server's certificate and its chain, in PEM. auditsync re-reads it when it changes.",
);

/// Its key.
pub(crate) const TLS_KEY: Variable<PathBuf> = Variable::new(
    Scope::Source,
    "RECEIVER_AUDIT_TLS_KEY",
    Preset::Nothing,
    |text, _| Ok(PathBuf::from(text)),
    "File with the private key of that certificate, in PEM.",
);

/// The authorities of required client certificates.
pub(crate) const CLIENT_CA: Variable<PathBuf> = Variable::new(
    Scope::Source,
    "RECEIVER_AUDIT_CLIENT_CA",
    Preset::Nothing,
    |text, _| Ok(PathBuf::from(text)),
    "File with certificate authorities, in PEM: every sender then needs a client certificate of theirs.",
);

/// Whether the receiver serves plain HTTP to other machines.
pub(crate) const INSECURE: Variable<bool> = Variable::flag(
    Scope::Source,
    "RECEIVER_AUDIT_INSECURE",
    Preset::Value("false"),
    "Serve plain HTTP on any address: only behind a proxy that ends TLS.",
);

/// The folder of the spool.
pub(crate) const SPOOL_PATH: Variable<PathBuf> = Variable::new(
    Scope::Source,
    "RECEIVER_AUDIT_SPOOL_PATH",
    Preset::Value("receiver-spool"),
    |text, _| spool_path(text),
    "Folder that keeps entries until they are delivered. auditsync creates it; its parent must exist.",
);

/// The size of the spool.
pub(crate) const SPOOL_SIZE: Variable<u64> = Variable::new(
    Scope::Source,
    "RECEIVER_AUDIT_SPOOL_SIZE",
    Preset::Value("1GiB"),
    |text, _| spool_size(text),
    "Most bytes of entries in the spool, from 1MiB. When it is full, the receiver answers 429.",
);

/// Rules for senders.
pub(crate) const RULES: Variable<Rules> = Variable::new(
    Scope::Source,
    "RECEIVER_AUDIT_RULES",
    Preset::Nothing,
    |text, _| Rules::read(Path::new(text)),
    "TOML file with rules: status, category and outcome of entries, by service and attribute.",
);

/// How long senders may be silent.
pub(crate) const SILENCE: Variable<Duration> = Variable::new(
    Scope::Source,
    "RECEIVER_AUDIT_SILENCE",
    Preset::Nothing,
    |text, _| parse::duration(text, Bounds::seconds(60, 366 * 86_400)),
    "auditsync sends a notice when nothing has arrived for this time. From 1m to 366d.",
);

/// All variables, for the tables.
pub(crate) const VARIABLES: &[&Spec] = &[
    &LISTEN.spec,
    &API_KEYS.spec,
    &TLS_CERT.spec,
    &TLS_KEY.spec,
    &CLIENT_CA.spec,
    &INSECURE.spec,
    &SPOOL_PATH.spec,
    &SPOOL_SIZE.spec,
    &RULES.spec,
    &SILENCE.spec,
];

/// The settings of a receiver.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    /// The address where it listens.
    pub(super) listen: SocketAddr,
    /// The variable that sets it.
    pub(super) listen_variable: VariableName,
    /// The keys of senders, as one text.
    pub(super) keys: Option<Secret>,
    /// The files of TLS; none for plain HTTP.
    pub(super) tls: Option<Files>,
    /// The folder of the spool.
    pub(super) spool: PathBuf,
    /// The most bytes of entries in it.
    pub(super) spool_size: u64,
    /// The operator's rules, which come before the built-in ones.
    pub(super) rules: Rules,
    /// The silence after which a notice is sent.
    pub(super) silence: Option<Duration>,
}

/// Reads the address and the folder that a receiver needs for itself.
pub(super) fn claims(reader: &mut Reader<'_>) -> Vec<Claim> {
    let listen = reader.get(&LISTEN).map(|address| (&LISTEN.spec, Exclusive::Address(address)));
    let spool = reader.get(&SPOOL_PATH).map(|folder| (&SPOOL_PATH.spec, Exclusive::Folder(folder)));
    [listen, spool].into_iter().flatten().map(|(variable, thing)| Claim { variable, thing }).collect()
}

/// Reads the settings of a receiver.
pub(super) fn settings(reader: &mut Reader<'_>) -> Result<Settings, Noted> {
    let listen = reader.get(&LISTEN);
    let listen_variable = reader.name(&LISTEN.spec);
    let keys = reader.find_secret(&API_KEYS);
    let tls = files(reader);
    let insecure = reader.get(&INSECURE);
    let spool = reader.get(&SPOOL_PATH);
    let spool_size = reader.get(&SPOOL_SIZE);
    let rules = reader.find(&RULES);
    let silence = reader.find(&SILENCE);
    let (listen, keys, tls) = (listen?, keys?, tls?);
    if !listen.ip().is_loopback() {
        if tls.is_none() && !insecure? {
            let rule = format!(
                "would take entries and keys in plain HTTP: set {} and {}, or {}=true behind a proxy that ends TLS",
                TLS_CERT.spec.name, TLS_KEY.spec.name, INSECURE.spec.name
            );
            return Err(reader.refuse(&LISTEN.spec, rule));
        }
        let has_authority = tls.as_ref().is_some_and(|files| files.client_ca.is_some());
        if keys.is_none() && !has_authority {
            let (keys, authority) = (API_KEYS.spec.name, CLIENT_CA.spec.name);
            return Err(
                reader.refuse(&LISTEN.spec, format!("must be a loopback address without {keys} and {authority}"))
            );
        }
    }
    Ok(Settings {
        listen,
        listen_variable,
        keys,
        tls,
        spool: spool?,
        spool_size: spool_size?,
        rules: rules?.unwrap_or_default(),
        silence: silence?,
    })
}

fn files(reader: &mut Reader<'_>) -> Result<Option<Files>, Noted> {
    let mut file = |variable: &Variable<PathBuf>| {
        let path = reader.find(variable);
        let variable = reader.name(&variable.spec);
        path.map(|path| path.map(|path| PemFile { path, variable }))
    };
    let (certificate, key, client_ca) = (file(&TLS_CERT)?, file(&TLS_KEY)?, file(&CLIENT_CA)?);
    let files = match (certificate, key) {
        (Some(certificate), Some(key)) => Files { certificate, key, client_ca },
        (Some(_), None) => return Err(reader.refuse(&TLS_CERT.spec, format!("needs {} as well", TLS_KEY.spec.name))),
        (None, Some(_)) => return Err(reader.refuse(&TLS_KEY.spec, format!("needs {} as well", TLS_CERT.spec.name))),
        (None, None) if client_ca.is_some() => {
            return Err(reader.refuse(&CLIENT_CA.spec, format!("needs {} as well", TLS_CERT.spec.name)));
        }
        (None, None) => return Ok(None),
    };
    match files.verify() {
        Ok(()) => Ok(Some(files)),
        Err(error) => {
            let variable = error.variable().clone();
            let specs = [&TLS_CERT.spec, &TLS_KEY.spec, &CLIENT_CA.spec];
            let meant = specs.into_iter().find(|spec| reader.name(spec) == variable).unwrap_or(&TLS_CERT.spec);
            Err(reader.refuse(meant, crate::failure::Chain(&error).to_string()))
        }
    }
}

/// The keys in `text`.
pub(super) fn keys(text: &str) -> Result<Vec<&str>, String> {
    let keys: Vec<_> = text.split([',', '\n']).map(str::trim).filter(|key| !key.is_empty()).collect();
    if keys.is_empty() {
        return Err("holds no key".to_owned());
    }
    for key in &keys {
        parse::header_key(key)?;
        if key.len() < 16 {
            return Err("holds a key of fewer than 16 characters, which can be guessed".to_owned());
        }
        if !key.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~')) {
            return Err(
                "holds a key with characters that some senders encode; use letters, digits and - _ . ~".to_owned()
            );
        }
    }
    Ok(keys)
}

fn spool_path(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    match path.parent() {
        _ if path.is_dir() => {}
        _ if path.exists() => return Err("must be a folder".to_owned()),
        Some(parent) if parent != Path::new("") => parse::existing_folder("its parent", parent)?,
        _ => {}
    }
    Ok(path)
}

fn spool_size(text: &str) -> Result<u64, String> {
    let size = text.parse::<ByteSize>().ok().filter(|size| *size >= SMALLEST_SPOOL);
    size.map(|size| size.as_u64()).ok_or_else(|| "must be a size from 1MiB, such as 1GiB".to_owned())
}
