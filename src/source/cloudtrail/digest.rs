//! Digest files, which prove which log files were delivered, and with what content.
//!
//! | module | job |
//! |---|---|
//! | `check` | `auditsync check` |
//! | `file` | what a digest says, and which text of it is signed |
//! | `api` | the public keys that CloudTrail's API gives |
//! | `keys` | public keys, and the signatures that they prove |
//! | `keyring` | the keys that are known, and which to fetch |
//! | `proof` | whether a digest is `CloudTrail`'s, and whether it continues the chain |
//! | `report` | log lines and metrics about them |
//! | `state` | what the state holds of them |
//! | `verifier` | reads digests as they appear, and compares what they list with what was delivered |

pub(super) mod api;
mod check;
mod file;
pub(super) mod keyring;
pub(super) mod keys;
mod proof;
mod report;
pub(super) mod state;
pub(super) mod verifier;
