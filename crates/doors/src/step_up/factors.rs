//! The forms of a visit: verify a factor, get the token, and manage authenticator app and recovery codes.

use crate::step_up::endpoint::StepUpPage;
use crate::step_up::html::{self, Notice};
use crate::step_up::messages::{TOTP_TITLE, describe, set_retry_after};
use crate::step_up::submitted_form::SubmittedForm;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use chrono::Utc;
use durward_authn::Factor;
use durward_step_up::{PresentedFactor, StepUpError};

pub(super) async fn verify(
    State(page): State<StepUpPage>,
    SubmittedForm { mut session, fields }: SubmittedForm,
) -> Response {
    let presented = match (fields.get("otp"), fields.get("recovery_code"), fields.get("passkey")) {
        (Some(code), None, None) => PresentedFactor::Totp(code),
        (None, Some(code), None) => PresentedFactor::RecoveryCode(code),
        (None, None, Some(response)) => PresentedFactor::Key(response),
        _ => {
            let notice = Notice::Error("Type a code.");
            return page.ask_for_factor(&session, notice, StatusCode::BAD_REQUEST).await;
        }
    };
    match page.step_up.verify(&session.caller(), presented).await {
        Ok(factor) => {
            session.visit.verified = Some((factor, Utc::now()));
            page.issue_token(&session).await
        }
        Err(error) => {
            let (status, text) = describe(&error);
            let mut response = page.ask_for_factor(&session, Notice::Error(&text), status).await;
            set_retry_after(&mut response, &error);
            response
        }
    }
}

pub(super) async fn token(State(page): State<StepUpPage>, SubmittedForm { session, .. }: SubmittedForm) -> Response {
    page.issue_token(&session).await
}

pub(super) async fn manage(State(page): State<StepUpPage>, SubmittedForm { session, .. }: SubmittedForm) -> Response {
    page.list_factors(&session, Notice::None).await
}

pub(super) async fn start_totp(
    State(page): State<StepUpPage>,
    SubmittedForm { session, .. }: SubmittedForm,
) -> Response {
    match page.step_up.start_totp(&session.caller(), &session.visit.name).await {
        Ok(enrolment) => {
            let content = html::enrol_totp(&session.sealed_visit(), &enrolment);
            page.page(StatusCode::OK, Some(&session.visit), &html::page(TOTP_TITLE, Notice::None, &content))
        }
        Err(error) => page.step_up_error(&error),
    }
}

pub(super) async fn confirm_totp(
    State(page): State<StepUpPage>,
    SubmittedForm { mut session, fields }: SubmittedForm,
) -> Response {
    let code = SubmittedForm::field(&fields, "otp");
    let error = match page.step_up.confirm_totp(&session.caller(), &session.visit.name, code).await {
        Ok(recovery_codes) => {
            let notice = "Your authenticator app is set up.";
            return page.confirm_enrolment(&mut session, Factor::Totp, TOTP_TITLE, notice, recovery_codes);
        }
        Err(error) => error,
    };
    match page.step_up.pending_totp(&session.person, &session.visit.name).await {
        Ok(Some(enrolment)) if matches!(error, StepUpError::WrongFactor(_)) => {
            let content = html::enrol_totp(&session.sealed_visit(), &enrolment);
            let notice = Notice::Error("That is not the code of this secret. Is your phone's clock right?");
            page.page(StatusCode::BAD_REQUEST, Some(&session.visit), &html::page(TOTP_TITLE, notice, &content))
        }
        _ => page.step_up_error(&error),
    }
}

pub(super) async fn remove_totp(
    State(page): State<StepUpPage>,
    SubmittedForm { session, .. }: SubmittedForm,
) -> Response {
    match page.step_up.remove_totp(&session.caller()).await {
        Ok(()) => page.list_factors(&session, Notice::Success("Your authenticator app is removed.")).await,
        Err(error) => page.step_up_error(&error),
    }
}

pub(super) async fn recovery_codes(
    State(page): State<StepUpPage>,
    SubmittedForm { session, .. }: SubmittedForm,
) -> Response {
    match page.step_up.new_recovery_codes(&session.caller()).await {
        Ok(codes) => {
            let content = html::recovery_codes(&session.sealed_visit(), &codes);
            let notice = Notice::Success("The old codes are no longer valid.");
            let page_content = html::page("New recovery codes", notice, &content);
            page.page(StatusCode::OK, Some(&session.visit), &page_content)
        }
        Err(error) => page.step_up_error(&error),
    }
}
