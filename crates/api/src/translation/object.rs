//! `AccessPolicy`, `Relationship` and `IdentityProvider`.

use super::authentication::{provider_changes, provider_deleted};
use crate::catalog::CatalogChange;
use crate::field_error::FieldError;
use crate::resources::{
    AccessPolicy, AccessPolicySpec, IdentityProvider, IdentityProviderSpec, LastGood, LastGoodTuples, Relationship,
    RelationshipSpec, created, namespaced_name,
};
use durward_core::namespaced_name::NamespacedName;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::core::DynamicObject;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::fmt;
use std::sync::Arc;

/// A resource of Durward's own that the catalog depends on.
pub trait CatalogResource: fmt::Debug + Sized {
    /// The `spec`.
    type ResourceSpec: DeserializeOwned;
    /// The name, with the namespace where the resource has one.
    type ResourceName: fmt::Debug + Clone;

    /// The name in the metadata of an object; `None` if it has none.
    fn name_in(metadata: &ObjectMeta) -> Option<Self::ResourceName>;
    /// The resource, without a status.
    fn from_spec(metadata: ObjectMeta, spec: Self::ResourceSpec) -> Self;
    /// The metadata of the resource.
    fn metadata(&self) -> &ObjectMeta;
    /// The changes for a resource that was created or changed.
    fn applied(self, name: Self::ResourceName) -> Vec<CatalogChange>;
    /// The changes for an object that can't be decoded.
    fn undecodable(name: Self::ResourceName, error: FieldError) -> Vec<CatalogChange>;
    /// The changes for an object that was deleted.
    fn deleted(name: Self::ResourceName) -> Vec<CatalogChange>;
    /// The change for the last good version that the status of an object records.
    fn last_good(name: Self::ResourceName, object: &DynamicObject) -> Option<CatalogChange>;
}

/// One version of an object: the resource, or the reason why it can't be decoded.
#[derive(Debug)]
pub struct ObjectVersion<R: CatalogResource> {
    name: R::ResourceName,
    resource: Result<R, FieldError>,
    last_good: Option<CatalogChange>,
}

impl<R: CatalogResource> ObjectVersion<R> {
    /// Decodes an object of the API server, and reads the last good version from its status. `None` if it has no name.
    #[must_use]
    pub fn from_dynamic(object: DynamicObject) -> Option<Self> {
        let name = R::name_in(&object.metadata)?;
        let last_good = R::last_good(name.clone(), &object);
        let resource = decode_spec(&object).map(|spec| R::from_spec(object.metadata, spec));
        Some(Self { name, resource, last_good })
    }

    /// A resource that is already decoded, and whose status records nothing. `None` if it has no name.
    #[must_use]
    pub fn from_resource(resource: R) -> Option<Self> {
        let name = R::name_in(resource.metadata())?;
        Some(Self { name, resource: Ok(resource), last_good: None })
    }

    /// A version that its source can't decode.
    #[must_use]
    pub const fn undecodable(name: R::ResourceName, error: FieldError) -> Self {
        Self { name, resource: Err(error), last_good: None }
    }

    /// The name of the object.
    #[must_use]
    pub const fn name(&self) -> &R::ResourceName {
        &self.name
    }

    /// The decoded resource, without its status.
    ///
    /// # Errors
    /// With the field that can't be decoded.
    pub const fn resource(&self) -> Result<&R, &FieldError> {
        self.resource.as_ref()
    }

    /// The changes for the catalog, in the order in which it has to apply them.
    #[must_use]
    pub fn into_changes(self) -> Vec<CatalogChange> {
        let mut changes = match self.resource {
            Ok(resource) => resource.applied(self.name),
            Err(error) => R::undecodable(self.name, error),
        };
        changes.extend(self.last_good);
        changes
    }
}

impl ObjectVersion<Relationship> {
    /// Adds the last good version, for a source that delivers it without the status of the object.
    #[must_use]
    pub fn with_last_good(mut self, good: LastGoodTuples) -> Self {
        self.last_good = Some(CatalogChange::RelationshipLastGood(self.name.clone(), good));
        self
    }
}

/// The changes for an object of which only the status or the metadata changed.
#[must_use]
pub fn status_changes<R: CatalogResource>(object: &DynamicObject) -> Vec<CatalogChange> {
    let change = R::name_in(&object.metadata).and_then(|name| R::last_good(name, object));
    change.into_iter().collect()
}

