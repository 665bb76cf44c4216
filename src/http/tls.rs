//! TLS of one component: a certificate authority and a client certificate from files, which are read again when they change.
//!
//! The server's name is always verified. Where a certificate authority is given, only that one is trusted, else those of the system.

use std::fs;
use std::io;
use std::path::PathBuf;

use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};

use super::Error;
use crate::variable_name::VariableName;

/// Whom a component trusts, and how it identifies itself. Neither: the system's certificate authorities, and no client certificate.
#[derive(Debug, Clone, Default)]
pub struct Tls {
    /// The certificate authorities that the server's certificate may come from.
    pub ca: Option<PemFile>,
    /// The client certificate, with the chain behind it where there is one, and its key.
    pub identity: Option<(PemFile, PemFile)>,
}

/// A file with certificates or a key, in PEM.
#[derive(Debug, Clone)]
pub struct PemFile {
    /// Where it is.
    pub path: PathBuf,
    /// The variable that names it.
    pub variable: VariableName,
}

/// A file of [`Tls`] that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// It cannot be read.
    #[error("{}: the file cannot be read", path.display())]
    Unreadable {
        /// Where it is.
        path: PathBuf,
        /// The variable that names it.
        variable: VariableName,
        /// What the system said.
        #[source]
        cause: io::Error,
    },
    /// It does not hold what it should.
    #[error("{}: the file {rule}", path.display())]
    Unfit {
        /// Where it is.
        path: PathBuf,
        /// The variable that names it.
        variable: VariableName,
        /// What is wrong with it.
        rule: &'static str,
    },
    /// No TLS can be set up with the files, although each can be read.
    #[error("the files cannot be used together")]
    Unusable {
        /// The variable to look at first.
        variable: VariableName,
        /// What the TLS library said.
        #[source]
        cause: reqwest::Error,
    },
}

impl TlsError {
    /// The variable that names the file.
    pub fn variable(&self) -> &VariableName {
        match self {
            Self::Unreadable { variable, .. } | Self::Unfit { variable, .. } | Self::Unusable { variable, .. } => {
                variable
            }
        }
    }
}

/// What a failed call says about TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsFault {
    /// The server's certificate does not verify: an unknown authority, another name, expired.
    ServerUntrusted,
    /// The server refused the handshake over the client certificate: none, expired, or of an authority that it does not know.
    ClientRefused,
    /// Both sides have no protocol in common, or the server does not speak TLS.
    Incompatible,
}

/// The contents of the files.
struct Pems {
    ca: Option<Vec<u8>>,
    /// The certificate and the key, one after the other.
    identity: Option<Vec<u8>>,
}

impl PemFile {
    fn read(&self, marker: &str, rule: &'static str) -> Result<Vec<u8>, TlsError> {
        let (path, variable) = (self.path.clone(), self.variable.clone());
        let text = fs::read(&path).map_err(|cause| TlsError::Unreadable { path, variable, cause })?;
        let holds = |marker: &str| memchr::memmem::find(&text, marker.as_bytes()).is_some();
        if holds("ENCRYPTED") {
            return Err(self.unfit("holds an encrypted key, which is not supported; decrypt it with openssl pkey"));
        }
        if holds(marker) { Ok(text) } else { Err(self.unfit(rule)) }
    }

    fn unfit(&self, rule: &'static str) -> TlsError {
        TlsError::Unfit { path: self.path.clone(), variable: self.variable.clone(), rule }
    }
}

impl Tls {
    /// Reads the files and sets up TLS with them, to find mistakes at the start.
    pub fn verify(&self) -> Result<(), TlsError> {
        let pems = self.read()?;
        self.apply(&pems, reqwest::Client::builder())?.build().map(drop).map_err(|cause| self.unusable(cause))
    }

    /// Whether no file is given.
    fn is_default(&self) -> bool {
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
    fn digest(&self) -> [u8; 32] {
        let mut digest = Sha256::new();
        for part in [&self.ca, &self.identity].into_iter().flatten() {
            digest.update(part.len().to_be_bytes());
            digest.update(part);
        }
        digest.finalize().into()
    }
}

/// A client that is made again when a file of its [`Tls`] has other content. Requests under way end on the old one.
#[derive(Debug)]
pub(super) struct Rotating {
    tls: Tls,
    current: Mutex<Option<Current>>,
}

#[derive(Debug)]
struct Current {
    client: reqwest::Client,
    digest: [u8; 32],
    /// What is wrong with the files since then, as it was logged.
    warned: Option<String>,
}

impl Rotating {
    pub(super) fn new(tls: Tls) -> Self {
        Self { tls, current: Mutex::new(None) }
    }

    /// The client for the files as they are now. Files that cannot be used leave the old client: somebody may be about to replace the other
    /// one of a pair.
    pub(super) fn client(&self, builder: impl FnOnce() -> reqwest::ClientBuilder) -> Result<reqwest::Client, Error> {
        let mut current = self.current.lock();
        let read = self.tls.read().map(|pems| (pems.digest(), pems));
        if let (Some(current), Ok((digest, _))) = (current.as_mut(), &read)
            && current.digest == *digest
        {
            current.warned = None;
            return Ok(current.client.clone());
        }
        let made = read.and_then(|(digest, pems)| {
            let client = self.tls.apply(&pems, builder())?.build().map_err(|cause| self.tls.unusable(cause))?;
            Ok(Current { client, digest, warned: None })
        });
        match (made, current.as_mut()) {
            (Ok(new), old) => {
                if old.is_some() {
                    tracing::info!("the TLS files changed; new connections use them");
                }
                let client = new.client.clone();
                *current = Some(new);
                Ok(client)
            }
            (Err(error), Some(old)) => {
                let shown = crate::failure::Chain(&error).to_string();
                if old.warned.as_ref() != Some(&shown) {
                    let variable = error.variable();
                    tracing::warn!(error = %shown, %variable, "the TLS files changed and cannot be used; the old ones are used until they can");
                    old.warned = Some(shown);
                }
                Ok(old.client.clone())
            }
            // Without files of its own, the system's are at fault.
            (Err(TlsError::Unusable { cause, .. }), None) if self.tls.is_default() => Err(Error::Setup(cause)),
            (Err(error), None) => Err(Error::Tls(error)),
        }
    }
}

/// What the TLS library said, somewhere among the causes of a failed call.
#[cfg(feature = "tls")]
pub(super) fn fault(error: &(dyn std::error::Error + 'static)) -> Option<TlsFault> {
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

/// `io::Error` keeps what it wraps out of its causes, so it is opened here.
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

    /// Files with these contents, as the client pair and the CA.
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
        assert!(matches!(missing.verify(), Err(TlsError::Unreadable { .. })));
    }

    #[test]
    fn a_pair_that_is_replaced_is_taken_when_both_files_are_there() {
        let folder = tempfile::tempdir().unwrap();
        let (certificate, key) = pair();
        let rotating = Rotating::new(tls(&folder, &certificate, &key));
        let digest = || {
            rotating.client(reqwest::Client::builder).unwrap();
            rotating.current.lock().as_ref().unwrap().digest
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
