//! The engine, its authenticator and the metrics.

use super::identity::StandaloneIdentity;
use crate::settings::StandaloneSettings;
use durward_authn::{Authenticator, TrustDomain};
use durward_engine::EngineContext;
use durward_engine::audit::AuditWriter;
use durward_engine::metrics::Metrics;
use durward_runtime::random::{RandomnessUnavailable, random_bytes};
use std::sync::Arc;

/// Builds the engine. Nothing is in force yet.
pub(super) fn build(
    settings: &mut StandaloneSettings,
    identity: &StandaloneIdentity,
    audit: AuditWriter,
) -> Result<EngineContext, RandomnessUnavailable> {
    let authenticator = Authenticator::new(
        TrustDomain {
            name: settings.domains.trust_domain.clone(),
            roots: identity.roots.clone(),
            own_keys: Some(identity.token_keys.current().jwks()),
            service_accounts: settings.service_accounts.clone(),
        },
        Arc::default(),
    );
    let process = u64::from_be_bytes(random_bytes()?);
    let metrics = Arc::new(Metrics::default());
    Ok(EngineContext::new(Arc::new(authenticator), audit, metrics, settings.openfga.take(), process))
}
