//! From an `AccessPolicy` to what the engine decides by: every text is parsed here, and every mistake is named with
//! its field.

use crate::relations;
use crate::resources::{self as spec, AccessPolicy};
use chrono::TimeDelta;
use durward_core::approval::Approvers;
use durward_core::condition::Condition;
use durward_core::digest::Digest;
use durward_core::host::Host;
use durward_core::kubernetes::{ApiPattern, Verb};
use durward_core::path::{Method, PathPattern};
use durward_core::pods::{DEFAULT_TTL, Pods, Requirement, Selector};
use durward_core::policy::{Denial, Grant, MAX_SCOPES, Match, Mode, Operation, Policy, PolicyKey, Subject, Way};
use durward_core::principal::{KUBERNETES, PrincipalId, is_dns_label, is_dns_subdomain};
use durward_core::relations::{Model, RelationEngine, RelationTo, Store};
use durward_core::risk::Risk;
use durward_core::scope::Scope;
use durward_core::service::shadowed;
use durward_core::token::{Signature, Tokens};
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

/// Oldest second factor that is accepted where a policy does not say.
const DEFAULT_MAX_AGE: TimeDelta = TimeDelta::minutes(5);
/// A second factor older than a working day is none.
const LONGEST_MAX_AGE: TimeDelta = TimeDelta::hours(24);
/// Lifetimes of certificates that the API server lets a signer issue begin at an hour; beyond a day they are not short.
const SHORTEST_TTL: TimeDelta = TimeDelta::minutes(5);
const LONGEST_TTL: TimeDelta = TimeDelta::hours(24);
/// Clocks may differ by half a minute; and keys are published for two hours after they signed last.
const SHORTEST_TOKEN: TimeDelta = TimeDelta::minutes(1);
const LONGEST_TOKEN: TimeDelta = TimeDelta::hours(1);
/// Bounds of one policy; a service with more is cut in several policies. The CRD says the same.
/// How long an approval lasts.
const DEFAULT_APPROVAL: TimeDelta = TimeDelta::minutes(30);
const SHORTEST_APPROVAL: TimeDelta = TimeDelta::minutes(1);
const LONGEST_APPROVAL: TimeDelta = TimeDelta::hours(24);
const MAX_APPROVERS: usize = 8;
const MAX_OPERATIONS: usize = 512;
const MAX_MATCHES: usize = 64;
const MAX_GRANTS: usize = 1000;
const MAX_DENIALS: usize = 256;
const MAX_ROLES: usize = 256;
const MAX_SUBJECTS: usize = 64;

