//! The token endpoint (RFC 6749 section 3.2, RFC 8693) and introspection (RFC 7662), on the token listener.

use crate::body_limit::with_body_limit;
use crate::form::{self, FormBody, FormParameters};
use crate::headers::{caller_address, is_forwarded};
use axum::extract::{Extension, State};
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use durward_authn::{Credentials, SubjectToken};
use durward_core::scope::Scope;
use durward_identity::{AccessToken, ExchangeError, ExchangeRequest, FactorEvidence, TokenService};
use durward_runtime::peers::{Peer, TrustedPeers};
use durward_step_up::{PresentedFactor, StepUpError};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

/// Path of the token endpoint.
pub(crate) const TOKEN_PATH: &str = "/token";
/// Path of the introspection endpoint.
pub(crate) const INTROSPECTION_PATH: &str = "/introspect";
/// Grant type of a token exchange (RFC 8693, section 2.1).
pub(crate) const EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
/// Grant type of a token for the caller itself (RFC 6749, section 4.4).
pub(crate) const CLIENT_CREDENTIALS: &str = "client_credentials";
const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";
const JWT: &str = "urn:ietf:params:oauth:token-type:jwt";

/// Largest request, in bytes: twice the longest token.
const MAX_BODY: usize = 32 * 1024;
/// Most scopes of one request.
const MAX_SCOPES: usize = 64;
/// Longest audience that a policy can have, in bytes.
const MAX_AUDIENCE: usize = 253;

/// State of the endpoints.
#[derive(Debug, Clone)]
pub struct ExchangeEndpoint {
    pub service: TokenService,
    pub trust: Arc<TrustedPeers>,
}

/// The endpoints as a router.
pub fn router(endpoint: ExchangeEndpoint) -> Router {
    let router = Router::new().route(TOKEN_PATH, post(token)).route(INTROSPECTION_PATH, post(introspect));
    with_body_limit(router, MAX_BODY).with_state(endpoint)
}

async fn token(
    State(ExchangeEndpoint { service, trust }): State<ExchangeEndpoint>,
    Extension(peer): Extension<Peer>,
    uri: Uri,
    headers: HeaderMap,
    body: FormBody,
) -> Response {
    let form = form::parse(&uri, &headers, &body);
    let source = caller_address(&trust, &peer, &headers);
    let request = match &form {
        Ok(form) => token_request(form, source),
        Err(error) => Err(ExchangeError::InvalidRequest(error.description())),
    };
    let exchanged = form.as_ref().is_ok_and(|form| form.get("grant_type").is_some_and(|grant| grant == EXCHANGE));
    match service.exchange(request, trust.caller_certificate(&peer, is_forwarded(&headers))).await {
        Ok(token) => no_store(StatusCode::OK, token_response(&token, exchanged)),
        Err(refusal) => error_response(&refusal),
    }
}

/// A successful response (RFC 6749, section 5.1; RFC 8693, section 2.2.1).
fn token_response(token: &AccessToken, exchanged: bool) -> Value {
    let scopes: Vec<_> = token.scopes.iter().map(Scope::as_str).collect();
    let mut response = json!({
        "access_token": token.text,
        "token_type": "Bearer",
        "expires_in": token.lifetime.num_seconds(),
        "scope": scopes.join(" "),
    });
    if exchanged && let Some(response) = response.as_object_mut() {
        response.insert("issued_token_type".to_owned(), ACCESS_TOKEN.into());
    }
    response
}

/// An error response (RFC 6749, section 5.2).
///
/// It doesn't say what is wrong with a credential, or which services and scopes exist. A subject token that is not
/// accepted is an `invalid_request` (RFC 8693, section 2.2.2).
fn error_response(refusal: &ExchangeError) -> Response {
    let (status, error, description) = match refusal {
        ExchangeError::InvalidRequest(why) => (StatusCode::BAD_REQUEST, "invalid_request", *why),
        ExchangeError::UnsupportedGrantType => (StatusCode::BAD_REQUEST, "unsupported_grant_type", ""),
        ExchangeError::InvalidClient(_) => (StatusCode::UNAUTHORIZED, "invalid_client", ""),
        ExchangeError::InvalidSubject(_) => (StatusCode::BAD_REQUEST, "invalid_request", "the subject is not accepted"),
        ExchangeError::InvalidTarget(_) => (StatusCode::BAD_REQUEST, "invalid_target", ""),
        ExchangeError::InvalidScope(_) => (StatusCode::BAD_REQUEST, "invalid_scope", ""),
        ExchangeError::InvalidFactor(StepUpError::Paused { wait, .. }) => {
            let error = no_store(StatusCode::TOO_MANY_REQUESTS, json!({"error": "slow_down"}));
            return ([(header::RETRY_AFTER, wait.num_seconds().to_string())], error).into_response();
        }
        ExchangeError::InvalidFactor(_) => (StatusCode::BAD_REQUEST, "invalid_grant", ""),
        ExchangeError::Unavailable(_) => (StatusCode::SERVICE_UNAVAILABLE, "temporarily_unavailable", ""),
    };
    let mut body = json!({"error": error});
    if !description.is_empty()
        && let Some(body) = body.as_object_mut()
    {
        body.insert("error_description".to_owned(), description.into());
    }
    no_store(status, body)
}

fn no_store(status: StatusCode, body: Value) -> Response {
    // RFC 6749 section 5.1
    (status, [(header::CACHE_CONTROL, "no-store"), (header::PRAGMA, "no-cache")], Json(body)).into_response()
}

