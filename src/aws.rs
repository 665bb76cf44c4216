//! What the parts that use AWS share: how a service is reached, what is done with every request, and what an answer means.

pub(crate) mod answer;
pub(crate) mod connection;
pub(crate) mod encryption;
pub(crate) mod exchange;

/// What a client of AWS said.
pub(crate) type Cause = Box<dyn std::error::Error + Send + Sync>;
