//! auditsync

pub mod destination;
pub mod event;
pub mod failure;
pub mod http;
pub mod secret;
pub mod source;
pub mod state;
pub mod sync;
pub mod telemetry;