/// The token request that a form makes.
fn token_request<'f>(form: &'f FormParameters<'_>, source: IpAddr) -> Result<ExchangeRequest<'f>, ExchangeError> {
    let get = |name: &str| form.get(name).map(AsRef::as_ref);
    let subject = match get("grant_type") {
        Some(EXCHANGE) => Some(subject(form)?),
        Some(CLIENT_CREDENTIALS) => None,
        Some(_) => return Err(ExchangeError::UnsupportedGrantType),
        None => return Err(ExchangeError::InvalidRequest("`grant_type` is missing")),
    };
    if ["client_secret", "client_assertion", "client_assertion_type"].into_iter().any(|name| form.contains_key(name)) {
        return Err(ExchangeError::InvalidClient("a client proves itself by a certificate alone".to_owned()));
    }
    if form.contains_key("resource") {
        return Err(ExchangeError::InvalidTarget("the service is named by `resource`, not by `audience`"));
    }
    let audience: &'f str = get("audience").ok_or(ExchangeError::InvalidRequest("`audience` is missing"))?;
    if audience.len() > MAX_AUDIENCE {
        return Err(ExchangeError::InvalidTarget("the audience is too long"));
    }
    let factor = match (get("otp"), get("recovery_code"), get("passkey")) {
        (None, None, None) => None,
        (Some(code), None, None) => Some(FactorEvidence::Presented(PresentedFactor::Totp(code))),
        (None, Some(code), None) => Some(FactorEvidence::Presented(PresentedFactor::RecoveryCode(code))),
        (None, None, Some(response)) => Some(FactorEvidence::Presented(PresentedFactor::Key(response))),
        _ => return Err(ExchangeError::InvalidRequest("one second factor is enough")),
    };
    let operation = get("operation");
    if factor.is_some() && subject.is_none() {
        return Err(ExchangeError::InvalidRequest("a second factor needs a subject token"));
    }
    if operation.is_some() && factor.is_none() {
        return Err(ExchangeError::InvalidRequest("`operation` says what a second factor is for"));
    }
    let scopes = get("scope").map(scopes).transpose()?;
    Ok(ExchangeRequest { subject, audience, scopes, client: get("client_id"), factor, operation, source })
}

/// The token that is exchanged (RFC 8693, section 2.1).
fn subject<'f>(form: &'f FormParameters<'_>) -> Result<SubjectToken<'f>, ExchangeError> {
    let get = |name: &str| form.get(name).map(AsRef::as_ref);
    if form.contains_key("actor_token") || form.contains_key("actor_token_type") {
        return Err(ExchangeError::InvalidRequest("actor tokens are not supported"));
    }
    if !matches!(get("requested_token_type"), None | Some(ACCESS_TOKEN)) {
        return Err(ExchangeError::InvalidRequest("access tokens are the one type that there is"));
    }
    match (get("subject_token"), get("subject_token_type")) {
        (None, _) => Err(ExchangeError::InvalidRequest("`subject_token` is missing")),
        (_, None) => Err(ExchangeError::InvalidRequest("`subject_token_type` is missing")),
        (Some(token), Some(JWT)) => Ok(SubjectToken::Jwt(token)),
        (Some(token), Some(ACCESS_TOKEN)) => Ok(SubjectToken::AccessToken(token)),
        (Some(_), Some(_)) => {
            Err(ExchangeError::InvalidRequest("subjects' tokens are of the types jwt and access_token"))
        }
    }
}

/// A list of scopes, separated by one space (RFC 6749, section 3.3).
fn scopes(text: &str) -> Result<BTreeSet<Scope>, ExchangeError> {
    let words: Vec<_> = text.split(' ').take(MAX_SCOPES + 1).map(Scope::parse).collect();
    if words.len() > MAX_SCOPES {
        return Err(ExchangeError::InvalidScope("too many scopes"));
    }
    words.into_iter().collect::<Result<_, _>>().map_err(|_| ExchangeError::InvalidScope("a scope is malformed"))
}

/// Describes a token to a service. All invalid tokens get the same response (RFC 7662, section 2.2).
async fn introspect(
    State(ExchangeEndpoint { service, trust }): State<ExchangeEndpoint>,
    Extension(peer): Extension<Peer>,
    uri: Uri,
    headers: HeaderMap,
    body: FormBody,
) -> Response {
    let credentials = Credentials {
        headers: &headers,
        certificate: trust.caller_certificate(&peer, is_forwarded(&headers)),
        client_cert_header_trusted: trust.forwards_certificates(&peer),
    };
    let form = form::parse(&uri, &headers, &body);
    let token = form.as_ref().ok().and_then(|form| form.get("token")).map_or("", AsRef::as_ref);
    match service.introspect(&credentials, token).await {
        Err(ExchangeError::InvalidSubject(failure)) => {
            let error = if failure.is_missing() { "" } else { r#" error="invalid_token""# };
            let challenge = [(header::WWW_AUTHENTICATE, format!("Bearer{error}"))];
            (challenge, no_store(StatusCode::UNAUTHORIZED, json!({"error": "invalid_token"}))).into_response()
        }
        Err(refusal) => error_response(&refusal),
        Ok(_) if token.is_empty() => error_response(&ExchangeError::InvalidRequest("`token` is missing")),
        Ok(Some(claims)) => no_store(StatusCode::OK, claims.into()),
        Ok(None) => no_store(StatusCode::OK, json!({"active": false})),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_are_separated_by_one_space() {
        let names = |text| scopes(text).map(|all| all.iter().map(Scope::to_string).collect::<Vec<_>>()).ok();
        assert_eq!(names("b a b"), Some(vec!["a".to_owned(), "b".to_owned()]));
        for bad in ["a  b", " a", "a ", "a\tb", "\"a\"", &"a ".repeat(MAX_SCOPES + 1)] {
            assert_eq!(names(bad), None, "{bad:?}");
        }
    }
}
