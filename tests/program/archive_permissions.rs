//! Tests the permissions that an archive needs, with moto's IAM.

use tokio::sync::OnceCell;

use crate::archive::{Archive, PREFIX};
use crate::support::{Bucket, Keys, Moto};

/// Users and their permissions; `docs/ARCHIVE.md` lists the same ones.
const USERS: [(&str, &[&str], bool); 5] = [
    ("all", &["s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"], true),
    ("no-delete", &["s3:GetObject", "s3:PutObject"], true),
    ("no-put", &["s3:GetObject"], true),
    ("no-get", &["s3:PutObject", "s3:DeleteObject"], true),
    ("no-list", &["s3:GetObject", "s3:PutObject", "s3:DeleteObject"], false),
];

/// A moto that checks policies, and a bucket in it.
struct Strict {
    moto: Moto,
    bucket: String,
    users: Vec<Keys>,
}

impl Strict {
    async fn get() -> &'static Self {
        static STRICT: OnceCell<Strict> = OnceCell::const_new();
        STRICT
            .get_or_init(|| async {
                let moto = Moto::start();
                let bucket = Bucket::of(&moto).await.name;
                let mut users = Vec::new();
                for (name, actions, may_list) in USERS {
                    let actions = actions.join("\",\"");
                    let objects = format!(
                        r#"{{"Effect":"Allow","Action":["{actions}"],"Resource":"arn:aws:s3:::{bucket}/{PREFIX}/*"}}"#
                    );
                    let list = r#"{"Effect":"Allow","Action":"s3:ListBucket","Resource":"arn:aws:s3:::"#;
                    let list = if may_list { format!(",{list}{bucket}\"}}") } else { String::new() };
                    let policy = format!(r#"{{"Version":"2012-10-17","Statement":[{objects}{list}]}}"#);
                    users.push(moto.user(name, &policy).await);
                }
                moto.check_everyone().await;
                Self { moto, bucket, users }
            })
            .await
    }

    /// A pipeline with this user's keys.
    async fn archive(&self, user: &str) -> Archive {
        let user = USERS.iter().position(|(name, ..)| *name == user).expect("a user");
        let keys = &self.users[user];
        Archive::usual()
            .await
            .with("AWS_ENDPOINT_URL", self.moto.url())
            .with("ARCHIVE_S3_BUCKET", &self.bucket)
            .with("AWS_ACCESS_KEY_ID", &keys.id)
            .with("AWS_SECRET_ACCESS_KEY", &keys.secret)
    }
}

#[tokio::test]
async fn check_tries_each_permission_and_names_the_one_that_is_missing() {
    let strict = Strict::get().await;
    for (user, code, says) in [
        ("all", 0, "the test object is deleted"),
        ("no-delete", 0, "grant s3:DeleteObject on arn:aws:s3:::"),
        ("no-put", 77, "grant s3:PutObject on arn:aws:s3:::"),
        ("no-get", 77, "grant s3:GetObject on arn:aws:s3:::"),
        ("no-list", 77, "grant s3:ListBucket on arn:aws:s3:::"),
    ] {
        let archive = strict.archive(user).await;
        let ended = archive.stage.setup.run(&["check"]).await;
        assert_eq!(ended.code(), Some(code), "{user}: {}", ended.stdout);
        assert!(ended.stdout.contains(says), "{user}: {}", ended.stdout);
        assert!(ended.stdout.contains("/pki/audit/"), "{user}: {}", ended.stdout);
    }
}

#[tokio::test]
async fn an_archive_is_written_and_proven_without_the_permission_to_delete() {
    let strict = Strict::get().await;
    let archive = strict.archive("no-delete").await;
    archive.stage.push(25, 1500, 60);
    archive.stage.run_to(0).await;
    let ended = archive.stage.setup.run(&["verify"]).await;
    assert_eq!(ended.code(), Some(0), "{}", ended.everything());
    // Another archive, by a user without the right to list.
    let archive = strict.archive("no-list").await.with("ARCHIVE_S3_PREFIX", &format!("{PREFIX}/other"));
    archive.stage.push(5, 1500, 60);
    let ended = archive.stage.run_to(77).await;
    assert!(ended.stderr.contains("grant s3:"), "{}", ended.stderr);
    let ended = archive.stage.setup.run(&["verify"]).await;
    assert_eq!(ended.code(), Some(77), "{}", ended.everything());
}

#[tokio::test]
async fn a_daemon_that_may_not_write_ends_with_77_although_it_gathered_pages_first() {
    let strict = Strict::get().await;
    let archive = strict.archive("no-put").await.with("ARCHIVE_S3_PREFIX", &format!("{PREFIX}/denied"));
    let archive = archive.with("SECTIGO_AUDIT_SYNC_LOOP", "true").with("ARCHIVE_S3_MAX_AGE", "1s");
    archive.stage.push(25, 1500, 60);
    let ended = archive.stage.run_to(77).await;
    assert!(ended.stderr.contains("grant s3:PutObject"), "{}", ended.stderr);
}
