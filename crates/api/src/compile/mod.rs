//! Compilation of resources into the types that the engine decides by. It parses every text, and names the field of
//! every mistake.

mod headers;
mod operations;
mod relation_model;
mod relationship;
mod rules;
mod service;
mod subjects;

pub(crate) use operations::api_patterns;
pub(crate) use relation_model::undeclared;
pub use relationship::{CompiledRelationship, compile_relationship};

use crate::field_error::FieldError;
use crate::resources::{self as spec, AccessPolicy};
use chrono::TimeDelta;
use durward_core::digest::Digest;
use durward_core::namespaced_name::NamespacedName;
use durward_core::policy::{EnforcementMode, Policy};
use durward_core::principal::{is_dns_label, is_dns_subdomain};
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

/// The domains of a cluster, which policies are compiled for.
#[derive(Debug, Clone)]
pub struct ClusterDomains {
    /// SPIFFE trust domain of the cluster's own workloads.
    pub trust_domain: String,
    /// DNS domain of the cluster's Services, usually `cluster.local`.
    pub cluster_domain: String,
}

/// Compiles a policy.
///
/// # Errors
/// With every mistake, in the order of the fields.
pub fn compile(policy: &AccessPolicy, domains: &ClusterDomains) -> Result<Policy, Vec<FieldError>> {
    let mut compiler = Compiler { domains, headers: Vec::new(), errors: Vec::new() };
    let compiled = compiler.policy(policy);
    match compiled {
        Some(compiled) if compiler.errors.is_empty() => Ok(compiled),
        _ => Err(compiler.errors),
    }
}

/// The parts of a policy, each behind a pointer. The boxed slice drops the spare capacity that `collect` reuses.
fn shared<T>(parts: Vec<T>) -> Vec<Arc<T>> {
    let parts: Box<[Arc<T>]> = parts.into_iter().map(Arc::new).collect();
    parts.into()
}

/// Parses a duration with jiff, since chrono has no parser for durations such as `1h30m`.
fn duration(text: &str) -> Option<TimeDelta> {
    text.parse::<jiff::SignedDuration>().ok().and_then(|duration| TimeDelta::try_seconds(duration.as_secs()))
}

struct Compiler<'s> {
    domains: &'s ClusterDomains,
    /// Headers that conditions may read.
    headers: Vec<Arc<str>>,
    errors: Vec<FieldError>,
}

impl Compiler<'_> {
    fn error(&mut self, field: impl Into<String>, message: impl Into<String>) {
        self.errors.push(FieldError::new(field, message));
    }

    /// Records the error of a failed result.
    fn take<T, E: fmt::Display>(&mut self, field: &str, result: Result<T, E>) -> Option<T> {
        result.map_err(|error| self.error(field, error.to_string())).ok()
    }

    fn policy(&mut self, resource: &AccessPolicy) -> Option<Policy> {
        let key = self.key(resource)?;
        let spec = &resource.spec;
        let audience = spec.service.audience.clone().unwrap_or_else(|| format!("{}.{}", key.name, key.namespace));
        if audience.is_empty() || audience.len() > 253 || !audience.bytes().all(|b| b.is_ascii_graphic()) {
            self.error("spec.service.audience", "an audience is 1 to 253 printable ASCII characters without spaces");
        }
        let hosts = self.hosts(&spec.service.hosts);
        let pods = self.pods(spec);
        let tokens = self.tokens(spec.tokens.as_ref());
        let authentication_methods = self.authentication(&spec.authentication);
        let uid = resource.metadata.uid.as_deref().unwrap_or_default();
        let operations = self.operations(&spec.operations, uid);
        let roles = self.roles(&spec.roles);
        let (relations, mistakes) = relation_model::compile(&spec.relations);
        mistakes.into_iter().for_each(|mistake| self.error(mistake.field, mistake.message));
        let relation_engine = self.relation_engine(spec);
        self.headers = self.headers(&spec.headers);
        let grants = self.grants(&key, &spec.grants, &roles, &relations);
        self.unusable_approvals(&operations, &grants);
        let mode = match spec.mode {
            spec::PolicyMode::Enforce => EnforcementMode::Enforce,
            spec::PolicyMode::Audit => EnforcementMode::Audit,
        };
        let denials = self.denials(&key, &spec.denials, mode);
        let canonical = self.take("spec", serde_json::to_vec(spec))?;
        // an approval is bound to the UID of the policy
        let needs_approval = operations.iter().any(|operation| operation.approval.is_some());
        let uid = if needs_approval { resource.metadata.uid.as_deref() } else { None };
        let parts = [canonical.as_slice(), self.domains.trust_domain.as_bytes()];
        let digest = Digest::of(parts.into_iter().chain(uid.map(str::as_bytes)));
        Some(Policy {
            key,
            audience: audience.into(),
            hosts,
            pods,
            tokens,
            authentication_methods: authentication_methods.into(),
            operations: shared(operations),
            relations,
            relation_engine,
            headers: std::mem::take(&mut self.headers),
            grants: shared(grants),
            denials: shared(denials),
            mode,
            generation: resource.metadata.generation,
            digest,
            forgotten: None,
        })
    }

    fn key(&mut self, resource: &AccessPolicy) -> Option<NamespacedName> {
        let name = resource.metadata.name.as_deref().unwrap_or_default();
        let namespace = resource.metadata.namespace.as_deref().unwrap_or("default");
        if !is_dns_subdomain(name) {
            self.error("metadata.name", "a policy needs a name of lower-case letters, digits, `-` and `.`");
            return None;
        }
        if !is_dns_label(namespace) {
            self.error("metadata.namespace", "a namespace is made of lower-case letters, digits and `-`");
            return None;
        }
        Some(NamespacedName { namespace: namespace.into(), name: name.into() })
    }

    /// Checks a list of named entries: its length, and that the names are valid and unique.
    fn names<'n>(&mut self, list: &str, names: impl ExactSizeIterator<Item = &'n str>, max: usize) {
        if names.len() > max {
            self.error(format!("spec.{list}"), format!("at most {max} are allowed in one policy: split the policy"));
        }
        let mut seen = BTreeSet::new();
        for (i, name) in names.enumerate() {
            let field = format!("spec.{list}[{i}].name");
            let good = name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
            if name.is_empty() || name.len() > 63 || !good {
                self.error(
                    field,
                    format!("`{name}` is not a valid name: use 1 to 63 letters, digits, `-`, `_` and `.`"),
                );
            } else if !seen.insert(name) {
                self.error(field, format!("`{name}` occurs twice"));
            }
        }
    }
}
