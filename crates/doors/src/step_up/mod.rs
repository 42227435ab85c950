//! The step-up page: a person with a first token proves a second factor in a browser, and gets a short-lived token.
//!
//! A visit goes from form to form. Each form carries the visit, sealed, with the first token in it; a cookie holds the
//! name of the visit. A site that makes a browser send a form doesn't have the visit, and an attacker who has read a
//! form doesn't have the cookie.

mod arrival;
mod endpoint;
mod factors;
mod html;
mod messages;
mod passkeys;
mod submitted_form;
mod visit;

pub use endpoint::StepUpPage;

use crate::body_limit::with_body_limit;
use axum::Router;
use axum::http::header;
use axum::routing::{get, post};
use durward_step_up::STEP_UP_PATH;

/// Largest form, in bytes: the longest token, sealed twice over in base64.
const MAX_BODY: usize = 64 * 1024;
const STYLE: &str = include_str!("style.css");

/// The page as a router.
pub fn router(page: StepUpPage) -> Router {
    let style = async || ([(header::CONTENT_TYPE, "text/css; charset=utf-8")], STYLE);
    let router = Router::new()
        .route(STEP_UP_PATH, get(arrival::arrive).post(arrival::submit_token))
        .route("/step-up/verify", post(factors::verify))
        .route("/step-up/token", post(factors::token))
        .route("/step-up/manage", post(factors::manage))
        .route("/step-up/totp", post(factors::start_totp))
        .route("/step-up/totp/confirm", post(factors::confirm_totp))
        .route("/step-up/totp/remove", post(factors::remove_totp))
        .route("/step-up/recovery-codes", post(factors::recovery_codes))
        .route("/step-up/style.css", get(style))
        .merge(passkeys::router());
    with_body_limit(router, MAX_BODY).with_state(page)
}
