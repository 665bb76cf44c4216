//! Our identity for the Auth Service: a key, a certificate, and the authorities that issue the server's certificate.
//!
//! An identity file, as `tctl auth sign` and tbot write it, holds all of it; or three files do.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;

use crate::fingerprint::Fingerprint;
use crate::http::{PemError, PemFile};
use crate::server_time::TOLERANCE;
use crate::variable_name::VariableName;

/// The name on the certificate of every Teleport server, and the end of every route.
pub(super) const SERVER_NAME: &str = "teleport.cluster.local";

/// The protocol that a route leads to.
pub(super) const HTTP2: &[u8] = b"h2";

/// The most bytes of an ALPN entry (RFC 7301, 3.1).
const LONGEST_ENTRY: usize = 255;

/// The files of an identity.
#[derive(Debug, Clone)]
pub(super) enum Files {
    /// One file with all parts.
    Identity(PemFile),
    /// One for each part.
    Separate { certificate: PemFile, key: PemFile, ca: PemFile },
}

/// An identity, ready for a TLS handshake.
#[derive(Debug, Clone)]
pub(super) struct Identity {
    pub(super) tls: Arc<ClientConfig>,
    /// The cluster that calls are routed to.
    pub(super) cluster: String,
    pub(super) not_before: Timestamp,
    pub(super) not_after: Timestamp,
    /// A fingerprint of the files' content.
    pub(super) content: Fingerprint,
}

/// An identity that cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum IdentityError {
    /// A file cannot be used by itself.
    #[error(transparent)]
    Pem(#[from] PemError),
    /// The key does not fit the certificate, or TLS does not know its kind.
    #[error("{}: the certificate and the key cannot be used together", path.display())]
    Unusable {
        path: PathBuf,
        variable: VariableName,
        #[source]
        cause: rustls::Error,
    },
    /// The certificate is no longer valid, or not valid yet.
    #[error(
        "the identity in {} ({variable}) {}; the file is read again before each connection, so let tbot or `tctl auth sign` replace it",
        path.display(), dates(*not_before, *not_after, *now)
    )]
    NotValid { path: PathBuf, variable: VariableName, not_before: Timestamp, not_after: Timestamp, now: Timestamp },
}

fn dates(not_before: Timestamp, not_after: Timestamp, now: Timestamp) -> String {
    if now > not_after {
        format!("expired at {not_after}")
    } else {
        format!("is not valid before {not_before}, and this machine's clock shows {now}")
    }
}

impl IdentityError {
    /// The variable that names the file.
    pub(super) fn variable(&self) -> &VariableName {
        match self {
            Self::Pem(error) => error.variable(),
            Self::Unusable { variable, .. } | Self::NotValid { variable, .. } => variable,
        }
    }
}

/// The parts, each as PEM.
struct Parts {
    key: String,
    chain: Vec<String>,
    authorities: Vec<String>,
}

impl Files {
    /// The file that messages name.
    pub(super) fn first(&self) -> &PemFile {
        match self {
            Self::Identity(file) | Self::Separate { certificate: file, .. } => file,
        }
    }

    /// Reads the files. Calls are routed to `cluster`, or else to the cluster that issued the certificate.
    pub(super) fn load(&self, cluster: Option<&str>) -> Result<Identity, IdentityError> {
        let parts = self.read()?;
        let all = [&parts.key].into_iter().chain(&parts.chain).chain(&parts.authorities);
        let content = Fingerprint::of_parts(all.map(String::as_bytes));
        let file = self.first();
        let unfit = |rule: &'static str| file.unfit(rule);
        let key = PrivateKeyDer::from_pem_slice(parts.key.as_bytes());
        let key = key.map_err(|_| unfit("holds a private key that cannot be read"))?;
        let certificates = |blocks: &[String]| {
            let read = |block: &String| CertificateDer::from_pem_slice(block.as_bytes());
            blocks.iter().map(read).collect::<Result<Vec<_>, _>>()
        };
        let chain = certificates(&parts.chain).map_err(|_| unfit("holds a TLS certificate that cannot be read"))?;
        let authorities = certificates(&parts.authorities);
        let authorities = authorities.map_err(|_| unfit("holds a certificate authority that cannot be read"))?;
        let own = chain.first().ok_or_else(|| unfit("holds no TLS certificate"))?;
        let (issuer, not_before, not_after) =
            about(own).ok_or_else(|| unfit("holds a TLS certificate that cannot be read"))?;
        let cluster = match cluster {
            Some(cluster) => cluster.to_owned(),
            None => issuer.ok_or_else(|| {
                unfit("holds a certificate whose issuer names no cluster; set TELEPORT_AUDIT_CLUSTER")
            })?,
        };
        let mut roots = RootCertStore::empty();
        if roots.add_parsable_certificates(authorities).0 == 0 {
            return Err(unfit("holds no certificate authority of the cluster").into());
        }
        let entry = route(&cluster).ok_or_else(|| {
            unfit("belongs to a cluster whose name is too long for the route through a Proxy (109 bytes at most)")
        })?;
        let unusable =
            |cause| IdentityError::Unusable { path: file.path.clone(), variable: file.variable.clone(), cause };
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let builder = builder.map_err(unusable)?.with_root_certificates(roots);
        let mut tls = builder.with_client_auth_cert(chain, key).map_err(unusable)?;
        // A Proxy reads only the first entry, and passes the bytes through to an Auth Service, which picks the second.
        tls.alpn_protocols = vec![entry, HTTP2.to_vec()];
        Ok(Identity { tls: Arc::new(tls), cluster, not_before, not_after, content })
    }

