//! The record of a policy's last good version, and the placeholder that stands for it.
//!
//! A replica that starts while a policy is invalid has never seen its last good version, so it can't know what that
//! version denied. Therefore the status of the policy records the service and the governed API requests. From this
//! record the replica makes a placeholder, which claims the same names and closes the service.

use crate::compile::{ClusterDomains, api_patterns};
use crate::resources::{KubernetesRequestMatch, LastGood, NamedDenial};
use durward_core::digest::Digest;
use durward_core::host::Host;
use durward_core::kubernetes::{ApiPattern, Verb};
use durward_core::namespaced_name::NamespacedName;
use durward_core::policy::{CompiledDenial, EnforcementMode, Policy, TokenSettings};
use durward_core::relations::{RelationBackend, RelationModel};
use durward_core::subject::SubjectMatcher;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Maximum number of groups and resources of one rule; the CRD has the same limits.
const MAX_GROUPS: usize = 32;
const MAX_RESOURCES: usize = 64;
/// Maximum number of characters of groups and resources in a record. No hand-written policy comes near it, and the
/// object with its status has to fit into etcd (1.5 MiB).
const MAX_RULE_CHARACTERS: usize = 64 * 1024;

impl LastGood {
    /// The record of a version in force.
    #[must_use]
    pub fn of(policy: &Policy) -> Self {
        let enforced = policy.mode == EnforcementMode::Enforce;
        let operations = if enforced { policy.operations.as_slice() } else { &[] };
        let governed = operations.iter().flat_map(|operation| &operation.kubernetes);
        let prefix = format!("{}/denials/", policy.key);
        let named =
            policy.denials.iter().filter(|denial| denial.when.is_none() && denial.mode == EnforcementMode::Enforce);
        let denials = named.filter_map(|denial| {
            let workloads: Vec<String> = denial.to.iter().filter_map(workload).collect();
            let name = denial.rule.strip_prefix(&prefix)?.to_owned();
            (!workloads.is_empty()).then_some(NamedDenial { name, workloads })
        });
        Self {
            generation: policy.generation,
            audience: policy.audience.to_string(),
            hosts: policy.hosts.iter().map(|host| host.as_str().to_owned()).collect(),
            kubernetes: rules(governed.chain(policy.forgotten.iter().flatten())),
            denials: denials.collect(),
        }
    }

    /// The record in the status of an object; `None` if no version of it was ever in force.
    #[must_use]
    pub fn of_object(generation: Option<i64>, object: &Value) -> Option<Self> {
        let status = object.get("status")?;
        let recorded = status.get("lastGood").and_then(|good| serde_json::from_value(good.clone()).ok());
        recorded.or_else(|| Self::of_older_status(generation, status, object))
    }

    /// Earlier releases recorded the audience only. The rest is read from the current object, as far as possible.
    fn of_older_status(generation: Option<i64>, status: &Value, object: &Value) -> Option<Self> {
        let audience = status.get("service")?.as_str()?.to_owned();
        let mut conditions = status.get("conditions").and_then(Value::as_array).into_iter().flatten();
        let accepted = conditions.any(|condition| {
            condition.get("type") == Some(&"Accepted".into()) && condition.get("status") == Some(&"True".into())
        });
        let observed = status.get("observedGeneration").and_then(Value::as_i64);
        let spec = object.get("spec");
        let hosts = spec.and_then(|spec| spec.get("service")?.get("hosts")?.as_array()).into_iter().flatten();
        let operations = spec.and_then(|spec| spec.get("operations")?.as_array()).into_iter().flatten();
        let rules = operations.filter_map(|operation| operation.get("kubernetes")?.as_array()).flatten();
        Some(Self {
            generation: if accepted && observed == generation { observed } else { None },
            audience,
            hosts: hosts.filter_map(Value::as_str).map(ToOwned::to_owned).collect(),
            kubernetes: rules.filter_map(|rule| serde_json::from_value(rule.clone()).ok()).collect(),
            denials: Vec::new(),
        })
    }

