//! Test cases as people write them beside their policies.

use chrono::{DateTime, Utc};
use durward_api::compile::compile_relationship;
use durward_api::resources::{Relationship, RelationshipSpec, StatedTuple as Stated};
use durward_core::decision::Reason;
use durward_core::evidence::StatedEvidence;
use durward_core::kubernetes::{ApiCall, Verb};
use durward_core::path::Captures;
use durward_core::principal::{Identity, PrincipalId};
use durward_core::relations::RelationTuple;
use durward_core::request::{Call, Request, ServiceTarget};
use durward_core::risk::Assurance;
use durward_core::scope::Scope;
use durward_manifests::manifest::{Place, Problem, documents, read_as};
use durward_manifests::place::locate;
use serde::Deserialize;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

/// A group of its own: no cluster has such resources, and whatever reads manifests passes them over.
const API_VERSION: &str = "test.durward.dev/v1alpha1";
const KIND: &str = "AccessPolicyTest";

/// One document of cases.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Document {
    #[serde(rename = "apiVersion")]
    _api_version: String,
    #[serde(rename = "kind")]
    _kind: String,
    #[serde(default)]
    metadata: Metadata,
    /// Callers by name, for the cases.
    #[serde(default)]
    principals: BTreeMap<String, Caller>,
    /// Tuples that hold in all cases, beside those of the directory.
    #[serde(default)]
    relationships: Vec<Stated>,
    cases: Vec<Case>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Metadata {
    #[serde(default)]
    name: String,
}

/// One case.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Case {
    name: String,
    /// A name of `principals`, or an id of whom nothing else is known. Nobody asks without this and `principal`.
    r#as: Option<String>,
    principal: Option<Caller>,
    request: Asked,
    /// Tuples that hold in this case alone.
    #[serde(default)]
    relationships: Vec<Stated>,
    /// Time of the decision.
    at: Option<DateTime<Utc>>,
    expect: Expected,
}

/// Who asks.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Caller {
    id: PrincipalId,
    #[serde(default)]
    groups: BTreeSet<String>,
    #[serde(default)]
    attributes: Map<String, Value>,
    /// Scopes that the token itself carries.
    scopes: Option<BTreeSet<Scope>>,
    /// The IdentityProvider that vouches for a workload of another trust domain.
    federation: Option<String>,
    /// `SharedSecret` for keys and `Bearer` for all others if left out.
    assurance: Option<Assurance>,
    authenticated_at: Option<DateTime<Utc>>,
}

impl Caller {
    fn identity(self) -> Identity {
        let usual =
            if matches!(self.id, PrincipalId::Key { .. }) { Assurance::SharedSecret } else { Assurance::Bearer };
        Identity {
            federation: self.federation.as_deref().map(Into::into),
            groups: self.groups,
            attributes: self.attributes,
            scopes: self.scopes,
            authenticated_at: self.authenticated_at,
            ..Identity::new(self.id, self.assurance.unwrap_or(usual))
        }
    }
}

/// How callers of this kind prove themselves at least.
const fn usual(id: &PrincipalId) -> Assurance {
    match id {
        PrincipalId::Key { .. } => Assurance::SharedSecret,
        _ => Assurance::Bearer,
    }
}

/// What is asked: method, host and path, or an operation or a request to the Kubernetes API of an audience.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Asked {
    host: Option<String>,
    audience: Option<String>,
    method: Option<String>,
    path: Option<String>,
    operation: Option<String>,
    #[serde(default)]
    captures: Captures,
    source: Option<IpAddr>,
    kubernetes: Option<Api>,
    /// `type`, `id` and `properties` of the resource that an AuthZEN request is about.
    resource: Option<Map<String, Value>>,
    /// Headers; of an operation by its name they are unknown where none are said.
    headers: Option<BTreeMap<String, String>>,
}

/// A request to the Kubernetes API, in the namespace of the audience's policies.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Api {
    verb: Verb,
    #[serde(default)]
    group: String,
    resource: String,
    #[serde(default)]
    subresource: String,
    #[serde(default)]
    name: String,
    /// The object as it is to be, and as it was. Without either nobody knows them, as before admission.
    object: Option<Value>,
    old_object: Option<Value>,
}

impl Api {
    fn objects(&self) -> Option<Map<String, Value>> {
        let both = [("object", &self.object), ("oldObject", &self.old_object)];
        let there = both.into_iter().filter_map(|(name, object)| Some((name.to_owned(), object.clone()?)));
        Some(there.collect()).filter(|objects: &Map<String, Value>| !objects.is_empty())
    }
}

impl Asked {
    /// What the request shows.
    pub(super) fn evidence(&self) -> StatedEvidence {
        let headers = self.headers.clone().or_else(|| self.method.as_ref().map(|_| BTreeMap::new()));
        let objects = self.kubernetes.as_ref().and_then(Api::objects);
        StatedEvidence {
            headers: headers.map(|headers| headers.into_iter().collect()),
            objects,
            resource: self.resource.clone(),
        }
    }

