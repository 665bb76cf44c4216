//! `auditsync certs`: makes a certificate authority, a server pair and a client pair for mutual TLS, and prints how to use them.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use clap::Args;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};
use url::Host;

use super::exit::Exit;
use super::{print, say};
use crate::failure::Chain;
use crate::pipeline::registry;

/// How long the certificates are valid.
const VALID_FOR: Duration = Duration::from_hours(24 * 3650);

/// How long before now the certificates become valid, since the clocks of two machines may differ.
const VALID_BEFORE: Duration = Duration::from_hours(1);

#[derive(Debug, Args)]
pub(super) struct CertsArguments {
    /// The name or IP address of the receiver, as written in `FLUENTD_URL`. May be given several times.
    #[arg(long, value_name = "NAME", required = true, value_parser = host)]
    host: Vec<String>,
    /// The folder for the files. It is created if it is missing; no file in it is overwritten.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

fn host(text: &str) -> Result<String, String> {
    let is_name = matches!(Host::parse(text), Ok(Host::Domain(_)));
    if text.parse::<IpAddr>().is_ok() || is_name {
        return Ok(text.to_owned());
    }
    Err("give a name or an IP address, without scheme and port".to_owned())
}

/// Why the certificates cannot be made.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("cannot make the certificates")]
    Unmade(#[from] rcgen::Error),
    #[error("{} already exists, and no file is overwritten: name another folder, or remove it", .0.display())]
    Exists(PathBuf),
    #[error("cannot write {}", path.display())]
    Unwritten {
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
}

/// Makes the files, and prints the configuration that uses them.
pub(super) fn certs(arguments: &CertsArguments) -> Exit {
    let CertsArguments { host, out } = arguments;
    let made = make(host, SystemTime::now()).map_err(Error::from).and_then(|files| write(out, &files));
    if let Err(error) = made {
        say(&format!("auditsync: {}", Chain(&error)));
        return Exit::State;
    }
    // The receiver wants absolute paths. The folder exists by now.
    let out = fs::canonicalize(out).unwrap_or_else(|_| out.clone());
    let first = host.first().map_or("", String::as_str);
    print(registry::certificates_guide(first, &out).trim_end());
    Exit::Done
}

/// A file to write.
struct NewFile {
    name: &'static str,
    content: String,
    /// Whether only its owner may read it.
    is_secret: bool,
}

/// Makes a new authority and the pairs that it issues.
fn make(hosts: &[String], now: SystemTime) -> Result<Vec<NewFile>, rcgen::Error> {
    let mut params = params(&[], "auditsync CA", now)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
    let name = hosts.first().map_or("server", String::as_str);
    let (server, server_key) = issue(&authority, hosts, name, ExtendedKeyUsagePurpose::ServerAuth, now)?;
    let (client, client_key) = issue(&authority, &[], "auditsync", ExtendedKeyUsagePurpose::ClientAuth, now)?;
    let file = |name, content, is_secret| NewFile { name, content, is_secret };
    Ok(vec![
        file("ca.crt", authority.pem(), false),
        file("ca.key", authority.key().serialize_pem(), true),
        file("server.crt", server, false),
        file("server.key", server_key, true),
        file("client.crt", client, false),
        file("client.key", client_key, true),
    ])
}

fn issue(
    authority: &CertifiedIssuer<'_, KeyPair>,
    hosts: &[String],
    name: &str,
    purpose: ExtendedKeyUsagePurpose,
    now: SystemTime,
) -> Result<(String, String), rcgen::Error> {
    let mut params = params(hosts, name, now)?;
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![purpose];
    let key = KeyPair::generate()?;
    Ok((params.signed_by(&key, authority)?.pem(), key.serialize_pem()))
}

fn params(hosts: &[String], name: &str, now: SystemTime) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(hosts)?;
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = (now - VALID_BEFORE).into();
    params.not_after = (now + VALID_FOR).into();
    Ok(params)
}

/// Writes all files or none.
fn write(folder: &Path, files: &[NewFile]) -> Result<(), Error> {
    let unwritten = |path: &Path| {
        let path = path.to_owned();
        move |cause| Error::Unwritten { path, cause }
    };
    if !folder.is_dir() {
        DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(unwritten(folder))?;
    }
    for (count, file) in files.iter().enumerate() {
        let path = folder.join(file.name);
        let written = write_new(&path, file);
        if let Err(cause) = written {
            // A file that existed before stays. If one of ours cannot be removed, the next run names it.
            let ours = if cause.kind() == io::ErrorKind::AlreadyExists { count } else { count + 1 };
            for file in files.iter().take(ours) {
                let _ = fs::remove_file(folder.join(file.name));
            }
            return Err(match cause.kind() {
                io::ErrorKind::AlreadyExists => Error::Exists(path),
                _ => unwritten(&path)(cause),
            });
        }
    }
    Ok(())
}

fn write_new(path: &Path, file: &NewFile) -> io::Result<()> {
    let mode = if file.is_secret { 0o600 } else { 0o644 };
    let mut opened = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    opened.write_all(file.content.as_bytes())?;
    opened.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn files() -> Vec<NewFile> {
        make(&["f.example.com".to_owned(), "10.0.0.1".to_owned()], SystemTime::now()).unwrap()
    }

    #[test]
    fn keys_are_for_their_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("new/certs");
        write(&out, &files()).unwrap();
        assert_eq!(names(&out), ["ca.crt", "ca.key", "client.crt", "client.key", "server.crt", "server.key"]);
        for name in names(&out) {
            let mode = fs::metadata(out.join(&name)).unwrap().permissions().mode() & 0o777;
            assert_eq!(mode & 0o600, 0o600);
            assert!(!name.contains("key") || mode == 0o600, "{name}: {mode:o}");
        }
    }

    #[test]
    fn no_file_is_overwritten_and_none_is_left_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("server.key"), "precious").unwrap();
        let error = write(folder.path(), &files()).unwrap_err().to_string();
        assert!(error.contains("server.key already exists"), "{error}");
        assert_eq!(names(folder.path()), ["server.key"]);
        assert_eq!(fs::read_to_string(folder.path().join("server.key")).unwrap(), "precious");
    }

    #[test]
    fn a_host_is_a_name_or_an_address_alone() {
        for text in ["fluentd.example.com", "localhost", "10.0.0.1", "::1"] {
            assert_eq!(host(text).as_deref(), Ok(text));
        }
        for text in ["", "https://f.example.com", "f.example.com:8888", "a b", "f.example.com/x"] {
            assert!(host(text).is_err(), "{text}");
        }
    }
}
