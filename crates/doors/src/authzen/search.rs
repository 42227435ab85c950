//! Search (section 8): which subjects, resources or actions an evaluation would allow.
//!
//! A search covers the principals that tuples or rules name, the objects of tuples, and the operations that policies
//! declare. Each candidate is decided like an evaluation; a candidate subject has no properties.

use crate::authzen::evaluation::target_and_call;
use crate::authzen::messages::{
    EvaluatedAction, EvaluatedResource, EvaluatedSubject, MalformedRequest, SubjectProperties, parse, with_request_id,
};
use crate::doors::Doors;
use axum::Json;
use axum::body::Bytes;
use axum::extract::{Extension, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use durward_core::principal::{Principal, PrincipalId};
use durward_core::request::Request;
use durward_core::subject::SubjectMatcher;
use durward_runtime::peers::Peer;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

/// Most results of one page; a request can set a lower limit.
const MAX_RESULTS: usize = 100;
/// Most candidates that are decided for one page, which takes some milliseconds.
const MAX_DECIDED: usize = 2000;

#[derive(Debug, Deserialize)]
struct SearchRequest {
    subject: Option<SearchEntity>,
    action: Option<EvaluatedAction>,
    resource: Option<SearchEntity>,
    #[serde(default)]
    page: SearchPage,
}

/// A subject or resource. The one that is searched for has no id.
#[derive(Debug, Deserialize)]
struct SearchEntity {
    #[serde(rename = "type")]
    kind: String,
    id: Option<String>,
    #[serde(default)]
    properties: Map<String, Value>,
}

#[derive(Debug, Default, Deserialize)]
struct SearchPage {
    token: Option<String>,
    limit: Option<usize>,
}

pub(super) async fn subjects(
    State(doors): State<Doors>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    response(&headers, parse(&body).and_then(|search| find_subjects(&doors, &peer, search)))
}

pub(super) async fn resources(
    State(doors): State<Doors>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    response(&headers, parse(&body).and_then(|search| find_resources(&doors, &peer, search)))
}

pub(super) async fn actions(
    State(doors): State<Doors>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    response(&headers, parse(&body).and_then(|search| find_actions(&doors, &peer, search)))
}

fn response(headers: &HeaderMap, results: Result<Value, MalformedRequest>) -> Response {
    let response = results.map(|results| Json(results).into_response());
    with_request_id(headers, response.unwrap_or_else(IntoResponse::into_response))
}

fn missing(field: &str) -> MalformedRequest {
    MalformedRequest::missing(field)
}

fn find_subjects(doors: &Doors, peer: &Peer, search: SearchRequest) -> Result<Value, MalformedRequest> {
    let searched = search.subject.ok_or_else(|| missing("subject"))?;
    let action = search.action.ok_or_else(|| missing("action"))?;
    let resource = search.resource.ok_or_else(|| missing("resource"))?.resource()?;
    let snapshot = doors.engine.snapshot();
    let mut candidates = BTreeSet::new();
    if let Some(service) = snapshot.by_audience(&resource.kind) {
        candidates.extend(snapshot.tuples(service.key()).principals());
        let named = service.subjects().filter_map(|subject| match subject {
            SubjectMatcher::Principal(id) => Some(id.clone()),
            _ => None,
        });
        candidates.extend(named);
    }
    let candidates = candidates.into_iter().filter(|id| kind_of(id) == searched.kind).map(|id| id.to_string());
    page(&search.page, candidates.collect(), |id| {
        let subject = EvaluatedSubject {
            kind: searched.kind.clone(),
            id: id.to_owned(),
            properties: SubjectProperties::default(),
        };
        let principal = subject.principal(&doors.authenticator)?;
        let passes = would_pass(doors, peer, principal.as_ref(), &action, &resource)?;
        Ok(passes.then(|| json!({"type": searched.kind, "id": id})))
    })
}

fn find_resources(doors: &Doors, peer: &Peer, search: SearchRequest) -> Result<Value, MalformedRequest> {
    let principal = search.subject.ok_or_else(|| missing("subject"))?.principal(doors)?;
    let action = search.action.ok_or_else(|| missing("action"))?;
    let searched = search.resource.ok_or_else(|| missing("resource"))?;
    let snapshot = doors.engine.snapshot();
    let mut candidates = BTreeSet::new();
    if let Some(service) = snapshot.by_audience(&searched.kind) {
        let tuples = snapshot.tuples(service.key());
        let objects = service.object_types_captured_by("id").into_iter().flat_map(|kind| tuples.objects_of(kind));
        candidates.extend(objects.filter_map(|object| Some(object.split_once(':')?.1.to_owned())));
    }
    page(&search.page, candidates.into_iter().collect(), |id| {
        let resource = EvaluatedResource {
            kind: searched.kind.clone(),
            id: id.to_owned(),
            properties: searched.properties.clone(),
        };
        let passes = would_pass(doors, peer, principal.as_ref(), &action, &resource)?;
        Ok(passes.then(|| json!({"type": searched.kind, "id": id})))
    })
}

fn find_actions(doors: &Doors, peer: &Peer, search: SearchRequest) -> Result<Value, MalformedRequest> {
    let principal = search.subject.ok_or_else(|| missing("subject"))?.principal(doors)?;
    let resource = search.resource.ok_or_else(|| missing("resource"))?.resource()?;
    let snapshot = doors.engine.snapshot();
    let service = snapshot.by_audience(&resource.kind);
    let declared = service.into_iter().flat_map(|service| service.declared_operations());
    let candidates: BTreeSet<String> = declared.map(|(_, operation)| operation.to_string()).collect();
    page(&search.page, candidates.into_iter().collect(), |name| {
        let passes =
            would_pass(doors, peer, principal.as_ref(), &EvaluatedAction { name: name.to_owned() }, &resource)?;
        Ok(passes.then(|| json!({"name": name})))
    })
}

/// One page of results. The candidates are sorted; the token is the last one that was decided.
fn page(
    page: &SearchPage,
    candidates: Vec<String>,
    mut decide: impl FnMut(&str) -> Result<Option<Value>, MalformedRequest>,
) -> Result<Value, MalformedRequest> {
    let limit = page.limit.unwrap_or(MAX_RESULTS).clamp(1, MAX_RESULTS);
    let after = page.token.as_deref().filter(|token| !token.is_empty());
    let mut remaining = candidates.iter().filter(|candidate| after.is_none_or(|after| candidate.as_str() > after));
    let mut results = Vec::new();
    let mut last = "";
    for candidate in remaining.by_ref().take(MAX_DECIDED) {
        results.extend(decide(candidate)?);
        last = candidate;
        if results.len() == limit {
            break;
        }
    }
    let next = if remaining.next().is_some() { last } else { "" };
    Ok(json!({"results": results, "page": {"next_token": next}}))
}

fn would_pass(
    doors: &Doors,
    peer: &Peer,
    principal: Option<&Principal>,
    action: &EvaluatedAction,
    resource: &EvaluatedResource,
) -> Result<bool, MalformedRequest> {
    let (target, call) = target_and_call(action, resource)?;
    let request = Request { target, call, source: Some(peer.address.ip()), evidence: &() };
    Ok(doors.engine.would_pass(&request, principal))
}

impl SearchEntity {
    fn principal(self, doors: &Doors) -> Result<Option<Principal>, MalformedRequest> {
        let properties = serde_json::from_value(Value::Object(self.properties));
        let properties = properties.map_err(|error| MalformedRequest(format!("`subject.properties`: {error}")))?;
        let subject =
            EvaluatedSubject { kind: self.kind, id: self.id.ok_or_else(|| missing("subject.id"))?, properties };
        subject.principal(&doors.authenticator)
    }

    fn resource(self) -> Result<EvaluatedResource, MalformedRequest> {
        let id = self.id.ok_or_else(|| missing("resource.id"))?;
        Ok(EvaluatedResource { kind: self.kind, id, properties: self.properties })
    }
}

/// The `type` of a subject in searches.
const fn kind_of(id: &PrincipalId) -> &'static str {
    match id {
        PrincipalId::User { .. } => "user",
        PrincipalId::Key { .. } => "key",
        PrincipalId::Kube { .. } => "kube",
        PrincipalId::Workload { .. } | PrincipalId::Spiffe { .. } => "workload",
    }
}
