//! The resources that gates receive, and the part of them that belongs to one pod.

use durward_api::resources::{Approval, IdentityProvider, LastGoodTuples};
use durward_approvals::GrantedApprovals;
use durward_authn::api_key;
use durward_core::labels::Labels;
use durward_core::namespaced_name::NamespacedName;
use durward_core::service::CompiledService;
use durward_core::snapshot::Snapshot;
use durward_identity::LabelledPod;
use durward_protocol::snapshot::{KeyUse, NamespaceAnnotations, SnapshotResources};
use k8s_openapi::api::core::v1::Secret;
use serde_json::value::RawValue;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// All resources that gates can receive, at one moment. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct PublishedResources {
    /// Maps pods to services.
    pub snapshot: Snapshot,
    /// The policies, each in the version that is in force.
    pub policies: imbl::OrdMap<NamespacedName, PublishedPolicy>,
    /// Relationships, each with the audience of its service.
    pub relationships: imbl::OrdMap<NamespacedName, (Arc<str>, Arc<RawValue>)>,
    /// The Relationships without a known valid version.
    pub unknown_relationships: imbl::OrdMap<NamespacedName, LastGoodTuples>,
    pub namespaces: imbl::HashMap<String, NamespaceAnnotations>,
    pub providers: Arc<Vec<IdentityProvider>>,
    /// Secrets with hashes of API keys.
    pub secrets: Arc<Vec<Secret>>,
    /// Approvals that people have granted.
    pub approvals: GrantedApprovals,
}

/// The version of a policy that is or was in force.
#[derive(Debug, Clone)]
pub struct PublishedPolicy {
    /// Whether it still is in force.
    pub in_force: bool,
    pub audience: Arc<str>,
    /// Names of the providers that it accepts.
    pub providers: Arc<[Arc<str>]>,
    /// The resource.
    pub json: Arc<RawValue>,
}

impl PublishedResources {
    /// The resources of one pod: those of its services, and of no other.
    pub fn for_pod(&self, pod: &LabelledPod) -> SnapshotResources<Arc<RawValue>, Arc<RawValue>> {
        let namespace = pod.namespace.as_str();
        let services = self.open_services(pod);
        let audiences: BTreeSet<_> = services.iter().map(|service| Arc::clone(&service.key().audience)).collect();
        let required_labels: BTreeSet<_> = services.iter().flat_map(|service| service.namespace_labels()).collect();
        let policies: BTreeMap<_, _> = in_namespace(&self.policies, namespace)
            .filter(|(_, policy)| policy.in_force && audiences.contains(&policy.audience))
            .collect();
        let providers = self.accepted_providers(policies.values().copied());
        let relationships =
            in_namespace(&self.relationships, namespace).filter(|(_, (audience, _))| audiences.contains(audience));
        let unknown_relationships = in_namespace(&self.unknown_relationships, namespace)
            .filter(|(_, last_good)| audiences.contains(last_good.service.as_str()));
        let first_approval = (namespace.to_owned(), String::new());
        let approvals = self
            .approvals
            .range(first_approval..)
            .take_while(|((approval_namespace, _), _)| approval_namespace == namespace)
            .filter(|(_, (subject, _))| policies.contains_key(&subject.policy));
        let annotations = self.namespaces.get(namespace).cloned().unwrap_or_default();
        SnapshotResources {
            policies: policies.values().map(|policy| Arc::clone(&policy.json)).collect(),
            relationships: relationships.map(|(_, (_, json))| Arc::clone(json)).collect(),
            unknown_relationships: unknown_relationships
                .map(|(key, last_good)| (key.namespace.to_string(), key.name.to_string(), last_good.clone()))
                .collect(),
            secrets: self.key_secrets(&providers),
            providers,
            namespaces: BTreeMap::from([(namespace.to_owned(), annotations)]),
            namespace_labels: self.namespace_labels(&required_labels),
            service_accounts: None,
            approvals: approvals.map(|(_, (_, approval))| signed_part(approval)).collect(),
            approval_keys: Vec::new(),
            step_up: None,
        }
    }

    /// The services of a pod. A closed service is left out: its remaining policies alone would allow too much.
    fn open_services<'s>(&'s self, pod: &'s LabelledPod) -> Vec<&'s Arc<CompiledService>> {
        let services = self.snapshot.services_of_pod(&pod.namespace, &pod.labels);
        services.filter(|service| service.closed_by().is_empty()).collect()
    }

    fn accepted_providers<'p>(&self, policies: impl Iterator<Item = &'p PublishedPolicy>) -> Vec<IdentityProvider> {
        let accepted: BTreeSet<&str> = policies.flat_map(|policy| policy.providers.iter().map(AsRef::as_ref)).collect();
        let is_accepted = |provider: &&IdentityProvider| {
            provider.metadata.name.as_deref().is_some_and(|name| accepted.contains(name))
        };
        self.providers.iter().filter(is_accepted).cloned().collect()
    }

    /// The Secrets that the API key selectors of these providers match.
    fn key_secrets(&self, providers: &[IdentityProvider]) -> Vec<Secret> {
        let is_selected =
            |secret: &&Secret| providers.iter().any(|provider| api_key::provider_selects(&provider.spec, secret));
        self.secrets.iter().filter(is_selected).map(hashes).collect()
    }

    /// The uses of API keys that a pod can report: of providers that its services accept, and not in the future.
    pub(super) fn credible_key_uses(&self, pod: &LabelledPod, uses: Vec<KeyUse>, now: i64) -> Vec<KeyUse> {
        let providers = self.for_pod(pod).providers;
        let accepts = |name: &str| providers.iter().any(|provider| provider.metadata.name.as_deref() == Some(name));
        uses.into_iter().filter(|(provider, _, at)| *at <= now && accepts(provider)).collect()
    }

    /// All Namespaces with the labels that policies read; none if policies read no labels.
    fn namespace_labels(&self, names: &BTreeSet<&str>) -> BTreeMap<String, Labels> {
        if names.is_empty() {
            return BTreeMap::new();
        }
        let namespaces = self.snapshot.namespace_labels().map(|(namespace, labels)| {
            let labels = labels.iter().filter(|(name, _)| names.contains(name.as_str()));
            (namespace.to_string(), labels.map(|(name, value)| (name.clone(), value.clone())).collect())
        });
        namespaces.collect()
    }
}

/// The entries of one namespace.
fn in_namespace<'m, V>(
    all: &'m imbl::OrdMap<NamespacedName, V>,
    namespace: &'m str,
) -> impl Iterator<Item = (&'m NamespacedName, &'m V)> {
    let first = NamespacedName { namespace: namespace.into(), name: "".into() };
    all.range(first..).take_while(move |(key, _)| key.namespace.as_ref() == namespace)
}

/// The part of a Secret that authentication reads.
fn hashes(secret: &Secret) -> Secret {
    let mut part = Secret { data: secret.data.clone(), ..Secret::default() };
    part.metadata.name.clone_from(&secret.metadata.name);
    part.metadata.namespace.clone_from(&secret.metadata.namespace);
    part.metadata.labels.clone_from(&secret.metadata.labels);
    part
}

/// The part of an Approval that its signature covers.
fn signed_part(approval: &Approval) -> Approval {
    let mut part = Approval::new("", approval.spec.clone());
    part.metadata.name.clone_from(&approval.metadata.name);
    part.metadata.namespace.clone_from(&approval.metadata.namespace);
    part.metadata.uid.clone_from(&approval.metadata.uid);
    part.status.clone_from(&approval.status);
    part
}
