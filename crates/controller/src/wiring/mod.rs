//! Assembles the controller. Each file builds one part: it starts the part's tasks and returns what other parts read.
//!
//! ```text
//! identity ──▶ context ──▶ leadership ──▶ resources ─┬─▶ replicas ──┐
//!                                                    ├─▶ issuance ──┼─▶ rotation, status
//!                                                    ├─▶ webhooks ──┘
//!                                                    └─▶ approvals ───▶ doors
//! ```

mod approvals;
mod authentication;
mod context;
mod doors;
mod identity;
mod issuance;
mod leadership;
mod replicas;
mod resources;
mod rotation;
mod sockets;
mod webhook_listener;
mod webhooks;

use crate::listener_tls::ListenerTls;
use crate::settings::ControllerSettings;
use crate::status_writer::{StatusInputs, StatusWriter};
use context::Context;
use doors::DoorListeners;
use durward_doors::admin::AdminPolicy;
use durward_identity::{CertificatesApi, PropagationWatchers};
use durward_runtime::Failure;
use durward_runtime::limits::ServerLimits;
use durward_runtime::signals::ReloadSignals;
use durward_runtime::supervisor::Supervisor;
use identity::ControllerIdentity;
use kube::Client;
use sockets::ControllerSockets;
use std::sync::Arc;
use std::time::Duration;
use webhook_listener::WebhookListener;

/// How long a replica still answers after its end was requested, until every gateway and the API server stop using it.
const LINGER: Duration = Duration::from_secs(5);

/// Runs the controller until a signal ends it.
///
/// # Errors
/// When a port, the CA or the API server can't be used at the start, or when a part of the process fails.
pub async fn run(client: Client, mut settings: ControllerSettings) -> Result<(), Failure> {
    let signals = ReloadSignals::catch()?;
    let admin_policy = AdminPolicy::read(settings.admin.policy.as_deref(), &settings.domains)?;
    let sockets = ControllerSockets::bind(&settings.addresses).await?;
    let identity = ControllerIdentity::open(&client, &settings).await?;
    let certificates_api = CertificatesApi::discover(&client).await?;
    let context = Context::open(client, &mut settings, &identity).await?;
    let listener_tls = ListenerTls::new(
        context.certificate_profile(settings.certificate_lifetime),
        identity.authorities.clone(),
        Arc::clone(&context.engine.authenticator),
    )?;
    let webhook_listener = WebhookListener::open(&context, &listener_tls, &mut settings).await?;
    let second_factors = context.open_step_up(settings.step_up.clone()).await?;

    let limits = ServerLimits::new(settings.connections.clone(), context.engine.metrics.listeners().clone());
    let mut supervisor = Supervisor::new(limits)?;
    let reload = signals.requests();
    let engine = context.engine.clone();
    supervisor.spawn(|stop| engine.reopen_audit_log(reload, stop));
    supervisor.spawn(|stop| signals.run(stop));
    let leading = leadership::start(&mut supervisor, &context);
    authentication::start(&mut supervisor, &context, &identity.token_keys);
    let feeds = resources::start(&mut supervisor, &context, &settings, &identity.seal);
    let approvals = approvals::start(&mut supervisor, &context, &identity.seal, feeds.approvals, leading.clone());
    let replica_feeds = replicas::start(
        &mut supervisor,
        &context,
        replicas::ReplicaInputs {
            authorities: identity.authorities.clone(),
            port: webhook_listener.replica_port(),
            roots_in_force: listener_tls.roots_in_force(),
            revisions: feeds.revisions,
            leading: leading.clone(),
        },
    );
    let bundles_carry =
        issuance::start(&mut supervisor, &context, &identity, certificates_api, &leading, &feeds.synced);
    let webhook_feeds = webhooks::start(
        &mut supervisor,
        &context,
        webhooks::WebhookInputs {
            port: sockets.webhook_port()?,
            authorities: identity.authorities.clone(),
            certificate: webhook_listener.certificate_name(&context.namespace),
            failure_policy: settings.failure_policy,
            injection_failure_policy: settings.injection_failure_policy,
            leading: leading.clone(),
            synced: feeds.synced,
        },
    );
    let status_inputs = StatusInputs {
        batches: feeds.batches,
        confirmed: replica_feeds.confirmed,
        webhook_status: webhook_feeds.status,
        policy_counts: replica_feeds.policy_counts,
        leading: leading.clone(),
    };
    let status_writer = StatusWriter::new(context.client.clone(), &context.pod);
    supervisor.spawn(|stop| status_writer.run(status_inputs, stop));
    let doors = DoorListeners {
        context: &context,
        settings: &settings,
        identity: &identity,
        tls: listener_tls.server_config()?,
        trust: Arc::new(settings.trust.clone()),
        roots_in_force: listener_tls.roots_in_force(),
    };
    let grpc_health = doors.serve_requests(&mut supervisor, sockets.https, sockets.grpcs).await;
    let token_port = sockets.tokens.local_addr()?.port();
    doors.serve_tokens(&mut supervisor, sockets.tokens, &webhook_listener, second_factors, approvals, feeds.gates);
    doors.serve_webhooks(&mut supervisor, sockets.webhooks, webhook_listener, feeds.reviews, token_port);
    doors.serve_admin(&mut supervisor, sockets.admin, admin_policy);
    supervisor.spawn(|stop| listener_tls.run(stop));
    let propagation =
        PropagationWatchers { replicas: replica_feeds.roots, bundles: bundles_carry, webhooks: webhook_feeds.roots };
    rotation::start(&mut supervisor, &context, identity, settings.rotation, propagation, &leading);

    supervisor
        .run_until_shutdown(async move {
            context.readiness.mark_closing();
            grpc_health.set_closing().await;
            context.closing.cancel();
            tokio::time::sleep(LINGER).await;
        })
        .await
}
