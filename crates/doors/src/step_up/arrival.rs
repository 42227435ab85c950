//! The first pages: a person arrives with a token, and a visit begins.

use crate::form::{self, FormBody};
use crate::headers::caller_address;
use crate::step_up::endpoint::StepUpPage;
use crate::step_up::html::{self, Notice};
use crate::step_up::messages::{
    CONFIRM_TITLE, FOREIGN_FORM, FOREIGN_RETURN, NOT_ACCEPTED, UNAVAILABLE, UNREADABLE_QUERY,
};
use crate::step_up::visit::{COOKIE_SEAL, MAX_VISIT, StepUpQuery, Visit, VisitCookie, VisitSession};
use axum::extract::rejection::QueryRejection;
use axum::extract::{Extension, Query, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::response::Response;
use chrono::Utc;
use durward_authn::bearer;
use durward_runtime::peers::Peer;
use durward_runtime::random::random_bytes;
use durward_step_up::STEP_UP_PATH;
use std::net::IpAddr;
use url::Url;

/// Longest `operation`, `return_to` or `state`, in bytes.
const MAX_TEXT: usize = 2048;

/// Asks for the first token, unless an authenticating proxy sends it along.
pub(super) async fn arrive(
    State(page): State<StepUpPage>,
    Extension(peer): Extension<Peer>,
    query: Result<Query<StepUpQuery>, QueryRejection>,
    headers: HeaderMap,
) -> Response {
    let Ok(Query(query)) = query else { return page.error_page(StatusCode::BAD_REQUEST, UNREADABLE_QUERY) };
    match bearer::token(&headers) {
        Ok(Some(token)) => page.begin_visit(token, &query, caller_address(&page.trust, &peer, &headers)).await,
        Ok(None) => {
            let content = html::ask_for_token(&query);
            page.page(StatusCode::OK, None, &html::page(CONFIRM_TITLE, Notice::None, &content))
        }
        Err(_) => page.error_page(StatusCode::BAD_REQUEST, NOT_ACCEPTED),
    }
}

/// Takes the first token from a form of this page, or of an app to which the page may return the new token.
pub(super) async fn submit_token(
    State(page): State<StepUpPage>,
    Extension(peer): Extension<Peer>,
    uri: Uri,
    headers: HeaderMap,
    body: FormBody,
) -> Response {
    let Ok(form) = form::parse(&uri, &headers, &body) else {
        return page.error_page(StatusCode::BAD_REQUEST, FOREIGN_FORM);
    };
    let origin = headers.get(header::ORIGIN).and_then(|origin| origin.to_str().ok());
    let mut return_origins = page.step_up.settings().return_to.iter().map(|url| url.origin().ascii_serialization());
    if !origin.is_some_and(|origin| origin == page.own_origin() || return_origins.any(|other| other == origin)) {
        return page.error_page(StatusCode::FORBIDDEN, FOREIGN_FORM);
    }
    let text = |name: &str| form.get(name).map(|value| value.to_string()).unwrap_or_default();
    let query = StepUpQuery {
        audience: text("audience"),
        operation: text("operation"),
        return_to: text("return_to"),
        state: text("state"),
    };
    let token = form.get("subject_token").map_or("", |token| token.trim());
    page.begin_visit(token, &query, caller_address(&page.trust, &peer, &headers)).await
}

impl StepUpPage {
    async fn begin_visit(&self, token: &str, query: &StepUpQuery, source: IpAddr) -> Response {
        let texts = [&query.audience, &query.operation, &query.return_to, &query.state];
        if texts.iter().any(|text| text.len() > MAX_TEXT) {
            return self.error_page(StatusCode::BAD_REQUEST, FOREIGN_FORM);
        }
        let return_to = match non_empty(&query.return_to) {
            None => None,
            Some(url) => match self.allowed_return(&url) {
                Some(url) => Some(url),
                None => return self.error_page(StatusCode::BAD_REQUEST, FOREIGN_RETURN),
            },
        };
        let Ok(subject) = self.service.authenticate_subject(token, &query.audience).await else {
            return self.error_page(StatusCode::UNAUTHORIZED, NOT_ACCEPTED);
        };
        let sealer = match self.step_up.sealer().await {
            Ok(sealer) => sealer,
            Err(error) => return self.step_up_error(&error.into()),
        };
        let Ok(name) = random_bytes::<16>() else {
            return self.error_page(StatusCode::SERVICE_UNAVAILABLE, UNAVAILABLE);
        };
        let name = hex::encode(name);
        let ends = subject.ends.min(Utc::now() + MAX_VISIT);
        let person = subject.principal.identity().id.clone();
        let cookie = VisitCookie { name: name.clone(), principal: person.clone(), ends };
        let Some(cookie) = sealer.seal(COOKIE_SEAL, &cookie) else {
            return self.error_page(StatusCode::SERVICE_UNAVAILABLE, UNAVAILABLE);
        };
        let visit = Visit {
            name,
            token: token.to_owned(),
            audience: query.audience.clone(),
            operation: non_empty(&query.operation),
            return_to,
            state: non_empty(&query.state),
            verified: None,
            ends,
        };
        let session = VisitSession { visit, person, source, sealer };
        let mut response = self.ask_for_factor(&session, Notice::None, StatusCode::OK).await;
        self.set_cookie(&mut response, &cookie);
        response
    }

    fn set_cookie(&self, response: &mut Response, sealed: &str) {
        // a cookie with the prefix `__Host-` has to be for the whole host
        let path = if self.is_https() { "/" } else { STEP_UP_PATH };
        let secure = if self.is_https() { "; Secure" } else { "" };
        let cookie = format!("{}={sealed}; Path={path}; HttpOnly; SameSite=Strict{secure}", self.cookie_name());
        if let Ok(cookie) = HeaderValue::try_from(cookie) {
            response.headers_mut().insert(header::SET_COOKIE, cookie);
        }
    }

    /// The URL, if the page may send tokens to its origin.
    fn allowed_return(&self, url: &str) -> Option<String> {
        let url = Url::parse(url).ok().filter(|url| matches!(url.scheme(), "http" | "https"))?;
        let allowed = self.step_up.settings().return_to.iter().any(|one| one.origin() == url.origin());
        allowed.then(|| url.into())
    }
}

fn non_empty(text: &str) -> Option<String> {
    if text.is_empty() { None } else { Some(text.to_owned()) }
}
