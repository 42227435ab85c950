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

use durward_core::namespaced_name::NamespacedName;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

/// API group of the resources.
pub const GROUP: &str = "durward.dev";
/// API version of the resources.
pub const VERSION: &str = "v1alpha1";

/// Annotation of a Namespace, set by cluster admins: hosts outside the namespace's own names that its policies may
/// claim, separated by commas.
pub const ALLOWED_HOSTS: &str = "durward.dev/allowed-hosts";
/// Annotation of a Namespace, set by cluster admins: audiences other than `<name>.<namespace>` that its policies may
/// claim, separated by commas.
pub const ALLOWED_AUDIENCES: &str = "durward.dev/allowed-audiences";
/// Annotation of a Namespace, set by cluster admins: stores of the OpenFGA server that its policies may use, separated
/// by commas.
pub const ALLOWED_OPENFGA_STORES: &str = "durward.dev/allowed-openfga-stores";

/// Namespace and name of an object; `None` if it has no name. Without a namespace, it is in `default`.
#[must_use]
pub fn namespaced_name(metadata: &ObjectMeta) -> Option<NamespacedName> {
    let name = metadata.name.as_deref().filter(|name| !name.is_empty())?;
    Some(NamespacedName::new(metadata.namespace.as_deref().unwrap_or("default"), name))
}

/// Creation time of an object in Unix seconds; `i64::MAX` if it has none, which makes it the youngest.
#[must_use]
pub fn created(metadata: &ObjectMeta) -> i64 {
    metadata.creation_timestamp.as_ref().map_or(i64::MAX, |at| at.0.as_second())
}
