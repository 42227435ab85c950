//! Operations, and the requests that match them.

use super::{Compiler, duration};
use crate::resources as spec;
use chrono::TimeDelta;
use durward_core::approval::ApprovalRequirement;
use durward_core::kubernetes::{ApiPattern, Verb};
use durward_core::path::{HttpPattern, Method, PathPattern};
use durward_core::policy::{CompiledGrant, CompiledOperation, MAX_SCOPES};
use durward_core::principal::{KUBERNETES, PrincipalId};
use durward_core::risk::RiskLevel;
use durward_core::scope::Scope;
use durward_core::service::shadowed;
use durward_core::subject::SubjectMatcher;
use std::sync::Arc;

/// Maximum age of a second factor by default.
const DEFAULT_MAX_AGE: TimeDelta = TimeDelta::minutes(5);
/// Largest maximum age of a second factor that a policy can set.
const LONGEST_MAX_AGE: TimeDelta = TimeDelta::hours(24);
/// Lifetime of an approval: the default, and its bounds.
const DEFAULT_APPROVAL: TimeDelta = TimeDelta::minutes(30);
const SHORTEST_APPROVAL: TimeDelta = TimeDelta::minutes(1);
const LONGEST_APPROVAL: TimeDelta = TimeDelta::hours(24);
const MAX_APPROVERS: usize = 8;
const MAX_OPERATIONS: usize = 512;
const MAX_MATCHES: usize = 64;

