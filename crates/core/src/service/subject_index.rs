//! An index of rules by their subjects.

use crate::labels::Labels;
use crate::lookup::Lookup;
use crate::principal::{Identity, PrincipalId};
use crate::subject::{Membership, SpiffePattern, SubjectMatcher};
use std::sync::Arc;

/// Rules by their subjects, so that a decision looks only at rules that can match the caller.
#[derive(Debug)]
pub(crate) struct SubjectIndex<T> {
    anyone: Box<[T]>,
    principals: Lookup<PrincipalId, T>,
    providers: Lookup<Arc<str>, T>,
    /// By group, each with its provider.
    groups: Lookup<Arc<str>, (Arc<str>, T)>,
    /// Subjects that need a closer look, by a trait that every matching caller has.
    others: Lookup<SubjectTrait, (SubjectMatcher, T)>,
}

/// A trait that every caller of a subject has.
#[derive(Debug, PartialEq, Eq, Hash)]
enum SubjectTrait {
    TrustDomain(Arc<str>),
    Namespace(Arc<str>),
    /// Provider, name and value.
    Claim(Arc<str>, Arc<str>, Arc<str>),
}

impl<T> Default for SubjectIndex<T> {
    fn default() -> Self {
        Self {
            anyone: Box::default(),
            principals: Lookup::default(),
            providers: Lookup::default(),
            groups: Lookup::default(),
            others: Lookup::default(),
        }
    }
}

impl<'s, T: Copy> FromIterator<(&'s SubjectMatcher, T)> for SubjectIndex<T> {
    fn from_iter<I: IntoIterator<Item = (&'s SubjectMatcher, T)>>(rules: I) -> Self {
        let mut anyone = Vec::new();
        let mut principals = Vec::new();
        let mut providers = Vec::new();
        let mut groups = Vec::new();
        let mut others = Vec::new();
        for (subject, rule) in rules {
            let mut other = |least| others.push((least, (subject.clone(), rule)));
            match subject {
                SubjectMatcher::Authenticated => anyone.push(rule),
                SubjectMatcher::Principal(id) => principals.push((id.clone(), rule)),
                SubjectMatcher::Provider(provider) => providers.push((Arc::clone(provider), rule)),
                SubjectMatcher::Group { provider, group } => {
                    groups.push((Arc::clone(group), (Arc::clone(provider), rule)))
                }
                SubjectMatcher::Namespace { namespace, .. } => other(SubjectTrait::Namespace(Arc::clone(namespace))),
                SubjectMatcher::Namespaces { trust_domain, .. }
                | SubjectMatcher::Spiffe(SpiffePattern { trust_domain, .. }) => {
                    other(SubjectTrait::TrustDomain(Arc::clone(trust_domain)));
                }
                SubjectMatcher::Claims { provider, claims, .. } => {
                    // a subject without claims matches no caller; the compiler refuses it
                    if let Some((name, value)) = claims.iter().next() {
                        other(SubjectTrait::Claim(Arc::clone(provider), Arc::clone(name), Arc::clone(value)));
                    }
                }
            }
        }
        Self {
            anyone: anyone.into(),
            principals: principals.into_iter().collect(),
            providers: providers.into_iter().collect(),
            groups: groups.into_iter().collect(),
            others: others.into_iter().collect(),
        }
    }
}

impl<T: Copy + Ord> SubjectIndex<T> {
    /// The rules whose subjects need a closer look.
    fn matching_others(&self, caller: &Identity, labels: Option<&Labels>) -> impl Iterator<Item = T> {
        let mut traits = Vec::new();
        match &caller.id {
            PrincipalId::Workload { trust_domain, namespace, .. } => {
                traits.extend([
                    SubjectTrait::TrustDomain(Arc::clone(trust_domain)),
                    SubjectTrait::Namespace(Arc::clone(namespace)),
                ]);
            }
            PrincipalId::Spiffe { trust_domain, .. } => {
                traits.push(SubjectTrait::TrustDomain(Arc::clone(trust_domain)))
            }
            PrincipalId::User { .. } | PrincipalId::Key { .. } | PrincipalId::Kube { .. } => {}
        }
        if let Some(provider) = caller.provider() {
            let provider: Arc<str> = provider.into();
            let texts = caller.attributes.iter().filter_map(|(name, value)| Some((name.as_str(), value.as_str()?)));
            traits.extend(
                texts.map(|(name, value)| SubjectTrait::Claim(Arc::clone(&provider), name.into(), value.into())),
            );
        }
        let found: Vec<T> = traits
            .iter()
            .flat_map(|least| self.others.get(least))
            .filter(|(subject, _)| subject.includes(caller, labels))
            .map(|(_, rule)| *rule)
            .collect();
        found.into_iter()
    }

    /// The rules that certainly match `caller`, in order, each once.
    pub(crate) fn matching(&self, caller: &Identity, labels: Option<&Labels>) -> Vec<T> {
        let mut rules = self.anyone.to_vec();
        rules.extend(self.principals.get(&caller.id));
        if let Some(provider) = caller.provider() {
            rules.extend(self.providers.get(provider));
            if !self.groups.is_empty() {
                let found = caller.groups.iter().flat_map(|group| self.groups.get(group.as_str()));
                rules.extend(found.filter(|(of, _)| **of == *provider).map(|(_, rule)| *rule));
            }
        }
        if !self.others.is_empty() {
            rules.extend(self.matching_others(caller, labels));
        }
        rules.sort_unstable();
        rules.dedup();
        rules
    }

    /// The rules that match `caller`, or may match it by facts that are unknown, in order, each once.
    pub(crate) fn possibly_matching(&self, caller: &Identity, labels: Option<&Labels>) -> Vec<T> {
        let mut rules = self.matching(caller, labels);
        if !has_uncertain_facts(caller) {
            return rules;
        }
        if caller.unknown.groups.is_some() {
            let own = self.groups.values().filter(|(of, _)| caller.provider() == Some(of));
            rules.extend(own.map(|(_, rule)| *rule));
        }
        // no trait leads to a subject whose claims are unknown
        let unknown = self.others.values().filter(|(subject, _)| {
            matches!(subject, SubjectMatcher::Claims { .. })
                && subject.membership(caller, labels) == Membership::Unknown
        });
        rules.extend(unknown.map(|(_, rule)| *rule));
        rules.sort_unstable();
        rules.dedup();
        rules
    }

    /// Every rule, in order, each once.
    pub(crate) fn all(&self) -> Vec<T> {
        let mut rules: Vec<T> = self.anyone.to_vec();
        rules.extend(self.principals.values().chain(self.providers.values()));
        rules.extend(self.groups.values().map(|(_, rule)| *rule));
        rules.extend(self.others.values().map(|(_, rule)| *rule));
        rules.sort_unstable();
        rules.dedup();
        rules
    }
}

/// Whether the caller has facts by which the membership in a subject can be unknown.
fn has_uncertain_facts(caller: &Identity) -> bool {
    !caller.unknown.is_empty() || caller.attributes.values().any(|value| !value.is_string())
}
