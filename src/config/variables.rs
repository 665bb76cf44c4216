//! Every variable, once: `--help`, `.env.example`, the README's table, the defaults and what counts as a secret all
//! come from this table.

mod render;

pub use render::{env_example, help_text, readme_table};

/// One environment variable.
#[derive(Debug, Clone, Copy)]
pub struct Variable {
    /// Its whole name.
    pub name: &'static str,
    /// What holds when it is not set.
    pub preset: Preset,
    /// Whether nothing works without it (a secret may come from its `…_FILE` instead).
    pub required: bool,
    /// Whether its value is never shown.
    pub secret: bool,
    /// The part of the program that it belongs to.
    pub group: Group,
    /// What it does, with units and bounds, for an operator.
    pub help: &'static str,
}

/// What holds when a variable is not set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preset {
    /// Nothing.
    Nothing,
    /// This value, as if it had been given.
    Value(&'static str),
    /// Something that is found at the start, in words.
    Derived(&'static str),
}

/// The part of the program that a variable belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    /// The audit API that events come from.
    Sectigo,
    /// The logs intake that events go to.
    Datadog,
    /// When and how much to synchronise.
    Sync,
    /// What is remembered between runs.
    Storage,
    /// The program itself.
    Program,
}

impl Group {
    /// All groups, in the order of the table.
    pub const ALL: [Self; 5] = [Self::Sectigo, Self::Datadog, Self::Sync, Self::Storage, Self::Program];

    /// A heading for people.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Sectigo => "Sectigo audit API",
            Self::Datadog => "Datadog",
            Self::Sync => "Synchronisation",
            Self::Storage => "State",
            Self::Program => "Program",
        }
    }
}

impl Variable {
    const fn required(group: Group, name: &'static str, help: &'static str) -> Self {
        Self { name, preset: Preset::Nothing, required: true, secret: false, group, help }
    }

    const fn optional(group: Group, name: &'static str, preset: Preset, help: &'static str) -> Self {
        Self { name, preset, required: false, secret: false, group, help }
    }

    const fn secret(self) -> Self {
        Self { secret: true, ..self }
    }

    /// The value that holds when it is not set.
    pub const fn default_value(&self) -> Option<&'static str> {
        match self.preset {
            Preset::Value(value) => Some(value),
            Preset::Nothing | Preset::Derived(_) => None,
        }
    }
}

/// The variable called `name`.
pub fn find(name: &str) -> Option<&'static Variable> {
    VARIABLES.iter().find(|variable| variable.name == name)
}

