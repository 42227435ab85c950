//! Principals that a trusted enforcement point vouches for: it has authenticated them, and asks what they may do.

use crate::Authenticator;
use durward_core::principal::{Identity, Principal, PrincipalId};
use durward_core::risk::Assurance;

impl Authenticator {
    /// The principal that an enforcement point names; `None` for a workload of a trust domain that nobody vouches for.
    /// Whether that point is trusted to do so is for the door to know, from its settings; a person's second factor is
    /// believed as it is stated.
    #[must_use]
    pub fn vouched_principal(&self, mut identity: Identity, stated: Option<Assurance>) -> Option<Principal> {
        identity.assurance = match &identity.id {
            PrincipalId::Key { .. } => Assurance::SharedSecret,
            _ => stated.unwrap_or(Assurance::Bearer),
        };
        if let Some(trust_domain) = identity.id.trust_domain().filter(|of| *of != self.domain.load().settings.name) {
            identity.federation = Some(self.federation(trust_domain)?.0);
        }
        Some(Principal::authenticated(identity))
    }
}
