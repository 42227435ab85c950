//! The token listener: token keys, token exchange, step-up, approvals and the trust bundle.

use super::identity::StandaloneIdentity;
use crate::settings::StandaloneAddresses;
use axum::Router;
use durward_doors::assembly::{ApprovalAccess, TokenEndpoints};
use durward_doors::tokens::own_bundle;
use durward_engine::EngineContext;
use durward_runtime::Failure;
use durward_runtime::peers::TrustedPeers;
use durward_state::LocalApprovals;
use durward_step_up::{FactorStore, StepUpArguments, StepUpService};
use std::path::Path;
use std::sync::Arc;

/// What the token listener is built from.
pub(super) struct TokenListener<'a> {
    pub context: &'a EngineContext,
    pub identity: &'a StandaloneIdentity,
    pub trust: Arc<TrustedPeers>,
    pub addresses: &'a StandaloneAddresses,
    /// The `iss` of tokens that the settings name.
    pub issuer: Option<String>,
}

impl TokenListener<'_> {
    /// Opens the second factors of a state directory.
    pub async fn open_step_up(&self, state: &Path, arguments: StepUpArguments) -> Result<StepUpService, Failure> {
        // browsers allow WebAuthn at the name `localhost`, but not at an IP address
        let localhost = || format!("http://localhost:{}", self.addresses.tokens.port());
        let settings = arguments.into_settings(&self.issuer.clone().unwrap_or_else(localhost))?;
        let store = FactorStore::Files(state.join("second-factors"));
        Ok(StepUpService::open(Arc::clone(&self.context.engine), store, settings).await?)
    }

    /// All endpoints as one router.
    pub fn router(self, step_up: StepUpService, approvals: &LocalApprovals) -> Router {
        let identity = self.identity;
        let endpoints = TokenEndpoints {
            context: self.context.clone(),
            trust: self.trust,
            issuer: self.issuer.unwrap_or_else(|| format!("http://{}", self.addresses.tokens)),
            mtls_url: Some(format!("https://{}", self.addresses.tokens_tls)),
            token_keys: identity.token_keys.clone(),
            audit_keys: identity.audit_keys.clone(),
            step_up,
            approvals: ApprovalAccess {
                store: approvals.store(),
                seal: identity.seal.clone(),
                stored: approvals.objects(),
            },
        };
        // a new state directory has a newer CA, so the bundle's sequence number grows
        let bundle = own_bundle(identity.roots.clone(), identity.roots_since, identity.token_keys.clone());
        endpoints.router().merge(bundle)
    }
}
