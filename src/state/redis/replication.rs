//! Whether a partition between a server and its replicas can give two instances a lease each.
//!
//! Redis replicates asynchronously: <https://redis.io/docs/latest/operate/oss_and_stack/management/replication/>. In a partition, the old
//! server still accepts writes while a replica is promoted, unless `min-replicas-to-write` forbids it.

use tokio::time::timeout;

use super::{LONGEST_CALL, Redis};
use crate::state::Caution;

const RISK: &str = "this Redis has replicas, and min-replicas-to-write is 0: in a network partition two instances can deliver the same events; \
                    set min-replicas-to-write 1";
const NO_INFO: &str = "auditsync could not see whether this Redis has replicas; grant +info, and it checks that";
const NO_CONFIG: &str = "this Redis has replicas, and auditsync could not see min-replicas-to-write; grant +config|get, or make sure \
                         that it is at least 1";

impl Redis {
    /// Warns if there are replicas, but a write needs the confirmation of none.
    pub(super) async fn caution_of_replicas(&self) -> Option<Caution> {
        let Some(replication) = self.replication().await else { return Some(Caution::Unknown(NO_INFO.to_owned())) };
        if !has_replicas(&replication) {
            return None;
        }
        match self.setting("min-replicas-to-write").await.as_deref() {
            Some("0") => Some(Caution::Risk(RISK.to_owned())),
            Some(_) => None,
            None => Some(Caution::Unknown(NO_CONFIG.to_owned())),
        }
    }

    async fn replication(&self) -> Option<String> {
        let mut command = redis::cmd("INFO");
        command.arg("replication");
        let mut connection = self.connection().await.ok()?;
        timeout(LONGEST_CALL, command.query_async(&mut connection)).await.ok()?.ok()
    }
}

/// Whether the answer to `INFO replication` comes from a server with replicas.
fn has_replicas(replication: &str) -> bool {
    let field = |name: &str| replication.lines().find_map(|line| line.trim_end().strip_prefix(name)?.strip_prefix(':'));
    field("role") == Some("master") && field("connected_slaves").is_some_and(|count| count != "0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replicas_are_read_from_what_the_server_says() {
        assert!(has_replicas("# Replication\r\nrole:master\r\nconnected_slaves:2\r\nslave0:ip=10.0.0.1\r\n"));
        assert!(!has_replicas("# Replication\r\nrole:master\r\nconnected_slaves:0\r\n"));
        assert!(!has_replicas("role:slave\r\nmaster_host:10.0.0.1\r\nconnected_slaves:1\r\n"));
        assert!(!has_replicas(""));
    }
}
