//! `AccessPolicy`, `Approval`, `IdentityProvider` and `Relationship`, group `durward.dev`, version `v1alpha1`.

mod access_policy;
mod approval;
mod identity_provider;
mod last_good;
mod relationship;
mod schema;

pub use access_policy::*;
pub use approval::*;
pub use identity_provider::*;
pub use last_good::*;
pub use relationship::*;

/// API group of every resource here.
pub const GROUP: &str = "durward.dev";
/// The one version there is.
pub const VERSION: &str = "v1alpha1";

/// Annotation of a Namespace, owned by cluster admins: hosts outside the namespace's own names that its
/// policies may claim, separated by commas.
pub const ALLOWED_HOSTS: &str = "durward.dev/allowed-hosts";
/// Annotation of a Namespace, owned by cluster admins: audiences other than `<name>.<namespace>` that its
/// policies may claim, separated by commas.
pub const ALLOWED_AUDIENCES: &str = "durward.dev/allowed-audiences";
/// Annotation of a Namespace, owned by cluster admins: stores of the OpenFGA server that its policies may ask, separated by
/// commas.
pub const ALLOWED_OPENFGA_STORES: &str = "durward.dev/allowed-openfga-stores";