    /// Fails if an identity with these dates is not valid `now`. A new identity is valid although this machine's clock is
    /// a little behind the server's.
    pub(super) fn verify_dates(
        &self,
        (not_before, not_after): (Timestamp, Timestamp),
        now: Timestamp,
    ) -> Result<(), IdentityError> {
        if (not_before.saturating_sub(TOLERANCE).unwrap_or(not_before)..=not_after).contains(&now) {
            return Ok(());
        }
        let PemFile { path, variable } = self.first().clone();
        Err(IdentityError::NotValid { path, variable, not_before, not_after, now })
    }

    fn read(&self) -> Result<Parts, PemError> {
        match self {
            Self::Identity(file) => {
                let mut blocks = blocks(file)?.into_iter();
                let (Some(key), Some(certificate)) = (blocks.next(), blocks.next()) else {
                    return Err(file.unfit("holds no private key and TLS certificate in PEM"));
                };
                if !key.lines().next().is_some_and(|line| line.ends_with("PRIVATE KEY-----")) {
                    return Err(file.unfit("does not begin with a private key"));
                }
                Ok(Parts { key, chain: vec![certificate], authorities: blocks.collect() })
            }
            Self::Separate { certificate, key, ca } => {
                let first = blocks(key)?.into_iter().next();
                let key = first.ok_or_else(|| key.unfit("holds no private key in PEM"))?;
                Ok(Parts { key, chain: blocks(certificate)?, authorities: blocks(ca)? })
            }
        }
    }
}

/// Reads the PEM blocks of a file, in order. Skips other lines, such as an SSH certificate.
fn blocks(file: &PemFile) -> Result<Vec<String>, PemError> {
    let PemFile { path, variable } = file.clone();
    let text = fs::read_to_string(&path).map_err(|cause| PemError::Unreadable { path, variable, cause })?;
    let mut blocks = Vec::new();
    let mut open: Option<(String, String)> = None;
    for line in text.lines().map(str::trim) {
        match &mut open {
            None => {
                if let Some(label) = line.strip_prefix("-----BEGIN ").and_then(|rest| rest.strip_suffix("-----")) {
                    open = Some((label.to_owned(), format!("{line}\n")));
                }
            }
            Some((label, block)) => {
                block.push_str(line);
                block.push('\n');
                if line.strip_prefix("-----END ").and_then(|rest| rest.strip_suffix("-----")) == Some(label) {
                    blocks.extend(open.take().map(|(_, block)| block));
                }
            }
        }
    }
    match open {
        Some((label, _)) => Err(file.unfit(format!("has a block {label} without an end; it may be cut off"))),
        None => Ok(blocks),
    }
}

/// The cluster that issued a certificate, and the start and end of its validity.
fn about(certificate: &CertificateDer<'_>) -> Option<(Option<String>, Timestamp, Timestamp)> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let issuer = certificate.issuer().iter_organization().next();
    let issuer = issuer.and_then(|name| name.as_str().ok()).filter(|name| !name.is_empty()).map(str::to_owned);
    let validity = certificate.validity();
    let time = |seconds| Timestamp::from_second(seconds).ok();
    Some((issuer, time(validity.not_before.timestamp())?, time(validity.not_after.timestamp())?))
}

/// The first ALPN entry, by which a Proxy routes to the Auth Service of `cluster`; none if the name is too long for
/// one.
fn route(cluster: &str) -> Option<Vec<u8>> {
    let mut entry = String::from("teleport-auth@");
    for byte in cluster.bytes() {
        // Writing into memory cannot fail.
        let _ = write!(entry, "{byte:02x}");
    }
    entry.push('.');
    entry.push_str(SERVER_NAME);
    (entry.len() <= LONGEST_ENTRY).then(|| entry.into_bytes())
}

#[cfg(test)]
mod tests {
    use rcgen::{
        BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, PKCS_ECDSA_P256_SHA256,
        PKCS_ED25519, SignatureAlgorithm,
    };

    use super::*;

    struct Made {
        key: String,
        certificate: String,
        ca: String,
    }

    fn made(algorithm: &'static SignatureAlgorithm, organization: Option<&str>) -> Made {
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        if let Some(organization) = organization {
            params.distinguished_name.push(DnType::OrganizationName, organization);
        }
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate_for(algorithm).unwrap();
        let mut params = CertificateParams::new([]).unwrap();
        params.not_before = std::time::UNIX_EPOCH.into();
        params.not_after = (std::time::UNIX_EPOCH + std::time::Duration::from_secs(2_000_000_000)).into();
        let certificate = params.signed_by(&key, &issuer).unwrap();
        Made { key: key.serialize_pem(), certificate: certificate.pem(), ca: issuer.pem() }
    }

