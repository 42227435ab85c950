//! Principals that a trusted enforcement point has authenticated itself.

use super::Authenticator;
use durward_core::principal::{Identity, Principal, PrincipalId};
use durward_core::risk::Assurance;

impl Authenticator {
    /// The principal that an enforcement point names; `None` for a workload of a trust domain that is not federated.
    ///
    /// The door decides by its settings whether the enforcement point is trusted. The stated assurance of a person is
    /// taken over.
    #[must_use]
    pub fn vouched_principal(&self, mut identity: Identity, stated: Option<Assurance>) -> Option<Principal> {
        identity.assurance = match &identity.id {
            PrincipalId::Key { .. } => Assurance::SharedSecret,
            _ => stated.unwrap_or(Assurance::Bearer),
        };
        let own = &self.domain.load().settings.name;
        if let Some(trust_domain) = identity.id.trust_domain().filter(|trust_domain| trust_domain != own) {
            identity.federation = Some(self.federation(trust_domain)?.0);
        }
        Some(Principal::authenticated(identity))
    }
}
