//! What gates are told of, kept as the owner of all resources learns it.

use durward_api::catalog::{Catalog, RejectionReason};
use durward_api::resources::{AccessPolicy, AccessPolicySpec, IdentityProvider, Relationship, RelationshipSpec};
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

/// Annotations that policies depend on begin so.
const OWN: &str = "durward.dev/";

/// All that was learned so far.
#[derive(Default)]
pub(super) struct GateResources {
    /// The newest version of each policy that can be read, until it is in force.
    newest: HashMap<NamespacedName, Arc<RawValue>>,
    /// Tuples that came since gates were last told.
    related: HashMap<NamespacedName, (Arc<str>, Arc<RawValue>)>,
    resources: PublishedResources,
}

impl GateResources {
    /// A policy that is new or changed.
    pub(super) fn policy(&mut self, key: &NamespacedName, policy: &AccessPolicy) {
        let meta = &policy.metadata;
        let resource = json!({
            "apiVersion": AccessPolicy::api_version(&()), "kind": AccessPolicy::kind(&()),
            // by its age it holds what others claim too; approvals are given to one of this uid
            "metadata": {
                "namespace": meta.namespace, "name": meta.name, "uid": meta.uid, "creationTimestamp": meta.creation_timestamp,
            },
            "spec": policy.spec,
        });
        if let Ok(json) = to_raw_value(&resource) {
            self.newest.insert(key.clone(), json.into());
        }
    }

    /// A policy that is gone.
    pub(super) fn policy_gone(&mut self, key: &NamespacedName) {
        self.newest.remove(key);
        self.resources.policies.remove(key);
    }

    /// Tuples that are new or changed.
    pub(super) fn relationship(&mut self, key: &NamespacedName, spec: &RelationshipSpec) {
        let resource = json!({
            "apiVersion": Relationship::api_version(&()), "kind": Relationship::kind(&()),
            "metadata": {"namespace": key.namespace, "name": key.name}, "spec": spec,
        });
        if let Ok(json) = to_raw_value(&resource) {
            self.related.insert(key.clone(), (spec.service.as_str().into(), json.into()));
        }
    }

    /// Tuples that are gone.
    pub(super) fn relationship_gone(&mut self, key: &NamespacedName) {
        self.related.remove(key);
        self.resources.relationships.remove(key);
        self.resources.unknown_relationships.remove(key);
    }

    /// Takes in what became of Relationships; `touched` are those of which it may be something else.
    pub(super) fn relationships<'k>(&mut self, catalog: &Catalog, touched: impl Iterator<Item = &'k NamespacedName>) {
        let mut related = std::mem::take(&mut self.related);
        for key in touched {
            let Some(fate) = catalog.relationship_status(key) else { continue };
            // where the newest version can't be in force, the one before it is
            let invalid = fate.rejected.is_some_and(|rejection| rejection.reason == RejectionReason::Invalid);
            if let Some(newest) = related.remove(key).filter(|_| fate.in_force && !invalid) {
                self.resources.relationships.insert(key.clone(), newest);
            }
            match catalog.last_good_tuples(key).filter(|_| fate.closed) {
                Some(last) => self.resources.unknown_relationships.insert(key.clone(), last),
                None => self.resources.unknown_relationships.remove(key),
            };
        }
    }

    pub(super) fn namespace(&mut self, name: &str, annotations: &BTreeMap<String, String>) {
        let own = annotations.iter().filter(|(name, _)| name.starts_with(OWN));
        self.resources
            .namespaces
            .insert(name.to_owned(), own.map(|(name, value)| (name.clone(), value.clone())).collect());
    }

    pub(super) fn namespace_gone(&mut self, name: &str) {
        self.resources.namespaces.remove(name);
    }

    pub(super) fn authentication(&mut self, providers: &[IdentityProvider], secrets: &[Secret]) {
        self.resources.providers = Arc::new(providers.to_vec());
        self.resources.secrets = Arc::new(secrets.to_vec());
    }

    pub(super) fn approvals(&mut self, given: &GrantedApprovals) {
        self.resources.approvals = given.clone();
    }

    /// Tells gates what is in force now; `touched` are the policies of which it may be something else.
    pub(super) fn tell<'k>(
        &mut self,
        catalog: &Catalog,
        touched: impl Iterator<Item = &'k NamespacedName>,
        to: &watch::Sender<PublishedResources>,
    ) {
        for key in touched {
            let Some(policy) = catalog.in_force(key) else {
                if let Some(known) = self.resources.policies.get_mut(key) {
                    known.in_force = false;
                }
                continue;
            };
            let newest = catalog.policy_status(key).is_some_and(|fate| fate.rejected.is_none());
            let known = self.resources.policies.get(key).map(|known| Arc::clone(&known.json));
            // where the newest version is not in force, the one before it is
            let json = if newest { self.newest.remove(key).or(known) } else { known };
            let Some(json) = json else { continue };
            let named = policy
                .authentication_methods
                .iter()
                .filter_map(|way| if let AuthenticationMethod::Provider(name) = way { Some(name) } else { None });
            let (audience, providers) = (Arc::clone(&policy.audience), named.cloned().collect());
            self.resources.policies.insert(key.clone(), PublishedPolicy { in_force: true, audience, providers, json });
        }
        self.resources.snapshot = catalog.snapshot().clone();
        to.send_replace(self.resources.clone());
    }
}
