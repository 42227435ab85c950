//! The resources that gates receive, kept as the resource index learns them.

use durward_api::catalog::{Catalog, RejectionReason};
use durward_api::resources::{AccessPolicy, IdentityProvider, Relationship, RelationshipSpec};
use durward_approvals::GrantedApprovals;
use durward_core::authentication::AuthenticationMethod;
use durward_core::namespaced_name::NamespacedName;
use durward_doors::snapshots::{PublishedPolicy, PublishedResources};
use k8s_openapi::api::core::v1::Secret;
use kube::Resource;
use serde_json::json;
use serde_json::value::{RawValue, to_raw_value};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use tokio::sync::watch;

/// Prefix of the annotations that policies depend on.
const ANNOTATION_PREFIX: &str = "durward.dev/";

/// The published resources, and changes that are not published yet.
#[derive(Default)]
pub struct GateResources {
    /// The newest decodable version of each policy, until it is in force.
    pending_policies: HashMap<NamespacedName, Arc<RawValue>>,
    /// Relationships that changed since the last publication, each with the audience of its service.
    pending_relationships: HashMap<NamespacedName, (Arc<str>, Arc<RawValue>)>,
    resources: PublishedResources,
}

impl GateResources {
    /// Records a new or changed policy.
    pub fn policy(&mut self, key: &NamespacedName, policy: &AccessPolicy) {
        let meta = &policy.metadata;
        let resource = json!({
            "apiVersion": AccessPolicy::api_version(&()), "kind": AccessPolicy::kind(&()),
            // the age settles which of several policies owns a host; approvals belong to one uid
            "metadata": {
                "namespace": meta.namespace, "name": meta.name, "uid": meta.uid, "creationTimestamp": meta.creation_timestamp,
            },
            "spec": policy.spec,
        });
        if let Ok(json) = to_raw_value(&resource) {
            self.pending_policies.insert(key.clone(), json.into());
        }
    }

    pub fn policy_deleted(&mut self, key: &NamespacedName) {
        self.pending_policies.remove(key);
        self.resources.policies.remove(key);
    }

    /// Records a new or changed Relationship.
    pub fn relationship(&mut self, key: &NamespacedName, spec: &RelationshipSpec) {
        let resource = json!({
            "apiVersion": Relationship::api_version(&()), "kind": Relationship::kind(&()),
            "metadata": {"namespace": key.namespace, "name": key.name}, "spec": spec,
        });
        if let Ok(json) = to_raw_value(&resource) {
            self.pending_relationships.insert(key.clone(), (spec.service.as_str().into(), json.into()));
        }
    }

    pub fn relationship_deleted(&mut self, key: &NamespacedName) {
        self.pending_relationships.remove(key);
        self.resources.relationships.remove(key);
        self.resources.unknown_relationships.remove(key);
    }

    /// Updates the Relationships whose status may have changed.
    pub fn relationships<'k>(&mut self, catalog: &Catalog, changed: impl Iterator<Item = &'k NamespacedName>) {
        let mut pending = std::mem::take(&mut self.pending_relationships);
        for key in changed {
            let Some(status) = catalog.relationship_status(key) else { continue };
            // an invalid version leaves the previous one in force
            let invalid = status.rejected.is_some_and(|rejection| rejection.reason == RejectionReason::Invalid);
            let newest = pending.remove(key);
            if let Some(newest) = newest
                && status.in_force
                && !invalid
            {
                self.resources.relationships.insert(key.clone(), newest);
            }
            let unknown = if status.closed { catalog.last_good_tuples(key) } else { None };
            match unknown {
                Some(last_good) => self.resources.unknown_relationships.insert(key.clone(), last_good),
                None => self.resources.unknown_relationships.remove(key),
            };
        }
    }

    pub fn namespace(&mut self, name: &str, annotations: &BTreeMap<String, String>) {
        let relevant = annotations.iter().filter(|(name, _)| name.starts_with(ANNOTATION_PREFIX));
        let relevant = relevant.map(|(name, value)| (name.clone(), value.clone())).collect();
        self.resources.namespaces.insert(name.to_owned(), relevant);
    }

    pub fn namespace_deleted(&mut self, name: &str) {
        self.resources.namespaces.remove(name);
    }

    pub fn authentication(&mut self, providers: &[IdentityProvider], secrets: &[Secret]) {
        self.resources.providers = Arc::new(providers.to_vec());
        self.resources.secrets = Arc::new(secrets.to_vec());
    }

    pub fn approvals(&mut self, granted: &GrantedApprovals) {
        self.resources.approvals = granted.clone();
    }

    /// Sends the resources that are in force now. `changed` are the policies whose status may have changed.
    pub fn publish<'k>(
        &mut self,
        catalog: &Catalog,
        changed: impl Iterator<Item = &'k NamespacedName>,
        gates: &watch::Sender<PublishedResources>,
    ) {
        for key in changed {
            self.publish_policy(catalog, key);
        }
        self.resources.snapshot = catalog.snapshot().clone();
        gates.send_replace(self.resources.clone());
    }

    fn publish_policy(&mut self, catalog: &Catalog, key: &NamespacedName) {
        let Some(policy) = catalog.in_force(key) else {
            if let Some(published) = self.resources.policies.get_mut(key) {
                published.in_force = false;
            }
            return;
        };
        let newest_in_force = catalog.policy_status(key).is_some_and(|status| status.rejected.is_none());
        let published = self.resources.policies.get(key).map(|published| Arc::clone(&published.json));
        // a rejected version leaves the previous one in force
        let json = if newest_in_force { self.pending_policies.remove(key).or(published) } else { published };
        let Some(json) = json else { return };
        let providers = policy.authentication_methods.iter().filter_map(|method| match method {
            AuthenticationMethod::Provider(name) => Some(name.clone()),
            _ => None,
        });
        let published = PublishedPolicy {
            in_force: true,
            audience: Arc::clone(&policy.audience),
            providers: providers.collect(),
            json,
        };
        self.resources.policies.insert(key.clone(), published);
    }
}
