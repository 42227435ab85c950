//! Interned values: equal methods, scopes, namespaces, paths and subjects of many policies are kept once. With
//! thousands of policies they make up most of the memory.

use crate::authentication::AuthenticationMethod;
use crate::namespaced_name::NamespacedName;
use crate::path::Segment;
use crate::policy::{CompiledOperation, Policy};
use crate::principal::PrincipalId;
use crate::scope::Scope;
use crate::subject::SubjectMatcher;
use foldhash::fast::RandomState;
use std::collections::HashSet;
use std::hash::Hash;
use std::sync::Arc;

/// Number of values at which unused ones are removed. After that, the limit is twice the number of values left.
const INITIAL_LIMIT: usize = 1024;

/// Equal values, each kept once.
#[derive(Debug)]
struct InternedValues<T: ?Sized> {
    values: HashSet<Arc<T>, RandomState>,
    limit: usize,
}

impl<T: ?Sized + Eq + Hash> Default for InternedValues<T> {
    fn default() -> Self {
        Self { values: HashSet::default(), limit: INITIAL_LIMIT }
    }
}

impl<T: ?Sized + Eq + Hash> InternedValues<T> {
    /// Replaces `value` by an equal one that is known. Returns whether there was one.
    fn find(&self, value: &mut Arc<T>) -> bool {
        self.values.get(value).is_some_and(|values| {
            value.clone_from(values);
            true
        })
    }

    fn keep(&mut self, value: &Arc<T>) {
        if self.values.len() >= self.limit {
            self.values.retain(|values| Arc::strong_count(values) > 1);
            self.values.shrink_to_fit();
            self.limit = INITIAL_LIMIT.max(2 * self.values.len());
        }
        self.values.insert(Arc::clone(value));
    }

    fn share(&mut self, value: &mut Arc<T>) {
        if !self.find(value) {
            self.keep(value);
        }
    }
}

impl<T: Clone + Eq + Hash> InternedValues<[T]> {
    /// As [`InternedValues::share`], but interns the parts of a list that is new.
    fn share_list(&mut self, list: &mut Arc<[T]>, part: impl FnMut(&mut T)) {
        if !self.find(list) {
            Arc::make_mut(list).iter_mut().for_each(part);
            self.keep(list);
        }
    }
}

/// Values of all policies. Values that no policy uses any more are removed in time.
#[derive(Debug, Default)]
pub struct Interner {
    texts: InternedValues<str>,
    scopes: InternedValues<[Scope]>,
    paths: InternedValues<[Segment]>,
    authentication_methods: InternedValues<[AuthenticationMethod]>,
    subjects: InternedValues<[SubjectMatcher]>,
}

impl Interner {
    /// Replaces the values of a compiled policy by equal ones that other policies use. The policy stays equal.
    pub fn intern_policy(&mut self, policy: &mut Policy) {
        self.intern_name(&mut policy.key);
        let Self { texts, authentication_methods, .. } = self;
        texts.share(&mut policy.audience);
        policy.headers.iter_mut().for_each(|header| texts.share(header));
        authentication_methods.share_list(&mut policy.authentication_methods, |method| {
            if let AuthenticationMethod::Provider(name) = method {
                texts.share(name);
            }
        });
        policy.operations.iter_mut().filter_map(Arc::get_mut).for_each(|operation| self.operation(operation));
        for grant in policy.grants.iter_mut().filter_map(Arc::get_mut) {
            self.subjects(&mut grant.to);
            self.scopes(&mut grant.scopes);
        }
        policy.denials.iter_mut().filter_map(Arc::get_mut).for_each(|denial| self.subjects(&mut denial.to));
    }

    /// Does the same for the name of a policy.
    pub fn intern_name(&mut self, key: &mut NamespacedName) {
        self.texts.share(&mut key.namespace);
        self.texts.share(&mut key.name);
    }

