//! The engine of the gate. Its policies come later, from the source.

use super::local::{GateCertificate, LocalGate};
use crate::settings::{GateSettings, GateSource};
use durward_authn::{Authenticator, LivenessIndex, TrustDomain};
use durward_engine::EngineContext;
use durward_engine::audit::{AuditWriter, LogSigner};
use durward_identity::TokenKeys;
use durward_pki::token::{SigningAlgorithm, TokenKey};
use durward_runtime::Failure;
use durward_runtime::random::random_bytes;
use durward_state::LocalState;
use std::sync::Arc;

/// The engine, and the index of pods and service accounts that its authenticator uses.
pub(super) struct GateEngine {
    pub context: EngineContext,
    pub liveness: Arc<LivenessIndex>,
}

impl GateEngine {
    /// Builds the engine; takes the OpenFGA client out of the settings.
    pub fn build(settings: &mut GateSettings) -> Result<Self, Failure> {
        let signer = log_signer(&settings.source, &settings.domain.trust_domain)?;
        let audit = AuditWriter::open(&settings.audit, settings.on_loss, signer)?;
        let liveness = Arc::new(match settings.source {
            GateSource::Local(_) => LivenessIndex::default(),
            GateSource::Cluster(_) => LivenessIndex::deletions_only(),
        });
        let trust = TrustDomain { name: settings.domain.trust_domain.clone(), ..TrustDomain::default() };
        let authenticator = Arc::new(Authenticator::new(trust, Arc::clone(&liveness)));
        let process = u64::from_be_bytes(random_bytes()?);
        let context = EngineContext::new(authenticator, audit, Arc::default(), settings.openfga.take(), process);
        Ok(Self { context, liveness })
    }
}

/// The key that signs the audit log: the one in the state directory, or else a key of this process that is never
/// published.
fn log_signer(source: &GateSource, trust_domain: &str) -> Result<LogSigner, Failure> {
    match source {
        GateSource::Local(LocalGate { certificate: GateCertificate::State { state, .. }, .. }) => {
            Ok(TokenKeys::new(LocalState::open(state, trust_domain)?.audit_keys).log_signer())
        }
        GateSource::Local(_) | GateSource::Cluster(_) => {
            let key = TokenKey::generate(SigningAlgorithm::Es256)?;
            Ok(LogSigner::new(move |claims, typ| key.sign(claims, typ)))
        }
    }
}
