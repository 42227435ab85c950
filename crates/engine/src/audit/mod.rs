//! The audit log: one JSON line for every decision, and for every identity that is given out or refused.
//!
//! A record holds what the decision was made from, so that it can be replayed, and never a credential, a header or
//! a body. Records are handed to one writer thread through a bounded queue: a slow disk costs no decision its time,
//! and what the queue can't take is counted, or denied, as the setting says. The writer chains the lines by their
//! hashes and has checkpoints signed, so that [`verify`] finds what was altered, removed or put in.

pub mod approval;
mod chain;
pub mod issuance;
mod record;
pub mod replay;
pub mod second_factor;
pub mod unenforced;
pub mod verify;
mod writer;

pub use chain::LogSigner;
pub use chain::is_own;
pub use record::Record;
pub use writer::{Audit, AuditError, Lost, OnLoss, Sink};

#[cfg(test)]
mod tests;
