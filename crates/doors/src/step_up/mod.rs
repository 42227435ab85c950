//! The step-up page: a person with a first token shows a second factor in a browser, and gets a short token that says so.
//!
//! A visit goes from form to form. Each form carries the visit, sealed, with the first token in it; a cookie holds its
//! name. Whoever makes a browser send a form has not the visit, and whoever has read a form has not the cookie.

mod page;
mod passkeys;

use crate::exchange::{Body, form};
use crate::headers::source;
use durward_authn::{Factor, Proof};
use durward_runtime::trust::{Peer, Trust};

use axum::Router;
use axum::body::Bytes;
use axum::extract::rejection::QueryRejection;
use axum::extract::{DefaultBodyLimit, Extension, FromRequest, Query, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use chrono::{DateTime, TimeDelta, Utc};
use durward_core::principal::PrincipalId;
use durward_identity::{Refusal, SecondFactor, TokenRequest, TokenService};
use durward_runtime::random::random;
use durward_step_up::{FRESH, PATH, Refused, Sealer, Shown, StepUp, Visitor};
use maud::Markup;
use page::Told;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use subtle::ConstantTimeEq;
use url::Url;

/// Largest form, in bytes: the longest token, sealed twice over in base64.
const MAX_BODY: usize = 64 * 1024;
/// Longest `operation`, `return_to` or `state`, in bytes.
const MAX_TEXT: usize = 2048;
/// How long a visit lasts at most.
const VISIT: TimeDelta = TimeDelta::minutes(15);
/// What seals are for.
const FORM_SEAL: &str = "visit";
const COOKIE_SEAL: &str = "cookie";
const STYLE: &str = include_str!("style.css");

/// Who works behind the page.
#[derive(Debug, Clone)]
pub struct Page {
    pub service: TokenService,
    pub step_up: StepUp,
    pub trust: Arc<Trust>,
}

/// What somebody comes for.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Asked {
    #[serde(default)]
    audience: String,
    #[serde(default)]
    operation: String,
    /// Where the new token is to go.
    #[serde(default)]
    return_to: String,
    /// Comes back with it.
    #[serde(default)]
    state: String,
}

/// A visit, as forms carry it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Visit {
    /// Its name, which the cookie has too.
    name: String,
    /// The first token.
    token: String,
    audience: String,
    operation: Option<String>,
    return_to: Option<String>,
    state: Option<String>,
    /// The second factor that was shown, and when.
    proved: Option<(Factor, DateTime<Utc>)>,
    ends: DateTime<Utc>,
}

/// What the cookie holds.
#[derive(Debug, Serialize, Deserialize)]
struct Cookie {
    name: String,
    principal: PrincipalId,
    ends: DateTime<Utc>,
}

/// The page as a router.
pub fn router(page: Page) -> Router {
    let style = async || ([(header::CONTENT_TYPE, "text/css; charset=utf-8")], STYLE);
    Router::new()
        .route(PATH, get(begin).post(come))
        .route("/step-up/verify", post(verify))
        .route("/step-up/token", post(token))
        .route("/step-up/manage", post(manage))
        .route("/step-up/totp", post(enrol))
        .route("/step-up/totp/confirm", post(confirm))
        .route("/step-up/totp/remove", post(remove))
        .route("/step-up/recovery-codes", post(recovery_codes))
        .route("/step-up/style.css", get(style))
        .merge(passkeys::router())
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(page)
}

/// A visitor whose first token still counts.
struct Here {
    visit: Visit,
    person: PrincipalId,
    source: IpAddr,
    sealer: Arc<Sealer>,
}

impl Here {
    /// The visit, as forms carry it; a form without one is refused.
    fn seal(&self) -> String {
        self.sealer.seal(FORM_SEAL, &self.visit).unwrap_or_default()
    }

    fn visitor(&self) -> Visitor<'_> {
        Visitor { id: &self.person, source: self.source, proved_at: self.visit.proved.map(|(_, at)| at) }
    }
}

