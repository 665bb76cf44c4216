//! The variables of the HTTP policy.

use std::path::PathBuf;
use std::time::Duration;

use super::{PemFile, Settings, Tls};
use crate::config::{Bounds, Noted, Preset, Reader, Scope, Spec, Variable};
use crate::failure::Chain;

/// The longest time for one exchange.
pub(crate) const TIMEOUT: Variable<Duration> = Variable::time(
    Scope::Shared,
    "AUDITSYNC_HTTP_TIMEOUT",
    "60s",
    Bounds::seconds(1, 600),
    "Longest time for one request and its answer.",
);

/// Every variable of the HTTP policy, for the tables.
pub(crate) const VARIABLES: &[&Spec] = &[&TIMEOUT.spec];

/// The TLS variables of a component, each of which names a file.
#[derive(Debug)]
pub(crate) struct TlsVariables {
    /// The certificate authorities to trust.
    pub(crate) ca: Variable<PathBuf>,
    /// The client certificate.
    pub(crate) certificate: Variable<PathBuf>,
    /// The key of the client certificate.
    pub(crate) key: Variable<PathBuf>,
}

impl TlsVariables {
    /// Declares the three variables under these names.
    pub(crate) const fn new(scope: Scope, [ca, certificate, key]: [&'static str; 3]) -> Self {
        const fn file(scope: Scope, name: &'static str, preset: Preset, help: &'static str) -> Variable<PathBuf> {
            Variable::new(scope, name, preset, |text, _| Ok(text.into()), help)
        }
        Self {
            ca: file(
                scope,
                ca,
                Preset::Derived("the system's"),
                "File with the certificate authorities of the server, in PEM. Only these are trusted then.",
            ),
            certificate: file(
                scope,
                certificate,
                Preset::Nothing,
                "File with the client certificate, in PEM. auditsync re-reads it when it changes.",
            ),
            key: file(
                scope,
                key,
                Preset::Nothing,
                "File with the key of the client certificate, in PEM, not encrypted.",
            ),
        }
    }

    /// Reads the variables and their files, each of which must be usable now.
    pub(crate) fn read(&self, reader: &mut Reader<'_>) -> Result<Tls, Noted> {
        let Self { ca, certificate, key } = self;
        let paths = (reader.find(ca), reader.find(certificate), reader.find(key));
        let file = |variable: &Variable<PathBuf>, path| PemFile { path, variable: reader.name(&variable.spec) };
        let ca_file = paths.0?.map(|path| file(ca, path));
        let identity = match (paths.1?, paths.2?) {
            (Some(first), Some(second)) => Some((file(certificate, first), file(key, second))),
            (None, None) => None,
            (Some(_), None) => return Err(Self::refuse_alone(reader, certificate, key)),
            (None, Some(_)) => return Err(Self::refuse_alone(reader, key, certificate)),
        };
        let tls = Tls { ca: ca_file, identity };
        if !tls.is_default() {
            tls.verify().map_err(|error| {
                let specs = [&ca.spec, &certificate.spec, &key.spec];
                let spec = specs.into_iter().find(|spec| reader.name(spec) == *error.variable());
                reader.refuse(spec.unwrap_or(&certificate.spec), Chain(&error).to_string())
            })?;
        }
        Ok(tls)
    }

    fn refuse_alone(reader: &mut Reader<'_>, given: &Variable<PathBuf>, missing: &Variable<PathBuf>) -> Noted {
        let missing = reader.name(&missing.spec);
        reader.refuse(&given.spec, format!("needs {missing} beside it"))
    }
}

/// Reads the settings of the HTTP policy.
pub(crate) fn settings(reader: &mut Reader<'_>) -> Result<Settings, Noted> {
    Ok(Settings { timeout: reader.get(&TIMEOUT)?, timeout_variable: reader.name(&TIMEOUT.spec) })
}