/// Compiles a policy.
///
/// # Errors
/// With every mistake that was found, in the order of the fields.
pub fn compile(policy: &AccessPolicy, settings: &Settings) -> Result<Policy, Vec<FieldError>> {
    let mut compiler = Compiler { settings, errors: Vec::new() };
    let compiled = compiler.policy(policy);
    match compiled {
        Some(compiled) if compiler.errors.is_empty() => Ok(compiled),
        _ => Err(compiler.errors),
    }
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

/// Groups by resources by these verbs.
pub(crate) fn api_patterns(api: &spec::KubernetesMatch, verbs: &[Option<Verb>]) -> Vec<ApiPattern> {
    let any = |text: &str| (text != "*").then(|| Arc::from(text));
    let mut patterns = Vec::new();
    for resource in &api.resources {
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        for group in &api.api_groups {
            patterns.extend(verbs.iter().map(|verb| ApiPattern {
                group: any(group),
                resource: any(resource),
                subresource: any(subresource),
                verb: *verb,
            }));
        }
    }
    patterns
}

struct Compiler<'s> {
    settings: &'s Settings,
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
        let grants = self.grants(&key, &spec.grants, &roles, &relations);
        let mode = match spec.mode {
            spec::Mode::Enforce => Mode::Enforce,
            spec::Mode::Audit => Mode::Audit,
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
            ways,
            operations: operations.into_iter().map(Arc::new).collect(),
            relations,
            relation_engine,
            grants: grants.into_iter().map(Arc::new).collect(),
            denials: denials.into_iter().map(Arc::new).collect(),
            mode,
            generation: resource.metadata.generation,
            digest,
            forgotten: None,
        })
    }

    fn relation_engine(&mut self, spec: &spec::AccessPolicySpec) -> RelationEngine {
        let Some(spec::RelationEngine { openfga }) = &spec.relation_engine else { return RelationEngine::Own };
        if spec.relations.is_empty() {
            self.error("spec.relationEngine", "say which relations it knows: `spec.relations`");
        }
        let store = self.take("spec.relationEngine.openfga.store", openfga.store.parse());
        let model = self.take("spec.relationEngine.openfga.model", openfga.model.parse());
        store.zip(model).map(|(store, model)| RelationEngine::OpenFga(Store { store, model })).unwrap_or_default()
    }

    fn key(&mut self, resource: &AccessPolicy) -> Option<PolicyKey> {
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
        Some(PolicyKey { namespace: namespace.into(), name: name.into() })
    }

    fn hosts(&mut self, hosts: &[String]) -> Vec<Host> {
        let mut parsed = Vec::new();
        for (i, host) in hosts.iter().enumerate() {
            let field = format!("spec.service.hosts[{i}]");
            parsed.extend(self.take(&field, Host::parse(host)));
        }
        parsed
    }

    fn pods(&mut self, spec: &spec::AccessPolicySpec) -> Option<Pods> {
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
        Some(Pods { selector, ttl: ttl.unwrap_or(DEFAULT_TTL), dns_names })
    }

    fn selector(&mut self, field: &str, selector: &LabelSelector) -> Selector {
        let labels = selector.match_labels.iter().flatten();
        let mut requirements: Vec<Requirement> = labels
            .map(|(key, value)| Requirement::In(key.as_str().into(), [Arc::from(value.as_str())].into()))
            .collect();
        for (i, expression) in selector.match_expressions.iter().flatten().enumerate() {
            let key: Arc<str> = expression.key.as_str().into();
            let values: BTreeSet<Arc<str>> =
                expression.values.iter().flatten().map(|value| value.as_str().into()).collect();
            let field = format!("{field}.matchExpressions[{i}]");
            match (expression.operator.as_str(), values.is_empty()) {
                ("In", false) => requirements.push(Requirement::In(key, values)),
                ("NotIn", false) => requirements.push(Requirement::NotIn(key, values)),
                ("Exists", true) => requirements.push(Requirement::Exists(key)),
                ("DoesNotExist", true) => requirements.push(Requirement::DoesNotExist(key)),
                ("In" | "NotIn", true) => self.error(field, "say with which `values`"),
                ("Exists" | "DoesNotExist", false) => self.error(field, "leave `values` out; the label alone counts"),
                (other, _) => {
                    self.error(field, format!("`{other}` is none of `In`, `NotIn`, `Exists` and `DoesNotExist`"));
                }
            }
        }
        Selector { requirements }
    }

    fn tokens(&mut self, tokens: Option<&spec::Tokens>) -> Tokens {
        let Some(tokens) = tokens else { return Tokens::default() };
        let signature = tokens.algorithm.map(|algorithm| match algorithm {
            spec::TokenAlgorithm::Rs256 => Signature::Rs256,
            spec::TokenAlgorithm::Es256 => Signature::Es256,
        });
        let ttl = tokens.ttl.as_deref().and_then(|text| {
            let ttl = duration(text).filter(|ttl| (SHORTEST_TOKEN..=LONGEST_TOKEN).contains(ttl));
            if ttl.is_none() {
                self.error("spec.tokens.ttl", format!("`{text}` is no time from 1m to 1h, such as `5m`"));
            }
            ttl
        });
        Tokens { signature, ttl }
    }

    fn ways(&mut self, ways: &[spec::Way]) -> Vec<Way> {
        let mut parsed = Vec::new();
        for (i, way) in ways.iter().enumerate() {
            let field = format!("spec.authentication[{i}]");
            match (&way.workload, &way.provider) {
                (Some(_), None) => parsed.push(Way::Workload),
                (None, Some(provider)) => {
                    self.provider(&format!("{field}.provider"), provider);
                    parsed.push(Way::Provider(provider.as_str().into()));
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

    fn operations(&mut self, operations: &[spec::Operation], uid: &str) -> Vec<Operation> {
        self.names("operations", operations.iter().map(|o| o.name.as_str()), MAX_OPERATIONS);
        let compiled: Vec<Operation> = operations
            .iter()
            .enumerate()
            .map(|(i, operation)| self.operation(&format!("spec.operations[{i}]"), operation, uid))
            .collect();
        if let Some((first, second, pattern)) = shadowed(&compiled) {
            let index = compiled.iter().position(|o| o.name == second).unwrap_or_default();
            let message = if first == second {
                format!("operation `{second}` matches `{pattern}` twice; leave one out")
            } else {
                format!("operations `{first}` and `{second}` both match `{pattern}`; a request is one operation")
            };
            self.error(format!("spec.operations[{index}]"), message);
        }
        compiled
    }

    fn operation(&mut self, field: &str, operation: &spec::Operation, uid: &str) -> Operation {
        if operation.http.is_empty() && operation.grpc.is_empty() && operation.kubernetes.is_empty() {
            self.error(field, "say which requests it is: `http`, `grpc` or `kubernetes`");
        }
        let mut matches = Vec::new();
        for (i, http) in operation.http.iter().enumerate() {
            self.http(&format!("{field}.http[{i}]"), http, &mut matches);
        }
        for (i, grpc) in operation.grpc.iter().enumerate() {
            self.grpc(&format!("{field}.grpc[{i}]"), grpc, &mut matches);
        }
        let mut kubernetes = Vec::new();
        for (i, api) in operation.kubernetes.iter().enumerate() {
            self.kubernetes(&format!("{field}.kubernetes[{i}]"), api, &mut kubernetes);
        }
        if matches.len().max(kubernetes.len()) > MAX_MATCHES {
            self.error(field, format!("it has more than {MAX_MATCHES} combinations of method and path, or of group, resource and verb; cut it in two"));
        }
        let scopes_field = format!("{field}.scopes");
        let mut scopes = self.scopes(&scopes_field, &operation.scopes);
        if operation.scopes.is_empty() && !operation.public {
            scopes.extend(Scope::parse(&operation.name));
        }
        scopes.sort();
        scopes.dedup();
        if scopes.len() > MAX_SCOPES {
            self.error(&scopes_field, format!("an operation can require at most {MAX_SCOPES} scopes"));
        }
        let risk = match operation.risk.unwrap_or_default() {
            spec::Risk::Low => Risk::Low,
            spec::Risk::Standard => Risk::Standard,
            spec::Risk::High => Risk::High,
        };
        if operation.public && !kubernetes.is_empty() {
            self.error(
                format!("{field}.public"),
                "leave requests to the Kubernetes API undeclared: those are not refused",
            );
        }
        let contradicts = !operation.scopes.is_empty()
            || risk == Risk::High
            || operation.step_up.is_some()
            || operation.approval.is_some();
        if operation.public && contradicts {
            self.error(format!("{field}.public"), "a public operation asks nobody for scopes, risk or step-up");
        }
        Operation {
            name: operation.name.as_str().into(),
            matches,
            kubernetes,
            scopes: scopes.into(),
            risk,
            max_age: self.max_age(&format!("{field}.stepUp"), operation.step_up.as_ref(), risk),
            approval: self.approval(&format!("{field}.approval"), operation.approval.as_ref(), risk, uid),
            public: operation.public,
        }
    }

    fn approval(
        &mut self,
        field: &str,
        rule: Option<&spec::ApprovalRule>,
        risk: Risk,
        uid: &str,
    ) -> Option<Arc<Approvers>> {
        let rule = rule?;
        if risk != Risk::High {
            self.error(field, "an approval is asked for at `risk: High` only; say so, or leave it out");
        }
        if rule.by.len() > MAX_APPROVERS {
            self.error(format!("{field}.by"), format!("at most {MAX_APPROVERS} are possible; use a group"));
        }
        let by = self.subjects(&format!("{field}.by"), &rule.by);
        for (i, subject) in by.iter().enumerate() {
            let person = match subject {
                Subject::Provider(provider) | Subject::Group { provider, .. } | Subject::Claims { provider, .. } => {
                    &**provider != KUBERNETES
                }
                Subject::Principal(id) => matches!(id, PrincipalId::User { .. }),
                _ => false,
            };
            if !person {
                let message = "people approve: name a `provider` of theirs, with or without `group` and `claims`, or a \
                               `principal` such as `user:corporate/alice`";
                self.error(format!("{field}.by[{i}]"), message);
            }
        }
        let lasts = rule.lasts.as_deref().map_or(Some(DEFAULT_APPROVAL), |text| {
            let lasts = duration(text).filter(|lasts| (SHORTEST_APPROVAL..=LONGEST_APPROVAL).contains(lasts));
            if lasts.is_none() {
                self.error(format!("{field}.for"), format!("`{text}` is no time from 1m to 24h, such as `30m`"));
            }
            lasts
        })?;
        Some(Arc::new(Approvers { by, lasts, policy_uid: uid.into() }))
    }

    fn max_age(&mut self, field: &str, step_up: Option<&spec::StepUp>, risk: Risk) -> TimeDelta {
        let Some(step_up) = step_up else { return DEFAULT_MAX_AGE };
        if risk != Risk::High {
            self.error(field, "a step-up is asked for at `risk: High` only; say so, or leave it out");
        }
        let Some(text) = &step_up.max_age else { return DEFAULT_MAX_AGE };
        match duration(text) {
            Some(age) if age > TimeDelta::zero() && age <= LONGEST_MAX_AGE => age,
            _ => {
                self.error(format!("{field}.maxAge"), format!("`{text}` is no time from 1s to 24h, such as `5m`"));
                DEFAULT_MAX_AGE
            }
        }
    }

    /// `None` in the result stands for any method.
    fn methods(&mut self, field: &str, methods: &[String], example: &str) -> Vec<Option<String>> {
        if methods.is_empty() {
            self.error(field, format!("say which, such as `[{example}]`; `[\"*\"]` means any"));
        }
        if methods.len() > 1 && methods.iter().any(|m| m == "*") {
            self.error(field, "`*` means any method, so it stands alone");
        }
        methods.iter().map(|method| (method != "*").then(|| method.clone())).collect()
    }

    fn http(&mut self, field: &str, http: &spec::HttpMatch, matches: &mut Vec<Match>) {
        let mut methods = Vec::new();
        for (i, method) in self.methods(&format!("{field}.methods"), &http.methods, "GET").into_iter().enumerate() {
            methods.push(match method {
                None => None,
                Some(text) => {
                    let message = format!("`{text}` is no method in upper case, such as `GET`");
                    let parsed = Method::parse(&text).map_err(|_| message);
                    let Some(method) = self.take(&format!("{field}.methods[{i}]"), parsed) else { continue };
                    Some(method)
                }
            });
        }
        if http.paths.is_empty() {
            self.error(format!("{field}.paths"), "say which, such as `[\"/orders\", \"/orders/{id}\"]`");
        }
        for (i, path) in http.paths.iter().enumerate() {
            let parsed = PathPattern::parse(path).map_err(|error| format!("`{path}` is no path pattern: {error}"));
            let Some(path) = self.take(&format!("{field}.paths[{i}]"), parsed) else { continue };
            matches.extend(methods.iter().map(|method| Match { method: method.clone(), path: path.clone() }));
        }
    }

    fn grpc(&mut self, field: &str, grpc: &spec::GrpcMatch, matches: &mut Vec<Match>) {
        for (i, method) in self.methods(&format!("{field}.methods"), &grpc.methods, "Get").into_iter().enumerate() {
            let parsed = PathPattern::grpc(&grpc.service, method.as_deref()).map_err(|_| {
                let method = method.as_deref().unwrap_or("*");
                format!(
                    "`{}/{method}` is no gRPC method; write the full service name, such as `shop.v1.Orders`",
                    grpc.service
                )
            });
            let Some(path) = self.take(&format!("{field}.methods[{i}]"), parsed) else { continue };
            matches.push(Match { method: Method::parse("POST").ok(), path });
        }
    }

    fn kubernetes(&mut self, field: &str, api: &spec::KubernetesMatch, patterns: &mut Vec<ApiPattern>) {
        for (list, given) in [("apiGroups", &api.api_groups), ("resources", &api.resources), ("verbs", &api.verbs)] {
            if given.is_empty() {
                self.error(format!("{field}.{list}"), "say which; `[\"*\"]` means any, and the core group is `\"\"`");
            } else if given.len() > 1 && given.iter().any(|text| text == "*") {
                self.error(format!("{field}.{list}"), "`*` means any, so it stands alone");
            }
        }
        let mut verbs = Vec::new();
        for (i, verb) in api.verbs.iter().enumerate() {
            if verb == "*" {
                verbs.push(None);
            } else {
                verbs.extend(self.take(&format!("{field}.verbs[{i}]"), verb.parse::<Verb>()).map(Some));
            }
        }
        patterns.extend(api_patterns(api, &verbs));
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
        key: &PolicyKey,
        grants: &[spec::Grant],
        roles: &BTreeMap<String, BTreeSet<Scope>>,
        relations: &Model,
    ) -> Vec<Grant> {
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
            compiled.push(Grant {
                rule: format!("{key}/grants/{}", grant.name).into(),
                to: self.subjects(&format!("{field}.to"), &grant.to),
                scopes,
                from_token: grant.from_token,
                when: self.condition(&format!("{field}.when"), grant.when.as_deref()),
                relation: self.relation(&format!("{field}.relation"), grant.relation.as_ref(), relations),
            });
        }
        compiled
    }

    fn relation(&mut self, field: &str, to: Option<&spec::RelationTo>, relations: &Model) -> Option<RelationTo> {
        let to = to?;
        let compiled = self.take(&format!("{field}.object"), RelationTo::new(&to.object, &to.relation))?;
        if let Some((field_of, message)) = relations::unknown(relations, compiled.kind(), &compiled.relation) {
            self.error(format!("{field}.{field_of}"), message);
        }
        Some(compiled)
    }

    fn denials(&mut self, key: &PolicyKey, denials: &[spec::Denial], mode: Mode) -> Vec<Denial> {
        self.names("denials", denials.iter().map(|d| d.name.as_str()), MAX_DENIALS);
        let mut compiled = Vec::new();
        for (i, denial) in denials.iter().enumerate() {
            let field = format!("spec.denials[{i}]");
            compiled.push(Denial {
                rule: format!("{key}/denials/{}", denial.name).into(),
                to: self.subjects(&format!("{field}.to"), &denial.to),
                when: self.condition(&format!("{field}.when"), denial.when.as_deref()),
                reason: denial.reason.as_deref().map(Into::into),
                mode,
            });
        }
        compiled
    }

    fn condition(&mut self, field: &str, source: Option<&str>) -> Option<Arc<Condition>> {
        self.take(field, Condition::compile(source?)).map(Arc::new)
    }

    fn subjects(&mut self, field: &str, subjects: &[spec::Subject]) -> Vec<Subject> {
        if subjects.is_empty() {
            self.error(field, "say who; an empty list is nobody. For everybody: `[{authenticated: true}]`");
        }
        if subjects.len() > MAX_SUBJECTS {
            self.error(field, format!("at most {MAX_SUBJECTS} are possible; use a group, or cut it in two"));
        }
        let mut compiled = Vec::new();
        for (i, subject) in subjects.iter().enumerate() {
            compiled.extend(self.subject(&format!("{field}[{i}]"), subject));
        }
        compiled
    }

    fn subject(&mut self, field: &str, subject: &spec::Subject) -> Option<Subject> {
        let given = [
            subject.service_account.is_some(),
            subject.namespace.is_some(),
            subject.namespace_selector.is_some(),
            subject.spiffe.is_some(),
            subject.principal.is_some(),
            subject.provider.is_some() || subject.group.is_some() || subject.claims.is_some(),
            subject.authenticated.is_some(),
        ];
        if given.into_iter().filter(|given| *given).count() != 1 {
            self.error(
                field,
                "say exactly one of `serviceAccount`, `namespace`, `namespaceSelector`, `spiffe`, `principal`, `provider` (with or without \
                 `group` and `claims`) and `authenticated`",
            );
            return None;
        }
        let trust_domain = || Arc::from(self.settings.trust_domain.as_str());
        match subject {
            spec::Subject { service_account: Some(account), .. } => {
                let id = PrincipalId::workload(&self.settings.trust_domain, &account.namespace, &account.name);
                self.take(&format!("{field}.serviceAccount"), id).map(Subject::Principal)
            }
            spec::Subject { namespace: Some(namespace), .. } => {
                let subject = Subject::Namespace { trust_domain: trust_domain(), namespace: namespace.as_str().into() };
                if !is_dns_label(namespace) {
                    self.error(format!("{field}.namespace"), format!("`{namespace}` is no name of a Namespace"));
                }
                Some(subject)
            }
            spec::Subject { namespace_selector: Some(labels), .. } => {
                let trust_domain = trust_domain();
                let field = format!("{field}.namespaceSelector");
                let labels = self.selector(&field, labels);
                if labels.requirements.is_empty() {
                    self.error(field, "say which labels; an empty selector would be every Namespace");
                }
                Some(Subject::Namespaces { trust_domain, labels })
            }
            spec::Subject { spiffe: Some(pattern), .. } => {
                self.take(&format!("{field}.spiffe"), pattern.parse()).map(Subject::Spiffe)
            }
            spec::Subject { principal: Some(id), .. } => {
                let field = format!("{field}.principal");
                let id = self.take(&field, id.parse::<PrincipalId>())?;
                if let PrincipalId::Spiffe { trust_domain, .. } = &id
                    && **trust_domain == self.settings.trust_domain
                {
                    self.error(
                        field,
                        format!("`{id}` is nobody: workloads here are called `/ns/NAMESPACE/sa/SERVICEACCOUNT`"),
                    );
                }
                Some(Subject::Principal(id))
            }
            spec::Subject { provider: Some(provider), group, claims, .. } => {
                self.provider(&format!("{field}.provider"), provider);
                let provider: Arc<str> = provider.as_str().into();
                let group: Option<Arc<str>> = group.as_deref().map(Into::into);
                match (group, claims) {
                    (group, Some(claims)) => {
                        if claims.is_empty() {
                            self.error(format!("{field}.claims"), "say which, or leave it out");
                        }
                        let claims = claims.iter().map(|(name, value)| (name.as_str().into(), value.as_str().into()));
                        Some(Subject::Claims { provider, group, claims: claims.collect() })
                    }
                    (Some(group), None) => Some(Subject::Group { provider, group }),
                    (None, None) => Some(Subject::Provider(provider)),
                }
            }
            spec::Subject { authenticated: Some(true), .. } => Some(Subject::Authenticated),
            spec::Subject { authenticated: Some(false), .. } => {
                self.error(format!("{field}.authenticated"), "only `true` means anything; leave it out");
                None
            }
            spec::Subject { group: Some(_), .. } => {
                self.error(format!("{field}.group"), "say whose group it is: `provider`");
                None
            }
            _ => {
                self.error(format!("{field}.claims"), "say whose claims these are: `provider`");
                None
            }
        }
    }
}