    /// The placeholder for the unknown version. Host names that can't be parsed were never claimed.
    pub(crate) fn placeholder(&self, key: &NamespacedName, domains: &ClusterDomains) -> Policy {
        let denials = self.denials.iter().map(|denial| {
            let ids = denial.workloads.iter().filter_map(|id| id.parse().ok());
            Arc::new(CompiledDenial {
                rule: format!("{key}/denials/{}", denial.name).into(),
                to: ids.map(SubjectMatcher::Principal).collect(),
                when: None,
                reason: None,
                mode: EnforcementMode::Enforce,
            })
        });
        let content = serde_json::to_vec(self).unwrap_or_default();
        Policy {
            key: key.clone(),
            audience: self.audience.as_str().into(),
            hosts: self.hosts.iter().filter_map(|host| Host::parse(host).ok()).collect(),
            pods: None,
            tokens: TokenSettings::default(),
            authentication_methods: Arc::default(),
            operations: Vec::new(),
            relations: RelationModel::default(),
            relation_engine: RelationBackend::BuiltIn,
            headers: Vec::new(),
            grants: Vec::new(),
            denials: denials.collect(),
            mode: EnforcementMode::Enforce,
            generation: self.generation,
            digest: Digest::of([b"forgotten".as_slice(), &content, domains.trust_domain.as_bytes()]),
            forgotten: Some(self.kubernetes.iter().flat_map(patterns).collect()),
        }
    }
}

fn workload(subject: &SubjectMatcher) -> Option<String> {
    match subject {
        SubjectMatcher::Principal(id) if id.is_workload() => Some(id.to_string()),
        _ => None,
    }
}

/// The patterns of a rule. An unknown verb stands for any verb.
fn patterns(rule: &KubernetesRequestMatch) -> Vec<ApiPattern> {
    let verbs: Vec<Option<Verb>> = rule.verbs.iter().map(|verb| verb.parse().ok()).collect();
    api_patterns(rule, &verbs)
}

/// Patterns as few rules, which combine groups and verbs that have the same resources.
fn rules<'p>(patterns: impl Iterator<Item = &'p ApiPattern>) -> Vec<KubernetesRequestMatch> {
    let mut resources = BTreeMap::new();
    let mut verbs = BTreeMap::new();
    let mut groups = BTreeMap::new();
    for pattern in patterns {
        let group = pattern.group.as_deref().unwrap_or("*");
        let verb = pattern.verb.map_or("*", Verb::as_str);
        resources.entry((group, verb)).or_insert_with(BTreeSet::new).insert(pattern.resources());
    }
    for ((group, verb), resources) in resources {
        verbs.entry((group, resources)).or_insert_with(Vec::new).push(verb.to_owned());
    }
    for ((group, resources), verbs) in verbs {
        groups.entry((resources, verbs)).or_insert_with(Vec::new).push(group.to_owned());
    }
    let mut rules = Vec::new();
    for ((resources, verbs), groups) in groups {
        let resources: Vec<String> = resources.into_iter().collect();
        for groups in groups.chunks(MAX_GROUPS) {
            rules.extend(resources.chunks(MAX_RESOURCES).map(|resources| KubernetesRequestMatch {
                api_groups: groups.to_vec(),
                resources: resources.to_vec(),
                verbs: verbs.clone(),
            }));
        }
    }
    let length =
        |rule: &KubernetesRequestMatch| rule.api_groups.iter().chain(&rule.resources).map(String::len).sum::<usize>();
    if rules.iter().map(length).sum::<usize>() > MAX_RULE_CHARACTERS {
        let all = |text: &str| vec![text.to_owned()];
        return vec![KubernetesRequestMatch { api_groups: all("*"), resources: all("*/*"), verbs: all("*") }];
    }
    rules
}
