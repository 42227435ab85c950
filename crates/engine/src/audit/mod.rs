//! The audit log: one JSON line per decision, issuance, second factor and approval.
//!
//! A record holds the inputs of a decision, so that it can be replayed, but never a credential, a header or a body.
//! Records go through a bounded queue to one writer thread, so a slow disk delays no decision. If the queue is full,
//! the record is lost and counted, or the request is denied, as configured. In the second case an allow waits for the
//! writer. The writer chains the lines by their
//! hashes and has checkpoints signed, so that [`verify`] finds altered, removed and inserted lines.

pub mod approval;
mod chain;
mod decision;
pub mod issuance;
mod output;
pub mod policy_counts;
mod record;
pub mod replay;
pub mod second_factor;
pub mod verify;
mod writer;

pub use chain::LogSigner;
pub use chain::is_log_event;
pub use decision::{DecisionEvent, DecisionId, DecisionRecord, ReviewPeer};
pub use record::AuditRecord;
pub use writer::{AuditError, AuditSink, AuditWriter, OnLoss, PendingRecord, RecordLost};

#[cfg(test)]
mod tests;
