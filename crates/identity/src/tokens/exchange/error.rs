//! Refusals of a token exchange.

use durward_authn::AuthenticationFailure;
use durward_core::principal::PrincipalId;
use durward_step_up::StepUpError;
use thiserror::Error;

/// Why a caller gets no token. The message is for the audit log; the response contains only the kind of the error.
#[derive(Debug, Error)]
pub enum ExchangeError {
    /// The request is malformed.
    #[error("{0}")]
    InvalidRequest(&'static str),
    /// The grant type is not supported.
    #[error("the grant type is none of the supported ones")]
    UnsupportedGrantType,
    /// The caller is not the stated client, or has no certificate where it needs one.
    #[error("{0}")]
    InvalidClient(String),
    /// The subject does not authenticate.
    #[error("{0}")]
    InvalidSubject(AuthenticationFailure),
    /// The service does not exist, or its policies grant nothing.
    #[error("{0}")]
    InvalidTarget(&'static str),
    /// The policies grant none of the requested scopes.
    #[error("{0}")]
    InvalidScope(&'static str),
    /// The second factor is not valid.
    #[error("{0}")]
    InvalidFactor(StepUpError),
    /// The request can't be answered now; another attempt may succeed.
    #[error("{0}")]
    Unavailable(&'static str),
}

impl ExchangeError {
    pub(super) const TOO_MANY_REQUESTS: Self = Self::Unavailable("too many ask at once");
    pub(super) const NOT_RECORDED: Self = Self::Unavailable("it can't be recorded");
}

impl From<StepUpError> for ExchangeError {
    fn from(error: StepUpError) -> Self {
        match error {
            StepUpError::Unavailable(error) => {
                tracing::error!(%error, "second factors can't be read; refusing the exchange");
                Self::Unavailable("second factors can't be looked up")
            }
            error => Self::InvalidFactor(error),
        }
    }
}

/// A refusal, and the principal that its audit record names.
pub(super) struct RefusedExchange {
    pub(super) error: ExchangeError,
    pub(super) principal: Option<String>,
}

impl RefusedExchange {
    /// A refusal of a request by this principal.
    pub(super) fn of(principal: &PrincipalId) -> impl Fn(ExchangeError) -> Self {
        move |error| Self { error, principal: Some(principal.to_string()) }
    }
}

/// A refusal before the subject is authenticated.
impl From<ExchangeError> for RefusedExchange {
    fn from(error: ExchangeError) -> Self {
        Self { error, principal: None }
    }
}
