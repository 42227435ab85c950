//! Approvals: requests them, stores and signs the decisions, and finds the valid ones.
//! It asks no person and makes no access decision: `durward-doors` and `durward-engine` do.
//! Begin with [`ApprovalRequester`].
//!
//! ```text
//! engine ──lacks an approval──▶ requester ──creates──▶ store ◀──signed decisions── door
//!   ▲                               ▲                    │
//!   └──────── snapshot ◀── index ───┴───── watch ────────┘
//! ```
//!
//! The store is the API server, or a folder of the state directory. Anyone with write access to it can request or
//! delete an approval. Only a signature by this installation makes a decision valid.

mod error;
mod index;
mod requester;
mod seal;
mod store;

pub use error::{ApprovalSealError, ApprovalStoreError};
pub use index::{ApprovalIndex, ApprovalKey, ApprovalObjects, GrantedApprovals};
pub use requester::{ApprovalRequester, REQUEST_QUEUE, RecentRequests};
pub use seal::{ApprovalSeal, approval_spec, verified_grant};
pub use store::{ApprovalFolder, ApprovalStore, DecisionWrite};

#[cfg(any(test, feature = "samples"))]
pub mod samples;

use chrono::{DateTime, SecondsFormat, Utc};

/// A time in the format of the objects' fields.
pub fn format_time(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Secs, true)
}
