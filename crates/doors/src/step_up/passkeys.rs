//! Passkeys and hardware keys: what a key is to answer, as JSON for the page's script and for clients that are no browser,
//! and the forms that carry the answers.

use crate::exchange::{Body, form};
use crate::headers::source;
use crate::step_up::{ELSEWHERE, NOT_ACCEPTED, Page, Sent, page};
use axum::extract::{Extension, State};
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use durward_authn::Factor;
use durward_runtime::trust::Peer;
use durward_step_up::{KeyRefused, Refused, Visitor};
use serde::Serialize;
use serde_json::json;

const SCRIPT: &str = include_str!("passkey.js");
const TITLE: &str = "Your passkeys and hardware keys";

pub(super) fn router() -> Router<Page> {
    let script = async || ([(header::CONTENT_TYPE, "text/javascript; charset=utf-8")], SCRIPT);
    Router::new()
        .route("/step-up/passkey.js", get(script))
        .route("/step-up/passkeys/get", post(ask))
        .route("/step-up/passkeys/create", post(begin))
        .route("/step-up/passkeys/add", post(add))
        .route("/step-up/passkeys/remove", post(remove))
        .route("/step-up/passkeys/challenge", post(challenge))
}

/// What a person is told of a key that does not count.
pub(super) const fn told(refused: &KeyRefused) -> &'static str {
    match refused {
        KeyRefused::Full => "You have as many keys as you can have. Remove one first.",
        KeyRefused::NoKeys => "You have no key here.",
        KeyRefused::Name => "Give the key a name that none of your keys has, of at most 64 characters.",
        KeyRefused::NotStarted | KeyRefused::Late(_) => "That took too long, or was sent twice. Try again.",
        KeyRefused::Counter => {
            "This key was not accepted: there may be a copy of it. Use another factor, remove this one, and tell whoever runs \
             this installation."
        }
        _ => "That key does not count here.",
    }
}

/// What the script of the page asks for: the options of a ceremony.
async fn ask(State(page): State<Page>, Sent { here, .. }: Sent) -> Response {
    options(page.step_up.ask_key(&here.visitor()).await)
}

async fn begin(State(page): State<Page>, Sent { here, .. }: Sent) -> Response {
    options(page.step_up.begin_key(&here.visitor()).await)
}

/// The same for a client without a page: the person's token is what stands for them, as in the exchange that follows.
async fn challenge(
    State(page): State<Page>,
    Extension(peer): Extension<Peer>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let Ok(form) = form(&uri, &headers, &body) else { return failed(StatusCode::BAD_REQUEST, ELSEWHERE) };
    let text = |name: &str| form.get(name).map_or("", AsRef::as_ref);
    let Ok(subject) = page.service.person(text("subject_token"), text("audience")).await else {
        return failed(StatusCode::UNAUTHORIZED, NOT_ACCEPTED);
    };
    let id = &subject.principal.identity().id;
    let visitor = Visitor { id, source: source(&page.trust, &peer, &headers), proved_at: None };
    options(page.step_up.ask_key(&visitor).await)
}

fn options(options: Result<impl Serialize, Refused>) -> Response {
    match options {
        Ok(options) => ([(header::CACHE_CONTROL, "no-store")], Json(options)).into_response(),
        Err(refused) => {
            let (status, why) = super::told(&refused);
            let mut response = failed(status, &why);
            super::retry_after(&mut response, &refused);
            response
        }
    }
}

fn failed(status: StatusCode, why: &str) -> Response {
    let body = json!({"error": "invalid_request", "error_description": why});
    (status, [(header::CACHE_CONTROL, "no-store")], Json(body)).into_response()
}

async fn add(State(page): State<Page>, Sent { mut here, form }: Sent) -> Response {
    let text = |name: &str| form.get(name).map_or("", String::as_str);
    match page.step_up.confirm_key(&here.visitor(), text("name"), text("passkey")).await {
        Ok(codes) => page.enrolled(&mut here, Factor::Passkey, (TITLE, "Your key is added."), codes),
        Err(refused) => page.refused(&refused),
    }
}

async fn remove(State(page): State<Page>, Sent { here, form }: Sent) -> Response {
    match page.step_up.remove_key(&here.visitor(), form.get("key").map_or("", String::as_str)).await {
        Ok(()) => page.factors(&here, page::Told::Done("Your key is removed.")).await,
        Err(refused) => page.refused(&refused),
    }
}
