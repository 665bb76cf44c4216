//! The variables of the state in Redis.

use redis::{ConnectionAddr, IntoConnectionInfo as _};
use secrecy::{ExposeSecret as _, SecretString};

use super::Settings;
use crate::config::{Noted, Preset, Reader, Scope, SecretVariable, Spec, Variable};
use crate::pipeline_name::PipelineName;
use crate::secret::Secret;

/// The address of the server.
pub(crate) const ADDRESS: SecretVariable = SecretVariable::new(
    Scope::Shared,
    "AUDITSYNC_REDIS_ADDRESS",
    Preset::Nothing,
    "Redis server, as host:port, redis://[user:password@]host:port/db or rediss://… for TLS.",
)
.renewed("auditsync reads it only at the start.");

/// The password.
pub(crate) const PASSWORD: SecretVariable =
    SecretVariable::new(Scope::Shared, "AUDITSYNC_REDIS_PASSWORD", Preset::Nothing, "Password for Redis.");

/// The ACL user.
pub(crate) const USERNAME: Variable<String> = Variable::text(
    Scope::Shared,
    "AUDITSYNC_REDIS_USERNAME",
    Preset::Derived("the default user"),
    "ACL user for Redis.",
);

/// The database.
pub(crate) const DB: Variable<u32> = Variable::new(
    Scope::Shared,
    "AUDITSYNC_REDIS_DB",
    Preset::Derived("0, or the address's"),
    |text, _| text.parse().map_err(|_| "must be the number of a database, such as 0".to_owned()),
    "Number of the Redis database.",
);

/// Whether to speak TLS.
pub(crate) const TLS: Variable<bool> = Variable::flag(
    Scope::Shared,
    "AUDITSYNC_REDIS_TLS",
    Preset::Derived("by the address"),
    "TLS to Redis, for an address without a scheme: true or false.",
);

/// The beginning of the state's key.
pub(crate) const PREFIX: Variable<String> = Variable::text(
    Scope::Shared,
    "AUDITSYNC_REDIS_PREFIX",
    Preset::Value("auditsync"),
    "Beginning of the Redis key of the state. A colon and the name of the pipeline follow it.",
);

/// Every variable of this store, for the tables.
pub(crate) const VARIABLES: &[&Spec] =
    &[&ADDRESS.spec, &PASSWORD.spec, &USERNAME.spec, &DB.spec, &TLS.spec, &PREFIX.spec];

/// The parts of an address.
struct Address {
    host: String,
    port: u16,
    /// Whether the scheme means TLS; none without a scheme.
    tls: Option<bool>,
    username: Option<String>,
    password: Option<SecretString>,
    database: Option<u32>,
}

/// Reads the settings. A part that the address has must not also have a variable.
pub(crate) fn settings(reader: &mut Reader<'_>, pipeline: &PipelineName) -> Result<Settings, Noted> {
    let address = reader.get_secret(&ADDRESS);
    let password = reader.find_secret(&PASSWORD);
    let username = reader.find(&USERNAME);
    let database = reader.find(&DB);
    let tls = reader.find(&TLS);
    let prefix = reader.get(&PREFIX);
    let source = address?;
    let address =
        parse(source.current().expose_secret()).map_err(|rule| reader.refuse_hidden(source.variable(), rule))?;
    let (password, username, database, tls) = (password?, username?, database?, tls?);

    let mut twice = |spec: &Spec, said: bool| {
        if said {
            let name = reader.name(spec);
            Err(reader.refuse_hidden(&name, "the address sets it too; keep one of the two"))
        } else {
            Ok(())
        }
    };
    let passwords = twice(&PASSWORD.spec, password.is_some() && address.password.is_some());
    let usernames = twice(&USERNAME.spec, username.is_some() && address.username.is_some());
    let databases = twice(&DB.spec, database.is_some() && address.database.is_some_and(|said| Some(said) != database));
    let schemes = twice(&TLS.spec, tls.is_some() && address.tls.is_some_and(|said| Some(said) != tls));
    for agreed in [passwords, usernames, databases, schemes] {
        agreed?;
    }
    let in_address = address.password.map(|password| Secret::from_value(source.variable().clone(), password));
    let settings = Settings {
        host: address.host,
        port: address.port,
        tls: tls.or(address.tls).unwrap_or(false),
        username: username.or(address.username),
        password: password.or(in_address),
        database: database.or(address.database).unwrap_or(0),
        key: format!("{}:{pipeline}", prefix?),
    };
    if settings.username.is_some() && settings.password.is_none() {
        let (name, password) = (reader.name(&USERNAME.spec), reader.name(&PASSWORD.spec));
        return Err(reader.refuse_hidden(&name, format!("a user needs a password: set {password}")));
    }
    Ok(settings)
}

