//! The decision engine of Durward: who may do what, decided from values alone.
//! It does no I/O, reads no clock, takes no lock and does not authenticate callers.
//! Begin reading at [`snapshot::Snapshot::decide`], the whole decision; [`decide`] holds its steps.
//!
//! A [`principal::Principal`], a [`request::Request`], an instant and an immutable [`snapshot::Snapshot`] go in; a
//! [`decision::Decision`] comes out. The same input always gives the same decision.
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
mod named_enum;
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
pub mod unknown_facts;
pub mod visible;
pub mod who_can;
pub mod work;
