//! The server's side of TLS: its certificate and key, and the authorities of client certificates. Their files are read
//! again when they change.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::aws_lc_rs::default_provider;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::{VerifierBuilderError, WebPkiClientVerifier};
use tokio_rustls::rustls::{self, RootCertStore, ServerConfig};

use crate::fingerprint::Fingerprint;
use crate::http::{Kept, PemError, PemFile};
use crate::variable_name::VariableName;

/// The shortest time between two checks of the files.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The files of a server.
#[derive(Debug, Clone)]
pub(super) struct Files {
    pub(super) certificate: PemFile,
    pub(super) key: PemFile,
    pub(super) client_ca: Option<PemFile>,
}

/// Files that cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum TlsError {
    /// One of them cannot be used by itself.
    #[error(transparent)]
    Pem(#[from] PemError),
    /// The certificate and the key do not match, or TLS does not accept them.
    #[error("the certificate and the key cannot be used together")]
    Unusable {
        variable: VariableName,
        #[source]
        cause: rustls::Error,
    },
    /// The authorities cannot be used.
    #[error("the certificate authorities cannot be used")]
    Authorities {
        variable: VariableName,
        #[source]
        cause: VerifierBuilderError,
    },
}

impl TlsError {
    /// The variable to correct.
    pub(super) fn variable(&self) -> &VariableName {
        match self {
            Self::Pem(error) => error.variable(),
            Self::Unusable { variable, .. } | Self::Authorities { variable, .. } => variable,
        }
    }
}

/// The contents of the files.
struct Pems {
    certificate: Vec<u8>,
    key: Vec<u8>,
    client_ca: Option<Vec<u8>>,
}

impl Files {
    /// Reads the files and sets up TLS, to find mistakes at the start.
    pub(super) fn verify(&self) -> Result<(), TlsError> {
        self.config(&self.read()?).map(drop)
    }

    fn read(&self) -> Result<Pems, TlsError> {
        let client_ca = self.client_ca.as_ref().map(PemFile::content).transpose()?;
        Ok(Pems { certificate: self.certificate.content()?, key: self.key.content()?, client_ca })
    }

    fn acceptor(&self, pems: &Pems) -> Result<TlsAcceptor, TlsError> {
        Ok(TlsAcceptor::from(Arc::new(self.config(pems)?)))
    }

    fn config(&self, pems: &Pems) -> Result<ServerConfig, TlsError> {
        let provider = Arc::new(default_provider());
        let unusable = |cause| TlsError::Unusable { variable: self.certificate.variable.clone(), cause };
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider));
        let builder = builder.with_safe_default_protocol_versions().map_err(unusable)?;
        let builder = match (&self.client_ca, &pems.client_ca) {
            (Some(file), Some(pem)) => {
                let mut roots = RootCertStore::empty();
                for certificate in certificates(file, pem)? {
                    roots.add(certificate).map_err(|_| file.unfit("holds a certificate that cannot be read"))?;
                }
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
                let authorities = |cause| TlsError::Authorities { variable: file.variable.clone(), cause };
                builder.with_client_cert_verifier(verifier.map_err(authorities)?)
            }
            _ => builder.with_no_client_auth(),
        };
        let chain = certificates(&self.certificate, &pems.certificate)?;
        self.key.refuse_encrypted(&pems.key)?;
        let key =
            PrivateKeyDer::from_pem_slice(&pems.key).map_err(|_| self.key.unfit("holds no private key in PEM"))?;
        let mut config = builder.with_single_cert(chain, key).map_err(unusable)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    }
}

fn certificates(file: &PemFile, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, PemError> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match read {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        _ => Err(file.unfit("holds no certificate in PEM")),
    }
}

impl Pems {
    fn fingerprint(&self) -> Fingerprint {
        let parts = [Some(&self.certificate), Some(&self.key), self.client_ca.as_ref()];
        Fingerprint::of_parts(parts.into_iter().flatten().map(Vec::as_slice))
    }
}

/// Accepts connections with the files as they are, or as they were when they last were usable.
pub(super) struct Rotating {
    files: Files,
    current: Mutex<Current>,
}

struct Current {
    acceptor: Kept<TlsAcceptor>,
    looked: Instant,
}

impl std::fmt::Debug for Rotating {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rotating").field("files", &self.files).finish_non_exhaustive()
    }
}

impl Rotating {
    /// Reads the files.
    pub(super) fn new(files: Files) -> Result<Self, TlsError> {
        let pems = files.read()?;
        let acceptor = Kept::new(files.acceptor(&pems)?, pems.fingerprint());
        Ok(Self { files, current: Mutex::new(Current { acceptor, looked: Instant::now() }) })
    }

    /// Returns the acceptor for the next connection.
    pub(super) fn acceptor(&self) -> TlsAcceptor {
        let Current { acceptor, looked } = &mut *self.current.lock();
        if looked.elapsed() >= LOOK_EVERY {
            *looked = Instant::now();
            let read = self.files.read().map(|pems| {
                let files = pems.fingerprint();
                (pems, files)
            });
            acceptor.renew(" of the receiver", read, |pems| self.files.acceptor(&pems), TlsError::variable);
        }
        acceptor.value()
    }
}
