//! The real program: how it is built, and how it is started.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::Failure;
use crate::codec::Codec;
use crate::intake::API_KEY;
use crate::meter::Metered;

/// What every entry carries.
pub const HOSTNAME: &str = "audit-host-01";
pub const TAGS: &str = "env:prod,team:pki";

/// Builds the program as this example was built: the same profile, the same features.
pub fn build() -> Result<PathBuf, Failure> {
    let this = std::env::current_exe()?;
    let folder = this.parent().and_then(Path::parent).ok_or("this example lies in no folder of cargo's")?;
    let profile = folder.file_name().and_then(|name| name.to_str()).ok_or("a folder without a name")?;
    let features = [
        ("tls", cfg!(feature = "tls")),
        ("redis", cfg!(feature = "redis")),
        ("s3", cfg!(feature = "s3")),
        ("gcs", cfg!(feature = "gcs")),
    ];
    let features: Vec<_> = features.into_iter().filter_map(|(name, is_on)| is_on.then_some(name)).collect();
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let built = Command::new(cargo)
        .args(["build", "--quiet", "--bin", "auditsync", "--no-default-features", "--profile", profile])
        .args(["--features", &features.join(","), "--manifest-path"])
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"))
        .status()?;
    if built.success() { Ok(folder.join("auditsync")) } else { Err("the program cannot be built".into()) }
}

/// Between which servers it runs, and how.
pub struct Setting<'a> {
    pub binary: &'a Path,
    pub source: &'a str,
    pub intake: &'a str,
    pub codec: Codec,
    pub lookback: Duration,
    pub folder: &'a Path,
}

impl Setting<'_> {
    /// One run that delivers everything there is. All that is not named here is as by default.
    pub fn once(&self) -> Metered {
        Metered {
            program: self.binary.to_owned(),
            arguments: vec!["run".into(), "--once".into()],
            variables: vec![
                ("SECTIGO_AUDIT_API_URL", self.source.to_owned()),
                ("SECTIGO_AUDIT_API_CLIENT_ID", "audit-client".to_owned()),
                ("SECTIGO_AUDIT_API_CLIENT_SECRET", "m0sfj!RQZp]d2C+8DI".to_owned()),
                ("SECTIGO_AUDIT_SYNC_LOOKBACK", format!("{}s", self.lookback.as_secs())),
                ("SECTIGO_AUDIT_LOG_LEVEL", "warn".to_owned()),
                ("DD_LOGS_CONFIG_LOGS_DD_URL", self.intake.to_owned()),
                ("DD_LOGS_CONFIG_COMPRESSION_KIND", self.codec.name().to_owned()),
                ("DD_API_KEY", API_KEY.to_owned()),
                ("DD_HOSTNAME", HOSTNAME.to_owned()),
                ("DD_TAGS", TAGS.to_owned()),
            ],
            folder: self.folder.to_owned(),
            stop_after: None,
            kill_after: Duration::from_secs(900),
        }
    }

    /// A daemon that asks this often and is stopped after so long.
    pub fn daemon(&self, interval: Duration, life: Duration) -> Metered {
        let mut metered = self.once();
        metered.arguments.pop();
        metered.variables.push(("SECTIGO_AUDIT_SYNC_INTERVAL", format!("{}s", interval.as_secs())));
        metered.stop_after = Some(life);
        metered
    }
}
