//! Texts for people. Those about an error say neither which factors exist nor what was nearly right.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use durward_step_up::{PasskeyError, StepUpError};

pub(super) const CONFIRM_TITLE: &str = "Confirm that it is you";
pub(super) const TOTP_TITLE: &str = "Your authenticator app";
pub(super) const PASSKEYS_TITLE: &str = "Your passkeys and hardware keys";

pub(super) const NOT_ACCEPTED: &str =
    "The token is not accepted for this service. Sign in again, and come back with a new one.";
pub(super) const FOREIGN_FORM: &str =
    "This form was not sent from this page. Go back to where you came from, and begin again.";
pub(super) const UNREADABLE_QUERY: &str =
    "The address of this page is damaged. Go back to where you came from, and follow the link again.";
pub(super) const VISIT_EXPIRED: &str = "This visit has expired. Go back to where you came from, and begin again.";
pub(super) const UNAVAILABLE: &str = "This does not work just now. Try again in a minute.";
pub(super) const FOREIGN_RETURN: &str = "This installation does not send tokens to that address.";
pub(super) const NO_TOKEN: &str =
    "No token was issued: the second factor is too old, or the service has no such operation. Begin again.";

/// The status and the text for an error of the step-up service.
pub(super) fn describe(error: &StepUpError) -> (StatusCode, String) {
    match error {
        StepUpError::WrongFactor(_) => {
            (StatusCode::BAD_REQUEST, "That is not correct. Each code works once: wait for the next one.".to_owned())
        }
        StepUpError::Passkey(error) => (StatusCode::BAD_REQUEST, describe_passkey(error).to_owned()),
        StepUpError::Paused { wait, .. } => {
            let text = format!("Too many failed or repeated attempts. Try again in {} seconds.", wait.num_seconds());
            (StatusCode::TOO_MANY_REQUESTS, text)
        }
        StepUpError::Forbidden(_) => {
            (StatusCode::FORBIDDEN, "Confirm first that it is you; then you can change your factors.".to_owned())
        }
        StepUpError::NotAUser => (StatusCode::FORBIDDEN, "Only people have second factors.".to_owned()),
        StepUpError::Unavailable(error) => {
            tracing::error!(%error, "second factors are unavailable; refusing the step-up request");
            (StatusCode::SERVICE_UNAVAILABLE, UNAVAILABLE.to_owned())
        }
    }
}

const fn describe_passkey(error: &PasskeyError) -> &'static str {
    match error {
        PasskeyError::Full => "You have as many keys as you can have. Remove one first.",
        PasskeyError::NoKeys => "You have no key here.",
        PasskeyError::Name => "Give the key a name that none of your keys has, of at most 64 characters.",
        PasskeyError::NotStarted | PasskeyError::Expired(_) => "That took too long, or was sent twice. Try again.",
        PasskeyError::Counter => {
            "This key was not accepted: there may be a copy of it. Use another factor, remove this one, and \
             contact your administrator."
        }
        _ => "That key is not accepted here.",
    }
}

/// Adds `Retry-After` for a caller who has to wait.
pub(super) fn set_retry_after(response: &mut Response, error: &StepUpError) {
    if let StepUpError::Paused { wait, .. } = error {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(wait.num_seconds().unsigned_abs()));
    }
}