/// The first page: with a token by an authenticating proxy it is the second.
async fn begin(
    State(page): State<Page>,
    Extension(peer): Extension<Peer>,
    asked: Result<Query<Asked>, QueryRejection>,
    headers: HeaderMap,
) -> Response {
    let Ok(Query(asked)) = asked else { return page.trouble(StatusCode::BAD_REQUEST, UNREADABLE) };
    match durward_authn::bearer::token(&headers) {
        Ok(Some(token)) => page.welcome(token, &asked, source(&page.trust, &peer, &headers)).await,
        Ok(None) => page.answer(StatusCode::OK, None, &page::page(TITLE, Told::Nothing, &page::begin(&asked))),
        Err(_) => page.trouble(StatusCode::BAD_REQUEST, NOT_ACCEPTED),
    }
}

const TITLE: &str = "Confirm that it is you";
const NOT_ACCEPTED: &str = "The token is not accepted for this service. Sign in again, and come back with a new one.";
const ELSEWHERE: &str = "This form was not sent from this page. Go back to where you came from, and begin again.";
const UNREADABLE: &str =
    "The address of this page is damaged. Go back to where you came from, and follow the link again.";
const OVER: &str = "This visit is over. Go back to where you came from, and begin again.";

/// A token comes by a form: of this page, or of an app that may have the new token.
async fn come(
    State(page): State<Page>,
    Extension(peer): Extension<Peer>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let Ok(form) = form(&uri, &headers, &body) else { return page.trouble(StatusCode::BAD_REQUEST, ELSEWHERE) };
    let origin = headers.get(header::ORIGIN).and_then(|origin| origin.to_str().ok());
    let returns = page.step_up.settings().return_to.iter().map(|url| url.origin().ascii_serialization());
    if !origin.is_some_and(|origin| origin == page.own_origin() || returns.into_iter().any(|one| one == origin)) {
        return page.trouble(StatusCode::FORBIDDEN, ELSEWHERE);
    }
    let text = |name: &str| form.get(name).map(|value| value.to_string()).unwrap_or_default();
    let asked = Asked {
        audience: text("audience"),
        operation: text("operation"),
        return_to: text("return_to"),
        state: text("state"),
    };
    let token = form.get("subject_token").map_or("", |token| token.trim());
    page.welcome(token, &asked, source(&page.trust, &peer, &headers)).await
}

/// A form of a visit, sent from the page to which we gave it.
struct Sent {
    here: Here,
    form: BTreeMap<String, String>,
}

impl FromRequest<Page> for Sent {
    type Rejection = Response;

    async fn from_request(request: Request, page: &Page) -> Result<Self, Response> {
        Self::of(request, page).await.map_err(|(status, why)| page.trouble(status, why))
    }
}

impl Sent {
    async fn of(request: Request, page: &Page) -> Result<Self, (StatusCode, &'static str)> {
        let (parts, body) = request.into_parts();
        let text = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok());
        let (site, origin) = (text("sec-fetch-site"), text("origin"));
        if site.is_some_and(|site| site != "same-origin") || origin != Some(page.own_origin().as_str()) {
            return Err((StatusCode::FORBIDDEN, ELSEWHERE));
        }
        let Some(peer) = parts.extensions.get::<Peer>() else { return Err((StatusCode::FORBIDDEN, ELSEWHERE)) };
        let source = source(&page.trust, peer, &parts.headers);
        let read = Bytes::from_request(Request::from_parts(parts.clone(), body), page).await;
        let Ok(form) = form(&parts.uri, &parts.headers, &read) else {
            return Err((StatusCode::BAD_REQUEST, ELSEWHERE));
        };
        let Ok(sealer) = page.step_up.sealer().await else { return Err((StatusCode::SERVICE_UNAVAILABLE, LATER)) };
        let visit = form.get("visit").and_then(|sealed| sealer.open::<Visit>(FORM_SEAL, sealed));
        let prefix = format!("{}=", page.cookie_name());
        let mut cookies = parts.headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
        let sealed = cookies.find_map(|all| all.split(';').find_map(|one| one.trim().strip_prefix(&prefix)));
        let cookie = sealed.and_then(|sealed| sealer.open::<Cookie>(COOKIE_SEAL, sealed));
        let now = Utc::now();
        let both = visit.zip(cookie).filter(|(visit, cookie)| {
            bool::from(visit.name.as_bytes().ct_eq(cookie.name.as_bytes())) && now < visit.ends && now < cookie.ends
        });
        let Some((visit, cookie)) = both else { return Err((StatusCode::FORBIDDEN, OVER)) };
        // asked again each time: who is gone since steps up no more
        let subject = page.service.person(&visit.token, &visit.audience).await;
        match subject.map(|subject| subject.principal.identity().id.clone()) {
            Ok(person) if person == cookie.principal => {
                let form = form.into_iter().map(|(name, value)| (name.into_owned(), value.into_owned())).collect();
                Ok(Self { here: Here { visit, person, source, sealer }, form })
            }
            _ => Err((StatusCode::UNAUTHORIZED, NOT_ACCEPTED)),
        }
    }
}

