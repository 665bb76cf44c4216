//! The messages of `teleport.auditlog.v1` from the server's view, and JSON as a `google.protobuf.Struct`.

use jiff::Timestamp;
use serde_json::Value as Json;

#[derive(Clone, PartialEq, prost::Message)]
pub struct Time {
    #[prost(int64, tag = "1")]
    pub seconds: i64,
    #[prost(int32, tag = "2")]
    pub nanos: i32,
}

impl Time {
    pub fn of(time: Timestamp) -> Self {
        Self { seconds: time.as_second(), nanos: time.subsec_nanosecond() }
    }

    pub fn get(&self) -> Option<Timestamp> {
        Timestamp::new(self.seconds, self.nanos).ok()
    }
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct GetUnstructuredEventsRequest {
    #[prost(string, tag = "1")]
    pub namespace: String,
    #[prost(message, optional, tag = "2")]
    pub start_date: Option<Time>,
    #[prost(message, optional, tag = "3")]
    pub end_date: Option<Time>,
    #[prost(string, repeated, tag = "4")]
    pub event_types: Vec<String>,
    #[prost(int32, tag = "5")]
    pub limit: i32,
    #[prost(string, tag = "6")]
    pub start_key: String,
    #[prost(int32, tag = "7")]
    pub order: i32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct EventsUnstructured {
    #[prost(bytes = "bytes", repeated, tag = "1")]
    pub items: Vec<bytes::Bytes>,
    #[prost(string, tag = "2")]
    pub last_key: String,
    /// A field of a later version.
    #[prost(string, tag = "99")]
    pub unknown: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct EventUnstructured {
    #[prost(string, tag = "1")]
    pub kind: String,
    #[prost(string, tag = "2")]
    pub id: String,
    #[prost(message, optional, tag = "3")]
    pub time: Option<Time>,
    #[prost(int64, tag = "4")]
    pub index: i64,
    #[prost(bytes = "vec", optional, tag = "5")]
    pub unstructured: Option<Vec<u8>>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct StreamRequest {
    #[prost(string, tag = "1")]
    pub session_id: String,
    #[prost(int32, tag = "2")]
    pub start_index: i32,
    #[prost(string, tag = "4")]
    pub format: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct PingResponse {
    #[prost(string, tag = "1")]
    pub cluster_name: String,
    #[prost(string, tag = "2")]
    pub server_version: String,
    #[prost(string, tag = "4")]
    pub proxy_public_addr: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Struct {
    #[prost(message, repeated, tag = "1")]
    fields: Vec<Entry>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Entry {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(message, optional, tag = "2")]
    value: Option<Value>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Value {
    #[prost(oneof = "Kind", tags = "1, 2, 3, 4, 5, 6")]
    kind: Option<Kind>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Kind {
    #[prost(int32, tag = "1")]
    Null(i32),
    #[prost(double, tag = "2")]
    Number(f64),
    #[prost(string, tag = "3")]
    Text(String),
    #[prost(bool, tag = "4")]
    Bool(bool),
    #[prost(message, tag = "5")]
    Struct(Struct),
    #[prost(message, tag = "6")]
    List(List),
}

#[derive(Clone, PartialEq, prost::Message)]
struct List {
    #[prost(message, repeated, tag = "1")]
    values: Vec<Value>,
}

impl Struct {
    /// The members of a JSON object, in an order that differs from the JSON: a server sends them in any order.
    pub fn of(json: &Json) -> Self {
        let members = json.as_object().expect("an object").iter();
        let mut fields: Vec<_> =
            members.map(|(key, value)| Entry { key: key.clone(), value: Some(Value::of(value)) }).collect();
        fields.sort_by_key(|entry| entry.key.len() % 5);
        Self { fields }
    }

    /// An object that holds NaN.
    pub fn with_nan() -> Self {
        let value = Value { kind: Some(Kind::Number(f64::NAN)) };
        Self { fields: vec![Entry { key: "ratio".to_owned(), value: Some(value) }] }
    }
}

impl Value {
    fn of(json: &Json) -> Self {
        let kind = match json {
            Json::Null => Kind::Null(0),
            Json::Bool(truth) => Kind::Bool(*truth),
            Json::Number(number) => Kind::Number(number.as_f64().expect("a double")),
            Json::String(text) => Kind::Text(text.clone()),
            Json::Array(values) => Kind::List(List { values: values.iter().map(Self::of).collect() }),
            Json::Object(_) => Kind::Struct(Struct::of(json)),
        };
        Self { kind: Some(kind) }
    }
}