/// The changes for an object that was deleted.
#[must_use]
pub fn deleted<R: CatalogResource>(name: R::ResourceName) -> Vec<CatalogChange> {
    R::deleted(name)
}

/// Decodes the `spec` of an object. Another version of the CRD can admit an object that this one can't decode.
///
/// # Errors
/// With the field that can't be decoded.
pub fn decode_spec<T: DeserializeOwned>(object: &DynamicObject) -> Result<T, FieldError> {
    let spec = object.data.get("spec").unwrap_or(&Value::Null);
    serde_path_to_error::deserialize(spec).map_err(|error| {
        let path = error.path().to_string();
        let field = if path == "." { "spec".to_owned() } else { format!("spec.{path}") };
        FieldError { field, message: error.into_inner().to_string() }
    })
}

impl CatalogResource for AccessPolicy {
    type ResourceSpec = AccessPolicySpec;
    type ResourceName = NamespacedName;

    fn name_in(metadata: &ObjectMeta) -> Option<NamespacedName> {
        namespaced_name(metadata)
    }

    fn from_spec(metadata: ObjectMeta, spec: AccessPolicySpec) -> Self {
        Self { metadata, spec, status: None }
    }

    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn applied(self, _: NamespacedName) -> Vec<CatalogChange> {
        vec![CatalogChange::PolicyApplied(Box::new(self))]
    }

    fn undecodable(name: NamespacedName, error: FieldError) -> Vec<CatalogChange> {
        vec![CatalogChange::PolicyUndecodable(name, error)]
    }

    fn deleted(name: NamespacedName) -> Vec<CatalogChange> {
        vec![CatalogChange::PolicyDeleted(name)]
    }

    fn last_good(name: NamespacedName, object: &DynamicObject) -> Option<CatalogChange> {
        let good = LastGood::of_object(object.metadata.generation, &object.data)?;
        Some(CatalogChange::PolicyLastGood(name, created(&object.metadata), Box::new(good)))
    }
}

impl CatalogResource for Relationship {
    type ResourceSpec = RelationshipSpec;
    type ResourceName = NamespacedName;

    fn name_in(metadata: &ObjectMeta) -> Option<NamespacedName> {
        namespaced_name(metadata)
    }

    fn from_spec(metadata: ObjectMeta, spec: RelationshipSpec) -> Self {
        Self { metadata, spec, status: None }
    }

    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn applied(self, _: NamespacedName) -> Vec<CatalogChange> {
        vec![CatalogChange::RelationshipApplied(Box::new(self))]
    }

    fn undecodable(name: NamespacedName, error: FieldError) -> Vec<CatalogChange> {
        vec![CatalogChange::RelationshipUndecodable(name, error)]
    }

    fn deleted(name: NamespacedName) -> Vec<CatalogChange> {
        vec![CatalogChange::RelationshipDeleted(name)]
    }

    fn last_good(name: NamespacedName, object: &DynamicObject) -> Option<CatalogChange> {
        let good = object.data.get("status")?.get("lastGood")?;
        Some(CatalogChange::RelationshipLastGood(name, serde_json::from_value(good.clone()).ok()?))
    }
}

impl CatalogResource for IdentityProvider {
    type ResourceSpec = IdentityProviderSpec;
    type ResourceName = Arc<str>;

    fn name_in(metadata: &ObjectMeta) -> Option<Arc<str>> {
        metadata.name.as_deref().filter(|name| !name.is_empty()).map(Into::into)
    }

    fn from_spec(metadata: ObjectMeta, spec: IdentityProviderSpec) -> Self {
        Self { metadata, spec, status: None }
    }

    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn applied(self, name: Arc<str>) -> Vec<CatalogChange> {
        provider_changes(name, &self.spec)
    }

    /// Unlike a policy, a provider that can't be decoded authenticates no caller.
    fn undecodable(name: Arc<str>, _: FieldError) -> Vec<CatalogChange> {
        provider_deleted(name)
    }

    fn deleted(name: Arc<str>) -> Vec<CatalogChange> {
        provider_deleted(name)
    }

    fn last_good(_: Arc<str>, _: &DynamicObject) -> Option<CatalogChange> {
        None
    }
}
