//! The variables of the state in Redis.

use redis::{ConnectionAddr, IntoConnectionInfo as _};
use secrecy::{ExposeSecret as _, SecretString};

use super::super::mistakes::Noted;
use super::super::parse;
use super::super::raw;
use super::super::reader::Reader;
use super::super::secrets::{self, Names};
use crate::secret::Secret;
use crate::state::redis::Settings;

const ADDRESS: Names = Names { value: "SECTIGO_AUDIT_REDIS_ADDRESS", file: "SECTIGO_AUDIT_REDIS_ADDRESS_FILE" };
const PASSWORD: Names = Names { value: "SECTIGO_AUDIT_REDIS_PASSWORD", file: "SECTIGO_AUDIT_REDIS_PASSWORD_FILE" };

/// What an address says.
struct Address {
    host: String,
    port: u16,
    /// None where it has no scheme.
    tls: Option<bool>,
    username: Option<String>,
    password: Option<SecretString>,
    database: Option<u32>,
}

/// Where the server is and what to say to it. What the address says must not be said again.
pub(super) fn settings(raw: raw::Redis, reader: &mut Reader<'_>) -> Result<Settings, Noted> {
    let address = secrets::read(ADDRESS, raw.address, raw.address_file, |_| Ok(()), reader.mistakes);
    let password = secrets::optional(PASSWORD, raw.password, raw.password_file, reader.mistakes);
    let username = reader.optional("REDIS_USERNAME", raw.username.as_deref(), |text| Ok(text.to_owned()));
    let database = reader.optional("REDIS_DB", raw.db.as_deref(), |text| {
        text.parse::<u32>().map_err(|_| "must be the number of a database, such as 0".to_owned())
    });
    let tls = reader.optional("REDIS_TLS", raw.tls.as_deref(), parse::flag);
    let key = reader.required("REDIS_KEY", raw.key.as_deref(), |text| Ok(text.to_owned()));
    let source = address?;
    let address = parse(source.current().expose_secret())
        .map_err(|rule| reader.mistakes.refuse_hidden(source.variable(), rule))?;
    let (password, username, database, tls) = (password?, username?, database?, tls?);

    let mut twice = |suffix: &str, said: bool| {
        if said {
            let name = reader.name(suffix);
            Err(reader.mistakes.refuse_hidden(&name, "the address says it too; keep one of the two"))
        } else {
            Ok(())
        }
    };
    let passwords = twice("REDIS_PASSWORD", password.is_some() && address.password.is_some());
    let usernames = twice("REDIS_USERNAME", username.is_some() && address.username.is_some());
    let databases =
        twice("REDIS_DB", database.is_some() && address.database.is_some_and(|said| Some(said) != database));
    let schemes = twice("REDIS_TLS", tls.is_some() && address.tls.is_some_and(|said| Some(said) != tls));
    for agreed in [passwords, usernames, databases, schemes] {
        agreed?;
    }
    let in_address = address.password.map(|password| Secret::from_value(source.variable(), password));
    let settings = Settings {
        host: address.host,
        port: address.port,
        tls: tls.or(address.tls).unwrap_or(false),
        username: username.or(address.username),
        password: password.or(in_address),
        database: database.or(address.database).unwrap_or(0),
        key: key?,
    };
    if settings.username.is_some() && settings.password.is_none() {
        let name = reader.name("REDIS_USERNAME");
        return Err(reader.mistakes.refuse_hidden(&name, format!("a user needs a password: set {}", PASSWORD.value)));
    }
    Ok(settings)
}

