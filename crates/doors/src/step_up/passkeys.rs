//! Passkeys and hardware keys: the options of a WebAuthn ceremony as JSON, and the forms that carry the responses.
//!
//! The page's script asks for the options, and so do clients that are not browsers.

use crate::form::{self, FormBody};
use crate::headers::caller_address;
use crate::step_up::endpoint::StepUpPage;
use crate::step_up::html::Notice;
use crate::step_up::messages::{FOREIGN_FORM, NOT_ACCEPTED, PASSKEYS_TITLE, describe, set_retry_after};
use crate::step_up::submitted_form::SubmittedForm;
use axum::extract::{Extension, State};
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use durward_authn::Factor;
use durward_runtime::peers::Peer;
use durward_step_up::{StepUpCaller, StepUpError};
use serde::Serialize;
use serde_json::json;

const SCRIPT: &str = include_str!("passkey.js");

pub(super) fn router() -> Router<StepUpPage> {
    let script = async || ([(header::CONTENT_TYPE, "text/javascript; charset=utf-8")], SCRIPT);
    Router::new()
        .route("/step-up/passkey.js", get(script))
        .route("/step-up/passkeys/get", post(authentication_options))
        .route("/step-up/passkeys/create", post(registration_options))
        .route("/step-up/passkeys/add", post(add))
        .route("/step-up/passkeys/remove", post(remove))
        .route("/step-up/passkeys/challenge", post(challenge))
}

async fn authentication_options(
    State(page): State<StepUpPage>,
    SubmittedForm { session, .. }: SubmittedForm,
) -> Response {
    options(page.step_up.start_key_authentication(&session.caller()).await)
}

async fn registration_options(
    State(page): State<StepUpPage>,
    SubmittedForm { session, .. }: SubmittedForm,
) -> Response {
    options(page.step_up.start_key_registration(&session.caller()).await)
}

/// Authentication options for a client without a visit, which identifies the person by their token.
async fn challenge(
    State(page): State<StepUpPage>,
    Extension(peer): Extension<Peer>,
    uri: Uri,
    headers: HeaderMap,
    body: FormBody,
) -> Response {
    let Ok(form) = form::parse(&uri, &headers, &body) else {
        return error_response(StatusCode::BAD_REQUEST, FOREIGN_FORM);
    };
    let text = |name: &str| form.get(name).map_or("", AsRef::as_ref);
    let Ok(subject) = page.service.authenticate_subject(text("subject_token"), text("audience")).await else {
        return error_response(StatusCode::UNAUTHORIZED, NOT_ACCEPTED);
    };
    let id = &subject.principal.identity().id;
    let caller = StepUpCaller { id, source: caller_address(&page.trust, &peer, &headers), verified_at: None };
    options(page.step_up.start_key_authentication(&caller).await)
}

fn options(options: Result<impl Serialize, StepUpError>) -> Response {
    match options {
        Ok(options) => ([(header::CACHE_CONTROL, "no-store")], Json(options)).into_response(),
        Err(error) => {
            let (status, text) = describe(&error);
            let mut response = error_response(status, &text);
            set_retry_after(&mut response, &error);
            response
        }
    }
}

fn error_response(status: StatusCode, description: &str) -> Response {
    let body = json!({"error": "invalid_request", "error_description": description});
    (status, [(header::CACHE_CONTROL, "no-store")], Json(body)).into_response()
}

async fn add(State(page): State<StepUpPage>, SubmittedForm { mut session, fields }: SubmittedForm) -> Response {
    let name = SubmittedForm::field(&fields, "name");
    let response = SubmittedForm::field(&fields, "passkey");
    match page.step_up.confirm_key(&session.caller(), name, response).await {
        Ok(recovery_codes) => {
            let notice = "Your key is added.";
            page.confirm_enrolment(&mut session, Factor::Passkey, PASSKEYS_TITLE, notice, recovery_codes)
        }
        Err(error) => page.step_up_error(&error),
    }
}

async fn remove(State(page): State<StepUpPage>, SubmittedForm { session, fields }: SubmittedForm) -> Response {
    match page.step_up.remove_key(&session.caller(), SubmittedForm::field(&fields, "key")).await {
        Ok(()) => page.list_factors(&session, Notice::Success("Your key is removed.")).await,
        Err(error) => page.step_up_error(&error),
    }
}