    /// The request.
    pub(super) fn request<'a>(&'a self, evidence: &'a StatedEvidence) -> Result<Request<'a>, &'static str> {
        let target = match (&self.host, &self.audience) {
            (Some(host), None) => ServiceTarget::Host(host),
            (None, Some(audience)) => ServiceTarget::Audience(audience),
            _ => return Err("say exactly one of `host` and `audience`"),
        };
        let call = match (&self.method, &self.path, &self.operation, &self.kubernetes) {
            (Some(method), Some(path), None, None) if self.captures.is_empty() => Call::Http { method, path },
            (None, None, Some(operation), None) => Call::Named { operation, captures: self.captures.clone() },
            (None, None, None, Some(api)) if self.captures.is_empty() => {
                let Api { verb, group, resource, subresource, name, .. } = api;
                Call::Kubernetes(ApiCall { group, resource, subresource, verb: *verb, name })
            }
            _ => {
                return Err(
                    "say either `method` and `path`, or `operation`, to which `captures` can be given, or `kubernetes`",
                );
            }
        };
        Ok(Request { target, call, source: self.source, evidence })
    }
}

/// What is expected; what is left out is not looked at.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Expected {
    pub(super) verdict: Verdict,
    pub(super) reason: Option<Reason>,
    pub(super) operation: Option<String>,
    /// A rule that carried the decision: its name, or all of `NAMESPACE/POLICY/grants/NAME`.
    pub(super) rule: Option<String>,
    pub(super) missing: Option<BTreeSet<Scope>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Verdict {
    Allow,
    Deny,
}

/// A case that can be tried.
#[derive(Debug, Clone)]
pub(super) struct Trial {
    pub(super) suite: String,
    pub(super) name: String,
    pub(super) file: Arc<str>,
    pub(super) line: usize,
    pub(super) identity: Option<Identity>,
    pub(super) asked: Asked,
    /// Tuples about the service that is asked.
    pub(super) tuples: Vec<RelationTuple>,
    pub(super) at: Option<DateTime<Utc>>,
    pub(super) expected: Expected,
}

/// Reads the cases of one file.
pub(super) fn read(file: &str, text: &str) -> (Vec<Trial>, Vec<Problem>) {
    let (file, mut trials, mut problems): (Arc<str>, _, _) = (file.into(), Vec::new(), Vec::new());
    for (line, text) in documents(text) {
        let place = Place { file: Arc::clone(&file), line };
        match read_as::<Document>(place.clone(), text, API_VERSION, KIND) {
            Ok(Some(document)) => {
                for trial in document.trials(&place, text) {
                    match trial {
                        Ok(trial) => trials.push(trial),
                        Err(problem) => problems.push(problem),
                    }
                }
            }
            Ok(None) => {}
            Err(problem) => problems.push(*problem),
        }
    }
    (trials, problems)
}

impl Document {
    fn trials(self, place: &Place, text: &str) -> Vec<Result<Trial, Problem>> {
        let Self { metadata, principals, relationships, cases, .. } = self;
        let suite = if metadata.name.is_empty() { place.file.to_string() } else { metadata.name };
        let problem = |field: String, message: String| {
            let (line, column) = locate(text, &field).unwrap_or((1, 1));
            let line = place.line + line - 1;
            Problem { file: Arc::clone(&place.file), line, column, field: Some(field), message, policy: None }
        };
        let known = || principals.keys().cloned().collect::<Vec<_>>().join(", ");
        let shared = match tuples(relationships, "relationships", &problem) {
            Ok(tuples) => tuples,
            Err(problem) => return vec![Err(problem)],
        };
        let trial = |(i, case): (usize, Case)| {
            let field = format!("cases[{i}]");
            let own = tuples(case.relationships, &format!("{field}.relationships"), &problem)?;
            let identity = match (case.r#as, case.principal) {
                (None, caller) => caller.map(Caller::identity),
                (Some(name), None) => Some(match (principals.get(&name), name.parse::<PrincipalId>()) {
                    (Some(caller), _) => caller.clone().identity(),
                    (None, Ok(id)) => Identity::new(id.clone(), usual(&id)),
                    (None, Err(error)) => {
                        let message = format!("`principals` has no `{name}` (it has {}), and {error}", known());
                        return Err(problem(format!("{field}.as"), message));
                    }
                }),
                (Some(_), Some(_)) => {
                    return Err(problem(format!("{field}.as"), "say only one of `as` and `principal`".to_owned()));
                }
            };
            case.request
                .request(&StatedEvidence::default())
                .map_err(|why| problem(format!("{field}.request"), why.to_owned()))?;
            Ok(Trial {
                suite: suite.clone(),
                name: case.name,
                file: Arc::clone(&place.file),
                line: locate(text, &field).map_or(place.line, |(line, _)| place.line + line - 1),
                identity,
                asked: case.request,
                tuples: shared.iter().cloned().chain(own).collect(),
                at: case.at,
                expected: case.expect,
            })
        };
        cases.into_iter().enumerate().map(trial).collect()
    }
}

/// The tuples of a case, or what is wrong with the first that is none.
fn tuples(
    stated: Vec<Stated>,
    field: &str,
    problem: &dyn Fn(String, String) -> Problem,
) -> Result<Vec<RelationTuple>, Problem> {
    let spec = RelationshipSpec { service: "tested".to_owned(), tuples: stated };
    compile_relationship(&Relationship::new("tested", spec)).map(|related| related.tuples).map_err(|errors| {
        let (at, message) = errors.into_iter().next().map(|error| (error.field, error.message)).unwrap_or_default();
        problem(at.replace("spec.tuples", field), message)
    })
}
