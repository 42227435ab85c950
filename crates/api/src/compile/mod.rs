//! From an `AccessPolicy` to what the engine decides by: every text is parsed here, and every mistake is named with
//! its field.

mod operations;
mod subjects;

pub(crate) use operations::api_patterns;

use crate::headers;
use crate::relations;
use crate::resources::{self as spec, AccessPolicy};
use chrono::TimeDelta;
use durward_core::authentication::AuthenticationMethod;
use durward_core::condition::Condition;
use durward_core::digest::Digest;
use durward_core::host::Host;
use durward_core::labels::{LabelMatcher, LabelRequirement};
use durward_core::namespaced_name::NamespacedName;
use durward_core::pods::DEFAULT_TTL;
use durward_core::policy::{CompiledDenial, CompiledGrant, EnforcementMode, Policy, ServicePods, TokenSettings, TokenSignature};
use durward_core::principal::{is_dns_label, is_dns_subdomain};
use durward_core::relations::{OpenFgaStore, RelationBackend, RelationModel, RelationTarget};
use durward_core::scope::Scope;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

/// What a policy is compiled for.
#[derive(Debug, Clone)]
pub struct Settings {
    /// SPIFFE trust domain of the cluster's own workloads.
    pub trust_domain: String,
    /// DNS domain of the cluster's Services, usually `cluster.local`.
    pub cluster_domain: String,
}

/// A mistake in a resource.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct FieldError {
    /// Path of the field, such as `spec.operations[2].http[0].paths[1]`.
    pub field: String,
    /// What is wrong and what to do.
    pub message: String,
}

impl FieldError {
    /// A mistake, told in one line whatever text it quotes.
    pub(crate) fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        let message: String = message.into();
        let escaped = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
        let message = if message.contains(char::is_control) { message.chars().map(escaped).collect() } else { message };
        Self { field: field.into(), message }
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}

/// Lifetimes of certificates that the API server lets a signer issue begin at an hour; beyond a day they are not short.
const SHORTEST_TTL: TimeDelta = TimeDelta::minutes(5);
const LONGEST_TTL: TimeDelta = TimeDelta::hours(24);
/// Clocks may differ by half a minute; and keys are published for two hours after they signed last.
const SHORTEST_TOKEN: TimeDelta = TimeDelta::minutes(1);
const LONGEST_TOKEN: TimeDelta = TimeDelta::hours(1);
/// Bounds of one policy; a service with more is cut in several policies. The CRD says the same.
const MAX_GRANTS: usize = 1000;
const MAX_DENIALS: usize = 256;
const MAX_ROLES: usize = 256;
const MAX_HEADERS: usize = 16;

/// Compiles a policy.
///
/// # Errors
/// With every mistake that was found, in the order of the fields.
pub fn compile(policy: &AccessPolicy, settings: &Settings) -> Result<Policy, Vec<FieldError>> {
    let mut compiler = Compiler { settings, headers: Vec::new(), errors: Vec::new() };
    let compiled = compiler.policy(policy);
    match compiled {
        Some(compiled) if compiler.errors.is_empty() => Ok(compiled),
        _ => Err(compiler.errors),
    }
}

/// Parts as a policy holds them, in no more room than they need: `collect` would keep that of the parts themselves.
fn each<T>(parts: Vec<T>) -> Vec<Arc<T>> {
    let parts: Box<[Arc<T>]> = parts.into_iter().map(Arc::new).collect();
    parts.into()
}

fn duration(text: &str) -> Option<TimeDelta> {
    text.parse::<jiff::SignedDuration>().ok().and_then(|duration| TimeDelta::try_seconds(duration.as_secs()))
}

fn unknown_role(role: &str, known: impl Iterator<Item = impl fmt::Display>) -> String {
    let known = known.map(|name| name.to_string()).collect::<Vec<_>>().join(", ");
    let known = if known.is_empty() { "it has none".to_owned() } else { format!("it has {known}") };
    format!("this policy has no role `{role}`; {known}")
}

