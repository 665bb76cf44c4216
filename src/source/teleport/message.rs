//! The requests, and the one small answer (gravitational/teleport): `api/proto/teleport/auditlog/v1/auditlog.proto`,
//! and `Ping` of `api/proto/teleport/legacy/client/proto/authservice.proto`.

use jiff::Timestamp;

/// The call for one page of the audit log.
pub(super) const SEARCH: &str = "/teleport.auditlog.v1.AuditLogService/GetUnstructuredEvents";

/// The call for the events of a recorded session.
pub(super) const SESSION: &str = "/teleport.auditlog.v1.AuditLogService/StreamUnstructuredSessionEvents";

/// The call for the Auth Service's version and cluster. It needs no permission.
pub(super) const PING: &str = "/proto.AuthService/Ping";

/// `google.protobuf.Timestamp`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Time {
    #[prost(int64, tag = "1")]
    seconds: i64,
    #[prost(int32, tag = "2")]
    nanoseconds: i32,
}

impl From<Timestamp> for Time {
    fn from(time: Timestamp) -> Self {
        // Before 1970, the fraction still counts forwards.
        let below = i64::from(time.subsec_nanosecond() < 0);
        let nanoseconds = if below == 1 { time.subsec_nanosecond() + 1_000_000_000 } else { time.subsec_nanosecond() };
        Self { seconds: time.as_second() - below, nanoseconds }
    }
}

/// `GetUnstructuredEventsRequest`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct SearchRequest {
    #[prost(string, tag = "1")]
    pub(super) namespace: String,
    #[prost(message, optional, tag = "2")]
    pub(super) start_date: Option<Time>,
    #[prost(message, optional, tag = "3")]
    pub(super) end_date: Option<Time>,
    #[prost(string, repeated, tag = "4")]
    pub(super) event_types: Vec<String>,
    #[prost(int32, tag = "5")]
    pub(super) limit: i32,
    #[prost(string, tag = "6")]
    pub(super) start_key: String,
    /// 1 is ascending.
    #[prost(int32, tag = "7")]
    pub(super) order: i32,
}

/// `StreamUnstructuredSessionEventsRequest`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct SessionRequest {
    #[prost(string, tag = "1")]
    pub(super) session_id: String,
    #[prost(int32, tag = "2")]
    pub(super) start_index: i32,
}

/// `PingRequest`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct PingRequest {}

/// The fields of `PingResponse` that messages show.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Pong {
    #[prost(string, tag = "1")]
    pub(super) cluster_name: String,
    #[prost(string, tag = "2")]
    pub(super) server_version: String,
}
