//! The test cases of a file.

use chrono::{DateTime, Utc};
use durward_api::compile::compile_relationship;
use durward_api::resources::{Relationship, RelationshipSpec, StatedTuple};
use durward_core::decision::Reason;
use durward_core::evidence::StatedEvidence;
use durward_core::kubernetes::{ApiCall, Verb};
use durward_core::path::Captures;
use durward_core::principal::{Identity, PrincipalId};
use durward_core::relations::RelationTuple;
use durward_core::request::{Call, Request, ServiceTarget};
use durward_core::risk::Assurance;
use durward_core::scope::Scope;
use durward_manifests::location::locate;
use durward_manifests::manifest::{DocumentLocation, ManifestProblem, documents, read_as};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use thiserror::Error;

/// An API group of its own: no cluster has such resources, and readers of manifests skip them.
const API_VERSION: &str = "test.durward.dev/v1alpha1";
const KIND: &str = "AccessPolicyTest";

/// A document of kind AccessPolicyTest.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct TestDocument {
    #[serde(rename = "apiVersion")]
    _api_version: String,
    #[serde(rename = "kind")]
    _kind: String,
    #[serde(default)]
    metadata: TestMetadata,
    /// Callers by name, for use in the cases.
    #[serde(default)]
    principals: BTreeMap<String, StatedCaller>,
    /// Tuples of all cases, in addition to those of the directory.
    #[serde(default)]
    relationships: Vec<StatedTuple>,
    cases: Vec<StatedCase>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct TestMetadata {
    #[serde(default)]
    name: String,
}

/// A case as it is written.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct StatedCase {
    name: String,
    /// A name of `principals`, or an id. Without this and `principal`, the caller has no credential.
    r#as: Option<String>,
    principal: Option<StatedCaller>,
    request: TestRequest,
    /// Additional tuples of this case.
    #[serde(default)]
    relationships: Vec<StatedTuple>,
    /// Time of the decision.
    at: Option<DateTime<Utc>>,
    expect: ExpectedDecision,
}

/// A caller.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct StatedCaller {
    id: PrincipalId,
    #[serde(default)]
    groups: BTreeSet<String>,
    #[serde(default)]
    attributes: Map<String, Value>,
    /// Scopes of the token.
    scopes: Option<BTreeSet<Scope>>,
    /// The IdentityProvider that vouches for a workload of another trust domain.
    federation: Option<String>,
    /// Default: `SharedSecret` for keys, `Bearer` for other callers.
    assurance: Option<Assurance>,
    authenticated_at: Option<DateTime<Utc>>,
}

impl StatedCaller {
    fn identity(self) -> Identity {
        let assurance = self.assurance.unwrap_or(default_assurance(&self.id));
        Identity {
            federation: self.federation.as_deref().map(Into::into),
            groups: self.groups,
            attributes: self.attributes,
            scopes: self.scopes,
            authenticated_at: self.authenticated_at,
            ..Identity::new(self.id, assurance)
        }
    }
}

/// The least assurance of callers of this kind.
const fn default_assurance(id: &PrincipalId) -> Assurance {
    match id {
        PrincipalId::Key { .. } => Assurance::SharedSecret,
        _ => Assurance::Bearer,
    }
}

/// A request: method, host and path, or an operation or a Kubernetes API request of an audience.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct TestRequest {
    host: Option<String>,
    audience: Option<String>,
    method: Option<String>,
    path: Option<String>,
    operation: Option<String>,
    #[serde(default)]
    captures: Captures,
    source: Option<IpAddr>,
    kubernetes: Option<StatedKubernetesCall>,
    /// `type`, `id` and `properties` of the resource of an AuthZEN request.
    resource: Option<Map<String, Value>>,
    /// Headers. For an operation by name, omitted headers are unknown.
    headers: Option<BTreeMap<String, String>>,
}

/// A request to the Kubernetes API, in the namespace of the audience's policies.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct StatedKubernetesCall {
    verb: Verb,
    #[serde(default)]
    group: String,
    resource: String,
    #[serde(default)]
    subresource: String,
    #[serde(default)]
    name: String,
    /// The new object, for admission. Without `object` and `oldObject`, the objects are unknown, as before admission.
    object: Option<Value>,
    /// The old object, for admission.
    old_object: Option<Value>,
}

impl StatedKubernetesCall {
    fn objects(&self) -> Option<Map<String, Value>> {
        let both = [("object", &self.object), ("oldObject", &self.old_object)];
        let stated = both.into_iter().filter_map(|(name, object)| Some((name.to_owned(), object.clone()?)));
        Some(stated.collect()).filter(|objects: &Map<String, Value>| !objects.is_empty())
    }
}

/// A request that names no single target, or no single call.
#[derive(Debug, Error)]
pub(super) enum RequestShapeError {
    #[error("write exactly one of `host` and `audience`")]
    Target,
    #[error("write `method` and `path`, or `operation` with optional `captures`, or `kubernetes`")]
    Call,
}

impl TestRequest {
    /// The evidence of the request.
    pub(super) fn evidence(&self) -> StatedEvidence {
        let headers = self.headers.clone().or_else(|| self.method.as_ref().map(|_| BTreeMap::new()));
        let objects = self.kubernetes.as_ref().and_then(StatedKubernetesCall::objects);
        StatedEvidence {
            headers: headers.map(|headers| headers.into_iter().collect()),
            objects,
            resource: self.resource.clone(),
        }
    }