impl Page {
    fn own_origin(&self) -> String {
        self.step_up.settings().url.origin().ascii_serialization()
    }

    fn cookie_name(&self) -> &'static str {
        // browsers let no other host, and no plain connection, set a cookie of such a name
        if self.secure() { "__Host-durward-step-up" } else { "durward-step-up" }
    }

    fn secure(&self) -> bool {
        self.step_up.settings().url.scheme() == "https"
    }

    /// Begins a visit.
    async fn welcome(&self, token: &str, asked: &Asked, source: IpAddr) -> Response {
        let optional = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        if [&asked.audience, &asked.operation, &asked.return_to, &asked.state].iter().any(|text| text.len() > MAX_TEXT)
        {
            return self.trouble(StatusCode::BAD_REQUEST, ELSEWHERE);
        }
        let return_to = match optional(&asked.return_to).map(|url| self.may_return_to(&url).ok_or(())).transpose() {
            Ok(return_to) => return_to,
            Err(()) => {
                return self
                    .trouble(StatusCode::BAD_REQUEST, "Tokens are not given to that address by this installation.");
            }
        };
        let subject = match self.service.person(token, &asked.audience).await {
            Ok(subject) => subject,
            Err(_) => return self.trouble(StatusCode::UNAUTHORIZED, NOT_ACCEPTED),
        };
        let sealer = match self.step_up.sealer().await {
            Ok(sealer) => sealer,
            Err(refused) => return self.refused(&refused),
        };
        let Ok(name) = random::<16>() else { return self.trouble(StatusCode::SERVICE_UNAVAILABLE, LATER) };
        let name = hex::encode(name);
        let ends = subject.ends.min(Utc::now() + VISIT);
        let person = subject.principal.identity().id.clone();
        let cookie = Cookie { name: name.clone(), principal: person.clone(), ends };
        let visit = Visit {
            name,
            token: token.to_owned(),
            audience: asked.audience.clone(),
            operation: optional(&asked.operation),
            return_to,
            state: optional(&asked.state),
            proved: None,
            ends,
        };
        let Some(cookie) = sealer.seal(COOKIE_SEAL, &cookie) else {
            return self.trouble(StatusCode::SERVICE_UNAVAILABLE, LATER);
        };
        let mut response = self.ask(&Here { visit, person, source, sealer }, Told::Nothing, StatusCode::OK).await;
        let secure = if self.secure() { "; Secure" } else { "" };
        let path = if self.secure() { "/" } else { PATH };
        let cookie = format!("{}={cookie}; Path={path}; HttpOnly; SameSite=Strict{secure}", self.cookie_name());
        if let Ok(cookie) = HeaderValue::try_from(cookie) {
            response.headers_mut().insert(header::SET_COOKIE, cookie);
        }
        response
    }

    fn may_return_to(&self, url: &str) -> Option<String> {
        let url = Url::parse(url).ok().filter(|url| matches!(url.scheme(), "http" | "https"))?;
        self.step_up.settings().return_to.iter().any(|one| one.origin() == url.origin()).then(|| url.into())
    }

    /// Asks for a second factor.
    async fn ask(&self, here: &Here, told: Told<'_>, status: StatusCode) -> Response {
        match self.step_up.known(&here.person).await {
            Ok(known) => {
                let content = page::verify(&name(&here.person), &here.visit, &here.seal(), &known);
                self.answer(status, Some(&here.visit), &page::page(TITLE, told, &content))
            }
            Err(refused) => self.refused(&refused),
        }
    }

    /// Gives the new token.
    async fn give(&self, here: &Here) -> Response {
        let Some((factor, at)) = here.visit.proved else { return self.ask(here, Told::Nothing, StatusCode::OK).await };
        let request = TokenRequest {
            subject: Some(durward_authn::SubjectToken::Jwt(&here.visit.token)),
            audience: &here.visit.audience,
            scopes: None,
            client: None,
            factor: Some(SecondFactor::Proved(&here.person, Proof { factor, at, operation: None })),
            operation: here.visit.operation.as_deref(),
            source: here.source,
        };
        match self.service.exchange(Ok(request), None).await {
            Ok(token) => {
                let content = page::token(&here.visit, &here.seal(), &token);
                self.answer(StatusCode::OK, Some(&here.visit), &page::page("It is you", Told::Nothing, &content))
            }
            Err(Refusal::Later(_)) => self.trouble(StatusCode::SERVICE_UNAVAILABLE, LATER),
            Err(_) => self.trouble(StatusCode::BAD_REQUEST, "There is no token for this: the second factor is too old by now, or the service has no such operation. Begin again."),
        }
    }

    fn refused(&self, refused: &Refused) -> Response {
        let (status, why) = told(refused);
        let mut response = self.trouble(status, &why);
        retry_after(&mut response, refused);
        response
    }

    fn trouble(&self, status: StatusCode, why: &str) -> Response {
        self.answer(status, None, &page::page("This does not work", Told::Wrong(why), &maud::html! {}))
    }

    /// A page, with headers that let it do nothing but send forms to us, and the token to where it goes.
    fn answer(&self, status: StatusCode, visit: Option<&Visit>, page: &Markup) -> Response {
        let returns = visit
            .and_then(|visit| Url::parse(visit.return_to.as_ref()?).ok())
            .map(|url| url.origin().ascii_serialization());
        let returns = returns.map(|origin| format!(" {origin}")).unwrap_or_default();
        let policy = format!(
            "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; form-action 'self'{returns}; \
             frame-ancestors 'none'; base-uri 'none'"
        );
        let headers = [
            (header::CONTENT_TYPE, "text/html; charset=utf-8"),
            (header::CONTENT_SECURITY_POLICY, policy.as_str()),
            (header::CACHE_CONTROL, "no-store"),
            // the origin has to come with our own forms
            (header::REFERRER_POLICY, "same-origin"),
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (header::X_FRAME_OPTIONS, "DENY"),
            (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        ];
        (status, headers, page.clone().into_string()).into_response()
    }
}

