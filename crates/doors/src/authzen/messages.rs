//! The messages of the API.

use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use durward_authn::Authenticator;
use durward_core::evidence::Evidence;
use durward_core::principal::{Identity, Principal, PrincipalId};
use durward_core::risk::Assurance;
use durward_core::scope::Scope;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeSet;
use std::slice;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// One evaluation (section 6). In a batch each part may be missing; the defaults then replace it (section 7.1).
#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct EvaluationRequest {
    pub(super) subject: Option<EvaluatedSubject>,
    pub(super) action: Option<EvaluatedAction>,
    pub(super) resource: Option<EvaluatedResource>,
    pub(super) context: Option<Map<String, Value>>,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct EvaluatedSubject {
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) id: String,
    #[serde(default)]
    pub(super) properties: SubjectProperties,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct SubjectProperties {
    provider: Option<String>,
    #[serde(default)]
    groups: BTreeSet<String>,
    #[serde(default)]
    attributes: Map<String, Value>,
    scopes: Option<BTreeSet<Scope>>,
    assurance: Option<Assurance>,
    authenticated_at: Option<DateTime<Utc>>,
    /// All other properties, which become attributes.
    #[serde(flatten)]
    others: Map<String, Value>,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct EvaluatedAction {
    pub(super) name: String,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct EvaluatedResource {
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) id: String,
    #[serde(default)]
    pub(super) properties: Map<String, Value>,
}

#[derive(Debug, Deserialize)]
pub(super) struct EvaluationBatch {
    #[serde(flatten)]
    pub(super) defaults: EvaluationRequest,
    #[serde(default)]
    pub(super) evaluations: Vec<EvaluationRequest>,
    #[serde(default)]
    pub(super) options: BatchOptions,
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct BatchOptions {
    #[serde(default)]
    pub(super) evaluations_semantic: BatchSemantic,
}

/// When a batch ends (section 7.1.2).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum BatchSemantic {
    #[default]
    ExecuteAll,
    DenyOnFirstDeny,
    PermitOnFirstPermit,
}

#[derive(Debug, Serialize)]
pub(super) struct EvaluationResponse {
    pub(super) decision: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) context: Option<Value>,
}

/// A malformed request, which is answered with status 400 and the problem (section 10.1.2).
#[derive(Debug)]
pub(super) struct MalformedRequest(pub(super) String);

impl MalformedRequest {
    pub(super) fn missing(field: &str) -> Self {
        Self(format!("`{field}` is missing"))
    }
}

impl IntoResponse for MalformedRequest {
    fn into_response(self) -> Response {
        (StatusCode::BAD_REQUEST, [(header::CONTENT_TYPE, "text/plain; charset=utf-8")], self.0 + "\n").into_response()
    }
}

pub(super) fn parse<T: for<'de> Deserialize<'de>>(body: &[u8]) -> Result<T, MalformedRequest> {
    serde_json::from_slice(body).map_err(|error| MalformedRequest(error.to_string()))
}

/// Echoes the request id (section 10.1.3).
pub(super) fn with_request_id(headers: &HeaderMap, mut response: Response) -> Response {
    if let Some(id) = headers.get(&REQUEST_ID) {
        response.headers_mut().insert(REQUEST_ID, id.clone());
    }
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

impl EvaluatedSubject {
    /// The principal, for which the enforcement point vouches; `None` if it may not vouch for such a subject.
    pub(super) fn principal(&self, authenticator: &Authenticator) -> Result<Option<Principal>, MalformedRequest> {
        let properties = &self.properties;
        let id = match (&properties.provider, self.kind.as_str()) {
            (Some(provider), "user") => PrincipalId::user(provider, &self.id),
            _ => self.id.parse(),
        };
        let id = id.map_err(|error| MalformedRequest(format!("`subject.id`: {error}")))?;
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

/// What an enforcement point states about a request.
#[derive(Debug)]
pub(super) struct EvaluationEvidence<'a> {
    /// The headers of the request, if the enforcement point sends them.
    headers: Option<Vec<(String, String)>>,
    resource: &'a EvaluatedResource,
}

impl<'a> EvaluationEvidence<'a> {
    pub(super) fn new(
        context: Option<&Map<String, Value>>,
        resource: &'a EvaluatedResource,
    ) -> Result<Self, MalformedRequest> {
        Ok(Self { headers: context.map(context_headers).transpose()?.flatten(), resource })
    }
}

impl Evidence for EvaluationEvidence<'_> {
    fn headers(&self, each: &mut dyn FnMut(&str, Option<&[u8]>)) -> bool {
        let headers = self.headers.iter().flatten();
        headers.for_each(|(name, value)| each(name, Some(value.as_bytes())));
        self.headers.is_some()
    }

    fn resource(&self) -> Option<Map<String, Value>> {
        let EvaluatedResource { kind, id, properties } = self.resource;
        let fields =
            [("type", kind.clone().into()), ("id", id.clone().into()), ("properties", properties.clone().into())];
        Some(fields.map(|(name, value): (&str, Value)| (name.to_owned(), value)).into_iter().collect())
    }
}

/// The headers in `context`. A header that was sent more than once is a list.
fn context_headers(context: &Map<String, Value>) -> Result<Option<Vec<(String, String)>>, MalformedRequest> {
    let Some(by_name) = context.get("headers") else { return Ok(None) };
    let malformed = || {
        MalformedRequest("`context.headers` must map names of headers to strings, or to lists of strings".to_owned())
    };
    let mut headers = Vec::new();
    for (name, value) in by_name.as_object().ok_or_else(malformed)? {
        let values = value.as_array().map_or(slice::from_ref(value), Vec::as_slice);
        for value in values {
            headers.push((name.clone(), value.as_str().ok_or_else(malformed)?.to_owned()));
        }
    }
    Ok(Some(headers))
}
