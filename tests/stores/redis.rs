//! State in a real Redis.

use std::net::SocketAddr;
use std::sync::Arc;

use auditsync::failure::Chain;
use auditsync::secret::Secret;
use auditsync::state::redis::{Redis, Settings};
use auditsync::state::{Caution, Error, StateStore};
use secrecy::SecretString;

use crate::suite::{Guarded, Location, Remote, conformance, document, held, remote_conformance};
use crate::support::{Port, RedisServer, within};

const KEY: &str = "auditsync:sectigo";

struct InRedis(RedisServer);

impl Location for InRedis {
    type Store = Redis;
    const ROUNDS: usize = 1000;

    async fn fresh() -> Self {
        Self(RedisServer::start())
    }

    fn open(&self) -> Arc<Redis> {
        Arc::new(Redis::new(at(&self.0)))
    }
}

impl Remote for InRedis {
    fn address(&self) -> SocketAddr {
        self.0.address().parse().unwrap()
    }

    fn open_at(&self, address: SocketAddr) -> Arc<Redis> {
        Arc::new(Redis::new(Settings { port: address.port(), ..at(&self.0) }))
    }
}

impl Guarded for InRedis {
    async fn open_as_stranger(&self) -> Arc<Redis> {
        self.0.command(&["ACL", "SETUSER", "stranger", "on", ">hunter2", "resetkeys", "-@all"]);
        Arc::new(Redis::new(Settings { username: Some("stranger".to_owned()), ..with_password(&self.0, "hunter2") }))
    }
}

conformance!(InRedis);
remote_conformance!(InRedis);

#[tokio::test]
async fn a_stranger_learns_what_to_do() {
    crate::suite::a_stranger_learns_what_to_do::<InRedis>().await;
}

fn at(server: &RedisServer) -> Settings {
    Settings {
        host: "127.0.0.1".to_owned(),
        port: server.port(),
        tls: false,
        username: None,
        password: None,
        database: 0,
        key: KEY.to_owned(),
    }
}

fn with_password(server: &RedisServer, password: &str) -> Settings {
    let password = Secret::from_value("AUDITSYNC_REDIS_PASSWORD", SecretString::from(password));
    Settings { password: Some(password), ..at(server) }
}

fn with_user(server: &RedisServer, permissions: &[&str]) -> Settings {
    let user = ["ACL", "SETUSER", "sync", "reset", "on", ">hunter2", "resetchannels"];
    assert_eq!(server.command(&[&user, permissions].concat()), "OK");
    Settings { username: Some("sync".to_owned()), ..with_password(server, "hunter2") }
}

/// A refusal in one line, with its cause.
#[track_caller]
fn refusal<T: std::fmt::Debug>(answer: Result<T, Error>) -> String {
    match answer {
        Err(error @ Error::Refused { .. }) => Chain(&error).to_string(),
        other => panic!("not refused, but {other:?}"),
    }
}

#[tokio::test]
async fn a_user_needs_three_commands_on_one_key() {
    let server = RedisServer::start();
    let store = Redis::new(with_user(&server, &["~auditsync:sectigo", "+eval", "+get", "+set"]));
    store.probe().await.unwrap();
    let version = store.save(&document(1), None).await.unwrap();
    store.save(&document(2), Some(&version)).await.unwrap();
    store.probe().await.unwrap();
    assert_eq!(server.command(&["KEYS", "*"]), KEY);
    // Besides CONFIG, which the store can do without, it made no call that is not granted.
    let asked = server.command(&["ACL", "LOG"]);
    assert!(!asked.contains("reason") || asked.contains("config|get"), "{asked}");
}

#[tokio::test]
async fn each_permission_that_is_missing_is_named() {
    let server = RedisServer::start();
    Redis::new(at(&server)).save(&document(1), None).await.unwrap();
    for missing in [
        &["~auditsync:sectigo", "+get", "+set"][..],
        &["~auditsync:sectigo", "+eval", "+set"],
        &["~other", "+eval", "+get", "+set"],
    ] {
        let store = Redis::new(with_user(&server, missing));
        for said in [refusal(store.load().await), refusal(store.probe().await)] {
            assert!(said.contains("ACL SETUSER sync ~auditsync:sectigo +eval +get +set"), "{said}");
        }
    }
    let store = Redis::new(with_user(&server, &["~auditsync:sectigo", "+eval", "+get"]));
    let (_, version) = held(&store).await;
    for said in [refusal(store.save(&document(2), Some(&version)).await), refusal(store.probe().await)] {
        assert!(said.starts_with("not allowed to write the state at redis://127.0.0.1:"), "{said}");
    }
}

#[tokio::test]
async fn a_password_is_asked_for_named_and_never_shown() {
    let server = RedisServer::with(&["--save", "", "--requirepass", "hunter2"]);
    let said = refusal(Redis::new(at(&server)).load().await);
    assert!(said.contains("the server requires a password: set AUDITSYNC_REDIS_PASSWORD"), "{said}");
    let said = refusal(Redis::new(with_password(&server, "letmein")).load().await);
    assert!(said.contains("correct AUDITSYNC_REDIS_PASSWORD") && said.contains("WRONGPASS"), "{said}");
    assert!(!said.contains("letmein"), "{said}");
    Redis::new(with_password(&server, "hunter2")).save(&document(1), None).await.unwrap();
    let shown = format!("{:?} {:?}", Redis::new(with_password(&server, "hunter2")), with_password(&server, "hunter2"));
    assert!(!shown.contains("hunter2"), "{shown}");
}

