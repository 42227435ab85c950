//! Approvals as objects: who asks for one, who decided, and which of them count.
//!
//! ```text
//! engine ──refused for want of one──▶ clerk ──creates──▶ store ◀──signs what a person decides── door
//!   ▲                                   ▲                  │
//!   └──────── snapshot ◀── book ────────┴──── watched ─────┘
//! ```
//!
//! The store is the API server, or a folder of the state directory. Whoever can write there can ask for an approval, and
//! remove one; nobody can approve there, for what was decided counts only with a signature of ours.

mod book;
mod clerk;
mod seal;
mod store;

pub use book::{Book, Given, Known};
pub use clerk::{Clerk, Lately, QUEUE};
pub use seal::{Seal, given, spec};
pub use store::{Folder, Store, Written};

#[cfg(any(test, feature = "samples"))]
pub mod samples;

use chrono::{DateTime, SecondsFormat, Utc};

/// A time as objects write it.
pub fn time(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Secs, true)
}
