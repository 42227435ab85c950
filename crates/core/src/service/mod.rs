//! One service: the policies that share it, united and indexed for decisions.

mod compiled;
mod key;
mod shadowing;
mod subject_index;
mod union;

pub use compiled::CompiledService;
pub(crate) use compiled::{GrantCandidate, ServiceOperation};
pub use key::ServiceKey;
pub use shadowing::{shadowed, unreachable};
pub use union::{OperationConflict, PolicyUnion};