/// `host`, `host:port`, or an address with the scheme `redis` or `rediss`. What is wrong is said without quoting it.
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
    use super::super::super::tests::{config_with, message_with};
    use super::super::Storage;
    use super::*;

    const BACKEND: (&str, &str) = ("SECTIGO_AUDIT_STORAGE_BACKEND", "redis");

    fn settings(pairs: &[(&str, &str)]) -> Settings {
        match config_with(&[&[BACKEND], pairs].concat()).storage {
            Storage::Redis(settings) => settings,
            other => panic!("{other:?}"),
        }
    }

    fn mistake(pairs: &[(&str, &str)]) -> String {
        message_with(&[&[BACKEND], pairs].concat())
    }

    fn password(settings: &Settings) -> Option<(String, &'static str)> {
        let password = settings.password.as_ref()?;
        Some((password.current().expose_secret().to_owned(), password.variable()))
    }

    #[test]
    fn the_vendors_host_and_port_are_enough() {
        let found = settings(&[(ADDRESS.value, "redis:6380")]);
        assert_eq!((found.host.as_str(), found.port, found.tls, found.database), ("redis", 6380, false, 0));
        assert_eq!((found.username.is_none(), password(&found), found.key.as_str()), (true, None, "auditsync:sectigo"));
        assert_eq!(settings(&[(ADDRESS.value, "redis")]).port, 6379);
        assert_eq!(settings(&[(ADDRESS.value, "[::1]:7000")]).host, "::1");
    }

    #[test]
    fn an_address_says_everything() {
        let found = settings(&[(ADDRESS.value, "rediss://sync:a%2Fb@cache.example:6390/3")]);
        assert_eq!((found.host.as_str(), found.port, found.tls, found.database), ("cache.example", 6390, true, 3));
        assert_eq!(found.username.as_deref(), Some("sync"));
        assert_eq!(password(&found), Some(("a/b".to_owned(), ADDRESS.value)));
        let found = settings(&[(ADDRESS.value, "redis://:secret@h")]);
        assert_eq!((found.username, found.port), (None, 6379));
    }

    #[test]
    fn each_part_has_a_variable() {
        let pairs = [
            (ADDRESS.value, "redis:6379"),
            (PASSWORD.value, " a b "),
            ("SECTIGO_AUDIT_REDIS_USERNAME", "sync"),
            ("SECTIGO_AUDIT_REDIS_DB", "2"),
            ("SECTIGO_AUDIT_REDIS_TLS", "true"),
            ("SECTIGO_AUDIT_REDIS_KEY", "pki:cursor"),
        ];
        let found = settings(&pairs);
        assert_eq!((found.tls, found.database, found.key.as_str()), (true, 2, "pki:cursor"));
        assert_eq!(password(&found), Some((" a b ".to_owned(), PASSWORD.value)));
        assert_eq!(found.username.as_deref(), Some("sync"));
    }

    #[test]
    fn the_address_is_required_and_never_shown() {
        let message = mistake(&[]);
        assert!(message.contains("SECTIGO_AUDIT_REDIS_ADDRESS: is required but not set"), "{message}");
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
            let message = mistake(&[(ADDRESS.value, bad)]);
            assert!(message.contains("SECTIGO_AUDIT_REDIS_ADDRESS=[hidden]: must"), "{bad}: {message}");
            assert!(!message.contains("hunter2"), "{message}");
        }
    }

    #[test]
    fn what_is_said_twice_is_a_mistake_if_it_could_differ() {
        let address = (ADDRESS.value, "rediss://sync:hunter2@h/3");
        for (variable, value) in [
            (PASSWORD.value, "other"),
            ("SECTIGO_AUDIT_REDIS_USERNAME", "other"),
            ("SECTIGO_AUDIT_REDIS_DB", "4"),
            ("SECTIGO_AUDIT_REDIS_TLS", "false"),
        ] {
            let message = mistake(&[address, (variable, value)]);
            assert!(message.contains(&format!("{variable}=[hidden]: the address says it too")), "{message}");
        }
        let same = settings(&[address, ("SECTIGO_AUDIT_REDIS_DB", "3"), ("SECTIGO_AUDIT_REDIS_TLS", "true")]);
        assert_eq!((same.database, same.tls), (3, true));
    }

    #[test]
    fn a_user_needs_a_password() {
        let message = mistake(&[(ADDRESS.value, "h:1"), ("SECTIGO_AUDIT_REDIS_USERNAME", "sync")]);
        assert!(message.contains("a user needs a password"), "{message}");
    }
}