const LATER: &str = "This does not work just now. Try again in a minute.";

/// The person without the kind of name.
fn name(id: &PrincipalId) -> String {
    match id {
        PrincipalId::User { subject, .. } => subject.to_string(),
        other => other.to_string(),
    }
}

/// What a person is told of a refusal: neither what is there, nor what was nearly right.
fn told(refused: &Refused) -> (StatusCode, String) {
    match refused {
        Refused::Wrong(_) => {
            (StatusCode::BAD_REQUEST, "That is not it. Each code counts once: wait for the next one.".to_owned())
        }
        Refused::Key(refused) => (StatusCode::BAD_REQUEST, passkeys::told(refused).to_owned()),
        Refused::Paused { wait, .. } => {
            let why = format!(
                "That was wrong, or begun anew, too often. The next try counts in {} seconds.",
                wait.num_seconds()
            );
            (StatusCode::TOO_MANY_REQUESTS, why)
        }
        Refused::Forbidden(_) => {
            (StatusCode::FORBIDDEN, "Confirm first that it is you; then you can change your factors.".to_owned())
        }
        Refused::NoPerson => (StatusCode::FORBIDDEN, "Only people have second factors.".to_owned()),
        Refused::Unavailable(why) => {
            tracing::error!(why, "second factors can't be used");
            (StatusCode::SERVICE_UNAVAILABLE, LATER.to_owned())
        }
    }
}

fn retry_after(response: &mut Response, refused: &Refused) {
    if let Refused::Paused { wait, .. } = refused {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(wait.num_seconds().unsigned_abs()));
    }
}

