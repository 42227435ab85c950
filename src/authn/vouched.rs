//! Principals that a trusted enforcement point vouches for: it has authenticated them, and asks what they may do.

use durward_core::principal::{Identity, Principal, PrincipalId};
use durward_core::risk::Assurance;

/// The principal that an enforcement point names. Whether that point is trusted to do so is for the door to know, from
/// its settings; a person's second factor is believed as it is stated.
#[must_use]
pub fn vouched(mut identity: Identity, stated: Option<Assurance>) -> Principal {
    identity.assurance = match &identity.id {
        PrincipalId::Key { .. } => Assurance::SharedSecret,
        _ => stated.unwrap_or(Assurance::Bearer),
    };
    Principal::authenticated(identity)
}
