//! The parts that the AWS source, destination and state store share: connections, request policy, and the meaning of answers.

pub(crate) mod answer;
pub(crate) mod call;
pub(crate) mod connection;
pub(crate) mod digest;
pub(crate) mod encryption;
pub(crate) mod exchange;

/// An error of an AWS client.
pub(crate) type Cause = Box<dyn std::error::Error + Send + Sync>;
