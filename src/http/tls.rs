//! The TLS settings of a component: a certificate authority and a client certificate, in files that are read again when they change.
//!
//! The client always verifies the server's name. It trusts only the given certificate authority, or else those of the system.

use std::borrow::Cow;
use std::fs;
use std::io;
use std::path::PathBuf;

use parking_lot::Mutex;

use super::Error;
use crate::fingerprint::Fingerprint;
use crate::variable_name::VariableName;

/// The certificate authority that a component trusts, and its client certificate. The default is the system's certificate authorities and
/// no client certificate.
#[derive(Debug, Clone, Default)]
pub struct Tls {
    /// The certificate authorities to trust for the server's certificate.
    pub ca: Option<PemFile>,
    /// The client certificate, with its chain if it has one, and its key.
    pub identity: Option<(PemFile, PemFile)>,
}

/// A PEM file with certificates or a key.
#[derive(Debug, Clone)]
pub struct PemFile {
    /// The path of the file.
    pub path: PathBuf,
    /// The variable that names the file.
    pub variable: VariableName,
}

/// Why a PEM file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PemError {
    /// The file cannot be read.
    #[error("{}: the file cannot be read", path.display())]
    Unreadable {
        /// Where it is.
        path: PathBuf,
        /// The variable that names it.
        variable: VariableName,
        /// The error of the operating system.
        #[source]
        cause: io::Error,
    },
    /// The file has the wrong content.
    #[error("{}: the file {rule}", path.display())]
    Unfit {
        /// Where it is.
        path: PathBuf,
        /// The variable that names it.
        variable: VariableName,
        /// The rule that the file breaks.
        rule: Cow<'static, str>,
    },
}

impl PemError {
    /// The variable that names the file.
    pub fn variable(&self) -> &VariableName {
        match self {
            Self::Unreadable { variable, .. } | Self::Unfit { variable, .. } => variable,
        }
    }
}

/// Why the files of [`Tls`] cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be used by itself.
    #[error(transparent)]
    Pem(#[from] PemError),
    /// Each file can be read, but they do not work together.
    #[error("the files cannot be used together")]
    Unusable {
        /// The variable to look at first.
        variable: VariableName,
        /// The error of the TLS library.
        #[source]
        cause: reqwest::Error,
    },
}

impl TlsError {
    /// The variable that names the file.
    pub fn variable(&self) -> &VariableName {
        match self {
            Self::Pem(error) => error.variable(),
            Self::Unusable { variable, .. } => variable,
        }
    }
}

/// The TLS fault of a failed call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsFault {
    /// The server's certificate is not valid: its authority is unknown, its name is another, or it has expired.
    ServerUntrusted,
    /// The server refused the client certificate: it is missing, expired, or from an authority that the server does not know.
    ClientRefused,
    /// Client and server have no protocol in common, or the server does not use TLS.
    Incompatible,
}

/// The contents of the files.
struct Pems {
    ca: Option<Vec<u8>>,
    /// The certificate and the key, one after the other.
    identity: Option<Vec<u8>>,
}

/// The rule that an encrypted key breaks.
const ENCRYPTED: &str = "holds an encrypted key, which is not supported; decrypt it with openssl pkey";

impl PemFile {
    /// Reads the content of the file.
    pub(crate) fn content(&self) -> Result<Vec<u8>, PemError> {
        let (path, variable) = (self.path.clone(), self.variable.clone());
        fs::read(&path).map_err(|cause| PemError::Unreadable { path, variable, cause })
    }

    /// Refuses `content` with an encrypted key.
    pub(crate) fn refuse_encrypted(&self, content: &[u8]) -> Result<(), PemError> {
        let is_encrypted = memchr::memmem::find(content, b"ENCRYPTED").is_some();
        if is_encrypted { Err(self.unfit(ENCRYPTED)) } else { Ok(()) }
    }

    fn read(&self, marker: &str, rule: &'static str) -> Result<Vec<u8>, PemError> {
        let text = self.content()?;
        self.refuse_encrypted(&text)?;
        let holds_it = memchr::memmem::find(&text, marker.as_bytes()).is_some();
        if holds_it { Ok(text) } else { Err(self.unfit(rule)) }
    }

    /// Makes the error for a file that breaks `rule`.
    pub(crate) fn unfit(&self, rule: impl Into<Cow<'static, str>>) -> PemError {
        PemError::Unfit { path: self.path.clone(), variable: self.variable.clone(), rule: rule.into() }
    }
}

impl Tls {
    /// Reads the files and sets up TLS with them, to find mistakes at the start.
    pub fn verify(&self) -> Result<(), TlsError> {
        let pems = self.read()?;
        self.apply(&pems, reqwest::Client::builder())?.build().map(drop).map_err(|cause| self.unusable(cause))
    }

    /// Whether there are no files.
    pub(super) fn is_default(&self) -> bool {
        self.ca.is_none() && self.identity.is_none()
    }

