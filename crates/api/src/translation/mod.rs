//! The one translation of Kubernetes objects into catalog changes.
//!
//! The controller, `kubectl durward check`, the standalone directory and the gates all read objects of the same kinds,
//! from different sources. They translate them here, so that each of them decides by the same changes:
//!
//! | object | source has | translate with |
//! |---|---|---|
//! | `AccessPolicy`, `Relationship`, `IdentityProvider` | a [`DynamicObject`](kube::core::DynamicObject) | [`ObjectVersion::from_dynamic`] |
//! | | a typed resource, without a status | [`ObjectVersion::from_resource`] |
//! | | a decoding error | [`ObjectVersion::undecodable`] |
//! | | a change of the status only | [`status_changes`] |
//! | | a deletion | [`deleted`] |
//! | Namespace | metadata, or a deletion | [`namespace`], [`namespace_deleted`] |
//! | Secret with API keys | the Secret, or a deletion | [`api_keys`], [`api_keys_deleted`] |
//! | `Approval` | the verified grant, or none | [`approval`] |
//!
//! An object without a name translates to no change. [`Catalog::compact`](crate::catalog::Catalog::compact) compiles
//! the policy of a change at once, for callers that collect many changes before they apply them.

mod approval;
mod authentication;
mod namespace;
mod object;

pub use approval::{approval, approval_subject, requested_subject, unverified_grant};
pub use authentication::{api_keys, api_keys_deleted};
pub use namespace::{namespace, namespace_deleted};
pub use object::{CatalogResource, ObjectVersion, decode_spec, deleted, status_changes};
