//! The service of a policy: its hosts, pods, tokens, authentication methods, headers and relation engine.

use super::{Compiler, duration, headers};
use crate::resources as spec;
use chrono::TimeDelta;
use durward_core::authentication::AuthenticationMethod;
use durward_core::host::Host;
use durward_core::labels::{LabelMatcher, LabelRequirement};
use durward_core::pods::DEFAULT_TTL;
use durward_core::policy::{ServicePods, TokenSettings, TokenSignature};
use durward_core::principal::is_dns_subdomain;
use durward_core::relations::{OpenFgaStore, RelationBackend};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Bounds for the lifetime of a certificate. Kubernetes signers issue for an hour or more; longer than a day is not
/// short-lived.
const SHORTEST_TTL: TimeDelta = TimeDelta::minutes(5);
const LONGEST_TTL: TimeDelta = TimeDelta::hours(24);
/// Bounds for the lifetime of a token. Clocks may differ by half a minute; a key stays published for two hours after it
/// signed.
const SHORTEST_TOKEN: TimeDelta = TimeDelta::minutes(1);
const LONGEST_TOKEN: TimeDelta = TimeDelta::hours(1);
/// Limit of one policy; the CRD has the same one.
const MAX_HEADERS: usize = 16;

impl Compiler<'_> {
    pub(super) fn hosts(&mut self, hosts: &[String]) -> Vec<Host> {
        let mut parsed = Vec::new();
        for (i, host) in hosts.iter().enumerate() {
            let field = format!("spec.service.hosts[{i}]");
            parsed.extend(self.take(&field, Host::parse(host)));
        }
        parsed
    }

    pub(super) fn pods(&mut self, spec: &spec::AccessPolicySpec) -> Option<ServicePods> {
        let Some(selector) = &spec.service.pod_selector else {
            if spec.identity.is_some() {
                self.error(
                    "spec.identity",
                    "an identity needs the pods of the service: set `spec.service.podSelector`",
                );
            }
            return None;
        };
        let selector = self.selector("spec.service.podSelector", selector);
        let identity = spec.identity.clone().unwrap_or_default();
        let ttl = identity.ttl.as_deref().and_then(|text| {
            let ttl = duration(text).filter(|ttl| (SHORTEST_TTL..=LONGEST_TTL).contains(ttl));
            if ttl.is_none() {
                self.error("spec.identity.ttl", format!("`{text}` is not a duration from 5m to 24h, such as `1h`"));
            }
            ttl
        });
        let mut dns_names = Vec::new();
        for (i, name) in identity.dns_names.iter().enumerate() {
            let host = self.take(&format!("spec.identity.dnsNames[{i}]"), Host::parse(name));
            dns_names.extend(host.map(|host| Arc::from(host.as_str())));
        }
        Some(ServicePods { selector, ttl: ttl.unwrap_or(DEFAULT_TTL), dns_names })
    }

    pub(super) fn selector(&mut self, field: &str, selector: &LabelSelector) -> LabelMatcher {
        let labels = selector.match_labels.iter().flatten();
        let mut requirements: Vec<LabelRequirement> = labels
            .map(|(key, value)| LabelRequirement::In(key.as_str().into(), [Arc::from(value.as_str())].into()))
            .collect();
        for (i, expression) in selector.match_expressions.iter().flatten().enumerate() {
            let key: Arc<str> = expression.key.as_str().into();
            let values: BTreeSet<Arc<str>> =
                expression.values.iter().flatten().map(|value| value.as_str().into()).collect();
            let field = format!("{field}.matchExpressions[{i}]");
            match (expression.operator.as_str(), values.is_empty()) {
                ("In", false) => requirements.push(LabelRequirement::In(key, values)),
                ("NotIn", false) => requirements.push(LabelRequirement::NotIn(key, values)),
                ("Exists", true) => requirements.push(LabelRequirement::Exists(key)),
                ("DoesNotExist", true) => requirements.push(LabelRequirement::DoesNotExist(key)),
                ("In" | "NotIn", true) => self.error(field, "this operator needs `values`"),
                ("Exists" | "DoesNotExist", false) => self.error(field, "remove `values`: this operator takes none"),
                (other, _) => {
                    self.error(
                        field,
                        format!("`{other}` is not an operator: use `In`, `NotIn`, `Exists` or `DoesNotExist`"),
                    );
                }
            }
        }
        LabelMatcher { requirements }
    }

    pub(super) fn tokens(&mut self, tokens: Option<&spec::TokenProfile>) -> TokenSettings {
        let Some(tokens) = tokens else { return TokenSettings::default() };
        let signature = tokens.algorithm.map(|algorithm| match algorithm {
            spec::TokenAlgorithm::Rs256 => TokenSignature::Rs256,
            spec::TokenAlgorithm::Es256 => TokenSignature::Es256,
        });
        let ttl = tokens.ttl.as_deref().and_then(|text| {
            let ttl = duration(text).filter(|ttl| (SHORTEST_TOKEN..=LONGEST_TOKEN).contains(ttl));
            if ttl.is_none() {
                self.error("spec.tokens.ttl", format!("`{text}` is not a duration from 1m to 1h, such as `5m`"));
            }
            ttl
        });
        TokenSettings { signature, ttl }
    }

    pub(super) fn authentication(&mut self, entries: &[spec::AuthenticationEntry]) -> Vec<AuthenticationMethod> {
        let mut parsed = Vec::new();
        for (i, entry) in entries.iter().enumerate() {
            let field = format!("spec.authentication[{i}]");
            match (&entry.workload, &entry.provider) {
                (Some(_), None) => parsed.push(AuthenticationMethod::Workload),
                (None, Some(provider)) => {
                    self.provider(&format!("{field}.provider"), provider);
                    parsed.push(AuthenticationMethod::Provider(provider.as_str().into()));
                }
                _ => self.error(field, "set exactly one of `workload` and `provider`"),
            }
        }
        parsed
    }

    pub(super) fn provider(&mut self, field: &str, name: &str) {
        if !is_dns_subdomain(name) {
            self.error(field, format!("`{name}` is not a valid IdentityProvider name"));
        }
    }

    pub(super) fn headers(&mut self, headers: &[String]) -> Vec<Arc<str>> {
        if headers.len() > MAX_HEADERS {
            self.error("spec.headers", format!("at most {MAX_HEADERS} are allowed"));
        }
        let mut seen = BTreeSet::new();
        for (i, name) in headers.iter().enumerate() {
            let field = format!("spec.headers[{i}]");
            if let Some(why) = headers::refusal(name) {
                self.error(field, format!("`{name}` {why}"));
            } else if !seen.insert(name) {
                self.error(field, format!("`{name}` occurs twice"));
            }
        }
        // refused headers too, so that the conditions that read them cause no second error
        headers.iter().map(|name| name.as_str().into()).collect()
    }

    pub(super) fn relation_engine(&mut self, spec: &spec::AccessPolicySpec) -> RelationBackend {
        let Some(spec::RelationEngine { openfga }) = &spec.relation_engine else { return RelationBackend::BuiltIn };
        if spec.relations.is_empty() {
            self.error("spec.relationEngine", "declare the relations of the engine: set `spec.relations`");
        }
        let store = self.take("spec.relationEngine.openfga.store", openfga.store.parse());
        let model = self.take("spec.relationEngine.openfga.model", openfga.model.parse());
        store
            .zip(model)
            .map(|(store, model)| RelationBackend::OpenFga(OpenFgaStore { store, model }))
            .unwrap_or_default()
    }
}