    fn read(&self) -> Result<Pems, TlsError> {
        const CERTIFICATE: (&str, &str) = ("-----BEGIN CERTIFICATE-----", "holds no certificate in PEM");
        const KEY: (&str, &str) = ("PRIVATE KEY-----", "holds no private key in PEM");
        let ca = self.ca.as_ref().map(|file| file.read(CERTIFICATE.0, CERTIFICATE.1)).transpose()?;
        let identity = match &self.identity {
            Some((certificate, key)) => {
                let mut both = certificate.read(CERTIFICATE.0, CERTIFICATE.1)?;
                both.push(b'\n');
                both.extend(key.read(KEY.0, KEY.1)?);
                Some(both)
            }
            None => None,
        };
        Ok(Pems { ca, identity })
    }

    fn unusable(&self, cause: reqwest::Error) -> TlsError {
        let file = self.identity.as_ref().map(|(certificate, _)| certificate).or(self.ca.as_ref());
        let variable = file.map_or_else(|| "SSL_CERT_FILE".into(), |file| file.variable.clone());
        TlsError::Unusable { variable, cause }
    }

    #[cfg(feature = "tls")]
    fn apply(&self, pems: &Pems, mut builder: reqwest::ClientBuilder) -> Result<reqwest::ClientBuilder, TlsError> {
        if let (Some(file), Some(pem)) = (&self.ca, &pems.ca) {
            let trusted = reqwest::Certificate::from_pem_bundle(pem);
            let trusted = trusted.map_err(|_| file.unfit("holds a certificate that cannot be read"))?;
            builder = builder.tls_certs_only(trusted);
        }
        if let Some(pem) = &pems.identity {
            builder = builder.identity(reqwest::Identity::from_pem(pem).map_err(|cause| self.unusable(cause))?);
        }
        Ok(builder)
    }

    #[cfg(not(feature = "tls"))]
    #[allow(clippy::unused_self, clippy::unnecessary_wraps, reason = "the same signature with TLS and without")]
    fn apply(&self, _: &Pems, builder: reqwest::ClientBuilder) -> Result<reqwest::ClientBuilder, TlsError> {
        Ok(builder)
    }
}

impl Pems {
    fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of_parts([&self.ca, &self.identity].into_iter().flatten().map(Vec::as_slice))
    }
}

/// A value made from files. It is made again when their content changes.
#[derive(Debug)]
pub(crate) struct Kept<T> {
    value: T,
    files: Fingerprint,
    /// The logged error of changed files that could not be used.
    warned: Option<String>,
}

impl<T: Clone> Kept<T> {
    /// Keeps the `value` that was made from `files`.
    pub(crate) fn new(value: T, files: Fingerprint) -> Self {
        Self { value, files, warned: None }
    }

    /// The value.
    pub(crate) fn value(&self) -> T {
        self.value.clone()
    }

    /// Makes the value again with `make` if the files have another fingerprint. `read` is their content and its fingerprint. If they cannot be
    /// used, the old value stays, since somebody may be about to replace the other file of a pair. The log says `whose` files they are.
    pub(crate) fn renew<P, E: std::error::Error + 'static>(
        &mut self,
        whose: &str,
        read: Result<(P, Fingerprint), E>,
        make: impl FnOnce(P) -> Result<T, E>,
        variable: impl Fn(&E) -> &VariableName,
    ) {
        let renewed = match read {
            Ok((_, files)) if files == self.files => {
                self.warned = None;
                return;
            }
            read => read.and_then(|(content, files)| Ok(Self::new(make(content)?, files))),
        };
        match renewed {
            Ok(new) => {
                tracing::info!("the TLS files{whose} changed; new connections use them");
                *self = new;
            }
            Err(error) => {
                let shown = crate::failure::Chain(&error).to_string();
                if self.warned.as_ref() != Some(&shown) {
                    let variable = variable(&error);
                    tracing::warn!(error = %shown, %variable, "the TLS files changed and cannot be used; auditsync uses the old ones until they can be used");
                    self.warned = Some(shown);
                }
            }
        }
    }
}

/// A client that is made again when the content of a file of its [`Tls`] changes. Requests under way end on the old client.
#[derive(Debug)]
pub(super) struct Rotating {
    tls: Tls,
    current: Mutex<Option<Kept<reqwest::Client>>>,
}

impl Rotating {
    pub(super) fn new(tls: Tls) -> Self {
        Self { tls, current: Mutex::new(None) }
    }

    /// The client for the present files, or for the last ones that could be used.
    pub(super) fn client(&self, builder: impl FnOnce() -> reqwest::ClientBuilder) -> Result<reqwest::Client, Error> {
        let mut current = self.current.lock();
        let read = self.tls.read().map(|pems| {
            let files = pems.fingerprint();
            (pems, files)
        });
        let make = |pems: Pems| self.tls.apply(&pems, builder())?.build().map_err(|cause| self.tls.unusable(cause));
        if let Some(kept) = current.as_mut() {
            kept.renew("", read, make, TlsError::variable);
            return Ok(kept.value());
        }
        match read.and_then(|(pems, files)| Ok(Kept::new(make(pems)?, files))) {
            Ok(first) => Ok(current.insert(first).value()),
            // A component without files of its own uses the system's, so those are at fault.
            Err(TlsError::Unusable { cause, .. }) if self.tls.is_default() => Err(Error::Setup(cause)),
            Err(error) => Err(Error::Tls(error)),
        }
    }
}

