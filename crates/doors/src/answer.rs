//! The answer over HTTP (RFC 6750, RFC 9470), the same for forward auth, `ext_authz` and the gate.

use axum::body::Body;
use axum::response::Response;
use durward_core::approval::ApprovalSubject;
use durward_core::authentication::Challenge;
use durward_core::decision::Reason;
use durward_core::principal::Identity;
use durward_core::scope::Scope;
use durward_engine::Answer;
use http::{HeaderName, HeaderValue, StatusCode};
use maud::{DOCTYPE, Markup, html};
use serde_json::json;
use url::Url;

/// Every header that tells the application who is calling. Set on an allow, never believed from outside.
pub const IDENTITY_HEADERS: [&str; 5] =
    ["x-durward-principal", "x-durward-scopes", "x-durward-operation", "x-durward-assurance", "x-durward-decision"];

/// Headers by which some frameworks let a client change the method after the decision.
pub const METHOD_OVERRIDES: [&str; 3] = ["x-http-method-override", "x-http-method", "x-method-override"];

/// Headers that some frameworks take the path from, in place of the request's own.
pub const PATH_OVERRIDES: [&str; 2] = ["x-original-url", "x-rewrite-url"];

/// Relation of a link to the step-up page; no registered one means it (RFC 8288, section 2.1.2).
const STEP_UP: &str = "https://durward.dev/rel/step-up";

/// Status, headers and body.
#[derive(Debug, PartialEq, Eq)]
pub struct HttpAnswer {
    pub status: StatusCode,
    pub headers: Vec<(&'static str, String)>,
    pub body: String,
}

impl HttpAnswer {
    /// `accept` is what the client says to understand: a browser is told in HTML where its person can step up.
    pub fn of(answer: &Answer, accept: Option<&str>) -> Self {
        let mut told = Self::in_json(answer);
        let Some(page) = answer.step_up.as_ref().filter(|_| !answer.passes()) else { return told };
        told.headers.push(("link", format!("<{page}>; rel=\"{STEP_UP}\"")));
        told.body = json!({"error": "insufficient_user_authentication", "step_up_uri": page.as_str()}).to_string();
        if accept.is_some_and(|accept| accept.split([',', ';']).any(|media| media.trim() == "text/html")) {
            told.headers.retain(|(name, _)| *name != "content-type");
            told.headers.push(("content-type", "text/html; charset=utf-8".to_owned()));
            told.headers.push(("vary", "accept".to_owned()));
            told.body = for_people(page).into_string();
        }
        told
    }

