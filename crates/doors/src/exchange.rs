//! The token endpoint (RFC 6749 section 3.2, RFC 8693) and introspection (RFC 7662), on the token listener.

use crate::headers::source;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, Extension, State};
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use durward_authn::{Credentials, SubjectToken};
use durward_core::scope::Scope;
use durward_identity::{AccessToken, Refusal, SecondFactor, TokenRequest, TokenService};
use durward_runtime::trust::{Peer, Trust};
use durward_step_up::{Refused, Shown};
use serde_json::{Value, json};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

/// Where tokens are exchanged.
pub(crate) const TOKEN_PATH: &str = "/token";
/// Where services ask about tokens.
pub(crate) const INTROSPECTION_PATH: &str = "/introspect";
/// The exchange of tokens (RFC 8693, section 2.1).
pub(crate) const EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
/// A token for the caller itself (RFC 6749, section 4.4).
pub(crate) const CLIENT_CREDENTIALS: &str = "client_credentials";
const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";
const JWT: &str = "urn:ietf:params:oauth:token-type:jwt";

/// Largest request, in bytes: twice the longest token.
const MAX_BODY: usize = 32 * 1024;
/// Most parameters of a request; the exchange knows nine.
const MAX_PARAMETERS: usize = 32;
/// Most scopes that can be asked for at once.
const MAX_SCOPES: usize = 64;
/// Longest audience that a policy can have, in bytes.
const MAX_AUDIENCE: usize = 253;
const FORM: &str = "application/x-www-form-urlencoded";

/// Who works behind the endpoints, and whose certificates are not their own.
#[derive(Debug, Clone)]
pub struct Exchange {
    pub service: TokenService,
    pub trust: Arc<Trust>,
}

/// The endpoints as a router.
pub fn router(exchange: Exchange) -> Router {
    Router::new()
        .route(TOKEN_PATH, post(token))
        .route(INTROSPECTION_PATH, post(introspect))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(exchange)
}

/// A body, unless it was too large.
pub type Body = Result<Bytes, BytesRejection>;

async fn token(
    State(Exchange { service, trust }): State<Exchange>,
    Extension(peer): Extension<Peer>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let form = form(&uri, &headers, &body);
    let source = source(&trust, &peer, &headers);
    let request = form.as_ref().map_err(|why| Refusal::Request(why)).and_then(|form| token_request(form, source));
    let exchanged = form.as_ref().is_ok_and(|form| form.get("grant_type").is_some_and(|grant| grant == EXCHANGE));
    match service.exchange(request, trust.caller_certificate(&peer)).await {
        Ok(token) => answer(StatusCode::OK, given(&token, exchanged)),
        Err(refusal) => refused(&refusal),
    }
}

/// RFC 6749 section 5.1, RFC 8693 section 2.2.1.
fn given(token: &AccessToken, exchanged: bool) -> Value {
    let scopes: Vec<_> = token.scopes.iter().map(Scope::as_str).collect();
    let mut given = json!({
        "access_token": token.text,
        "token_type": "Bearer",
        "expires_in": token.lifetime.num_seconds(),
        "scope": scopes.join(" "),
    });
    if exchanged && let Some(given) = given.as_object_mut() {
        given.insert("issued_token_type".to_owned(), ACCESS_TOKEN.into());
    }
    given
}

/// RFC 6749 section 5.2. What is wrong with a credential, and what there is beside what was asked for, stays untold; a
/// subject's token that is not accepted is an `invalid_request` by RFC 8693, section 2.2.2.
fn refused(refusal: &Refusal) -> Response {
    let (status, error, description) = match refusal {
        Refusal::Request(why) => (StatusCode::BAD_REQUEST, "invalid_request", *why),
        Refusal::GrantType => (StatusCode::BAD_REQUEST, "unsupported_grant_type", ""),
        Refusal::Client(_) => (StatusCode::UNAUTHORIZED, "invalid_client", ""),
        Refusal::Subject(_) => (StatusCode::BAD_REQUEST, "invalid_request", "the subject is not accepted"),
        Refusal::Target(_) => (StatusCode::BAD_REQUEST, "invalid_target", ""),
        Refusal::Scope(_) => (StatusCode::BAD_REQUEST, "invalid_scope", ""),
        Refusal::Factor(Refused::Paused { wait, .. }) => {
            let error = answer(StatusCode::TOO_MANY_REQUESTS, json!({"error": "slow_down"}));
            return ([(header::RETRY_AFTER, wait.num_seconds().to_string())], error).into_response();
        }
        Refusal::Factor(_) => (StatusCode::BAD_REQUEST, "invalid_grant", ""),
        Refusal::Later(_) => (StatusCode::SERVICE_UNAVAILABLE, "temporarily_unavailable", ""),
    };
    let mut body = json!({"error": error});
    if !description.is_empty()
        && let Some(body) = body.as_object_mut()
    {
        body.insert("error_description".to_owned(), description.into());
    }
    answer(status, body)
}