/// Every combination of the groups and resources with these verbs.
pub(crate) fn api_patterns(api: &spec::KubernetesRequestMatch, verbs: &[Option<Verb>]) -> Vec<ApiPattern> {
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

impl Compiler<'_> {
    pub(super) fn operations(&mut self, operations: &[spec::Operation], uid: &str) -> Vec<CompiledOperation> {
        self.names("operations", operations.iter().map(|o| o.name.as_str()), MAX_OPERATIONS);
        let compiled: Vec<CompiledOperation> = operations
            .iter()
            .enumerate()
            .map(|(i, operation)| self.operation(&format!("spec.operations[{i}]"), operation, uid))
            .collect();
        if let Some((first, second, pattern)) = shadowed(&compiled) {
            let index = compiled.iter().position(|o| o.name == second).unwrap_or_default();
            let message = if first == second {
                format!("operation `{second}` matches `{pattern}` twice; remove one")
            } else {
                format!(
                    "operations `{first}` and `{second}` both match `{pattern}`; a request must match one operation only"
                )
            };
            self.error(format!("spec.operations[{index}]"), message);
        }
        compiled
    }

    fn operation(&mut self, field: &str, operation: &spec::Operation, uid: &str) -> CompiledOperation {
        if operation.http.is_empty() && operation.grpc.is_empty() && operation.kubernetes.is_empty() {
            self.error(field, "the operation matches no requests: set `http`, `grpc` or `kubernetes`");
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
            let message = format!(
                "more than {MAX_MATCHES} combinations of method and path, or of group, resource and verb: split the operation"
            );
            self.error(field, message);
        }
        let scopes_field = format!("{field}.scopes");
        let mut scopes = self.scopes(&scopes_field, &operation.scopes);
        if operation.scopes.is_empty() && !operation.public {
            scopes.extend(Scope::parse(&operation.name));
        }
        scopes.sort_unstable();
        scopes.dedup();
        if scopes.len() > MAX_SCOPES {
            self.error(&scopes_field, format!("an operation can require at most {MAX_SCOPES} scopes"));
        }
        let risk = match operation.risk.unwrap_or_default() {
            spec::Risk::Low => RiskLevel::Low,
            spec::Risk::Standard => RiskLevel::Standard,
            spec::Risk::High => RiskLevel::High,
        };
        if operation.public && !kubernetes.is_empty() {
            self.error(
                format!("{field}.public"),
                "remove the operation instead: requests to the Kubernetes API that no operation matches are not refused",
            );
        }
        let contradicts = !operation.scopes.is_empty()
            || risk == RiskLevel::High
            || operation.step_up.is_some()
            || operation.approval.is_some();
        if operation.public && contradicts {
            self.error(
                format!("{field}.public"),
                "a public operation can't require scopes, high risk, step-up or approval",
            );
        }
        matches.shrink_to_fit();
        kubernetes.shrink_to_fit();
        CompiledOperation {
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
        risk: RiskLevel,
        uid: &str,
    ) -> Option<Arc<ApprovalRequirement>> {
        let rule = rule?;
        if risk != RiskLevel::High {
            self.error(field, "an approval needs `risk: High`: set it, or remove `approval`");
        }
        if rule.by.len() > MAX_APPROVERS {
            self.error(format!("{field}.by"), format!("at most {MAX_APPROVERS} are allowed: use a group"));
        }
        let by = self.subjects(&format!("{field}.by"), &rule.by);
        for (i, subject) in by.iter().enumerate() {
            let person = match subject {
                SubjectMatcher::Provider(provider)
                | SubjectMatcher::Group { provider, .. }
                | SubjectMatcher::Claims { provider, .. } => &**provider != KUBERNETES,
                SubjectMatcher::Principal(id) => matches!(id, PrincipalId::User { .. }),
                _ => false,
            };
            if !person {
                let message = "approvers are people: set a `provider`, with or without `group` and `claims`, or a \
                               `principal` such as `user:corporate/alice`";
                self.error(format!("{field}.by[{i}]"), message);
            }
        }
        let lasts = rule.lasts.as_deref().map_or(Some(DEFAULT_APPROVAL), |text| {
            let lasts = duration(text).filter(|lasts| (SHORTEST_APPROVAL..=LONGEST_APPROVAL).contains(lasts));
            if lasts.is_none() {
                self.error(format!("{field}.for"), format!("`{text}` is not a duration from 1m to 24h, such as `30m`"));
            }
            lasts
        })?;
        Some(Arc::new(ApprovalRequirement { approvers: by, valid_for: lasts, policy_uid: uid.into() }))
    }

    /// Finds approvals that no caller can use: a service account comes to the API server with a bearer token, which never
    /// suffices for high risk, so it never gets as far as an approval.
    pub(super) fn unusable_approvals(&mut self, operations: &[CompiledOperation], grants: &[CompiledGrant]) {
        let is_workload = |subject: &SubjectMatcher| match subject {
            SubjectMatcher::Principal(id) => id.is_workload(),
            SubjectMatcher::Namespace { .. } | SubjectMatcher::Namespaces { .. } | SubjectMatcher::Spiffe(_) => true,
            SubjectMatcher::Authenticated
            | SubjectMatcher::Provider(_)
            | SubjectMatcher::Group { .. }
            | SubjectMatcher::Claims { .. } => false,
        };
        for (index, operation) in operations.iter().enumerate() {
            let at_api_server = !operation.kubernetes.is_empty() && operation.matches.is_empty();
            if operation.approval.is_none() || !at_api_server {
                continue;
            }
            let mut giving = grants
                .iter()
                .filter(|grant| grant.scopes.iter().any(|scope| operation.scopes.contains(scope)))
                .flat_map(|grant| grant.to.iter())
                .peekable();
            if giving.peek().is_some() && giving.all(is_workload) {
                let message = "no caller can use the approval: the grants name service accounts alone, whose tokens never \
                               suffice for `risk: High` at the API server; grant the scope to people, or lower the \
                               risk and remove `approval`";
                self.error(format!("spec.operations[{index}].approval"), message);
            }
        }
    }

    fn max_age(&mut self, field: &str, step_up: Option<&spec::StepUpRule>, risk: RiskLevel) -> TimeDelta {
        let Some(step_up) = step_up else { return DEFAULT_MAX_AGE };
        if risk != RiskLevel::High {
            self.error(field, "a step-up needs `risk: High`: set it, or remove `stepUp`");
        }
        let Some(text) = &step_up.max_age else { return DEFAULT_MAX_AGE };
        match duration(text) {
            Some(age) if age > TimeDelta::zero() && age <= LONGEST_MAX_AGE => age,
            _ => {
                self.error(
                    format!("{field}.maxAge"),
                    format!("`{text}` is not a duration from 1s to 24h, such as `5m`"),
                );
                DEFAULT_MAX_AGE
            }
        }
    }

    /// Methods; `None` stands for any method.
    fn methods(&mut self, field: &str, methods: &[String], example: &str) -> Vec<Option<String>> {
        if methods.is_empty() {
            self.error(field, format!("list at least one, such as `[{example}]`; `[\"*\"]` means any"));
        }
        if methods.len() > 1 && methods.iter().any(|m| m == "*") {
            self.error(field, "`*` means any method: remove the others");
        }
        methods.iter().map(|method| (method != "*").then(|| method.clone())).collect()
    }

    fn http(&mut self, field: &str, http: &spec::HttpRequestMatch, matches: &mut Vec<HttpPattern>) {
        let mut methods = Vec::new();
        for (i, method) in self.methods(&format!("{field}.methods"), &http.methods, "GET").into_iter().enumerate() {
            methods.push(match method {
                None => None,
                Some(text) => {
                    let message = format!("`{text}` is not a method in upper case, such as `GET`");
                    let parsed = Method::parse(&text).map_err(|_| message);
                    let Some(method) = self.take(&format!("{field}.methods[{i}]"), parsed) else { continue };
                    Some(method)
                }
            });
        }
        if http.paths.is_empty() {
            self.error(format!("{field}.paths"), "list at least one, such as `[\"/orders\", \"/orders/{id}\"]`");
        }
        for (i, path) in http.paths.iter().enumerate() {
            let parsed =
                PathPattern::parse(path).map_err(|error| format!("`{path}` is not a valid path pattern: {error}"));
            let Some(path) = self.take(&format!("{field}.paths[{i}]"), parsed) else { continue };
            matches.extend(methods.iter().map(|method| HttpPattern { method: method.clone(), path: path.clone() }));
        }
    }

    fn grpc(&mut self, field: &str, grpc: &spec::GrpcCallMatch, matches: &mut Vec<HttpPattern>) {
        for (i, method) in self.methods(&format!("{field}.methods"), &grpc.methods, "Get").into_iter().enumerate() {
            let parsed = PathPattern::grpc(&grpc.service, method.as_deref()).map_err(|_| {
                let method = method.as_deref().unwrap_or("*");
                format!(
                    "`{}/{method}` is not a gRPC method: write the full service name, such as `shop.v1.Orders`",
                    grpc.service
                )
            });
            let Some(path) = self.take(&format!("{field}.methods[{i}]"), parsed) else { continue };
            matches.push(HttpPattern { method: Method::parse("POST").ok(), path });
        }
    }

    fn kubernetes(&mut self, field: &str, api: &spec::KubernetesRequestMatch, patterns: &mut Vec<ApiPattern>) {
        for (list, values) in [("apiGroups", &api.api_groups), ("resources", &api.resources), ("verbs", &api.verbs)] {
            if values.is_empty() {
                self.error(
                    format!("{field}.{list}"),
                    "list at least one; `[\"*\"]` means any, and the core group is `\"\"`",
                );
            } else if values.len() > 1 && values.iter().any(|text| text == "*") {
                self.error(format!("{field}.{list}"), "`*` means any: remove the others");
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
}
