//! Resources, from their YAML to a snapshot and the status of each.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a failed expectation fails the test"
)]

mod support;

mod accepts;
mod any_batch;
mod any_restart;
mod conflicts;
mod last_good;
mod ownership;
mod rejects;
mod relations;
mod reviews;
mod revision;
mod roles;
mod unknown_last_good;
mod unknown_tuples;
