//! AuthZEN Authorization API 1.0: enforcement points ask about subjects that they have authenticated themselves.
//!
//! `resource.type` is the audience of the service and `action.name` the name of its operation; what a path would
//! capture stands in `resource.properties`, and `resource.id` as `id`. With `resource.type: http` the resource is a
//! URL and the action a method.

mod search;

use crate::doors::Doors;
use crate::answer::approval_name;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, Extension, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use chrono::{DateTime, Utc};
use durward_authn::Authenticator;
use durward_core::evidence::Evidence;
use durward_core::path::Captures;
use durward_core::principal::{Identity, Principal, PrincipalId};
use durward_core::request::{Call, Request, ServiceTarget};
use durward_core::risk::Assurance;
use durward_core::scope::Scope;
use durward_engine::{Answer, Caller, Door};
use durward_runtime::peers::Peer;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;
use url::Url;

/// Largest request, in bytes.
const MAX_BODY: usize = 256 * 1024;
/// Most evaluations of one request.
const MAX_EVALUATIONS: usize = 100;
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The door as a router.
pub fn router(doors: Doors) -> Router {
    Router::new()
        .route("/access/v1/evaluation", post(evaluation))
        .route("/access/v1/evaluations", post(evaluations))
        .route("/access/v1/search/subject", post(search::subjects))
        .route("/access/v1/search/resource", post(search::resources))
        .route("/access/v1/search/action", post(search::actions))
        .route_layer(from_fn_with_state(doors.clone(), only_enforcement_points))
        .route("/.well-known/authzen-configuration", get(configuration))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(doors)
}