/// Finds the error of the TLS library among the causes of a failed call.
#[cfg(feature = "tls")]
pub(crate) fn fault(error: &(dyn std::error::Error + 'static)) -> Option<TlsFault> {
    use rustls::AlertDescription as Alert;
    use rustls::Error as Cause;
    match cause(error)? {
        Cause::InvalidCertificate(_) | Cause::NoCertificatesPresented => Some(TlsFault::ServerUntrusted),
        Cause::InvalidMessage(_) | Cause::PeerIncompatible(_) => Some(TlsFault::Incompatible),
        Cause::AlertReceived(alert) => match alert {
            Alert::ProtocolVersion
            | Alert::InsufficientSecurity
            | Alert::UnrecognisedName
            | Alert::NoApplicationProtocol => Some(TlsFault::Incompatible),
            Alert::CloseNotify | Alert::InternalError | Alert::UserCanceled => None,
            _ => Some(TlsFault::ClientRefused),
        },
        _ => None,
    }
}

#[cfg(not(feature = "tls"))]
pub(super) fn fault(_: &(dyn std::error::Error + 'static)) -> Option<TlsFault> {
    None
}

/// Finds the error of the TLS library. `io::Error` does not show its inner error as a cause, so this unwraps it.
#[cfg(feature = "tls")]
fn cause<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a rustls::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<rustls::Error>() {
            return Some(found);
        }
        let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        next = match wrapped {
            Some(wrapped) => Some(wrapped),
            None => error.source(),
        };
    }
    None
}

#[cfg(feature = "tls")]
#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (String, String) {
        let rcgen::CertifiedKey { cert, signing_key } =
            rcgen::generate_simple_self_signed(["client".to_owned()]).unwrap();
        (cert.pem(), signing_key.serialize_pem())
    }

    /// Writes files with these contents, as the client pair and the CA.
    fn tls(folder: &tempfile::TempDir, certificate: &str, key: &str) -> Tls {
        let file = |name: &str, content: &str| {
            let path = folder.path().join(name);
            fs::write(&path, content).unwrap();
            PemFile { path, variable: name.into() }
        };
        Tls { ca: Some(file("CA", &pair().0)), identity: Some((file("CERT", certificate), file("KEY", key))) }
    }

    #[test]
    fn a_file_that_is_not_what_it_should_be_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let (certificate, key) = pair();
        assert!(tls(&folder, &certificate, &key).verify().is_ok());
        let encrypted = key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
        for (certificate, key, variable, rule) in [
            ("", key.as_str(), "CERT", "no certificate"),
            (&certificate, "", "KEY", "no private key"),
            (&certificate, &encrypted, "KEY", "encrypted key"),
            (&certificate, &pair().1, "CERT", "cannot be used together"),
        ] {
            let error = tls(&folder, certificate, key).verify().unwrap_err();
            assert_eq!(error.variable().as_str(), variable, "{error}");
            assert!(error.to_string().contains(rule), "{error}");
        }
        let mut missing = tls(&folder, &certificate, &key);
        missing.ca = Some(PemFile { path: folder.path().join("none"), variable: "CA".into() });
        assert!(matches!(missing.verify(), Err(TlsError::Pem(PemError::Unreadable { .. }))));
    }

    #[test]
    fn a_pair_that_is_replaced_is_taken_when_both_files_are_there() {
        let folder = tempfile::tempdir().unwrap();
        let (certificate, key) = pair();
        let rotating = Rotating::new(tls(&folder, &certificate, &key));
        let digest = || {
            rotating.client(reqwest::Client::builder).unwrap();
            rotating.current.lock().as_ref().unwrap().files
        };
        let first = digest();
        assert_eq!(digest(), first);
        let (certificate, key) = pair();
        fs::write(folder.path().join("CERT"), certificate).unwrap();
        assert_eq!(digest(), first, "half a pair is not used");
        fs::remove_file(folder.path().join("KEY")).unwrap();
        assert_eq!(digest(), first);
        fs::write(folder.path().join("KEY"), key).unwrap();
        assert_ne!(digest(), first);
    }

    #[test]
    fn what_a_server_refuses_is_found_among_the_causes() {
        use rustls::AlertDescription as Alert;

        let of = |error: rustls::Error| fault(&io::Error::other(io::Error::other(error)));
        let alert = |alert| of(rustls::Error::AlertReceived(alert));
        for refused in
            [Alert::CertificateRequired, Alert::UnknownCA, Alert::CertificateExpired, Alert::HandshakeFailure]
        {
            assert_eq!(alert(refused), Some(TlsFault::ClientRefused), "{refused:?}");
        }
        assert_eq!(alert(Alert::ProtocolVersion), Some(TlsFault::Incompatible));
        assert_eq!(alert(Alert::InternalError), None);
        let untrusted = rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer);
        assert_eq!(of(untrusted), Some(TlsFault::ServerUntrusted));
        assert_eq!(fault(&io::Error::from(io::ErrorKind::ConnectionReset)), None);
    }
}