async fn verify(State(page): State<Page>, Sent { mut here, form }: Sent) -> Response {
    let shown = match (form.get("otp"), form.get("recovery_code"), form.get("passkey")) {
        (Some(code), None, None) => Shown::Totp(code),
        (None, Some(code), None) => Shown::RecoveryCode(code),
        (None, None, Some(response)) => Shown::Key(response),
        _ => return page.ask(&here, Told::Wrong("Type a code."), StatusCode::BAD_REQUEST).await,
    };
    match page.step_up.prove(&here.visitor(), shown).await {
        Ok(factor) => {
            here.visit.proved = Some((factor, Utc::now()));
            page.give(&here).await
        }
        Err(refused) => {
            let (status, why) = told(&refused);
            let mut response = page.ask(&here, Told::Wrong(&why), status).await;
            retry_after(&mut response, &refused);
            response
        }
    }
}

async fn token(State(page): State<Page>, Sent { here, .. }: Sent) -> Response {
    page.give(&here).await
}

async fn manage(State(page): State<Page>, Sent { here, .. }: Sent) -> Response {
    page.factors(&here, Told::Nothing).await
}

impl Page {
    /// A person's own factors, as long as the one that was shown is fresh.
    async fn factors(&self, here: &Here, told: Told<'_>) -> Response {
        if here.visit.proved.is_none_or(|(_, at)| Utc::now() - at > FRESH) {
            return self.ask(here, Told::Wrong("Confirm first that it is you."), StatusCode::FORBIDDEN).await;
        }
        match self.step_up.known(&here.person).await {
            Ok(known) => {
                let content = page::manage(&here.seal(), &known);
                self.answer(StatusCode::OK, Some(&here.visit), &page::page("Your second factors", told, &content))
            }
            Err(refused) => self.refused(&refused),
        }
    }
}

impl Page {
    /// Tells of a new factor, and of the recovery codes that came with it. Whoever has just set it up is proved by it.
    fn enrolled(
        &self,
        here: &mut Here,
        factor: Factor,
        (title, done): (&str, &str),
        codes: Option<Vec<String>>,
    ) -> Response {
        here.visit.proved = Some((factor, Utc::now()));
        let sealed = here.seal();
        let content = match codes {
            Some(codes) => page::recovery_codes(&sealed, &codes),
            None => page::next(&sealed),
        };
        self.answer(StatusCode::OK, Some(&here.visit), &page::page(title, Told::Done(done), &content))
    }
}

async fn enrol(State(page): State<Page>, Sent { here, .. }: Sent) -> Response {
    match page.step_up.begin_totp(&here.visitor(), &here.visit.name).await {
        Ok(enrolment) => {
            let content = page::enrol(&here.seal(), &enrolment);
            page.answer(StatusCode::OK, Some(&here.visit), &page::page(APP, Told::Nothing, &content))
        }
        Err(refused) => page.refused(&refused),
    }
}

const APP: &str = "Your authenticator app";

async fn confirm(State(page): State<Page>, Sent { mut here, form }: Sent) -> Response {
    let code = form.get("otp").map_or("", String::as_str);
    let refused = match page.step_up.confirm_totp(&here.visitor(), &here.visit.name, code).await {
        Ok(codes) => {
            return page.enrolled(&mut here, Factor::Totp, (APP, "Your authenticator app is set up."), codes);
        }
        Err(refused) => refused,
    };
    match page.step_up.waiting_totp(&here.person, &here.visit.name).await {
        Ok(Some(enrolment)) if matches!(refused, Refused::Wrong(_)) => {
            let content = page::enrol(&here.seal(), &enrolment);
            let told = Told::Wrong("That is not the code of this secret. Does your phone's clock go right?");
            page.answer(StatusCode::BAD_REQUEST, Some(&here.visit), &page::page(APP, told, &content))
        }
        _ => page.refused(&refused),
    }
}

async fn remove(State(page): State<Page>, Sent { here, .. }: Sent) -> Response {
    match page.step_up.remove_totp(&here.visitor()).await {
        Ok(()) => page.factors(&here, Told::Done("Your authenticator app is removed.")).await,
        Err(refused) => page.refused(&refused),
    }
}

async fn recovery_codes(State(page): State<Page>, Sent { here, .. }: Sent) -> Response {
    match page.step_up.new_recovery_codes(&here.visitor()).await {
        Ok(codes) => {
            let content = page::recovery_codes(&here.seal(), &codes);
            let told = Told::Done("The old codes count no more.");
            page.answer(StatusCode::OK, Some(&here.visit), &page::page("New recovery codes", told, &content))
        }
        Err(refused) => page.refused(&refused),
    }
}
