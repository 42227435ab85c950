//! The page's state, and the responses that several of its forms give.

use crate::step_up::html::{self, Notice};
use crate::step_up::messages::{CONFIRM_TITLE, NO_TOKEN, UNAVAILABLE, describe, set_retry_after};
use crate::step_up::visit::{Visit, VisitSession};
use axum::http::{HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use chrono::Utc;
use durward_authn::{Factor, FactorProof, SubjectToken};
use durward_identity::{ExchangeError, ExchangeRequest, FactorEvidence, TokenService};
use durward_runtime::peers::TrustedPeers;
use durward_step_up::{FRESHNESS, StepUpError, StepUpService};
use maud::Markup;
use std::sync::Arc;
use url::Url;

/// State of the step-up page.
#[derive(Debug, Clone)]
pub struct StepUpPage {
    pub service: TokenService,
    pub step_up: StepUpService,
    pub trust: Arc<TrustedPeers>,
}

impl StepUpPage {
    pub(super) fn own_origin(&self) -> String {
        self.step_up.settings().url.origin().ascii_serialization()
    }

    pub(super) fn cookie_name(&self) -> &'static str {
        // browsers let neither another host nor a plain-text connection set a cookie with this prefix
        if self.is_https() { "__Host-durward-step-up" } else { "durward-step-up" }
    }

    pub(super) fn is_https(&self) -> bool {
        self.step_up.settings().url.scheme() == "https"
    }

    /// Asks for a second factor.
    pub(super) async fn ask_for_factor(
        &self,
        session: &VisitSession,
        notice: Notice<'_>,
        status: StatusCode,
    ) -> Response {
        match self.step_up.enrolled_factors(&session.person).await {
            Ok(factors) => {
                let content = html::verify(&session.person_name(), &session.visit, &session.sealed_visit(), &factors);
                self.page(status, Some(&session.visit), &html::page(CONFIRM_TITLE, notice, &content))
            }
            Err(error) => self.step_up_error(&error),
        }
    }

    /// Issues the new token, or asks for the factor that is still missing.
    pub(super) async fn issue_token(&self, session: &VisitSession) -> Response {
        let Some((factor, at)) = session.visit.verified else {
            return self.ask_for_factor(session, Notice::None, StatusCode::OK).await;
        };
        let proof = FactorProof { factor, at, operation: None };
        let request = ExchangeRequest {
            subject: Some(SubjectToken::Jwt(&session.visit.token)),
            audience: &session.visit.audience,
            scopes: None,
            client: None,
            factor: Some(FactorEvidence::Verified(&session.person, proof)),
            operation: session.visit.operation.as_deref(),
            source: session.source,
        };
        match self.service.exchange(Ok(request), None).await {
            Ok(token) => {
                let content = html::token(&session.visit, &session.sealed_visit(), &token);
                let page = html::page("It is you", Notice::None, &content);
                self.page(StatusCode::OK, Some(&session.visit), &page)
            }
            Err(ExchangeError::Unavailable(_)) => self.error_page(StatusCode::SERVICE_UNAVAILABLE, UNAVAILABLE),
            Err(_) => self.error_page(StatusCode::BAD_REQUEST, NO_TOKEN),
        }
    }

    /// Lists a person's own factors, as long as the one that was verified is fresh.
    pub(super) async fn list_factors(&self, session: &VisitSession, notice: Notice<'_>) -> Response {
        if session.visit.verified.is_none_or(|(_, at)| Utc::now() - at > FRESHNESS) {
            let notice = Notice::Error("Confirm first that it is you.");
            return self.ask_for_factor(session, notice, StatusCode::FORBIDDEN).await;
        }
        match self.step_up.enrolled_factors(&session.person).await {
            Ok(factors) => {
                let content = html::manage(&session.sealed_visit(), &factors);
                let page = html::page("Your second factors", notice, &content);
                self.page(StatusCode::OK, Some(&session.visit), &page)
            }
            Err(error) => self.step_up_error(&error),
        }
    }

    /// Confirms a new factor, and shows the recovery codes that came with it. Enrolling a factor also verifies it.
    pub(super) fn confirm_enrolment(
        &self,
        session: &mut VisitSession,
        factor: Factor,
        title: &str,
        notice: &str,
        recovery_codes: Option<Vec<String>>,
    ) -> Response {
        session.visit.verified = Some((factor, Utc::now()));
        let sealed = session.sealed_visit();
        let content = match recovery_codes {
            Some(codes) => html::recovery_codes(&sealed, &codes),
            None => html::continue_form(&sealed),
        };
        self.page(StatusCode::OK, Some(&session.visit), &html::page(title, Notice::Success(notice), &content))
    }

    pub(super) fn step_up_error(&self, error: &StepUpError) -> Response {
        let (status, text) = describe(error);
        let mut response = self.error_page(status, &text);
        set_retry_after(&mut response, error);
        response
    }

    pub(super) fn error_page(&self, status: StatusCode, text: &str) -> Response {
        self.page(status, None, &html::page("This does not work", Notice::Error(text), &maud::html! {}))
    }

    /// A page whose headers allow it only to send forms here, and the token to the address of the visit.
    pub(super) fn page(&self, status: StatusCode, visit: Option<&Visit>, page: &Markup) -> Response {
        let return_to = visit.and_then(|visit| Url::parse(visit.return_to.as_ref()?).ok());
        let return_origin = return_to.map(|url| format!(" {}", url.origin().ascii_serialization())).unwrap_or_default();
        let policy = format!(
            "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; \
             form-action 'self'{return_origin}; frame-ancestors 'none'; base-uri 'none'"
        );
        let headers = [
            (header::CONTENT_TYPE, "text/html; charset=utf-8"),
            (header::CONTENT_SECURITY_POLICY, policy.as_str()),
            (header::CACHE_CONTROL, "no-store"),
            // the page's own forms must carry its origin
            (header::REFERRER_POLICY, "same-origin"),
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (header::X_FRAME_OPTIONS, "DENY"),
            (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        ];
        (status, headers, page.clone().into_string()).into_response()
    }
}