/// Nobody else is listened to: not even the body is read.
async fn only_enforcement_points(
    State(doors): State<Doors>,
    Extension(peer): Extension<Peer>,
    request: axum::extract::Request,
    next: Next,
) -> Response {
    if doors.trust.is_enforcement_point(&peer) {
        return next.run(request).await;
    }
    let challenge =
        [(header::WWW_AUTHENTICATE, r#"Bearer realm="durward""#), (header::CONTENT_TYPE, "application/json")];
    let refusal = (StatusCode::UNAUTHORIZED, challenge, r#"{"error":"invalid_token"}"#).into_response();
    with_request_id(request.headers(), refusal)
}

/// One evaluation (section 6); in a batch each part may be missing and come from the defaults (section 7.1).
#[derive(Debug, Clone, Default, Deserialize)]
struct Evaluation {
    subject: Option<Subject>,
    action: Option<Action>,
    resource: Option<Resource>,
    context: Option<Map<String, Value>>,
}

#[derive(Debug, Clone, Deserialize)]
struct Subject {
    #[serde(rename = "type")]
    kind: String,
    id: String,
    #[serde(default)]
    properties: SubjectProperties,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SubjectProperties {
    provider: Option<String>,
    #[serde(default)]
    groups: BTreeSet<String>,
    #[serde(default)]
    attributes: Map<String, Value>,
    scopes: Option<BTreeSet<Scope>>,
    assurance: Option<Assurance>,
    authenticated_at: Option<DateTime<Utc>>,
    /// Whatever else the enforcement point says of the subject.
    #[serde(flatten)]
    others: Map<String, Value>,
}

#[derive(Debug, Clone, Deserialize)]
struct Action {
    name: String,
}

#[derive(Debug, Clone, Deserialize)]
struct Resource {
    #[serde(rename = "type")]
    kind: String,
    id: String,
    #[serde(default)]
    properties: Map<String, Value>,
}

#[derive(Debug, Deserialize)]
struct Batch {
    #[serde(flatten)]
    defaults: Evaluation,
    #[serde(default)]
    evaluations: Vec<Evaluation>,
    #[serde(default)]
    options: Options,
}

#[derive(Debug, Default, Deserialize)]
struct Options {
    #[serde(default)]
    evaluations_semantic: Semantic,
}

/// When a batch ends (section 7.1.2).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Semantic {
    #[default]
    ExecuteAll,
    DenyOnFirstDeny,
    PermitOnFirstPermit,
}

#[derive(Debug, Serialize)]
struct Verdict {
    decision: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    context: Option<Value>,
}

/// A request that can't be understood: 400 with what is wrong (section 10.1.2).
#[derive(Debug)]
struct Malformed(String);

async fn evaluation(
    State(doors): State<Doors>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let answer = match asked(&body) {
        Ok(evaluation) => decide(&doors, &peer, &evaluation, &Evaluation::default()).await,
        Err(malformed) => Err(malformed),
    };
    let answer = answer.map(|verdict| Json(verdict).into_response());
    with_request_id(&headers, answer.unwrap_or_else(IntoResponse::into_response))
}

async fn evaluations(
    State(doors): State<Doors>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let answer = match asked(&body) {
        Ok(batch) => all(&doors, &peer, batch).await,
        Err(malformed) => Err(malformed),
    };
    with_request_id(&headers, answer.unwrap_or_else(IntoResponse::into_response))
}

async fn all(doors: &Doors, peer: &Peer, batch: Batch) -> Result<Response, Malformed> {
    if batch.evaluations.len() > MAX_EVALUATIONS {
        return Err(Malformed(format!("at most {MAX_EVALUATIONS} evaluations are possible in one request")));
    }
    if batch.evaluations.is_empty() {
        // without a batch it is a single evaluation (section 7.1)
        return Ok(Json(decide(doors, peer, &batch.defaults, &Evaluation::default()).await?).into_response());
    }
    let mut verdicts = Vec::with_capacity(batch.evaluations.len());
    for evaluation in &batch.evaluations {
        let verdict = match decide(doors, peer, evaluation, &batch.defaults).await {
            Ok(verdict) => verdict,
            // one that can't be understood is denied, and the others are decided
            Err(Malformed(message)) => {
                Verdict { decision: false, context: Some(json!({"error": {"status": 400, "message": message}})) }
            }
        };
        let last = match batch.options.evaluations_semantic {
            Semantic::ExecuteAll => false,
            Semantic::DenyOnFirstDeny => !verdict.decision,
            Semantic::PermitOnFirstPermit => verdict.decision,
        };
        verdicts.push(verdict);
        if last {
            break;
        }
    }
    Ok(Json(json!({"evaluations": verdicts})).into_response())
}

fn asked<T: for<'de> Deserialize<'de>>(body: &[u8]) -> Result<T, Malformed> {
    serde_json::from_slice(body).map_err(|error| Malformed(error.to_string()))
}

async fn decide(
    doors: &Doors,
    peer: &Peer,
    evaluation: &Evaluation,
    defaults: &Evaluation,
) -> Result<Verdict, Malformed> {
    let missing = |what: &str| Malformed(format!("`{what}` is missing"));
    let subject = evaluation.subject.as_ref().or(defaults.subject.as_ref()).ok_or_else(|| missing("subject"))?;
    let action = evaluation.action.as_ref().or(defaults.action.as_ref()).ok_or_else(|| missing("action"))?;
    let resource = evaluation.resource.as_ref().or(defaults.resource.as_ref()).ok_or_else(|| missing("resource"))?;
    let context = evaluation.context.as_ref().or(defaults.context.as_ref());

    let principal = subject.principal(&doors.authenticator)?;
    let (target, call) = question(action, resource)?;
    let evidence = &Told { headers: context.map(headers).transpose()?.flatten(), resource };
    let request = Request { target, call, source: Some(peer.address.ip()), evidence };
    let caller = principal.map_or(Caller::Nobody, |principal| Caller::Vouched(Arc::new(principal)));
    let answer = doors.engine.ask(Door::AuthZen, &request, caller).await;
    // reasons only for those who ask: batches are compared as a whole by the interoperability tests
    let explain = context.and_then(|context| context.get("explain")).and_then(Value::as_bool).unwrap_or(false);
    Ok(Verdict {
        decision: answer.passes(),
        context: if explain { Some(reasons(&answer)) } else { obligation(&answer) },
    })
}

impl Subject {
    fn principal(&self, authenticator: &Authenticator) -> Result<Option<Principal>, Malformed> {
        let properties = &self.properties;
        let id = match (&properties.provider, self.kind.as_str()) {
            (Some(provider), "user") => PrincipalId::user(provider, &self.id),
            _ => self.id.parse(),
        };
        let id = id.map_err(|error| Malformed(format!("`subject.id`: {error}")))?;
        let mut attributes = properties.others.clone();
        attributes.extend(properties.attributes.clone());
        let identity = Identity {
            groups: properties.groups.clone(),
            attributes,
            scopes: properties.scopes.clone(),
            authenticated_at: properties.authenticated_at,
            ..Identity::new(id, Assurance::Bearer)
        };
        Ok(authenticator.vouched_principal(identity, properties.assurance))
    }
}

fn question<'a>(action: &'a Action, resource: &'a Resource) -> Result<(ServiceTarget<'a>, Call<'a>), Malformed> {
    if resource.kind == "http" {
        let rest = resource.id.split_once("//").map(|(_, rest)| rest);
        let slash = rest.and_then(|rest| rest.find('/').map(|slash| rest.split_at(slash)));
        let (host, path) =
            slash.ok_or_else(|| Malformed("`resource.id` of type `http` is a URL with host and path".to_owned()))?;
        return Ok((ServiceTarget::Host(host), Call::Http { method: &action.name, path }));
    }
    let mut captures: Captures = resource
        .properties
        .iter()
        .filter_map(|(name, value)| value.as_str().map(|value| (name.as_str().into(), value.into())))
        .collect();
    captures.insert("id".into(), resource.id.as_str().into());
    Ok((ServiceTarget::Audience(&resource.kind), Call::Named { operation: &action.name, captures }))
}

/// What an enforcement point tells of a request.
#[derive(Debug)]
struct Told<'a> {
    headers: Option<Vec<(String, String)>>,
    resource: &'a Resource,
}

impl Evidence for Told<'_> {
    fn headers(&self, each: &mut dyn FnMut(&str, Option<&[u8]>)) -> bool {
        let headers = self.headers.iter().flatten();
        headers.for_each(|(name, value)| each(name, Some(value.as_bytes())));
        self.headers.is_some()
    }

    fn resource(&self) -> Option<Map<String, Value>> {
        let Resource { kind, id, properties } = self.resource;
        let fields =
            [("type", kind.clone().into()), ("id", id.clone().into()), ("properties", properties.clone().into())];
        Some(fields.map(|(name, value): (&str, Value)| (name.to_owned(), value)).into_iter().collect())
    }
}