/// The table, in the order in which people read it and mistakes are reported.
pub const VARIABLES: &[Variable] = &[
    Variable::required(
        Group::Sectigo,
        "SECTIGO_AUDIT_API_URL",
        "Address of the audit API, such as https://audit.enterprise.sectigo.com.",
    ),
    Variable::required(Group::Sectigo, "SECTIGO_AUDIT_API_CLIENT_ID", "Client id of the audit API key."),
    Variable::required(
        Group::Sectigo,
        "SECTIGO_AUDIT_API_CLIENT_SECRET",
        "Client secret of the audit API key, taken as it is, to the byte.",
    )
    .secret(),
    Variable::optional(
        Group::Sectigo,
        "SECTIGO_AUDIT_API_CLIENT_SECRET_FILE",
        Preset::Nothing,
        "File that holds the client secret. It is read again on SIGHUP and when the secret is refused.",
    ),
    Variable::optional(
        Group::Sectigo,
        "SECTIGO_AUDIT_API_TOKEN_URL",
        Preset::Derived("named by the API"),
        "Address of the token endpoint. Needed only where the API names one that cannot be trusted.",
    ),
    Variable::required(Group::Datadog, "DD_API_KEY", "API key of the Datadog organisation.").secret(),
    Variable::optional(
        Group::Datadog,
        "DD_API_KEY_FILE",
        Preset::Nothing,
        "File that holds the API key. It is read again on SIGHUP and when the key is refused.",
    ),
    Variable::optional(
        Group::Datadog,
        "DD_SITE",
        Preset::Value("datadoghq.com"),
        "Datadog site, such as datadoghq.eu or us5.datadoghq.com.",
    ),
    Variable::optional(
        Group::Datadog,
        "DD_TAGS",
        Preset::Nothing,
        "Tags on every entry, such as team:pki, separated by commas or blanks. At most 100 of 256 characters each.",
    ),
    Variable::optional(Group::Datadog, "DD_ENV", Preset::Nothing, "Becomes the tag env:… unless DD_TAGS has one."),
    Variable::optional(
        Group::Datadog,
        "DD_HOSTNAME",
        Preset::Derived("this machine's name"),
        "Host name on every entry.",
    ),
    Variable::optional(Group::Datadog, "DD_SERVICE", Preset::Value("sectigo-scm"), "Service on every entry."),
    Variable::optional(
        Group::Datadog,
        "DD_SOURCE",
        Preset::Value("sectigo"),
        "Source on every entry, which chooses the log pipeline. It is made lower case.",
    ),
    Variable::optional(
        Group::Datadog,
        "DD_LOGS_CONFIG_LOGS_DD_URL",
        Preset::Derived("the intake of DD_SITE"),
        "Another intake, as host:port or as an address, such as a relay of your own.",
    ),
    Variable::optional(
        Group::Datadog,
        "DD_LOGS_CONFIG_LOGS_NO_SSL",
        Preset::Value("false"),
        "Allows plain http to the intake named by DD_LOGS_CONFIG_LOGS_DD_URL: true or false. \
         host:port then means http.",
    ),
    Variable::optional(
        Group::Datadog,
        "DD_LOGS_CONFIG_COMPRESSION_KIND",
        Preset::Value("gzip"),
        "Compression of what is sent: gzip, zstd or none.",
    ),
    Variable::optional(
        Group::Sync,
        "SECTIGO_AUDIT_SYNC_LOOP",
        Preset::Value("true"),
        "Run on (true), or end once everything up to the start is delivered (false).",
    ),
    Variable::optional(
        Group::Sync,
        "SECTIGO_AUDIT_SYNC_INTERVAL",
        Preset::Value("1m"),
        "Time from the start of one synchronisation to the start of the next: 5s to 18h.",
    ),
    Variable::optional(
        Group::Sync,
        "SECTIGO_AUDIT_SYNC_LOOKBACK",
        Preset::Value("1h"),
        "How far back the very first synchronisation goes: more than 0s, at most 18h.",
    ),
    Variable::optional(
        Group::Sync,
        "SECTIGO_AUDIT_SYNC_DELAY",
        Preset::Value("30s"),
        "How long a record may take to become visible; what is newer is not asked for yet: 0s to 1h.",
    ),
    Variable::optional(
        Group::Sync,
        "SECTIGO_AUDIT_SYNC_WINDOW",
        Preset::Value("1h"),
        "Longest stretch of time asked for at once, in whole seconds: 1s to 24h.",
    ),
    Variable::optional(
        Group::Sync,
        "SECTIGO_AUDIT_SYNC_OVERLAP",
        Preset::Value("5m"),
        "How far each request reaches back into what is already delivered, for records that came late: 0s to 1h.",
    ),
    Variable::optional(
        Group::Sync,
        "SECTIGO_AUDIT_RETRY_BUDGET",
        Preset::Value("5m"),
        "How long a run with SECTIGO_AUDIT_SYNC_LOOP=false goes on trying without progress: 0s to 24h.",
    ),
    Variable::optional(
        Group::Sync,
        "SECTIGO_AUDIT_SHUTDOWN_GRACE",
        Preset::Value("25s"),
        "How long a stop waits for what is being delivered: 0s to 10m.",
    ),
    Variable::optional(
        Group::Storage,
        "SECTIGO_AUDIT_STORAGE_BACKEND",
        Preset::Value("localfs"),
        "Where the state is kept: localfs (a folder), redis, s3, gcs, or memory (forgotten at the end).",
    ),
    Variable::optional(
        Group::Storage,
        "SECTIGO_AUDIT_LOCAL_STORAGE_PATH",
        Preset::Value("."),
        "Folder for the state with localfs. It must exist.",
    ),
    Variable::optional(
        Group::Storage,
        "SECTIGO_AUDIT_REDIS_ADDRESS",
        Preset::Nothing,
        "Redis server, as host:port, redis://[user:password@]host:port/db or rediss://… for TLS.",
    )
    .secret(),
    Variable::optional(
        Group::Storage,
        "SECTIGO_AUDIT_REDIS_ADDRESS_FILE",
        Preset::Nothing,
        "File that holds the address.",
    ),
    Variable::optional(Group::Storage, "SECTIGO_AUDIT_REDIS_PASSWORD", Preset::Nothing, "Password for Redis.").secret(),
    Variable::optional(
        Group::Storage,
        "SECTIGO_AUDIT_REDIS_PASSWORD_FILE",
        Preset::Nothing,
        "File that holds the password. It is read again on SIGHUP and when the password is refused.",
    ),
    Variable::optional(
        Group::Storage,
        "SECTIGO_AUDIT_REDIS_USERNAME",
        Preset::Derived("the default user"),
        "ACL user for Redis.",
    ),
    Variable::optional(
        Group::Storage,
        "SECTIGO_AUDIT_REDIS_DB",
        Preset::Derived("0, or the address's"),
        "Number of the Redis database.",
    ),
    Variable::optional(
        Group::Storage,
        "SECTIGO_AUDIT_REDIS_TLS",
        Preset::Derived("by the address"),
        "TLS to Redis, for an address without a scheme: true or false.",
    ),
    Variable::optional(
        Group::Storage,
        "SECTIGO_AUDIT_REDIS_KEY",
        Preset::Value("auditsync:sectigo"),
        "Redis key of the state.",
    ),
    Variable::optional(
        Group::Storage,
        "SECTIGO_AUDIT_S3_BUCKET",
        Preset::Nothing,
        "S3 bucket of the state. Credentials, region and endpoint: AWS's own variables, files and roles.",
    ),
    Variable::optional(Group::Storage, "SECTIGO_AUDIT_S3_PREFIX", Preset::Nothing, "Path of the state in the bucket."),
    Variable::optional(
        Group::Storage,
        "SECTIGO_AUDIT_S3_FORCE_PATH_STYLE",
        Preset::Value("false"),
        "Name the bucket in the path and not in the host, for S3-compatible stores: true or false.",
    ),
    Variable::optional(
        Group::Storage,
        "SECTIGO_AUDIT_S3_UNCONDITIONAL",
        Preset::Value("false"),
        "Bear a store without conditional writes (true): two instances may then undo each other's progress.",
    ),
    Variable::optional(
        Group::Storage,
        "SECTIGO_AUDIT_S3_SSE",
        Preset::Derived("the bucket's"),
        "Server-side encryption of the state: AES256, aws:kms or aws:kms:dsse.",
    ),
    Variable::optional(
        Group::Storage,
        "SECTIGO_AUDIT_S3_KMS_KEY_ID",
        Preset::Derived("AWS's own key"),
        "KMS key for aws:kms and aws:kms:dsse.",
    ),
    Variable::optional(
        Group::Storage,
        "SECTIGO_AUDIT_GCS_BUCKET",
        Preset::Nothing,
        "Google Cloud Storage bucket of the state. Credentials: Application Default Credentials.",
    ),
    Variable::optional(Group::Storage, "SECTIGO_AUDIT_GCS_PREFIX", Preset::Nothing, "Path of the state in the bucket."),
    Variable::optional(
        Group::Storage,
        "STORAGE_EMULATOR_HOST",
        Preset::Nothing,
        "An emulator in place of Google Cloud Storage, as host:port or as an address.",
    ),
    Variable::optional(
        Group::Storage,
        "SECTIGO_AUDIT_LEASE_TTL",
        Preset::Value("60s"),
        "On redis, s3 and gcs: how long an instance without a sign of life keeps others from taking over: 15s to 10m.",
    ),
    Variable::optional(
        Group::Storage,
        "SECTIGO_AUDIT_REJECTED_PATH",
        Preset::Derived("in the state's folder"),
        "File that keeps the records which Datadog refuses. Without one and without a folder they are logged whole.",
    ),
    Variable::optional(
        Group::Program,
        "SECTIGO_AUDIT_HTTP_TIMEOUT",
        Preset::Value("60s"),
        "Longest time for one request and its answer: 1s to 10m.",
    ),
    Variable::optional(
        Group::Program,
        "SECTIGO_AUDIT_HTTP_LISTEN",
        Preset::Derived("off"),
        "IP address and port for /healthz, /readyz and /metrics, such as 127.0.0.1:9090 or [::]:9090. No secret is shown.",
    ),
    Variable::optional(
        Group::Program,
        "SECTIGO_AUDIT_LOG_FORMAT",
        Preset::Value("text"),
        "Layout of the program's own log: text or json.",
    ),
    Variable::optional(
        Group::Program,
        "SECTIGO_AUDIT_LOG_LEVEL",
        Preset::Value("info"),
        "Least severity in the program's own log: trace, debug, info, warn or error.",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_is_twice_in_the_table() {
        for (index, variable) in VARIABLES.iter().enumerate() {
            assert!(VARIABLES[..index].iter().all(|before| before.name != variable.name), "{}", variable.name);
        }
    }

    #[test]
    fn the_table_is_sorted_by_group() {
        let place = |group| Group::ALL.iter().position(|each| *each == group).unwrap();
        assert!(VARIABLES.is_sorted_by_key(|variable| place(variable.group)));
    }

    #[test]
    fn every_help_is_one_or_two_short_sentences_for_a_table_cell() {
        for Variable { name, help, .. } in VARIABLES {
            assert!(help.ends_with('.') && help.len() <= 120 && !help.contains(['|', '\n']), "{name}: {help}");
        }
    }

    #[test]
    fn every_secret_has_a_file_and_only_secrets_do() {
        for variable in VARIABLES {
            let file = format!("{}_FILE", variable.name);
            assert_eq!(variable.secret, find(&file).is_some(), "{}", variable.name);
        }
    }
}