/// Parses `host`, `host:port`, or an address with the scheme `redis` or `rediss`. Errors do not quote it.
fn parse(text: &str) -> Result<Address, &'static str> {
    const RULE: &str = "must be host:port, or redis://[user:password@]host:port/db, or rediss://… for TLS";
    let (url, tls) = match text.split_once("://") {
        None if text.contains(['/', '@', '?', '#']) || text.chars().any(char::is_whitespace) => return Err(RULE),
        None => (format!("redis://{text}"), None),
        Some(("redis", _)) => (text.to_owned(), Some(false)),
        Some(("rediss", _)) => (text.to_owned(), Some(true)),
        Some(_) => return Err(RULE),
    };
    let parsed = url::Url::parse(&url).map_err(|_| RULE)?;
    if parsed.query().is_some() || parsed.fragment().is_some() {
        return Err("must have neither ? nor #; percent-encode them in a password");
    }
    let said = url.as_str().into_connection_info().map_err(|_| RULE)?;
    let (ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. }) = said.addr() else {
        return Err(RULE);
    };
    let login = said.redis_settings();
    let has_database = !parsed.path().trim_matches('/').is_empty();
    Ok(Address {
        host: host.trim_matches(['[', ']']).to_owned(),
        port: *port,
        tls,
        username: login.username().filter(|name| !name.is_empty()).map(str::to_owned),
        password: login.password().map(SecretString::from),
        database: if has_database { Some(u32::try_from(login.db()).map_err(|_| RULE)?) } else { None },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::read_pairs;

    fn read(pairs: &[(&str, &str)]) -> Result<Settings, String> {
        read_pairs(pairs, |reader| settings(reader, &"here:there".into()))
    }

    fn mistake(pairs: &[(&str, &str)]) -> String {
        read(pairs).unwrap_err()
    }

    fn password(settings: &Settings) -> Option<(String, String)> {
        let password = settings.password.as_ref()?;
        Some((password.current().expose_secret().to_owned(), password.variable().to_string()))
    }

    #[test]
    fn the_vendors_host_and_port_are_enough() {
        let found = read(&[(ADDRESS.spec.name, "redis:6380")]).unwrap();
        assert_eq!((found.host.as_str(), found.port, found.tls, found.database), ("redis", 6380, false, 0));
        assert_eq!(
            (found.username.is_none(), password(&found), found.key.as_str()),
            (true, None, "auditsync:here:there")
        );
        assert_eq!(read(&[(ADDRESS.spec.name, "redis")]).unwrap().port, 6379);
        assert_eq!(read(&[(ADDRESS.spec.name, "[::1]:7000")]).unwrap().host, "::1");
    }

    #[test]
    fn an_address_says_everything() {
        let found = read(&[(ADDRESS.spec.name, "rediss://sync:a%2Fb@cache.example:6390/3")]).unwrap();
        assert_eq!((found.host.as_str(), found.port, found.tls, found.database), ("cache.example", 6390, true, 3));
        assert_eq!(found.username.as_deref(), Some("sync"));
        assert_eq!(password(&found), Some(("a/b".to_owned(), ADDRESS.spec.name.to_owned())));
        let found = read(&[(ADDRESS.spec.name, "redis://:secret@h")]).unwrap();
        assert_eq!((found.username, found.port), (None, 6379));
    }

    #[test]
    fn each_part_has_a_variable() {
        let pairs = [
            (ADDRESS.spec.name, "redis:6379"),
            (PASSWORD.spec.name, " a b "),
            ("AUDITSYNC_REDIS_USERNAME", "sync"),
            ("AUDITSYNC_REDIS_DB", "2"),
            ("AUDITSYNC_REDIS_TLS", "true"),
            ("AUDITSYNC_REDIS_PREFIX", "pki:cursor"),
        ];
        let found = read(&pairs).unwrap();
        assert_eq!((found.tls, found.database, found.key.as_str()), (true, 2, "pki:cursor:here:there"));
        assert_eq!(password(&found), Some((" a b ".to_owned(), PASSWORD.spec.name.to_owned())));
        assert_eq!(found.username.as_deref(), Some("sync"));
    }

    #[test]
    fn the_address_is_required_and_never_shown() {
        let message = mistake(&[]);
        assert!(message.contains("AUDITSYNC_REDIS_ADDRESS: is required but not set"), "{message}");
        for bad in [
            "http://hunter2",
            "redis://",
            "hunter2:x",
            "user:hunter2@host:1",
            "redis://h/hunter2",
            "redis://:hunter2?x@h",
            "redis://:hunter2@h/-1",
            "unix:///hunter2",
            "hunter2 h:1",
        ] {
            let message = mistake(&[(ADDRESS.spec.name, bad)]);
            assert!(message.contains("AUDITSYNC_REDIS_ADDRESS=[hidden]: must"), "{bad}: {message}");
            assert!(!message.contains("hunter2"), "{message}");
        }
    }

    #[test]
    fn what_is_said_twice_is_a_mistake_if_it_could_differ() {
        let address = (ADDRESS.spec.name, "rediss://sync:hunter2@h/3");
        for (variable, value) in [
            (PASSWORD.spec.name, "other"),
            ("AUDITSYNC_REDIS_USERNAME", "other"),
            ("AUDITSYNC_REDIS_DB", "4"),
            ("AUDITSYNC_REDIS_TLS", "false"),
        ] {
            let message = mistake(&[address, (variable, value)]);
            assert!(message.contains(&format!("{variable}=[hidden]: the address sets it too")), "{message}");
        }
        let same = read(&[address, ("AUDITSYNC_REDIS_DB", "3"), ("AUDITSYNC_REDIS_TLS", "true")]).unwrap();
        assert_eq!((same.database, same.tls), (3, true));
    }

    #[test]
    fn a_user_needs_a_password() {
        let message = mistake(&[(ADDRESS.spec.name, "h:1"), ("AUDITSYNC_REDIS_USERNAME", "sync")]);
        assert!(message.contains("a user needs a password"), "{message}");
    }
}
