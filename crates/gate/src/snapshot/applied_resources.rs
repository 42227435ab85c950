//! The resources of the last snapshot, and the catalog changes that lead from one snapshot to the next.

use durward_api::catalog::{AuthenticationResource, CatalogChange};
use durward_api::field_error::FieldError;
use durward_api::resources::{AccessPolicy, Approval, IdentityProvider, Relationship, namespaced_name};
use durward_api::translation::{self, CatalogResource, ObjectVersion};
use durward_approvals::verified_grant;
use durward_core::approval::ApprovalSubject;
use durward_core::namespaced_name::NamespacedName;
use durward_pki::token::Jwk;
use durward_protocol::snapshot::{SnapshotResources, UnknownRelationship};
use std::collections::BTreeSet;
use std::sync::Arc;

/// The names of the resources in force.
#[derive(Default)]
pub(super) struct AppliedResources {
    policies: BTreeSet<NamespacedName>,
    relationships: BTreeSet<NamespacedName>,
    annotated_namespaces: BTreeSet<String>,
    labelled_namespaces: BTreeSet<String>,
    authentication: BTreeSet<AuthenticationResource>,
    approvals: BTreeSet<ApprovalSubject>,
}

impl AppliedResources {
    /// Replaces the resources by those of a snapshot. Returns the changes that lead there: additions, then removals.
    pub(super) fn replace(&mut self, received: SnapshotResources<AccessPolicy, Relationship>) -> Vec<CatalogChange> {
        let mut next = Self::default();
        let mut changes = next.additions(received);
        changes.extend(self.removals(&next));
        *self = next;
        changes
    }

    /// The changes that add the resources of a snapshot; records their names.
    fn additions(&mut self, received: SnapshotResources<AccessPolicy, Relationship>) -> Vec<CatalogChange> {
        let mut changes = Vec::new();
        for (name, annotations) in received.namespaces {
            self.annotated_namespaces.insert(name.clone());
            changes.push(CatalogChange::NamespaceAnnotations(name, Some(annotations)));
        }
        for (name, labels) in received.namespace_labels {
            self.labelled_namespaces.insert(name.clone());
            changes.push(CatalogChange::NamespaceLabels(name, Some(labels)));
        }
        for provider in received.providers {
            let name = provider.metadata.name.as_deref().unwrap_or_default();
            self.authentication.insert(AuthenticationResource::IdentityProvider(name.into()));
            changes.extend(ObjectVersion::from_resource(provider).into_iter().flat_map(ObjectVersion::into_changes));
        }
        for secret in &received.secrets {
            self.authentication.extend(namespaced_name(&secret.metadata).map(AuthenticationResource::Secret));
            changes.extend(translation::api_keys(secret));
        }
        changes.extend(add_named(received.policies, &mut self.policies));
        changes.extend(add_named(received.relationships, &mut self.relationships));
        for unknown in received.unknown_relationships {
            changes.extend(self.add_unknown_relationship(unknown));
        }
        for approval in &received.approvals {
            changes.extend(self.add_approval(approval, &received.approval_keys));
        }
        changes
    }

    fn add_unknown_relationship(
        &mut self,
        (namespace, name, last_good): UnknownRelationship,
    ) -> impl Iterator<Item = CatalogChange> {
        let name = NamespacedName::new(namespace, name);
        self.relationships.insert(name.clone());
        let error = FieldError { field: "spec".to_owned(), message: "the controller can't read it".to_owned() };
        let version = ObjectVersion::<Relationship>::undecodable(name, error);
        version.with_last_good(last_good).into_changes().into_iter()
    }

    /// The signature makes an approval valid; that the API server has stored it does not suffice.
    fn add_approval(&mut self, approval: &Approval, keys: &[Jwk]) -> Vec<CatalogChange> {
        let Some((subject, granted)) = verified_grant(keys, approval) else {
            let name = approval.metadata.name.as_deref();
            tracing::warn!(name, "an approval has no valid signature; ignoring it");
            return Vec::new();
        };
        self.approvals.insert(subject.clone());
        translation::approval(None, Some((subject, granted)))
    }

    /// The changes that remove the resources that `next` does not have.
    fn removals(&self, next: &Self) -> Vec<CatalogChange> {
        let mut changes = Vec::new();
        for subject in self.approvals.difference(&next.approvals) {
            changes.extend(translation::approval(Some(subject), None));
        }
        for name in self.relationships.difference(&next.relationships) {
            changes.extend(translation::deleted::<Relationship>(name.clone()));
        }
        for name in self.policies.difference(&next.policies) {
            changes.extend(translation::deleted::<AccessPolicy>(name.clone()));
        }
        for name in self.labelled_namespaces.difference(&next.labelled_namespaces) {
            changes.push(CatalogChange::NamespaceLabels(name.clone(), None));
        }
        for name in self.annotated_namespaces.difference(&next.annotated_namespaces) {
            changes.push(CatalogChange::NamespaceAnnotations(name.clone(), None));
        }
        for resource in self.authentication.difference(&next.authentication) {
            changes.extend(match resource {
                AuthenticationResource::IdentityProvider(name) => {
                    translation::deleted::<IdentityProvider>(Arc::clone(name))
                }
                AuthenticationResource::Secret(name) => translation::api_keys_deleted(name.clone()),
            });
        }
        changes
    }
}

/// The changes that add resources; records their names.
fn add_named<R: CatalogResource<ResourceName = NamespacedName>>(
    resources: Vec<R>,
    names: &mut BTreeSet<NamespacedName>,
) -> Vec<CatalogChange> {
    let mut changes = Vec::new();
    for version in resources.into_iter().filter_map(ObjectVersion::from_resource) {
        names.insert(version.name().clone());
        changes.extend(version.into_changes());
    }
    changes
}
