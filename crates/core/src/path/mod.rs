//! Request paths and the patterns that policies write for them.
//!
//! A path is read only if every parser reads it in the same way; otherwise it is refused. Nothing is normalized into a
//! match: proxies and frameworks between Durward and the application decode, merge slashes, resolve dots or strip
//! parameters, each in its own way. Any difference would be a way around the policy.

mod ambiguity;
mod lookalike;
mod method;
mod pattern;
mod request_path;
#[cfg(test)]
mod tests;

pub use ambiguity::Ambiguity;
pub(crate) use lookalike::{before_format, folded, without_formats};
pub(crate) use method::ANY_METHOD;
pub use method::{Method, is_method, overrides_method};
pub use pattern::{Captures, HttpPattern, PathPattern, PatternError, Segment};
pub use request_path::RequestPath;
