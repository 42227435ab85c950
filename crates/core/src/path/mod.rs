//! Request paths and the patterns that policies write for them.
//!
//! A path is either read in the one way that every parser reads it, or not at all. Nothing is normalised into a
//! match: between us and the application stand proxies and frameworks that decode, merge slashes, resolve dots
//! or strip parameters, each in its own way, and any difference is a way around the policy.

mod ambiguity;
mod method;
mod pattern;
mod request_path;
#[cfg(test)]
mod tests;

pub use ambiguity::Ambiguity;
pub(crate) use method::ANY_METHOD;
pub use method::{Method, is_method};
pub use pattern::{Captures, HttpPattern, PathPattern, PatternError, Segment};
pub use request_path::RequestPath;
