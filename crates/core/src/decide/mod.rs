//! The decision itself: find the operation, then ask what the caller may.
//!
//! The two halves are apart because a door needs the first to know which authentication_methods in the service accepts, before it
//! can authenticate anybody for the second.

mod authorization;
mod explanation;
mod facts;
mod route;
mod rules;

pub use explanation::{ExplainedRule, RuleOutcome};
pub(crate) use facts::principal_fact;
pub use route::Route;
pub(crate) use rules::{all_of, gives, good_enough};
