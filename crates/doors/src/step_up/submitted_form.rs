//! Checks that a form was sent from a page of its visit, by the person of the visit.

use crate::form;
use crate::headers::caller_address;
use crate::step_up::endpoint::StepUpPage;
use crate::step_up::messages::{FOREIGN_FORM, NOT_ACCEPTED, UNAVAILABLE, VISIT_EXPIRED};
use crate::step_up::visit::{COOKIE_SEAL, FORM_SEAL, Visit, VisitCookie, VisitSession};
use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use axum::response::Response;
use chrono::Utc;
use durward_runtime::peers::Peer;
use durward_step_up::Sealer;
use std::collections::BTreeMap;
use subtle::ConstantTimeEq;

/// A form of a visit, and its fields.
pub(super) struct SubmittedForm {
    pub(super) session: VisitSession,
    pub(super) fields: BTreeMap<String, String>,
}

impl SubmittedForm {
    /// The value of a field, which is empty where there is none.
    pub(super) fn field<'f>(fields: &'f BTreeMap<String, String>, name: &str) -> &'f str {
        fields.get(name).map_or("", String::as_str)
    }
}

impl FromRequest<StepUpPage> for SubmittedForm {
    type Rejection = Response;

    async fn from_request(request: Request, page: &StepUpPage) -> Result<Self, Response> {
        read(request, page).await.map_err(|(status, text)| page.error_page(status, text))
    }
}

async fn read(request: Request, page: &StepUpPage) -> Result<SubmittedForm, (StatusCode, &'static str)> {
    let (parts, body) = request.into_parts();
    if !is_same_origin(&parts, page) {
        return Err((StatusCode::FORBIDDEN, FOREIGN_FORM));
    }
    let Some(peer) = parts.extensions.get::<Peer>() else { return Err((StatusCode::FORBIDDEN, FOREIGN_FORM)) };
    let source = caller_address(&page.trust, peer, &parts.headers);
    let body = Bytes::from_request(Request::from_parts(parts.clone(), body), page).await;
    let Ok(form) = form::parse(&parts.uri, &parts.headers, &body) else {
        return Err((StatusCode::BAD_REQUEST, FOREIGN_FORM));
    };
    let Ok(sealer) = page.step_up.sealer().await else { return Err((StatusCode::SERVICE_UNAVAILABLE, UNAVAILABLE)) };
    let visit = form.get("visit").and_then(|sealed| sealer.open::<Visit>(FORM_SEAL, sealed));
    let cookie = visit_cookie(&parts, page, &sealer);
    let now = Utc::now();
    let matching = visit.zip(cookie).filter(|(visit, cookie)| {
        bool::from(visit.name.as_bytes().ct_eq(cookie.name.as_bytes())) && now < visit.ends && now < cookie.ends
    });
    let Some((visit, cookie)) = matching else { return Err((StatusCode::FORBIDDEN, VISIT_EXPIRED)) };
    // checked for every form, so that a revoked person can't finish a visit
    let subject = page.service.authenticate_subject(&visit.token, &visit.audience).await;
    match subject.map(|subject| subject.principal.identity().id.clone()) {
        Ok(person) if person == cookie.principal => {
            let fields = form.into_iter().map(|(name, value)| (name.into_owned(), value.into_owned())).collect();
            Ok(SubmittedForm { session: VisitSession { visit, person, source, sealer }, fields })
        }
        _ => Err((StatusCode::UNAUTHORIZED, NOT_ACCEPTED)),
    }
}

fn is_same_origin(parts: &Parts, page: &StepUpPage) -> bool {
    let text = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok());
    text("sec-fetch-site").is_none_or(|site| site == "same-origin")
        && text("origin") == Some(page.own_origin().as_str())
}

fn visit_cookie(parts: &Parts, page: &StepUpPage, sealer: &Sealer) -> Option<VisitCookie> {
    let prefix = format!("{}=", page.cookie_name());
    let mut cookies = parts.headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let sealed = cookies.find_map(|all| all.split(';').find_map(|one| one.trim().strip_prefix(&prefix)))?;
    sealer.open(COOKIE_SEAL, sealed)
}
