//! The decision: find the operation, then decide what the caller may do.
//!
//! An enforcement point needs the first half to learn which authentication methods the service accepts. Only then can
//! it authenticate the caller for the second half.

mod authorization;
mod explanation;
mod facts;
mod route;
mod rules;
mod trace;

pub use explanation::{ExplainedRule, RuleOutcome};
pub(crate) use facts::principal_fact;
pub use route::Route;
pub use rules::METHOD_NOT_ACCEPTED;
pub(crate) use rules::{all_scopes, check_credential, given_scopes};
