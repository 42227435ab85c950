//! HTTP responses for decisions (RFC 6750, RFC 9470), the same for forward auth, `ext_authz` and the gate.

use axum::body::Body;
use axum::response::Response;
use durward_core::approval::ApprovalSubject;
use durward_core::authentication::Challenge;
use durward_core::decision::{Decision, Reason};
use durward_core::principal::Identity;
use durward_core::scope::Scope;
use durward_core::visible::visible;
use durward_engine::EngineAnswer;
use http::{HeaderName, HeaderValue, StatusCode};
use maud::{DOCTYPE, Markup, html};
use serde_json::json;
use url::Url;

/// Headers that name the caller to the application. Durward sets all of them on every allow, empty where there is
/// nothing to say: a proxy that copies what is set must never pass on the client's own.
pub const IDENTITY_HEADERS: [&str; 5] =
    ["x-durward-principal", "x-durward-scopes", "x-durward-operation", "x-durward-assurance", "x-durward-decision"];

/// Headers with which some frameworks let a client change the method after the decision.
pub const METHOD_OVERRIDES: [&str; 6] =
    ["x-http-method-override", "x-http-method", "x-method-override", "x-method", "x-http-verb", "http-method-override"];

/// Headers from which some frameworks take the path, in place of the request line.
pub const PATH_OVERRIDES: [&str; 2] = ["x-original-url", "x-rewrite-url"];

/// Extension relation of a link to the step-up page; no registered one fits (RFC 8288, section 2.1.2).
const STEP_UP: &str = "https://durward.dev/rel/step-up";

/// Status, headers and body of a response.
#[derive(Debug, PartialEq, Eq)]
pub struct HttpAnswer {
    pub status: StatusCode,
    pub headers: Vec<(&'static str, String)>,
    pub body: String,
}

impl HttpAnswer {
    /// The response for a decision. Where `accept` asks for HTML, the link to the step-up page is a page for people.
    pub fn new(answer: &EngineAnswer, accept: Option<&str>) -> Self {
        let mut response = Self::in_json(answer);
        let Some(page) = &answer.step_up else { return response };
        if answer.passes() {
            return response;
        }
        response.headers.push(("link", format!("<{page}>; rel=\"{STEP_UP}\"")));
        // a page of another origin may read few headers, unless the response names more (Fetch, section 3.2)
        response.headers.push(("access-control-expose-headers", "link, www-authenticate".to_owned()));
        response.body = json!({"error": "insufficient_user_authentication", "step_up_uri": page.as_str()}).to_string();
        if accept.is_some_and(|accept| accept.split([',', ';']).any(|media| media.trim() == "text/html")) {
            response.headers.retain(|(name, _)| *name != "content-type");
            response.headers.push(("content-type", "text/html; charset=utf-8".to_owned()));
            response.headers.push(("vary", "accept".to_owned()));
            response.body = step_up_page(page).into_string();
        }
        response
    }