    fn operation(&mut self, operation: &mut CompiledOperation) {
        self.scopes(&mut operation.scopes);
        let Self { texts, paths, .. } = self;
        texts.share(&mut operation.name);
        for one in &mut operation.matches {
            one.method.iter_mut().for_each(|method| texts.share(&mut method.0));
            paths.share_list(&mut one.path.0, |segment| {
                if let Segment::Literal(text) | Segment::Capture(text) = segment {
                    texts.share(text);
                }
            });
        }
        for pattern in &mut operation.kubernetes {
            let all = [&mut pattern.group, &mut pattern.resource, &mut pattern.subresource];
            all.into_iter().flatten().for_each(|text| texts.share(text));
        }
    }

    fn scopes(&mut self, list: &mut Arc<[Scope]>) {
        let Self { texts, scopes, .. } = self;
        scopes.share_list(list, |scope| texts.share(&mut scope.0));
    }

    fn subjects(&mut self, list: &mut Arc<[SubjectMatcher]>) {
        let Self { texts, subjects, .. } = self;
        subjects.share_list(list, |subject| names(subject).into_iter().flatten().for_each(|name| texts.share(name)));
    }
}

/// The names within a subject that other subjects are likely to share.
fn names(subject: &mut SubjectMatcher) -> [Option<&mut Arc<str>>; 3] {
    match subject {
        SubjectMatcher::Principal(id) => match id {
            PrincipalId::Workload { trust_domain, namespace, service_account } => {
                [Some(trust_domain), Some(namespace), Some(service_account)]
            }
            PrincipalId::Spiffe { trust_domain: one, path: other }
            | PrincipalId::User { provider: one, subject: other }
            | PrincipalId::Key { provider: one, name: other } => [Some(one), Some(other), None],
            PrincipalId::Kube { username } => [Some(username), None, None],
        },
        SubjectMatcher::Group { provider: one, group: other }
        | SubjectMatcher::Namespace { trust_domain: one, namespace: other } => [Some(one), Some(other), None],
        SubjectMatcher::Claims { provider, group, .. } => [Some(provider), group.as_mut(), None],
        SubjectMatcher::Provider(name) | SubjectMatcher::Namespaces { trust_domain: name, .. } => {
            [Some(name), None, None]
        }
        SubjectMatcher::Spiffe(pattern) => [Some(&mut pattern.trust_domain), None, None],
        SubjectMatcher::Authenticated => [None, None, None],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_values_are_shared_and_unused_ones_are_removed() {
        let mut texts = InternedValues::<str>::default();
        let [mut one, mut other] = ["read", "read"].map(Arc::<str>::from);
        texts.share(&mut one);
        texts.share(&mut other);
        assert!(Arc::ptr_eq(&one, &other));
        for number in 0..10 * INITIAL_LIMIT {
            texts.share(&mut number.to_string().into());
        }
        assert!(texts.values.len() <= INITIAL_LIMIT, "{}", texts.values.len());
        let mut again: Arc<str> = "read".into();
        texts.share(&mut again);
        assert!(Arc::ptr_eq(&one, &again), "a used value stays");
    }

    #[test]
    fn lists_are_shared_with_their_parts() {
        let mut sharing = Interner::default();
        let list = |texts: &[&str]| texts.iter().filter_map(|text| Scope::parse(text).ok()).collect::<Arc<[Scope]>>();
        let (mut one, mut other, mut longer) = (list(&["a", "b"]), list(&["a", "b"]), list(&["a", "b", "c"]));
        [&mut one, &mut other, &mut longer].into_iter().for_each(|list| sharing.scopes(list));
        assert!(Arc::ptr_eq(&one, &other));
        assert_eq!(longer, list(&["a", "b", "c"]));
        let first = |list: &Arc<[Scope]>| list.first().map(|scope| Arc::clone(&scope.0)).expect("a scope");
        assert!(Arc::ptr_eq(&first(&one), &first(&longer)), "{longer:?}");
    }
}