fn answer(status: StatusCode, body: Value) -> Response {
    // RFC 6749 section 5.1
    (status, [(header::CACHE_CONTROL, "no-store"), (header::PRAGMA, "no-cache")], Json(body)).into_response()
}

pub type Form<'b> = BTreeMap<Cow<'b, str>, Cow<'b, str>>;

/// The parameters of a request, each there once (RFC 6749, section 3.2); those without a value are as good as left out.
pub fn form<'b>(uri: &Uri, headers: &HeaderMap, body: &'b Body) -> Result<Form<'b>, &'static str> {
    let mut types = headers.get_all(header::CONTENT_TYPE).iter();
    let media = |value: &header::HeaderValue| {
        value.to_str().is_ok_and(|value| value.split(';').next().is_some_and(|t| t.trim().eq_ignore_ascii_case(FORM)))
    };
    if uri.query().is_some() {
        return Err("parameters belong in the body");
    }
    if !types.next().is_some_and(media) || types.next().is_some() {
        return Err("the body has to be application/x-www-form-urlencoded");
    }
    let body = body.as_ref().map_err(|_| "the body is too large, or was cut off")?;
    let mut form = Form::new();
    for (name, value) in url::form_urlencoded::parse(body) {
        // the parser puts this in the place of bytes that are no UTF-8
        if name.contains('\u{fffd}') || value.contains('\u{fffd}') {
            return Err("the body is not UTF-8");
        }
        if form.len() == MAX_PARAMETERS {
            return Err("there are too many parameters");
        }
        if form.insert(name, value).is_some() {
            return Err("a parameter is there more than once");
        }
    }
    form.retain(|_, value| !value.is_empty());
    Ok(form)
}

/// What a form asks for.
fn token_request<'f>(form: &'f Form<'_>, source: IpAddr) -> Result<TokenRequest<'f>, Refusal> {
    let get = |name: &str| form.get(name).map(AsRef::as_ref);
    let subject = match get("grant_type") {
        Some(EXCHANGE) => Some(subject(form)?),
        Some(CLIENT_CREDENTIALS) => None,
        Some(_) => return Err(Refusal::GrantType),
        None => return Err(Refusal::Request("`grant_type` is missing")),
    };
    if ["client_secret", "client_assertion", "client_assertion_type"].into_iter().any(|name| form.contains_key(name)) {
        return Err(Refusal::Client("a client proves itself by a certificate alone".to_owned()));
    }
    if form.contains_key("resource") {
        return Err(Refusal::Target("the service is named by `resource`, not by `audience`"));
    }
    let audience: &'f str = get("audience").ok_or(Refusal::Request("`audience` is missing"))?;
    if audience.len() > MAX_AUDIENCE {
        return Err(Refusal::Target("the audience is too long"));
    }
    let factor = match (get("otp"), get("recovery_code"), get("passkey")) {
        (None, None, None) => None,
        (Some(code), None, None) => Some(SecondFactor::Shown(Shown::Totp(code))),
        (None, Some(code), None) => Some(SecondFactor::Shown(Shown::RecoveryCode(code))),
        (None, None, Some(response)) => Some(SecondFactor::Shown(Shown::Key(response))),
        _ => return Err(Refusal::Request("one second factor is enough")),
    };
    let operation = get("operation");
    if factor.is_some() && subject.is_none() {
        return Err(Refusal::Request("a second factor stands beside a token"));
    }
    if operation.is_some() && factor.is_none() {
        return Err(Refusal::Request("`operation` says what a second factor is for"));
    }
    let scopes = get("scope").map(scopes).transpose()?;
    Ok(TokenRequest { subject, audience, scopes, client: get("client_id"), factor, operation, source })
}

