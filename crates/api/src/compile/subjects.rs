//! The callers that a rule applies to.

use super::Compiler;
use crate::resources as spec;
use durward_core::principal::{PrincipalId, is_dns_label};
use durward_core::subject::SubjectMatcher;
use std::sync::Arc;

const MAX_SUBJECTS: usize = 64;

impl Compiler<'_> {
    pub(super) fn subjects(&mut self, field: &str, subjects: &[spec::CallerSelector]) -> Vec<SubjectMatcher> {
        if subjects.is_empty() {
            self.error(
                field,
                "an empty list matches no caller; for every authenticated caller, use `[{authenticated: true}]`",
            );
        }
        if subjects.len() > MAX_SUBJECTS {
            self.error(field, format!("at most {MAX_SUBJECTS} are allowed: use a group, or split the rule"));
        }
        let mut compiled = Vec::new();
        for (i, subject) in subjects.iter().enumerate() {
            compiled.extend(self.subject(&format!("{field}[{i}]"), subject));
        }
        compiled
    }

    fn subject(&mut self, field: &str, subject: &spec::CallerSelector) -> Option<SubjectMatcher> {
        let selectors = [
            subject.service_account.is_some(),
            subject.namespace.is_some(),
            subject.namespace_selector.is_some(),
            subject.spiffe.is_some(),
            subject.principal.is_some(),
            subject.provider.is_some() || subject.group.is_some() || subject.claims.is_some(),
            subject.authenticated.is_some(),
        ];
        if selectors.into_iter().filter(|selected| *selected).count() != 1 {
            self.error(
                field,
                "set exactly one of `serviceAccount`, `namespace`, `namespaceSelector`, `spiffe`, `principal`, `provider` (with or without \
                 `group` and `claims`) and `authenticated`",
            );
            return None;
        }
        let trust_domain = || Arc::from(self.domains.trust_domain.as_str());
        match subject {
            spec::CallerSelector { service_account: Some(account), .. } => {
                let id = PrincipalId::workload(&self.domains.trust_domain, &account.namespace, &account.name);
                self.take(&format!("{field}.serviceAccount"), id).map(SubjectMatcher::Principal)
            }
            spec::CallerSelector { namespace: Some(namespace), .. } => {
                let subject =
                    SubjectMatcher::Namespace { trust_domain: trust_domain(), namespace: namespace.as_str().into() };
                if !is_dns_label(namespace) {
                    self.error(format!("{field}.namespace"), format!("`{namespace}` is not a valid Namespace name"));
                }
                Some(subject)
            }
            spec::CallerSelector { namespace_selector: Some(labels), .. } => {
                let trust_domain = trust_domain();
                let field = format!("{field}.namespaceSelector");
                let labels = self.selector(&field, labels);
                if labels.requirements.is_empty() {
                    self.error(field, "an empty selector would match every Namespace: add labels");
                }
                Some(SubjectMatcher::Namespaces { trust_domain, labels })
            }
            spec::CallerSelector { spiffe: Some(pattern), .. } => {
                self.take(&format!("{field}.spiffe"), pattern.parse()).map(SubjectMatcher::Spiffe)
            }
            spec::CallerSelector { principal: Some(id), .. } => {
                let field = format!("{field}.principal");
                let id = self.take(&field, id.parse::<PrincipalId>())?;
                if let PrincipalId::Spiffe { trust_domain, .. } = &id
                    && **trust_domain == self.domains.trust_domain
                {
                    self.error(
                        field,
                        format!("`{id}` matches no caller: workloads of this trust domain are named `/ns/NAMESPACE/sa/SERVICEACCOUNT`"),
                    );
                }
                Some(SubjectMatcher::Principal(id))
            }
            spec::CallerSelector { provider: Some(provider), group, claims, .. } => {
                self.provider(&format!("{field}.provider"), provider);
                let provider: Arc<str> = provider.as_str().into();
                let group: Option<Arc<str>> = group.as_deref().map(Into::into);
                match (group, claims) {
                    (group, Some(claims)) => {
                        if claims.is_empty() {
                            self.error(format!("{field}.claims"), "list at least one claim, or remove `claims`");
                        }
                        let claims = claims.iter().map(|(name, value)| (name.as_str().into(), value.as_str().into()));
                        Some(SubjectMatcher::Claims { provider, group, claims: claims.collect() })
                    }
                    (Some(group), None) => Some(SubjectMatcher::Group { provider, group }),
                    (None, None) => Some(SubjectMatcher::Provider(provider)),
                }
            }
            spec::CallerSelector { authenticated: Some(true), .. } => Some(SubjectMatcher::Authenticated),
            spec::CallerSelector { authenticated: Some(false), .. } => {
                self.error(format!("{field}.authenticated"), "only `true` is allowed: remove `authenticated`");
                None
            }
            spec::CallerSelector { group: Some(_), .. } => {
                self.error(format!("{field}.group"), "a group needs its `provider`");
                None
            }
            _ => {
                self.error(format!("{field}.claims"), "claims need their `provider`");
                None
            }
        }
    }
}