/// A role and every role that it includes.
fn includes<'s>(
    roles: &'s [spec::Role],
    numbers: &BTreeMap<&str, (usize, Vec<Scope>)>,
    role: &'s str,
) -> BTreeSet<&'s str> {
    let (mut all, mut waiting) = (BTreeSet::new(), vec![role]);
    while let Some(name) = waiting.pop() {
        let found = numbers.get(name).and_then(|(number, _)| roles.get(*number));
        if let Some(role) = found.filter(|_| all.insert(name)) {
            waiting.extend(role.includes.iter().map(String::as_str));
        }
    }
    all
}

struct Compiler<'s> {
    settings: &'s Settings,
    /// Headers that conditions may read.
    headers: Vec<Arc<str>>,
    errors: Vec<FieldError>,
}

impl Compiler<'_> {
    fn error(&mut self, field: impl Into<String>, message: impl Into<String>) {
        self.errors.push(FieldError::new(field, message));
    }

    /// Notes the error, if it is one.
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
        let ways = self.ways(&spec.authentication);
        let uid = resource.metadata.uid.as_deref().unwrap_or_default();
        let operations = self.operations(&spec.operations, uid);
        let roles = self.roles(&spec.roles);
        let (relations, mistakes) = relations::model(&spec.relations);
        mistakes.into_iter().for_each(|mistake| self.error(mistake.field, mistake.message));
        let relation_engine = self.relation_engine(spec);
        self.headers = self.headers(&spec.headers);
        let grants = self.grants(&key, &spec.grants, &roles, &relations);
        let mode = match spec.mode {
            spec::Mode::Enforce => EnforcementMode::Enforce,
            spec::Mode::Audit => EnforcementMode::Audit,
        };
        let denials = self.denials(&key, &spec.denials, mode);
        let canonical = self.take("spec", serde_json::to_vec(spec))?;
        // what was approved is approved for this object
        let uid = resource.metadata.uid.as_deref().filter(|_| operations.iter().any(|one| one.approval.is_some()));
        let parts = [canonical.as_slice(), self.settings.trust_domain.as_bytes()];
        let digest = Digest::of(parts.into_iter().chain(uid.map(str::as_bytes)));
        Some(Policy {
            key,
            audience: audience.into(),
            hosts,
            pods,
            tokens,
            ways: ways.into(),
            operations: each(operations),
            relations,
            relation_engine,
            headers: std::mem::take(&mut self.headers),
            grants: each(grants),
            denials: each(denials),
            mode,
            generation: resource.metadata.generation,
            digest,
            forgotten: None,
        })
    }

    fn headers(&mut self, headers: &[String]) -> Vec<Arc<str>> {
        if headers.len() > MAX_HEADERS {
            self.error("spec.headers", format!("at most {MAX_HEADERS} are possible"));
        }
        let mut seen = BTreeSet::new();
        for (i, name) in headers.iter().enumerate() {
            let field = format!("spec.headers[{i}]");
            if let Some(why) = headers::unfit(name) {
                self.error(field, format!("`{name}` {why}"));
            } else if !seen.insert(name) {
                self.error(field, format!("`{name}` occurs twice"));
            }
        }
        // all of them, so that a condition is not refused for a header that was
        headers.iter().map(|name| name.as_str().into()).collect()
    }

    fn relation_engine(&mut self, spec: &spec::AccessPolicySpec) -> RelationBackend {
        let Some(spec::RelationEngine { openfga }) = &spec.relation_engine else { return RelationBackend::Own };
        if spec.relations.is_empty() {
            self.error("spec.relationEngine", "say which relations it knows: `spec.relations`");
        }
        let store = self.take("spec.relationEngine.openfga.store", openfga.store.parse());
        let model = self.take("spec.relationEngine.openfga.model", openfga.model.parse());
        store
            .zip(model)
            .map(|(store, model)| RelationBackend::OpenFga(OpenFgaStore { store, model }))
            .unwrap_or_default()
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

    fn hosts(&mut self, hosts: &[String]) -> Vec<Host> {
        let mut parsed = Vec::new();
        for (i, host) in hosts.iter().enumerate() {
            let field = format!("spec.service.hosts[{i}]");
            parsed.extend(self.take(&field, Host::parse(host)));
        }
        parsed
    }

    fn pods(&mut self, spec: &spec::AccessPolicySpec) -> Option<ServicePods> {
        let Some(selector) = &spec.service.pod_selector else {
            if spec.identity.is_some() {
                self.error("spec.identity", "say whose identity it is: `spec.service.podSelector`");
            }
            return None;
        };
        let selector = self.selector("spec.service.podSelector", selector);
        let identity = spec.identity.clone().unwrap_or_default();
        let ttl = identity.ttl.as_deref().and_then(|text| {
            let ttl = duration(text).filter(|ttl| (SHORTEST_TTL..=LONGEST_TTL).contains(ttl));
            if ttl.is_none() {
                self.error("spec.identity.ttl", format!("`{text}` is no time from 5m to 24h, such as `1h`"));
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

    fn selector(&mut self, field: &str, selector: &LabelSelector) -> LabelMatcher {
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
                ("In" | "NotIn", true) => self.error(field, "say with which `values`"),
                ("Exists" | "DoesNotExist", false) => self.error(field, "leave `values` out; the label alone counts"),
                (other, _) => {
                    self.error(field, format!("`{other}` is none of `In`, `NotIn`, `Exists` and `DoesNotExist`"));
                }
            }
        }
        LabelMatcher { requirements }
    }

    fn tokens(&mut self, tokens: Option<&spec::Tokens>) -> TokenSettings {
        let Some(tokens) = tokens else { return TokenSettings::default() };
        let signature = tokens.algorithm.map(|algorithm| match algorithm {
            spec::TokenAlgorithm::Rs256 => TokenSignature::Rs256,
            spec::TokenAlgorithm::Es256 => TokenSignature::Es256,
        });
        let ttl = tokens.ttl.as_deref().and_then(|text| {
            let ttl = duration(text).filter(|ttl| (SHORTEST_TOKEN..=LONGEST_TOKEN).contains(ttl));
            if ttl.is_none() {
                self.error("spec.tokens.ttl", format!("`{text}` is no time from 1m to 1h, such as `5m`"));
            }
            ttl
        });
        TokenSettings { signature, ttl }
    }

    fn ways(&mut self, ways: &[spec::Way]) -> Vec<AuthenticationMethod> {
        let mut parsed = Vec::new();
        for (i, way) in ways.iter().enumerate() {
            let field = format!("spec.authentication[{i}]");
            match (&way.workload, &way.provider) {
                (Some(_), None) => parsed.push(AuthenticationMethod::Workload),
                (None, Some(provider)) => {
                    self.provider(&format!("{field}.provider"), provider);
                    parsed.push(AuthenticationMethod::Provider(provider.as_str().into()));
                }
                _ => self.error(field, "say exactly one of `workload` and `provider`"),
            }
        }
        parsed
    }

    fn provider(&mut self, field: &str, name: &str) {
        if !is_dns_subdomain(name) {
            self.error(field, format!("`{name}` is no name of an IdentityProvider"));
        }
    }

    /// A list of named things: names well-formed and told apart, the list bounded.
    fn names<'n>(&mut self, list: &str, names: impl ExactSizeIterator<Item = &'n str>, max: usize) {
        if names.len() > max {
            self.error(format!("spec.{list}"), format!("at most {max} are possible in one policy; cut it in two"));
        }
        let mut seen = BTreeSet::new();
        for (i, name) in names.enumerate() {
            let field = format!("spec.{list}[{i}].name");
            let good = name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
            if name.is_empty() || name.len() > 63 || !good {
                self.error(field, format!("`{name}` is no name: use 1 to 63 letters, digits, `-`, `_` and `.`"));
            } else if !seen.insert(name) {
                self.error(field, format!("`{name}` occurs twice"));
            }
        }
    }

    fn scopes(&mut self, field: &str, scopes: &[String]) -> Vec<Scope> {
        let mut parsed = Vec::new();
        for (i, scope) in scopes.iter().enumerate() {
            parsed.extend(self.take(&format!("{field}[{i}]"), Scope::parse(scope)));
        }
        parsed
    }

    fn roles(&mut self, roles: &[spec::Role]) -> BTreeMap<String, BTreeSet<Scope>> {
        self.names("roles", roles.iter().map(|r| r.name.as_str()), MAX_ROLES);
        let mut own: BTreeMap<&str, (usize, Vec<Scope>)> = BTreeMap::new();
        for (i, role) in roles.iter().enumerate() {
            let field = format!("spec.roles[{i}]");
            if role.scopes.is_empty() && role.includes.is_empty() {
                self.error(
                    format!("{field}.scopes"),
                    "a role without scopes stands for nothing; name some, or leave it out",
                );
            }
            own.insert(&role.name, (i, self.scopes(&format!("{field}.scopes"), &role.scopes)));
        }
        for (i, role) in roles.iter().enumerate() {
            for (j, other) in role.includes.iter().enumerate() {
                let field = format!("spec.roles[{i}].includes[{j}]");
                if !own.contains_key(other.as_str()) {
                    self.error(field, unknown_role(other, own.keys()));
                } else if includes(roles, &own, other).contains(role.name.as_str()) {
                    self.error(field, format!("`{other}` includes `{}` itself; roles can't go in a circle", role.name));
                }
            }
        }
        let united = |role: &spec::Role| {
            let all = includes(roles, &own, &role.name);
            all.into_iter().filter_map(|name| own.get(name)).flat_map(|(_, scopes)| scopes.iter().cloned()).collect()
        };
        roles.iter().map(|role| (role.name.clone(), united(role))).collect()
    }

    fn grants(
        &mut self,
        key: &NamespacedName,
        grants: &[spec::Grant],
        roles: &BTreeMap<String, BTreeSet<Scope>>,
        relations: &RelationModel,
    ) -> Vec<CompiledGrant> {
        self.names("grants", grants.iter().map(|g| g.name.as_str()), MAX_GRANTS);
        let mut compiled = Vec::new();
        for (i, grant) in grants.iter().enumerate() {
            let field = format!("spec.grants[{i}]");
            if grant.scopes.is_empty() && grant.roles.is_empty() {
                self.error(&field, "it gives nothing; name `scopes` or `roles`");
            }
            let mut scopes: BTreeSet<Scope> =
                self.scopes(&format!("{field}.scopes"), &grant.scopes).into_iter().collect();
            for (j, role) in grant.roles.iter().enumerate() {
                match roles.get(role) {
                    Some(of_role) => scopes.extend(of_role.iter().cloned()),
                    None => self.error(format!("{field}.roles[{j}]"), unknown_role(role, roles.keys())),
                }
            }
            compiled.push(CompiledGrant {
                rule: format!("{key}/grants/{}", grant.name).into(),
                to: self.subjects(&format!("{field}.to"), &grant.to).into(),
                scopes: scopes.into_iter().collect(),
                from_token: grant.from_token,
                when: self.condition(&format!("{field}.when"), grant.when.as_deref()),
                relation: self.relation(&format!("{field}.relation"), grant.relation.as_ref(), relations),
            });
        }
        compiled
    }

    fn relation(
        &mut self,
        field: &str,
        to: Option<&spec::RelationTo>,
        relations: &RelationModel,
    ) -> Option<RelationTarget> {
        let to = to?;
        let compiled = self.take(&format!("{field}.object"), RelationTarget::new(&to.object, &to.relation))?;
        if let Some((field_of, message)) = relations::unknown(relations, compiled.kind(), &compiled.relation) {
            self.error(format!("{field}.{field_of}"), message);
        }
        Some(compiled)
    }

    fn denials(
        &mut self,
        key: &NamespacedName,
        denials: &[spec::Denial],
        mode: EnforcementMode,
    ) -> Vec<CompiledDenial> {
        self.names("denials", denials.iter().map(|d| d.name.as_str()), MAX_DENIALS);
        let mut compiled = Vec::new();
        for (i, denial) in denials.iter().enumerate() {
            let field = format!("spec.denials[{i}]");
            compiled.push(CompiledDenial {
                rule: format!("{key}/denials/{}", denial.name).into(),
                to: self.subjects(&format!("{field}.to"), &denial.to).into(),
                when: self.condition(&format!("{field}.when"), denial.when.as_deref()),
                reason: denial.reason.as_deref().map(Into::into),
                mode,
            });
        }
        compiled
    }

    fn condition(&mut self, field: &str, source: Option<&str>) -> Option<Arc<Condition>> {
        let compiled = Condition::compile_reading(source?, &self.headers);
        self.take(field, compiled).map(Arc::new)
    }
}
