//! What becomes of people's second factors, in the same log as decisions.

use chrono::{DateTime, Utc};
use durward_authn::Factor;
use durward_core::principal::PrincipalId;
use serde::Serialize;
use std::net::IpAddr;

/// Tells such a line from a decision.
pub(super) const EVENT: &str = "second-factor";

/// One line about a second factor. Never a code or a secret.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SecondFactor<'s> {
    /// Always `second-factor`.
    event: &'static str,
    /// RFC 3339 in UTC.
    time: DateTime<Utc>,
    /// What happened.
    pub outcome: Event,
    /// Whose factor it is.
    principal: &'s PrincipalId,
    /// Which kind.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub factor: Option<Factor>,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// Address of the caller.
    source: IpAddr,
}

/// What happens to a second factor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Event {
    Enrolled,
    Removed,
    Proved,
    Refused,
    /// Not even looked at, after too many failures.
    Paused,
}

impl Event {
    /// The name in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Enrolled => "enrolled",
            Self::Removed => "removed",
            Self::Proved => "proved",
            Self::Refused => "refused",
            Self::Paused => "paused",
        }
    }
}

impl<'s> SecondFactor<'s> {
    pub fn new(
        outcome: Event,
        principal: &'s PrincipalId,
        source: IpAddr,
        factor: Option<Factor>,
        reason: Option<String>,
    ) -> Self {
        Self { event: EVENT, time: Utc::now(), outcome, principal, factor, reason, source }
    }
}
