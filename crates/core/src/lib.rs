//! The decision engine of Durward: values in, values out.
//!
//! Nothing here reads a clock, a file or a socket, takes a lock or waits. A [`principal::Principal`] and a
//! [`request::Request`] go in together with an instant and an immutable [`snapshot::Snapshot`]; a
//! [`decision::Decision`] comes out, the same one every time.
//!
//! ```text
//! Policy … Policy ──unite──▶ CompiledService ──put──▶ Snapshot ──route──▶ Route ──decide──▶ Decision
//!                                                   ▲ Request        ▲ Principal, instant
//! ```

pub mod approval;
pub mod authentication;
pub mod compare;
pub mod condition;
pub mod decide;
pub mod decision;
pub mod digest;
pub mod evidence;
pub mod host;
pub mod interner;
pub mod kubernetes;
pub mod labels;
mod lookup;
pub mod namespaced_name;
pub mod near_miss;
pub mod path;
pub mod pods;
pub mod policy;
pub mod principal;
pub mod relations;
pub mod request;
pub mod rights;
pub mod risk;
mod routes;
pub mod scope;
pub mod service;
pub mod snapshot;
pub mod subject;
pub mod token;
pub mod who_can;
