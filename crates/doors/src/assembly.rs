//! Builders that several processes share: the routers of the token listener and of the admin listener.

use crate::admin::{self, AdminEndpoint, AdminPolicy, AdminSettings};
use crate::approvals::{self, ApprovalsEndpoint};
use crate::exchange::{self, ExchangeEndpoint};
use crate::step_up::{self, StepUpPage};
use crate::tokens::{self, TokenMetadata};
use axum::Router;
use durward_approvals::{ApprovalObjects, ApprovalSeal, ApprovalStore};
use durward_authn::Authenticator;
use durward_engine::EngineContext;
use durward_identity::{TokenKeys, TokenService};
use durward_runtime::peers::TrustedPeers;
use durward_runtime::readiness::Readiness;
use durward_runtime::supervisor::Supervisor;
use durward_step_up::StepUpService;
use std::sync::Arc;
use tokio::sync::watch;

/// The stored approvals, and what reads and signs them.
#[derive(Debug)]
pub struct ApprovalAccess {
    pub store: ApprovalStore,
    pub seal: ApprovalSeal,
    /// The approvals that are stored now.
    pub stored: watch::Receiver<ApprovalObjects>,
}

/// The endpoints that every token listener serves: metadata, token exchange, step-up and approvals.
#[derive(Debug)]
pub struct TokenEndpoints {
    pub context: EngineContext,
    pub trust: Arc<TrustedPeers>,
    /// `iss` of tokens.
    pub issuer: String,
    /// URL for clients with certificates, if it differs from the issuer.
    pub mtls_url: Option<String>,
    pub token_keys: TokenKeys,
    pub audit_keys: TokenKeys,
    pub step_up: StepUpService,
    pub approvals: ApprovalAccess,
}

impl TokenEndpoints {
    /// All endpoints as one router.
    pub fn router(self) -> Router {
        let EngineContext { engine, authenticator, .. } = self.context;
        let metadata = TokenMetadata::new(&self.issuer, self.mtls_url, self.token_keys.clone(), self.audit_keys);
        let service = TokenService::new(Arc::clone(&engine), Arc::clone(&authenticator), self.token_keys, &self.issuer)
            .with_step_up(self.step_up.clone());
        let page = StepUpPage { service: service.clone(), step_up: self.step_up, trust: Arc::clone(&self.trust) };
        let slots = ApprovalsEndpoint::slots(&engine);
        let approvals = ApprovalsEndpoint {
            engine,
            authenticator,
            store: self.approvals.store,
            seal: self.approvals.seal,
            stored: self.approvals.stored,
            trust: Arc::clone(&self.trust),
            slots,
        };
        let exchange = ExchangeEndpoint { service, trust: self.trust };
        tokens::metadata(metadata)
            .merge(exchange::router(exchange))
            .merge(step_up::router(page))
            .merge(approvals::router(approvals))
    }
}

/// The router of an admin listener.
pub fn admin_router(
    context: &EngineContext,
    readiness: Arc<Readiness>,
    policy: AdminPolicy,
    settings: &AdminSettings,
) -> Router {
    admin::router(AdminEndpoint {
        engine: Arc::clone(&context.engine),
        metrics: Arc::clone(&context.metrics),
        readiness,
        policy,
        open_metrics: !settings.closed_metrics,
    })
}

/// Starts the task that refreshes the key sets of issuers.
pub fn start_authenticator(supervisor: &mut Supervisor, authenticator: Arc<Authenticator>) {
    supervisor.spawn(|stop| async move {
        authenticator.run(stop).await;
        Ok(())
    });
}