#[tokio::test]
async fn a_password_where_none_is_asked_for_is_said_to_be_wrong() {
    let said = refusal(Redis::new(with_password(&RedisServer::start(), "hunter2")).load().await);
    assert!(said.contains("correct AUDITSYNC_REDIS_PASSWORD"), "{said}");
    assert!(said.contains("without any password configured"), "{said}");
}

#[tokio::test]
async fn a_password_changed_in_its_file_is_taken_up() {
    let server = RedisServer::with(&["--save", "", "--requirepass", "first"]);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "first\n").unwrap();
    let password = Secret::from_file("AUDITSYNC_REDIS_PASSWORD_FILE", file.path().to_owned()).unwrap();
    let store = Redis::new(Settings { password: Some(password), ..at(&server) });
    let version = store.save(&document(1), None).await.unwrap();
    assert_eq!(server.command(&["-a", "first", "CONFIG", "SET", "requirepass", "second"]), "OK");
    assert_eq!(server.command(&["-a", "second", "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]), "1");
    std::fs::write(file.path(), "second\n").unwrap();
    // The connection is gone. The next call at the latest notices that, and the one after it opens a new one.
    let _ = store.load().await;
    store.save(&document(2), Some(&version)).await.unwrap();
}

#[tokio::test]
async fn a_database_of_its_own_can_be_chosen() {
    let server = RedisServer::start();
    let in_database = |database| Redis::new(Settings { database, ..at(&server) });
    in_database(3).save(&document(1), None).await.unwrap();
    assert!(in_database(0).load().await.unwrap().is_none());
    assert_eq!(server.command(&["-n", "3", "EXISTS", KEY]), "1");
    let said = refusal(in_database(99).load().await);
    assert!(said.contains("correct AUDITSYNC_REDIS_DB"), "{said}");
}

#[tokio::test]
async fn a_key_that_holds_something_else_is_left_alone() {
    let server = RedisServer::start();
    server.command(&["LPUSH", KEY, "precious"]);
    let store = Redis::new(at(&server));
    for said in
        [refusal(store.load().await), refusal(store.save(&document(1), None).await), refusal(store.probe().await)]
    {
        assert!(said.contains("choose another beginning with AUDITSYNC_REDIS_PREFIX"), "{said}");
    }
    assert_eq!(server.command(&["LRANGE", KEY, "0", "-1"]), "precious");
}

#[tokio::test]
async fn a_server_that_was_restarted_has_what_it_kept() {
    let mut server = RedisServer::with(&["--save", "", "--appendonly", "yes", "--appendfsync", "always"]);
    let store = Redis::new(at(&server));
    let version = store.save(&document(1), None).await.unwrap();
    server.kill();
    assert!(matches!(store.load().await, Err(Error::Unavailable { .. })));
    server.restart();
    // The server may still be reading its file.
    within("the server", async { while matches!(store.load().await, Err(Error::Unavailable { .. })) {} }).await;
    assert_eq!(held(&store).await.1, version);
    store.save(&document(2), Some(&version)).await.unwrap();
}

#[tokio::test]
async fn a_server_that_became_a_replica_is_not_written_to_and_not_held_on_to() {
    let (server, nobody) = (RedisServer::start(), Port::free());
    let store = Redis::new(at(&server));
    let own = document(1);
    let version = store.save(&own, None).await.unwrap();
    // Nobody listens on that port, so no other data replaces the server's own.
    assert_eq!(server.command(&["REPLICAOF", "127.0.0.1", &nobody.number().to_string()]), "OK");
    let refused = store.save(&document(2), Some(&version)).await;
    assert!(matches!(&refused, Err(Error::Unavailable { .. })), "{refused:?}");
    assert!(store.probe().await.is_err());
    assert_eq!(server.command(&["REPLICAOF", "NO", "ONE"]), "OK");
    // The connection is a new one.
    assert_eq!(held(&store).await, (own, version));
}

#[tokio::test]
async fn a_conflict_tells_which_version_the_server_holds() {
    let server = RedisServer::start();
    let store = Redis::new(at(&server));
    let version = store.save(&document(1), None).await.unwrap();
    let error = store.save(&document(2), None).await.unwrap_err();
    assert!(matches!(error, Error::Conflict { .. }), "{error:?}");
    assert!(Chain(&error).to_string().contains(&version.0), "{}", Chain(&error));
}

#[tokio::test]
async fn a_server_with_replicas_that_need_not_confirm_a_write_is_warned_about() {
    let server = RedisServer::start();
    let store = Redis::new(at(&server));
    assert_eq!(store.cautions().await, [], "without replicas nothing can part");
    let replica = server.replica();
    let [Caution::Risk(said)] = &store.cautions().await[..] else { panic!("one risk") };
    assert!(said.contains("min-replicas-to-write"), "{said}");
    assert_eq!(server.command(&["CONFIG", "SET", "min-replicas-to-write", "1"]), "OK");
    assert_eq!(store.cautions().await, []);
    drop(replica);
}

#[tokio::test]
async fn what_may_not_be_looked_at_is_said_to_be_unknown() {
    let server = RedisServer::start();
    let _replica = server.replica();
    let permissions = ["~auditsync:sectigo", "+eval", "+get", "+set"];
    for (more, missing) in [(&[][..], "+info"), (&["+info"][..], "+config|get")] {
        let store = Redis::new(with_user(&server, &[&permissions[..], more].concat()));
        let [Caution::Unknown(said)] = &store.cautions().await[..] else { panic!("one unknown, without {missing}") };
        assert!(said.contains(missing), "{said}");
    }
    let store = Redis::new(with_user(&server, &[&permissions[..], &["+info", "+config|get"]].concat()));
    assert!(matches!(store.cautions().await[..], [Caution::Risk(_)]));
}
