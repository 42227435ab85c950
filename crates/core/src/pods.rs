//! Pods that policies apply to, and the certificates that they are entitled to.

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

/// Lifetime of a certificate if no policy sets one.
pub const DEFAULT_TTL: TimeDelta = TimeDelta::hours(1);

/// The certificate that a pod is entitled to, and the policies that entitle it.
#[derive(Debug, Clone, PartialEq)]
pub struct CertificateEntitlement {
    /// Lifetime of the certificate: the shortest that a policy sets.
    pub ttl: TimeDelta,
    /// DNS names in the certificate.
    pub dns_names: BTreeSet<Arc<str>>,
    /// The policies that apply to the pod, with their generations.
    pub policies: BTreeMap<NamespacedName, Option<i64>>,
}

/// Why a pod is not entitled to a certificate.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NotEntitled {
    /// No policy applies to the pod.
    #[error("no policy is about the pod")]
    NoPolicy,
    /// A policy of the pod's own namespace denies its service account unconditionally, by the rule
    /// `<namespace>/<policy>/denials/<name>`.
    #[error("{0} denies this workload; it gets nothing new while that stands")]
    Denied(Arc<str>),
}

impl CertificateEntitlement {
    /// The names of the policies, separated by commas.
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

    /// Workloads that a grant or a denial names.
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
        // the form of a rule is `<namespace>/<policy>/<kind>/<name>`
        grants.chain(denials).filter_map(|rule| {
            let (namespace, rest) = rule.split_once('/')?;
            Some(NamespacedName { namespace: namespace.into(), name: rest.split_once('/')?.0.into() })
        })
    }
}

impl CompiledService {
    /// The first enforced denial that names this workload and has no condition.
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
    /// Namespaces in which a policy may apply to pods of trust domain `own`.
    #[must_use]
    pub fn entitled_namespaces(&self, own: &str) -> BTreeSet<Arc<str>> {
        let named = self.named_workloads().filter_map(|id| match id {
            PrincipalId::Workload { trust_domain, namespace, .. } if **trust_domain == *own => Some(namespace),
            _ => None,
        });
        self.selecting_namespaces().chain(named).cloned().collect()
    }

    /// The services whose selectors match a pod.
    pub fn services_of_pod<'s>(
        &'s self,
        namespace: &str,
        labels: &'s BTreeMap<String, String>,
    ) -> impl Iterator<Item = &'s Arc<CompiledService>> {
        let selects =
            |service: &&Arc<CompiledService>| service.pods.iter().any(|(_, pods)| pods.selector.selects(labels));
        self.selecting(namespace).iter().filter(selects)
    }

    /// The certificate that a pod is entitled to. A policy entitles it by selecting the pod, or by naming its service
    /// account in a grant or a denial.
    ///
    /// # Errors
    /// When no policy applies to the pod, or when the pod's own namespace denies its service account by name. Denials
    /// of other namespaces do not matter here: otherwise any namespace could take away the identity of any workload.
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
