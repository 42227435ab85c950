//! Which pods policies are about, and the identity that those are minted.

use crate::namespaced_name::NamespacedName;
use crate::policy::{CompiledDenial, EnforcementMode};
use crate::principal::PrincipalId;
use crate::service::CompiledService;
use crate::snapshot::Snapshot;
use crate::subject::SubjectMatcher;
use chrono::TimeDelta;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use thiserror::Error;

/// Lifetime of a certificate where no policy says.
pub const DEFAULT_TTL: TimeDelta = TimeDelta::hours(1);

/// What a pod is minted, and because of which policies.
#[derive(Debug, Clone, PartialEq)]
pub struct CertificateEntitlement {
    /// Lifetime of the certificate: the shortest that a policy says.
    pub ttl: TimeDelta,
    /// DNS names that it carries.
    pub dns_names: BTreeSet<Arc<str>>,
    /// The policies that are about the pod, with their generations.
    pub policies: BTreeMap<NamespacedName, Option<i64>>,
}

/// Why a pod is minted nothing.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NotEntitled {
    /// No policy is about it.
    #[error("no policy is about the pod")]
    NoPolicy,
    /// A policy of its own namespace denies its service account whatever it asks: the rule
    /// `<namespace>/<policy>/denials/<name>`.
    #[error("{0} denies this workload; it gets nothing new while that stands")]
    Denied(Arc<str>),
}

impl CertificateEntitlement {
    /// Names of the policies.
    #[must_use]
    pub fn policy_names(&self) -> String {
        self.policies.keys().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    }
}

impl CompiledService {
    fn generation(&self, policy: &NamespacedName) -> Option<i64> {
        let found = self.policies.binary_search_by(|(key, _)| key.cmp(policy)).ok()?;
        self.policies.get(found)?.1
    }

    /// Workloads that a grant or a denial names, with its policy.
    pub(crate) fn named_workloads(&self) -> BTreeSet<PrincipalId> {
        let grants = self.grants.iter().flat_map(|grant| grant.to.iter());
        let denials = self.denials.iter().flat_map(|denial| denial.to.iter());
        let named = grants.chain(denials).filter_map(|subject| match subject {
            SubjectMatcher::Principal(id) if id.is_workload() => Some(id.clone()),
            _ => None,
        });
        named.collect()
    }

    /// The policies of the service with a rule that names this workload.
    fn naming<'s>(&'s self, id: &'s PrincipalId) -> impl Iterator<Item = NamespacedName> + 's {
        let names = move |to: &[SubjectMatcher]| {
            to.iter().any(|subject| matches!(subject, SubjectMatcher::Principal(named) if named == id))
        };
        let grants = self.grants.iter().filter(move |grant| names(&grant.to)).map(|grant| &grant.rule);
        let denials = self.denials.iter().filter(move |denial| names(&denial.to)).map(|denial| &denial.rule);
        // a rule is called `<namespace>/<policy>/<kind>/<name>`
        grants.chain(denials).filter_map(|rule| {
            let (namespace, rest) = rule.split_once('/')?;
            Some(NamespacedName { namespace: namespace.into(), name: rest.split_once('/')?.0.into() })
        })
    }
}

impl CompiledService {
    /// The first rule that denies this workload by name, without a condition, and is enforced.
    fn denies(&self, id: &PrincipalId) -> Option<&Arc<str>> {
        let names = |denial: &&Arc<CompiledDenial>| {
            denial.to.iter().any(|subject| matches!(subject, SubjectMatcher::Principal(named) if named == id))
        };
        let mut denials =
            self.denials.iter().filter(|denial| denial.when.is_none() && denial.mode == EnforcementMode::Enforce);
        denials.find(names).map(|denial| &denial.rule)
    }
}

impl Snapshot {
    /// Namespaces in which a policy is about some pod of our own trust domain, or may be.
    #[must_use]
    pub fn entitled_namespaces(&self, own: &str) -> BTreeSet<Arc<str>> {
        let named = self.named_workloads().filter_map(|id| match id {
            PrincipalId::Workload { trust_domain, namespace, .. } if **trust_domain == *own => Some(namespace),
            _ => None,
        });
        self.selecting_namespaces().chain(named).cloned().collect()
    }

    /// The services that a pod is, by their selectors.
    pub fn services_of_pod<'s>(
        &'s self,
        namespace: &str,
        labels: &'s BTreeMap<String, String>,
    ) -> impl Iterator<Item = &'s Arc<CompiledService>> {
        let selects =
            |service: &&Arc<CompiledService>| service.pods.iter().any(|(_, pods)| pods.selector.selects(labels));
        self.selecting(namespace).iter().filter(selects)
    }

    /// What a pod is minted, if a policy is about it: its selector takes the pod in, or a grant or a denial names its
    /// service account.
    ///
    /// # Errors
    /// When none is, or when the pod's own namespace denies its service account by name: others deny it at their own
    /// services alone, or any namespace could take any identity away.
    pub fn certificate_entitlement(
        &self,
        id: &PrincipalId,
        namespace: &str,
        labels: &BTreeMap<String, String>,
    ) -> Result<CertificateEntitlement, NotEntitled> {
        let own = self.naming(id).iter().filter(|service| *service.key.namespace == *namespace);
        if let Some(rule) = own.filter_map(|service| service.denies(id)).next() {
            return Err(NotEntitled::Denied(Arc::clone(rule)));
        }
        let mut minting =
            CertificateEntitlement { ttl: DEFAULT_TTL, dns_names: BTreeSet::new(), policies: BTreeMap::new() };
        let mut ttl = None::<TimeDelta>;
        let selecting = self.selecting(namespace).iter();
        let selecting =
            selecting.flat_map(|service| service.pods.iter().map(move |(policy, pods)| (service, policy, pods)));
        for (service, policy, pods) in selecting.filter(|(_, _, pods)| pods.selector.selects(labels)) {
            ttl = Some(ttl.map_or(pods.ttl, |shortest| shortest.min(pods.ttl)));
            minting.dns_names.extend(pods.dns_names.iter().cloned());
            minting.policies.insert(policy.clone(), service.generation(policy));
        }
        for service in self.naming(id) {
            let naming = service.naming(id).map(|policy| (policy.clone(), service.generation(&policy)));
            minting.policies.extend(naming);
        }
        minting.ttl = ttl.unwrap_or(DEFAULT_TTL);
        if minting.policies.is_empty() { Err(NotEntitled::NoPolicy) } else { Ok(minting) }
    }
}
