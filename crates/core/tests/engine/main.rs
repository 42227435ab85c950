//! Tests of the decision engine through its public API: tables first, then properties of random policies.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a failed expectation fails the test"
)]

mod support;

mod approvals;
mod assurance;
mod closed;
mod compare;
mod conditions;
mod headers;
mod kubernetes;
mod objects;
mod order;
mod pods;
mod relations;
mod rights;
mod routing;
mod rules;
mod services;
mod subjects;
mod tokens;
mod unknown;
mod who_can;
mod work;

mod any_bytes;
mod any_order;
mod any_path;
mod any_relation;
mod any_route;
mod any_token;
mod any_work;
mod any_world;