    /// The request.
    pub(super) fn request<'a>(&'a self, evidence: &'a StatedEvidence) -> Result<Request<'a>, RequestShapeError> {
        let target = match (&self.host, &self.audience) {
            (Some(host), None) => ServiceTarget::Host(host),
            (None, Some(audience)) => ServiceTarget::Audience(audience),
            _ => return Err(RequestShapeError::Target),
        };
        let call = match (&self.method, &self.path, &self.operation, &self.kubernetes) {
            (Some(method), Some(path), None, None) if self.captures.is_empty() => Call::Http { method, path },
            (None, None, Some(operation), None) => Call::Named { operation, captures: self.captures.clone() },
            (None, None, None, Some(api)) if self.captures.is_empty() => {
                let StatedKubernetesCall { verb, group, resource, subresource, name, .. } = api;
                Call::Kubernetes(ApiCall { group, resource, subresource, verb: *verb, name })
            }
            _ => return Err(RequestShapeError::Call),
        };
        Ok(Request { target, call, source: self.source, evidence })
    }
}

/// The expected decision. Omitted fields are not compared.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct ExpectedDecision {
    pub(super) verdict: ExpectedVerdict,
    pub(super) reason: Option<Reason>,
    pub(super) operation: Option<String>,
    /// A rule that led to the decision: its name, or `NAMESPACE/POLICY/grants/NAME`.
    pub(super) rule: Option<String>,
    pub(super) missing: Option<BTreeSet<Scope>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum ExpectedVerdict {
    Allow,
    Deny,
}

/// A case that can be run.
#[derive(Debug, Clone)]
pub(super) struct TestCase {
    pub(super) suite: String,
    pub(super) name: String,
    pub(super) file: Arc<str>,
    pub(super) line: usize,
    pub(super) identity: Option<Identity>,
    pub(super) request: TestRequest,
    /// Additional tuples of the requested service.
    pub(super) tuples: Vec<RelationTuple>,
    pub(super) at: Option<DateTime<Utc>>,
    pub(super) expected: ExpectedDecision,
}

/// Reads the cases of one file.
pub(super) fn read(file: &str, text: &str) -> (Vec<TestCase>, Vec<ManifestProblem>) {
    let file: Arc<str> = file.into();
    let mut cases = Vec::new();
    let mut problems = Vec::new();
    for (line, text) in documents(text) {
        let location = DocumentLocation { file: Arc::clone(&file), line, item: None };
        match read_as::<TestDocument>(location.clone(), text, API_VERSION, KIND) {
            Ok(Some(document)) => {
                for case in document.cases(&location, text) {
                    match case {
                        Ok(case) => cases.push(case),
                        Err(problem) => problems.push(problem),
                    }
                }
            }
            Ok(None) => {}
            Err(problem) => problems.push(*problem),
        }
    }
    (cases, problems)
}

impl TestDocument {
    fn cases(self, location: &DocumentLocation, text: &str) -> Vec<Result<TestCase, ManifestProblem>> {
        let Self { metadata, principals, relationships, cases, .. } = self;
        let suite = if metadata.name.is_empty() { location.file.to_string() } else { metadata.name };
        let problem = |field: String, message: String| {
            let (line, column) = locate(text, &field).unwrap_or((1, 1));
            let line = location.line + line - 1;
            ManifestProblem {
                file: Arc::clone(&location.file),
                line,
                column,
                field: Some(field),
                message,
                policy: None,
            }
        };
        let known = || principals.keys().cloned().collect::<Vec<_>>().join(", ");
        let shared = match tuples(relationships, "relationships", &problem) {
            Ok(tuples) => tuples,
            Err(problem) => return vec![Err(problem)],
        };
        let test_case = |(i, case): (usize, StatedCase)| {
            let field = format!("cases[{i}]");
            let own = tuples(case.relationships, &format!("{field}.relationships"), &problem)?;
            let identity = match (case.r#as, case.principal) {
                (None, caller) => caller.map(StatedCaller::identity),
                (Some(name), None) => Some(match (principals.get(&name), name.parse::<PrincipalId>()) {
                    (Some(caller), _) => caller.clone().identity(),
                    (None, Ok(id)) => Identity::new(id.clone(), default_assurance(&id)),
                    (None, Err(error)) => {
                        let message = format!("`principals` has no `{name}` (it has {}), and {error}", known());
                        return Err(problem(format!("{field}.as"), message));
                    }
                }),
                (Some(_), Some(_)) => {
                    return Err(problem(format!("{field}.as"), "write only one of `as` and `principal`".to_owned()));
                }
            };
            case.request
                .request(&StatedEvidence::default())
                .map_err(|error| problem(format!("{field}.request"), error.to_string()))?;
            Ok(TestCase {
                suite: suite.clone(),
                name: case.name,
                file: Arc::clone(&location.file),
                line: locate(text, &field).map_or(location.line, |(line, _)| location.line + line - 1),
                identity,
                request: case.request,
                tuples: shared.iter().cloned().chain(own).collect(),
                at: case.at,
                expected: case.expect,
            })
        };
        cases.into_iter().enumerate().map(test_case).collect()
    }
}

/// Compiles the tuples of a case; the error is that of the first invalid one.
fn tuples(
    stated: Vec<StatedTuple>,
    field: &str,
    problem: &dyn Fn(String, String) -> ManifestProblem,
) -> Result<Vec<RelationTuple>, ManifestProblem> {
    let spec = RelationshipSpec { service: "tested".to_owned(), tuples: stated };
    compile_relationship(&Relationship::new("tested", spec)).map(|related| related.tuples).map_err(|errors| {
        let (at, message) = errors.into_iter().next().map(|error| (error.field, error.message)).unwrap_or_default();
        problem(at.replace("spec.tuples", field), message)
    })
}