    fn in_json(answer: &Answer) -> Self {
        if answer.passes() {
            return Self { status: StatusCode::OK, headers: identity(answer), body: String::new() };
        }
        let realm = answer.audience.as_deref().unwrap_or("durward");
        match answer.decision.reason {
            Reason::Unauthenticated => Self::unauthenticated(realm, answer.credential_presented),
            Reason::AssuranceTooLow => Self::challenge(realm, answer.decision.challenge),
            Reason::InsufficientScope => {
                let scope = scopes(&answer.decision.required);
                // a scope has neither quote nor backslash (RFC 6749 section 3.3)
                let challenge = bearer(realm, &format!(r#", error="insufficient_scope", scope="{scope}""#));
                let body = format!(r#"{{"error":"insufficient_scope","scope":"{scope}"}}"#);
                Self::refusal(StatusCode::FORBIDDEN, Some(challenge), body)
            }
            Reason::ApprovalRequired => {
                let name = answer.decision.approval.as_ref().map(|approval| approval_name(&approval.subject));
                let body = format!(r#"{{"error":"approval_required","approval":"{}"}}"#, name.unwrap_or_default());
                Self::refusal(StatusCode::FORBIDDEN, None, body)
            }
            _ => Self::forbidden(),
        }
    }

    /// Whatever was wrong with the credential, these are the same bytes.
    pub(crate) fn unauthenticated(realm: &str, presented: bool) -> Self {
        let error = if presented { r#", error="invalid_token""# } else { "" };
        Self::refusal(StatusCode::UNAUTHORIZED, Some(bearer(realm, error)), r#"{"error":"invalid_token"}"#.to_owned())
    }

    /// More is needed than the caller has shown (RFC 9470).
    pub fn challenge(realm: &str, enough: Option<Challenge>) -> Self {
        let mut challenge = r#", error="insufficient_user_authentication""#.to_owned();
        if let Some(enough) = enough {
            challenge.push_str(&format!(r#", acr_values="{}""#, enough.assurance.acr()));
            if let Some(age) = enough.max_age {
                challenge.push_str(&format!(r#", max_age="{}""#, age.num_seconds()));
            }
        }
        let body = r#"{"error":"insufficient_user_authentication"}"#.to_owned();
        Self::refusal(StatusCode::UNAUTHORIZED, Some(bearer(realm, &challenge)), body)
    }

    pub(crate) fn forbidden() -> Self {
        Self::refusal(StatusCode::FORBIDDEN, None, r#"{"error":"access_denied"}"#.to_owned())
    }

    fn refusal(status: StatusCode, challenge: Option<String>, body: String) -> Self {
        let mut headers =
            vec![("content-type", "application/json".to_owned()), ("cache-control", "no-store".to_owned())];
        headers.extend(challenge.map(|challenge| ("www-authenticate", challenge)));
        Self { status, headers, body }
    }
}

fn bearer(realm: &str, rest: &str) -> String {
    format!("Bearer realm={}{rest}", quoted(realm))
}

/// How an approval is named to people and programs: namespace and name of the object.
pub fn approval_name(matter: &ApprovalSubject) -> String {
    format!("{}/{}", matter.policy.namespace, matter.approval_name())
}

/// What a person is told who came to an operation of high risk by a browser. Never a redirect: that would lose what was
/// asked, and lead in a circle.
fn for_people(page: &Url) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head { meta charset="utf-8"; title { "Confirm that it is you" } }
            body {
                h1 { "Confirm that it is you" }
                p { "This needs a second factor. " a href=(page) { "Show it" } ", and come back." }
            }
        }
    }
}

/// Who is calling and why they may, for the application.
fn identity(answer: &Answer) -> Vec<(&'static str, String)> {
    let decision = &answer.decision;
    let principal = answer.principal.as_deref().map(|principal| principal.identity());
    // a second factor can count here alone
    let here =
        |who: &Identity| decision.operation.as_deref().map_or(who.assurance, |name| who.at_operation(name).assurance);
    let values = [
        principal.map(|who| header_value(&who.id.to_string())),
        principal.filter(|_| decision.allowed()).map(|_| scopes(&decision.required)),
        decision.operation.as_deref().map(ToOwned::to_owned),
        principal.map(|who| here(who).as_str().to_owned()),
        Some(answer.id.to_string()),
    ];
    IDENTITY_HEADERS.into_iter().zip(values).filter_map(|(name, value)| Some((name, value?))).collect()
}

fn scopes(scopes: &[Scope]) -> String {
    scopes.iter().map(Scope::as_str).collect::<Vec<_>>().join(" ")
}

/// A principal id as a header value: what is not printable ASCII is percent-encoded, and so is `%` itself, so that no
/// two ids look alike.
fn header_value(text: &str) -> String {
    const ENCODED: percent_encoding::AsciiSet = percent_encoding::CONTROLS.add(b'%').add(b'"').add(b',').add(b' ');
    percent_encoding::utf8_percent_encode(text, &ENCODED).to_string()
}

/// A quoted-string (RFC 9110 section 5.6.4).
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        if matches!(c, '"' | '\\') {
            quoted.push('\\');
        }
        quoted.push(c);
    }
    quoted.push('"');
    quoted
}

/// An answer as an HTTP response.
pub fn response(answer: HttpAnswer) -> Response {
    let mut response = Response::new(Body::from(answer.body));
    *response.status_mut() = answer.status;
    for (name, value) in answer.headers {
        // what is set comes from names that were parsed; a value that is none after all is left out
        if let Ok(value) = HeaderValue::try_from(value) {
            response.headers_mut().insert(HeaderName::from_static(name), value);
        }
    }
    response
}