/// The headers that the enforcement point was sent, if it tells them; those that came more than once as a list.
fn headers(context: &Map<String, Value>) -> Result<Option<Vec<(String, String)>>, Malformed> {
    let Some(given) = context.get("headers") else { return Ok(None) };
    let malformed = || Malformed("`context.headers` has texts, or lists of texts, by names of headers".to_owned());
    let mut headers = Vec::new();
    for (name, value) in given.as_object().ok_or_else(malformed)? {
        let values = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
        for value in values {
            headers.push((name.clone(), value.as_str().ok_or_else(malformed)?.to_owned()));
        }
    }
    Ok(Some(headers))
}

fn reasons(answer: &Answer) -> Value {
    let decision = &answer.decision;
    json!({
        "id": answer.id.to_string(),
        "reason": decision.reason,
        "policy": decision.policy.as_ref().map(ToString::to_string),
        "operation": decision.operation,
        "rules": decision.rules,
        "missing": decision.missing,
        "approval": decision.approval.as_ref().filter(|one| one.granted.is_none()).map(|one| approval_name(&one.subject)),
        "acr_values": decision.challenge.map(|challenge| challenge.assurance.acr()),
        "max_age": decision.challenge.and_then(|challenge| challenge.max_age).map(|age| age.num_seconds()),
        "step_up_uri": answer.step_up.as_ref().map(Url::as_str),
        "revision": decision.revision.to_string(),
    })
}

/// What the enforcement point has to ask of the subject (RFC 9470), for whom that would be enough.
fn obligation(answer: &Answer) -> Option<Value> {
    let challenge = answer.decision.challenge.filter(|_| !answer.passes())?;
    let mut told = json!({"acr_values": challenge.assurance.acr()});
    if let Some(told) = told.as_object_mut() {
        told.extend(challenge.max_age.map(|age| ("max_age".to_owned(), age.num_seconds().into())));
        told.extend(answer.step_up.as_ref().map(|page| ("step_up_uri".to_owned(), page.as_str().into())));
    }
    Some(told)
}

impl IntoResponse for Malformed {
    fn into_response(self) -> Response {
        (StatusCode::BAD_REQUEST, [(header::CONTENT_TYPE, "text/plain; charset=utf-8")], self.0 + "\n").into_response()
    }
}

/// Echoes the request id (section 10.1.3).
fn with_request_id(headers: &HeaderMap, mut response: Response) -> Response {
    if let Some(id) = headers.get(&REQUEST_ID) {
        response.headers_mut().insert(REQUEST_ID, id.clone());
    }
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Where the endpoints are (section 9).
async fn configuration(Extension(peer): Extension<Peer>, headers: HeaderMap) -> Response {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).and_then(|host| {
        // only what is a host goes into a document that others read
        durward_core::host::Host::of_authority(host).ok().map(|_| host.to_owned())
    });
    let Some(host) = host else {
        return Response::builder().status(StatusCode::BAD_REQUEST).body(Body::empty()).unwrap_or_default();
    };
    let base = format!("{}://{host}", if peer.secure { "https" } else { "http" });
    Json(json!({
        "policy_decision_point": base,
        "access_evaluation_endpoint": format!("{base}/access/v1/evaluation"),
        "access_evaluations_endpoint": format!("{base}/access/v1/evaluations"),
        "search_subject_endpoint": format!("{base}/access/v1/search/subject"),
        "search_resource_endpoint": format!("{base}/access/v1/search/resource"),
        "search_action_endpoint": format!("{base}/access/v1/search/action"),
    }))
    .into_response()
}
