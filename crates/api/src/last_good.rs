//! What is remembered of the version of a policy that was last in force.
//!
//! A replica that starts while a policy is broken has never seen its last good version. What that denied, nobody can tell
//! from the rest of its service. So the status remembers whose service it is and what was governed, and a version is made of
//! that which stands for the lost one: it claims the same names, and closes the service.

use crate::compile::{Settings, api_patterns};
use crate::resources::{DenialByName, KubernetesMatch, LastGood};
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

/// Most groups and resources of one rule, as the CRD has it.
const MAX_GROUPS: usize = 32;
const MAX_RESOURCES: usize = 64;
/// Most characters of groups and resources that are remembered: no policy of a person comes near it, and the object with its
/// status has to fit into etcd (1.5 MiB).
const MAX_RULES: usize = 64 * 1024;

impl LastGood {
    /// What is to be remembered of a version that is in force.
    #[must_use]
    pub fn of(policy: &Policy) -> Self {
        let governed = policy.operations.iter().flat_map(|operation| &operation.kubernetes);
        let governed = governed.filter(|_| policy.mode == EnforcementMode::Enforce);
        let prefix = format!("{}/denials/", policy.key);
        let named =
            policy.denials.iter().filter(|denial| denial.when.is_none() && denial.mode == EnforcementMode::Enforce);
        let denials = named.filter_map(|denial| {
            let workloads: Vec<String> = denial.to.iter().filter_map(workload).collect();
            let name = denial.rule.strip_prefix(&prefix)?.to_owned();
            (!workloads.is_empty()).then_some(DenialByName { name, workloads })
        });
        Self {
            generation: policy.generation,
            audience: policy.audience.to_string(),
            hosts: policy.hosts.iter().map(|host| host.as_str().to_owned()).collect(),
            kubernetes: rules(governed.chain(policy.forgotten.iter().flatten())),
            denials: denials.collect(),
        }
    }

    /// What the status of an object remembers, if any version of it was ever in force.
    #[must_use]
    pub fn of_object(generation: Option<i64>, object: &Value) -> Option<Self> {
        let status = object.get("status")?;
        let remembered = status.get("lastGood").and_then(|good| serde_json::from_value(good.clone()).ok());
        remembered.or_else(|| Self::of_older_status(generation, status, object))
    }

    /// Durward once remembered no more than the audience. The rest is read from the object as it is now, as far as it can be.
    fn of_older_status(generation: Option<i64>, status: &Value, object: &Value) -> Option<Self> {
        let audience = status.get("service")?.as_str()?.to_owned();
        let mut conditions = status.get("conditions").and_then(Value::as_array).into_iter().flatten();
        let accepted = conditions
            .any(|one| one.get("type") == Some(&"Accepted".into()) && one.get("status") == Some(&"True".into()));
        let observed = status.get("observedGeneration").and_then(Value::as_i64);
        let spec = object.get("spec");
        let hosts = spec.and_then(|spec| spec.get("service")?.get("hosts")?.as_array()).into_iter().flatten();
        let operations = spec.and_then(|spec| spec.get("operations")?.as_array()).into_iter().flatten();
        let rules = operations.filter_map(|operation| operation.get("kubernetes")?.as_array()).flatten();
        Some(Self {
            generation: observed.filter(|_| accepted && observed == generation),
            audience,
            hosts: hosts.filter_map(Value::as_str).map(ToOwned::to_owned).collect(),
            kubernetes: rules.filter_map(|rule| serde_json::from_value(rule.clone()).ok()).collect(),
            denials: Vec::new(),
        })
    }

    /// A version that stands for the one that is not known. Names that can't be read were never claimed.
    pub(crate) fn forgotten(&self, key: &NamespacedName, settings: &Settings) -> Policy {
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
            ways: Arc::default(),
            operations: Vec::new(),
            relations: RelationModel::default(),
            relation_engine: RelationBackend::Own,
            headers: Vec::new(),
            grants: Vec::new(),
            denials: denials.collect(),
            mode: EnforcementMode::Enforce,
            generation: self.generation,
            digest: Digest::of([b"forgotten".as_slice(), &content, settings.trust_domain.as_bytes()]),
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

/// What a rule takes in. A verb that is not known could be any.
fn patterns(rule: &KubernetesMatch) -> Vec<ApiPattern> {
    let verbs: Vec<Option<Verb>> = rule.verbs.iter().map(|verb| verb.parse().ok()).collect();
    api_patterns(rule, &verbs)
}

/// Patterns as few rules: groups and verbs with the same resources stand together.
fn rules<'p>(patterns: impl Iterator<Item = &'p ApiPattern>) -> Vec<KubernetesMatch> {
    let (mut resources, mut verbs, mut groups) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    for pattern in patterns {
        let (group, verb) = (pattern.group.as_deref().unwrap_or("*"), pattern.verb.map_or("*", Verb::as_str));
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
            rules.extend(resources.chunks(MAX_RESOURCES).map(|resources| KubernetesMatch {
                api_groups: groups.to_vec(),
                resources: resources.to_vec(),
                verbs: verbs.clone(),
            }));
        }
    }
    let length = |rule: &KubernetesMatch| rule.api_groups.iter().chain(&rule.resources).map(String::len).sum::<usize>();
    if rules.iter().map(length).sum::<usize>() > MAX_RULES {
        let all = |text: &str| vec![text.to_owned()];
        return vec![KubernetesMatch { api_groups: all("*"), resources: all("*/*"), verbs: all("*") }];
    }
    rules
}