    fn in_json(answer: &EngineAnswer) -> Self {
        if answer.passes() {
            return Self { status: StatusCode::OK, headers: identity_headers(answer), body: String::new() };
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

    /// The response to a missing or invalid credential, which doesn't say what is wrong with it.
    pub(crate) fn unauthenticated(realm: &str, presented: bool) -> Self {
        let error = if presented { r#", error="invalid_token""# } else { "" };
        Self::refusal(StatusCode::UNAUTHORIZED, Some(bearer(realm, error)), r#"{"error":"invalid_token"}"#.to_owned())
    }

    /// Asks for stronger or fresher authentication (RFC 9470).
    pub fn challenge(realm: &str, required: Option<Challenge>) -> Self {
        let mut challenge = r#", error="insufficient_user_authentication""#.to_owned();
        if let Some(required) = required {
            challenge.push_str(&format!(r#", acr_values="{}""#, required.assurance.acr()));
            if let Some(age) = required.max_age {
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

/// Namespace and name of an Approval, as people and programs refer to it.
pub fn approval_name(subject: &ApprovalSubject) -> String {
    format!("{}/{}", subject.policy.namespace, subject.approval_name())
}

/// The page that a browser shows for an operation of high risk. A redirect would lose the original request, and could
/// loop.
fn step_up_page(page: &Url) -> Markup {
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

/// The identity headers for the application. All are set; one without a value is empty.
fn identity_headers(answer: &EngineAnswer) -> Vec<(&'static str, String)> {
    let decision = &answer.decision;
    let principal = answer.principal.as_deref().map(|principal| principal.identity());
    // a second factor can be valid for this operation alone
    let assurance = |identity: &Identity| {
        let operation = decision.operation.as_deref();
        operation.map_or(identity.assurance, |name| identity.at_operation(name).assurance)
    };
    let values = [
        principal.map(|identity| header_value(&identity.id.to_string())),
        (principal.is_some() && decision.allowed()).then(|| scopes(&decision.required)),
        decision.operation.as_deref().map(ToOwned::to_owned),
        principal.map(|identity| assurance(identity).as_str().to_owned()),
        Some(answer.id.to_string()),
    ];
    IDENTITY_HEADERS.into_iter().zip(values.map(Option::unwrap_or_default)).collect()
}

fn scopes(scopes: &[Scope]) -> String {
    scopes.iter().map(Scope::as_str).collect::<Vec<_>>().join(" ")
}

/// A principal id as a header value. Everything but printable ASCII is percent-encoded, and so is `%` itself, so that
/// different ids have different values.
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

/// The HTTP response with this status, these headers and this body.
pub fn response(answer: HttpAnswer) -> Response {
    let mut response = Response::new(Body::from(answer.body));
    *response.status_mut() = answer.status;
    for (name, value) in answer.headers {
        // values are built from parsed names; one that is invalid all the same becomes empty, never the client's own
        let value = HeaderValue::try_from(value).unwrap_or(HeaderValue::from_static(""));
        response.headers_mut().insert(HeaderName::from_static(name), value);
    }
    response
}

/// The refusal as `kubectl` shows it: the operation, what is missing, and the id of the audit record.
pub(crate) fn refusal_message(answer: &EngineAnswer) -> String {
    let decision = &answer.decision;
    let operation = decision.operation.as_deref().unwrap_or_default();
    let policy = decision.policy.as_ref().map(ToString::to_string).unwrap_or_default();
    let caller = answer
        .principal
        .as_ref()
        .map_or_else(|| "an unauthenticated caller".to_owned(), |p| visible(&p.identity().id.to_string()).into_owned());
    if decision.reason == Reason::NoPolicy {
        let service = answer.audience.as_deref().unwrap_or_default();
        return format!(
            "service `{service}` is closed, so what its policies governed is refused until policy {policy} is fixed or \
             removed (decision {})",
            answer.id
        );
    }
    let reason = if answer.unrecorded { "the decision could not be recorded".to_owned() } else { reason(decision) };
    format!("operation `{operation}` of policy {policy} is refused for {caller}: {reason} (decision {})", answer.id)
}

fn reason(decision: &Decision) -> String {
    match (decision.reason, &decision.challenge) {
        (Reason::InsufficientScope, _) => {
            let missing: Vec<_> = decision.missing.iter().map(|scope| format!("`{scope}`")).collect();
            format!("missing scope {}", missing.join(" and "))
        }
        (Reason::AssuranceTooLow, Some(challenge)) => {
            let fresh = challenge.max_age.map(|age| format!(" not older than {} s", age.num_seconds()));
            format!("its risk requires {}{}", challenge.assurance, fresh.unwrap_or_default())
        }
        (Reason::ApprovalRequired, _) => {
            let name = decision.approval.as_ref().map(|approval| approval_name(&approval.subject)).unwrap_or_default();
            format!("it requires an approval: let an approver run `durward approve {name}`, then try again")
        }
        (Reason::Denied, _) => {
            let denials: Vec<_> = decision.rules.iter().map(|rule| format!("`{rule}`")).collect();
            format!("{} applies", denials.join(" and "))
        }
        (reason, _) => reason.to_string(),
    }
}
