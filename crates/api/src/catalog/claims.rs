//! Hosts and audiences that policies claim for their services, and the age of the policies.

use durward_core::host::Host;
use durward_core::namespaced_name::NamespacedName;
use durward_core::policy::Policy;
use std::fmt;
use std::sync::Arc;

/// A name that belongs to one service only.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Claim {
    Host(Host),
    Audience(Arc<str>),
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(host) => f.write_str(host.as_str()),
            Self::Audience(audience) => f.write_str(audience),
        }
    }
}

/// Age of a policy, for the order from oldest to youngest: creation time in Unix seconds (`i64::MAX` if unknown), then
/// the name.
pub(super) type PolicyAge = (i64, NamespacedName);

/// Policies from oldest to youngest. A vector, since it nearly always holds one policy: a tree would take ten times the
/// memory.
#[derive(Debug, Default)]
pub(super) struct PoliciesByAge(Vec<PolicyAge>);

impl PoliciesByAge {
    pub(super) fn insert(&mut self, age: PolicyAge) {
        if let Err(at) = self.0.binary_search(&age) {
            self.0.reserve_exact(1);
            self.0.insert(at, age);
        }
    }

    pub(super) fn remove(&mut self, age: &PolicyAge) {
        if let Ok(at) = self.0.binary_search(age) {
            self.0.remove(at);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &NamespacedName> {
        self.0.iter().map(|(_, key)| key)
    }

    /// The policies older than the given one.
    pub(super) fn before<'s>(
        &'s self,
        created: i64,
        key: &NamespacedName,
    ) -> impl Iterator<Item = &'s NamespacedName> + use<'s> {
        let end = self.0.partition_point(|(other, other_key)| (*other, other_key) < (created, key));
        self.0.iter().take(end).map(|(_, key)| key)
    }
}

/// The claims of a policy.
pub(super) fn claims(policy: &Policy) -> impl Iterator<Item = Claim> {
    policy.hosts.iter().cloned().map(Claim::Host).chain([Claim::Audience(Arc::clone(&policy.audience))])
}
