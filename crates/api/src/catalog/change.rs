//! Changes that the catalog applies.

use crate::field_error::FieldError;
use crate::resources::{AccessPolicy, LastGood, LastGoodTuples, Relationship};
use durward_core::approval::{ApprovalSubject, GrantedApproval};
use durward_core::digest::Digest;
use durward_core::namespaced_name::NamespacedName;
use durward_core::policy::Policy;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// One change of the resources that decisions depend on. [`crate::translation`] makes them from Kubernetes objects.
#[derive(Debug, PartialEq)]
pub enum CatalogChange {
    /// An `AccessPolicy` was created or changed.
    PolicyApplied(Box<AccessPolicy>),
    /// An `AccessPolicy` was created or changed, and [`Catalog::compile`](super::Catalog::compile) has compiled it. The
    /// number is the creation time in Unix seconds.
    PolicyCompiled(NamespacedName, i64, Result<Arc<Policy>, Vec<FieldError>>),
    /// An `AccessPolicy` can't be decoded; its last good version stays in force.
    PolicyUndecodable(NamespacedName, FieldError),
    /// The status of an `AccessPolicy` records its last good version. The number is the creation time in Unix seconds.
    ///
    /// The catalog uses the record only if no good version is known to this replica.
    PolicyLastGood(NamespacedName, i64, Box<LastGood>),
    /// An `AccessPolicy` was deleted.
    PolicyDeleted(NamespacedName),
    /// A `Relationship` was created or changed.
    RelationshipApplied(Box<Relationship>),
    /// A `Relationship` can't be decoded; its last good version stays in force.
    RelationshipUndecodable(NamespacedName, FieldError),
    /// The status of a `Relationship` records its last good version.
    ///
    /// The catalog uses the record only if no good version is known to this replica.
    RelationshipLastGood(NamespacedName, LastGoodTuples),
    /// A `Relationship` was deleted.
    RelationshipDeleted(NamespacedName),
    /// The annotations of a Namespace; `None` when it was deleted.
    NamespaceAnnotations(String, Option<BTreeMap<String, String>>),
    /// The labels of a Namespace; `None` when it was deleted.
    NamespaceLabels(String, Option<BTreeMap<String, String>>),
    /// An approval was granted; `None` when it was withdrawn or deleted.
    Approval(ApprovalSubject, Option<GrantedApproval>),
    /// The header, in lower case, in which an `IdentityProvider` reads API keys; `None` when it reads none.
    KeyHeader(Arc<str>, Option<String>),
    /// The digest of an object that authentication depends on; `None` when it was deleted or can't be decoded.
    Authentication(AuthenticationResource, Option<Digest>),
}

/// An object that authentication depends on. Its content enters the revision of the snapshot under the `Display` text.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AuthenticationResource {
    /// The `IdentityProvider` of this name.
    IdentityProvider(Arc<str>),
    /// A Secret with API keys.
    Secret(NamespacedName),
}

/// `IdentityProvider/<name>` or `Secret/<namespace>/<name>`. Every replica and every gate computes the revision from
/// this text, so another spelling would give them different revisions during an upgrade.
impl fmt::Display for AuthenticationResource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::IdentityProvider(name) => write!(f, "IdentityProvider/{name}"),
            Self::Secret(name) => write!(f, "Secret/{name}"),
        }
    }
}
