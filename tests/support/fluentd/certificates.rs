//! Certificates for the fakes, as a certificate authority of a company would issue them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};
use tokio_rustls::rustls::crypto::aws_lc_rs::default_provider;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};

const DAY: Duration = Duration::from_hours(24);

/// Issues certificates.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key, in PEM.
#[derive(Clone, Debug)]
pub struct Pair {
    pub certificate: String,
    pub key: String,
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let mut params = params(&[], name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        Self(CertifiedIssuer::self_signed(params, key()).expect("an authority"))
    }

    /// The authority of a cluster of Teleport, which names the cluster as its organization.
    pub fn of_cluster(cluster: &str) -> Self {
        let mut params = params(&[], cluster);
        params.distinguished_name.push(DnType::OrganizationName, cluster);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        Self(CertifiedIssuer::self_signed(params, key()).expect("an authority"))
    }

    /// A client's pair that is valid for this long.
    pub fn client_for(&self, name: &str, valid: Duration) -> Pair {
        let mut params = params(&[], name);
        params.not_before = (SystemTime::now() - DAY).into();
        params.not_after = (SystemTime::now() + valid).into();
        self.issue(params, ExtendedKeyUsagePurpose::ClientAuth)
    }

    /// Its own certificate.
    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// A server's pair, for these hosts.
    pub fn server(&self, hosts: &[&str]) -> Pair {
        self.issue(params(hosts, "a server"), ExtendedKeyUsagePurpose::ServerAuth)
    }

    /// A client's pair.
    pub fn client(&self, name: &str) -> Pair {
        self.issue(params(&[], name), ExtendedKeyUsagePurpose::ClientAuth)
    }

    /// A client's pair that is valid from tomorrow on.
    pub fn early_client(&self) -> Pair {
        let mut params = params(&[], "early");
        params.not_before = (SystemTime::now() + DAY).into();
        params.not_after = (SystemTime::now() + 2 * DAY).into();
        self.issue(params, ExtendedKeyUsagePurpose::ClientAuth)
    }

    /// A client's pair that expired yesterday.
    pub fn expired_client(&self) -> Pair {
        self.issue(expired(params(&[], "expired")), ExtendedKeyUsagePurpose::ClientAuth)
    }

    /// A server's pair that expired yesterday.
    pub fn expired_server(&self, hosts: &[&str]) -> Pair {
        self.issue(expired(params(hosts, "expired")), ExtendedKeyUsagePurpose::ServerAuth)
    }

    fn issue(&self, mut params: CertificateParams, purpose: ExtendedKeyUsagePurpose) -> Pair {
        params.extended_key_usages = vec![purpose];
        let key = key();
        let certificate = params.signed_by(&key, &self.0).expect("a certificate");
        Pair { certificate: certificate.pem(), key: key.serialize_pem() }
    }
}

fn key() -> KeyPair {
    KeyPair::generate().expect("a key")
}

fn params(hosts: &[&str], name: &str) -> CertificateParams {
    let hosts: Vec<_> = hosts.iter().map(ToString::to_string).collect();
    let mut params = CertificateParams::new(hosts).expect("names that a certificate can have");
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

fn expired(mut params: CertificateParams) -> CertificateParams {
    params.not_before = (SystemTime::now() - 30 * DAY).into();
    params.not_after = (SystemTime::now() - DAY).into();
    params
}

impl Pair {
    /// The certificate as bytes, which identifies a client.
    pub fn der(&self) -> Vec<u8> {
        CertificateDer::from_pem_slice(self.certificate.as_bytes()).expect("our own PEM").to_vec()
    }

    /// Writes both files as `<name>.crt` and `<name>.key`, and returns their paths.
    pub fn write(&self, folder: &Path, name: &str) -> (PathBuf, PathBuf) {
        let paths = (folder.join(format!("{name}.crt")), folder.join(format!("{name}.key")));
        std::fs::write(&paths.0, &self.certificate).expect("a writable folder");
        std::fs::write(&paths.1, &self.key).expect("a writable folder");
        paths
    }

    /// TLS for a server with this pair, which requires a client certificate of these `authorities`, in PEM. Without authorities it requires none.
    pub(in super::super) fn server_config(&self, authorities: &[String]) -> Arc<ServerConfig> {
        let provider = Arc::new(default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider));
        let builder = builder.with_safe_default_protocol_versions().expect("TLS 1.2 and 1.3");
        let builder = if authorities.is_empty() {
            builder.with_no_client_auth()
        } else {
            let mut roots = RootCertStore::empty();
            for authority in authorities {
                roots.add(CertificateDer::from_pem_slice(authority.as_bytes()).expect("PEM")).expect("an authority");
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder.with_client_cert_verifier(verifier.expect("there are authorities"))
        };
        let chain: Vec<_> =
            CertificateDer::pem_slice_iter(self.certificate.as_bytes()).map(|der| der.expect("PEM")).collect();
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes()).expect("a key in PEM");
        let mut config = builder.with_single_cert(chain, key).expect("a pair");
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Arc::new(config)
    }

    /// Like `server_config`, for a server that picks one of these protocols.
    pub(in super::super) fn server_config_for(&self, authorities: &[String], protocols: &[&str]) -> Arc<ServerConfig> {
        let mut config = ServerConfig::clone(&self.server_config(authorities));
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        Arc::new(config)
    }
}
