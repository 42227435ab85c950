//! The engine, its authenticator and the metrics, with the loaded manifests in force.

use super::identity::StandaloneIdentity;
use crate::settings::StandaloneSettings;
use durward_authn::{Authenticator, TrustDomain};
use durward_engine::EngineContext;
use durward_engine::audit::AuditWriter;
use durward_engine::metrics::Metrics;
use durward_manifests::load::ManifestDirectory;
use durward_runtime::random::{RandomnessUnavailable, random_bytes};
use std::sync::Arc;

/// Builds the engine, and prints the problems of the manifests.
pub(super) fn build(
    settings: &mut StandaloneSettings,
    identity: &StandaloneIdentity,
    directory: &ManifestDirectory,
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
    let problems = authenticator.replace_providers(&directory.providers(), &directory.secrets());
    for (provider, problem) in &problems {
        eprintln!("provider {provider}: {problem}");
    }
    directory.print_problems();

    let process = u64::from_be_bytes(random_bytes()?);
    let metrics = Arc::new(Metrics::default());
    let context = EngineContext::new(Arc::new(authenticator), audit, metrics, settings.openfga.take(), process);
    context.engine.replace_snapshot(directory.catalog.snapshot().clone());
    context.metrics.policies_rejected(directory.catalog.rejected_count());
    Ok(context)
}
