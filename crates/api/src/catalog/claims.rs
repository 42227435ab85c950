//! What policies claim for their services, and who was first.

use durward_core::host::Host;
use durward_core::namespaced_name::NamespacedName;
use durward_core::policy::Policy;
use std::fmt;
use std::sync::Arc;

/// What belongs to one service alone.
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

/// Age of a policy, oldest first: creation in seconds since 1970 (`i64::MAX` when unknown), then the name.
pub(super) type Seniority = (i64, NamespacedName);

/// Some policies, the oldest first. Nearly always it is one, for which a tree would take ten times the memory.
#[derive(Debug, Default)]
pub(super) struct Seniors(Vec<Seniority>);

impl Seniors {
    pub(super) fn insert(&mut self, seniority: Seniority) {
        if let Err(at) = self.0.binary_search(&seniority) {
            self.0.reserve_exact(1);
            self.0.insert(at, seniority);
        }
    }

    pub(super) fn remove(&mut self, seniority: &Seniority) {
        if let Ok(at) = self.0.binary_search(seniority) {
            self.0.remove(at);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &NamespacedName> {
        self.0.iter().map(|(_, key)| key)
    }

    /// Those before this one.
    pub(super) fn before<'s>(
        &'s self,
        created: i64,
        key: &NamespacedName,
    ) -> impl Iterator<Item = &'s NamespacedName> + use<'s> {
        let end = self.0.partition_point(|(other, other_key)| (*other, other_key) < (created, key));
        self.0.iter().take(end).map(|(_, key)| key)
    }
}

/// What a policy claims for its service.
pub(super) fn claims(policy: &Policy) -> impl Iterator<Item = Claim> {
    policy.hosts.iter().cloned().map(Claim::Host).chain([Claim::Audience(Arc::clone(&policy.audience))])
}
