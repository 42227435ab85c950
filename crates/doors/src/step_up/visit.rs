//! A visit to the page: the data that its forms and its cookie carry, sealed.

use chrono::{DateTime, TimeDelta, Utc};
use durward_authn::Factor;
use durward_core::principal::PrincipalId;
use durward_step_up::{Sealer, StepUpCaller};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use std::sync::Arc;

/// Longest duration of a visit.
pub(super) const MAX_VISIT: TimeDelta = TimeDelta::minutes(15);
/// Purpose of the seal of forms.
pub(super) const FORM_SEAL: &str = "visit";
/// Purpose of the seal of cookies.
pub(super) const COOKIE_SEAL: &str = "cookie";

/// The parameters with which a person comes to the page.
#[derive(Debug, Default, Deserialize)]
pub(super) struct StepUpQuery {
    #[serde(default)]
    pub(super) audience: String,
    #[serde(default)]
    pub(super) operation: String,
    /// Where the page sends the new token.
    #[serde(default)]
    pub(super) return_to: String,
    /// Returned unchanged with the token.
    #[serde(default)]
    pub(super) state: String,
}

/// A visit, as forms carry it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Visit {
    /// A random name, which the cookie has too.
    pub(super) name: String,
    /// The first token.
    pub(super) token: String,
    pub(super) audience: String,
    pub(super) operation: Option<String>,
    pub(super) return_to: Option<String>,
    pub(super) state: Option<String>,
    /// The second factor that was verified, and when.
    #[serde(rename = "proved")]
    pub(super) verified: Option<(Factor, DateTime<Utc>)>,
    pub(super) ends: DateTime<Utc>,
}

/// The content of the cookie.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct VisitCookie {
    pub(super) name: String,
    pub(super) principal: PrincipalId,
    pub(super) ends: DateTime<Utc>,
}

/// A visit of a person whose first token is still valid.
pub(super) struct VisitSession {
    pub(super) visit: Visit,
    pub(super) person: PrincipalId,
    pub(super) source: IpAddr,
    pub(super) sealer: Arc<Sealer>,
}

impl VisitSession {
    /// The visit for the next form. A form without one is refused, so a failure to seal needs no error here.
    pub(super) fn sealed_visit(&self) -> String {
        self.sealer.seal(FORM_SEAL, &self.visit).unwrap_or_default()
    }

    pub(super) fn caller(&self) -> StepUpCaller<'_> {
        StepUpCaller { id: &self.person, source: self.source, verified_at: self.visit.verified.map(|(_, at)| at) }
    }

    /// The person's name, without the kind and the provider of the principal.
    pub(super) fn person_name(&self) -> String {
        match &self.person {
            PrincipalId::User { subject, .. } => subject.to_string(),
            other => other.to_string(),
        }
    }
}