    fn file(folder: &tempfile::TempDir, name: &str, content: &str) -> PemFile {
        let path = folder.path().join(name);
        fs::write(&path, content).unwrap();
        PemFile { path, variable: name.into() }
    }

    fn identity(content: &str) -> Result<Identity, IdentityError> {
        let folder = tempfile::tempdir().unwrap();
        Files::Identity(file(&folder, "TELEPORT_AUDIT_IDENTITY", content)).load(None)
    }

    #[test]
    fn an_identity_file_is_read_by_the_order_of_its_blocks() {
        for algorithm in [&PKCS_ECDSA_P256_SHA256, &PKCS_ED25519] {
            let Made { key, certificate, ca } = made(algorithm, Some("example.com"));
            let ssh = "x".repeat(70_000);
            let text = format!(
                "  {key}\r\nssh-rsa-cert-v01@openssh.com {ssh}\n{certificate}@cert-authority *.example.com ssh-rsa AAAA\n\n{ca}{ca}"
            );
            let identity = identity(&text).unwrap();
            assert_eq!(identity.cluster, "example.com");
            assert_eq!(identity.not_after.as_second(), 2_000_000_000);
            let entries = &identity.tls.alpn_protocols;
            assert_eq!(entries[0], b"teleport-auth@6578616d706c652e636f6d.teleport.cluster.local");
            assert_eq!(entries[1..], [b"h2".to_vec()]);
        }
    }

    #[test]
    fn what_an_identity_file_lacks_is_named() {
        let Made { key, certificate, ca } = made(&PKCS_ECDSA_P256_SHA256, Some("example.com"));
        let other = made(&PKCS_ECDSA_P256_SHA256, None);
        let cut_off = &certificate[..certificate.len() / 2];
        for (text, rule) in [
            (String::new(), "holds no private key and TLS certificate"),
            (key.clone(), "holds no private key and TLS certificate"),
            (format!("{certificate}{key}{ca}"), "does not begin with a private key"),
            (format!("{key}{cut_off}"), "without an end"),
            (format!("{key}{certificate}"), "no certificate authority"),
            (format!("{}{certificate}{ca}", other.key), "cannot be used together"),
            (format!("{}{}{ca}", other.key, other.certificate), "set TELEPORT_AUDIT_CLUSTER"),
        ] {
            let error = identity(&text).unwrap_err();
            assert!(error.to_string().contains(rule), "{rule}: {error}");
            assert_eq!(error.variable().as_str(), "TELEPORT_AUDIT_IDENTITY");
        }
    }

    #[test]
    fn three_files_make_an_identity_and_a_named_cluster_comes_first() {
        let folder = tempfile::tempdir().unwrap();
        let Made { key, certificate, ca } = made(&PKCS_ECDSA_P256_SHA256, Some("root.example.com"));
        let files = Files::Separate {
            certificate: file(&folder, "CERT", &certificate),
            key: file(&folder, "KEY", &key),
            ca: file(&folder, "CA", &ca),
        };
        assert_eq!(files.load(None).unwrap().cluster, "root.example.com");
        let leaf = files.load(Some("leaf")).unwrap();
        assert_eq!(leaf.tls.alpn_protocols[0], b"teleport-auth@6c656166.teleport.cluster.local");
        let before = leaf.content;
        assert_eq!(files.load(Some("leaf")).unwrap().content, before);
        fs::remove_file(folder.path().join("KEY")).unwrap();
        assert!(
            matches!(files.load(None), Err(IdentityError::Pem(PemError::Unreadable { variable, .. })) if variable.as_str() == "KEY")
        );
    }

    #[test]
    fn a_cluster_name_that_is_too_long_has_no_route() {
        assert!(route(&"x".repeat(109)).is_some_and(|entry| entry.len() == 255));
        assert_eq!(route(&"x".repeat(110)), None);
    }

    #[test]
    fn the_dates_of_an_identity_are_shown_with_its_file_and_variable() {
        let file = PemFile { path: "/etc/identity".into(), variable: "TELEPORT_AUDIT_IDENTITY".into() };
        let files = Files::Identity(file);
        let at = |seconds| Timestamp::from_second(seconds).unwrap();
        assert!(files.verify_dates((at(10), at(20)), at(15)).is_ok());
        assert!(files.verify_dates((at(10), at(20)), at(-110)).is_ok(), "this clock may be two minutes behind");
        let expired = files.verify_dates((at(10), at(20)), at(21)).unwrap_err().to_string();
        for part in ["/etc/identity", "TELEPORT_AUDIT_IDENTITY", "expired at 1970-01-01T00:00:20Z"] {
            assert!(expired.contains(part), "{expired}");
        }
        let early = files.verify_dates((at(10), at(20)), at(-111)).unwrap_err().to_string();
        assert!(early.contains("not valid before 1970-01-01T00:00:10Z"), "{early}");
    }
}
