//! The listeners and the routers that they serve.

use super::context::Context;
use super::identity::ControllerIdentity;
use super::webhook_listener::WebhookListener;
use crate::replicas;
use crate::settings::ControllerSettings;
use crate::webhooks::FailurePolicy;
use axum::Router;
use durward_core::digest::Digest;
use durward_doors::admin::AdminPolicy;
use durward_doors::admission::{self, Reviewer};
use durward_doors::assembly::{ApprovalAccess, TokenEndpoints, admin_router};
use durward_doors::authorization::{self, AuthorizationWebhook};
use durward_doors::ext_authz::ExtAuthzHealth;
use durward_doors::snapshots::{self, PublishedResources, SnapshotsEndpoint};
use durward_doors::token_review::{self, TokenReviewWebhook};
use durward_doors::tokens::{self, PublishedBundles};
use durward_doors::{Doors, mint};
use durward_identity::CertificateMint;
use durward_runtime::peers::TrustedPeers;
use durward_runtime::supervisor::Supervisor;
use durward_step_up::StepUpService;
use rustls::ServerConfig;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::sync::watch;

/// What the listeners are built from.
pub(super) struct DoorListeners<'a> {
    pub context: &'a Context,
    pub settings: &'a ControllerSettings,
    pub identity: &'a ControllerIdentity,
    pub tls: Arc<ServerConfig>,
    pub trust: Arc<TrustedPeers>,
    /// Digest of the roots that this replica verifies with.
    pub roots_in_force: watch::Receiver<Option<Digest>>,
}

impl DoorListeners<'_> {
    /// Serves forward auth, AuthZEN and `ext_authz`; returns the health service of gRPC.
    pub async fn serve_requests(
        &self,
        supervisor: &mut Supervisor,
        https: TcpListener,
        grpcs: TcpListener,
    ) -> ExtAuthzHealth {
        let doors = Doors {
            engine: Arc::clone(&self.context.engine.engine),
            authenticator: Arc::clone(&self.context.engine.authenticator),
            trust: Arc::clone(&self.trust),
        };
        supervisor.serve(https, Some(Arc::clone(&self.tls)), doors.http());
        let (service, health) = doors.grpc().await;
        supervisor.serve(grpcs, Some(Arc::clone(&self.tls)), service);
        health
    }

    /// Serves tokens, certificates, step-up, approvals and the resources of gates.
    pub fn serve_tokens(
        &self,
        supervisor: &mut Supervisor,
        socket: TcpListener,
        webhook_listener: &WebhookListener,
        step_up: StepUpService,
        approvals: ApprovalAccess,
        gates: watch::Receiver<PublishedResources>,
    ) {
        let endpoints = TokenEndpoints {
            context: self.context.engine.clone(),
            trust: Arc::clone(&self.trust),
            issuer: self.settings.issuer.clone(),
            mtls_url: None,
            token_keys: self.identity.token_keys.clone(),
            audit_keys: self.identity.audit_keys.clone(),
            step_up,
            approvals,
        };
        let published = PublishedBundles {
            trust_domain: self.context.domains.trust_domain.as_str().into(),
            authorities: self.identity.authorities.clone(),
            keys: self.identity.token_keys.clone(),
            authenticator: Arc::clone(&self.context.engine.authenticator),
        };
        let certificate_mint = CertificateMint::new(
            self.context.client.clone(),
            Arc::clone(&self.context.engine.engine),
            Arc::clone(&self.context.engine.authenticator),
            self.identity.authorities.clone(),
            self.identity.token_keys.clone(),
            &self.context.domains.trust_domain,
            &self.settings.issuer,
        );
        let snapshots = SnapshotsEndpoint {
            mint: certificate_mint.clone(),
            resources: gates,
            engine: Arc::clone(&self.context.engine.engine),
            authenticator: Arc::clone(&self.context.engine.authenticator),
            seal: self.identity.seal.clone(),
            closing: self.context.closing.clone(),
        };
        let mut router = endpoints
            .router()
            .merge(tokens::router(published))
            .merge(mint::router(certificate_mint))
            .merge(snapshots::router(snapshots));
        if !webhook_listener.has_own_certificate() {
            router = router.merge(self.replica_router());
        }
        supervisor.serve(socket, Some(Arc::clone(&self.tls)), router);
    }

    /// Serves the webhooks of the API server.
    pub fn serve_webhooks(
        &self,
        supervisor: &mut Supervisor,
        socket: TcpListener,
        listener: WebhookListener,
        reviewer: Reviewer,
        token_port: u16,
    ) {
        let trust_domain: Arc<str> = self.context.domains.trust_domain.as_str().into();
        let admission = admission::AdmissionWebhooks {
            engine: Arc::clone(&self.context.engine.engine),
            trust_domain: Arc::clone(&trust_domain),
            reviewer,
            sidecars: admission::SidecarSettings {
                image: self.settings.agent_image.clone(),
                controller: format!("https://{}:{token_port}", self.context.host()),
                domains: self.context.domains.clone(),
            },
        };
        let authorization = AuthorizationWebhook {
            engine: Arc::clone(&self.context.engine.engine),
            trust_domain,
            namespace: self.context.namespace.as_str().into(),
            admission_fails_closed: self.settings.failure_policy == FailurePolicy::Fail,
            allows: self.settings.authorization_allows,
        };
        let token_reviews = TokenReviewWebhook {
            authenticator: Arc::clone(&self.context.engine.authenticator),
            metrics: Arc::clone(&self.context.engine.metrics),
            methods: self.settings.token_review_methods.clone().into(),
        };
        let webhooks = admission::router(admission)
            .merge(authorization::router(authorization))
            .merge(token_review::router(token_reviews));
        let mut router = listener.clients.clone().protect(webhooks);
        if listener.has_own_certificate() {
            router = router.merge(self.replica_router());
        }
        supervisor.serve(socket, Some(Arc::clone(&listener.tls)), router);
        listener.start(supervisor);
    }

    /// Serves health, metrics and the snapshot.
    pub fn serve_admin(&self, supervisor: &mut Supervisor, socket: TcpListener, policy: AdminPolicy) {
        let readiness = Arc::clone(&self.context.readiness);
        let router = admin_router(&self.context.engine, readiness, policy, &self.settings.admin);
        supervisor.serve_admin(socket, Some(Arc::clone(&self.tls)), router);
    }

    fn replica_router(&self) -> Router {
        replicas::router(Arc::clone(&self.context.engine.engine), self.roots_in_force.clone())
    }
}