/// The token that is exchanged (RFC 8693, section 2.1).
fn subject<'f>(form: &'f Form<'_>) -> Result<SubjectToken<'f>, Refusal> {
    let get = |name: &str| form.get(name).map(AsRef::as_ref);
    if form.contains_key("actor_token") || form.contains_key("actor_token_type") {
        return Err(Refusal::Request("actor tokens are not supported"));
    }
    if !matches!(get("requested_token_type"), None | Some(ACCESS_TOKEN)) {
        return Err(Refusal::Request("access tokens are the one type that there is"));
    }
    match (get("subject_token"), get("subject_token_type")) {
        (None, _) => Err(Refusal::Request("`subject_token` is missing")),
        (_, None) => Err(Refusal::Request("`subject_token_type` is missing")),
        (Some(token), Some(JWT)) => Ok(SubjectToken::Jwt(token)),
        (Some(token), Some(ACCESS_TOKEN)) => Ok(SubjectToken::AccessToken(token)),
        (Some(_), Some(_)) => Err(Refusal::Request("subjects' tokens are of the types jwt and access_token")),
    }
}

/// RFC 6749, section 3.3.
fn scopes(text: &str) -> Result<BTreeSet<Scope>, Refusal> {
    let words: Vec<_> = text.split(' ').take(MAX_SCOPES + 1).map(Scope::parse).collect();
    if words.len() > MAX_SCOPES {
        return Err(Refusal::Scope("more scopes are asked for than is possible at once"));
    }
    words.into_iter().collect::<Result<_, _>>().map_err(|_| Refusal::Scope("a scope is malformed"))
}

/// What a service may know of a token. Everything that does not count gets one answer (RFC 7662, section 2.2).
async fn introspect(
    State(Exchange { service, trust }): State<Exchange>,
    Extension(peer): Extension<Peer>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let credentials = Credentials {
        headers: &headers,
        certificate: trust.caller_certificate(&peer),
        client_cert_header_trusted: trust.forwards_certificates(&peer),
    };
    let form = form(&uri, &headers, &body);
    let token = form.as_ref().ok().and_then(|form| form.get("token")).map_or("", AsRef::as_ref);
    match service.introspect(&credentials, token).await {
        Err(Refusal::Subject(failure)) => {
            let error = if failure.is_missing() { "" } else { r#" error="invalid_token""# };
            let challenge = [(header::WWW_AUTHENTICATE, format!("Bearer{error}"))];
            (challenge, answer(StatusCode::UNAUTHORIZED, json!({"error": "invalid_token"}))).into_response()
        }
        Err(refusal) => refused(&refusal),
        Ok(_) if token.is_empty() => refused(&Refusal::Request("`token` is missing")),
        Ok(Some(claims)) => answer(StatusCode::OK, claims.into()),
        Ok(None) => answer(StatusCode::OK, json!({"active": false})),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &str) -> Result<Vec<(String, String)>, &'static str> {
        let mut headers = HeaderMap::new();
        headers.insert(
            header::CONTENT_TYPE,
            header::HeaderValue::from_static("application/x-www-form-urlencoded; charset=UTF-8"),
        );
        let body = Ok(Bytes::copy_from_slice(body.as_bytes()));
        let form = form(&Uri::from_static("/token"), &headers, &body)?;
        Ok(form.into_iter().map(|(name, value)| (name.into_owned(), value.into_owned())).collect())
    }

    #[test]
    fn a_form_has_each_parameter_once() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(read("b=x+y%20z&a=1&c="), Ok(vec![pair("a", "1"), pair("b", "x y z")]));
        for bad in ["a=1&a=1", "a=&a=1", "a=1&%61=2", "a=%ff", &"a=1&".repeat(40)] {
            assert!(read(bad).is_err(), "{bad}");
        }
        let many: String = (0..=MAX_PARAMETERS).map(|i| format!("p{i}=1&")).collect();
        assert!(read(&many).is_err());
    }

    #[test]
    fn scopes_are_told_apart_by_one_space() {
        let names = |text| scopes(text).map(|all| all.iter().map(Scope::to_string).collect::<Vec<_>>()).ok();
        assert_eq!(names("b a b"), Some(vec!["a".to_owned(), "b".to_owned()]));
        for bad in ["a  b", " a", "a ", "a\tb", "\"a\"", &"a ".repeat(MAX_SCOPES + 1)] {
            assert_eq!(names(bad), None, "{bad:?}");
        }
    }
}
