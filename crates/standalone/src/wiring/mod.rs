//! Assembles the process. Each file builds one part of it.
//!
//! ```text
//! sockets ─────────────────────────────────────┐
//! identity ──▶ manifests ──▶ engine ──▶ tokens ─┴─▶ listeners
//! ```

mod engine;
mod identity;
mod manifests;
mod sockets;
mod tokens;

use crate::settings::{StandaloneAddresses, StandaloneSettings};
use durward_doors::Doors;
use durward_doors::admin::AdminPolicy;
use durward_doors::assembly::{admin_router, start_authenticator};
use durward_engine::audit::AuditWriter;
use durward_manifests::load::ManifestDirectory;
use durward_manifests::watch::DirectoryFollower;
use durward_runtime::Failure;
use durward_runtime::limits::ServerLimits;
use durward_runtime::readiness::Readiness;
use durward_runtime::signals::ReloadSignals;
use durward_runtime::supervisor::Supervisor;
use durward_state::{TokenKeyFolder, key_uses};
use identity::StandaloneIdentity;
use manifests::WatchedManifests;
use sockets::{StandaloneRouters, StandaloneSockets};
use std::sync::Arc;
use tokens::TokenListener;
use tokio::sync::mpsc;

/// Runs until a signal ends it. Calls `ready` with the addresses once every listener serves.
///
/// # Errors
/// When a port, the state or the directory can't be used at the start, or when a part of the process fails.
pub async fn up(
    mut settings: StandaloneSettings,
    ready: impl FnOnce(&StandaloneAddresses, &ManifestDirectory),
) -> Result<(), Failure> {
    let signals = ReloadSignals::catch()?;
    let sockets = StandaloneSockets::bind(&settings.addresses).await?;
    let admin_policy = AdminPolicy::read(settings.admin.policy.as_deref(), &settings.domains)?;
    let identity = StandaloneIdentity::open(&settings.state, &settings.domains.trust_domain)?;
    let audit = AuditWriter::open(&settings.audit, settings.on_loss, identity.audit_keys.log_signer())?;
    let WatchedManifests { directory, watch, approvals } = WatchedManifests::load(
        &settings.manifests,
        &settings.domains,
        settings.strict,
        &settings.state,
        &identity.seal,
    )?;
    let context = engine::build(&mut settings, &identity, audit)?;
    let authenticator = Arc::clone(&context.authenticator);
    let tls = identity.server_config(&authenticator)?;
    let readiness = Arc::new(Readiness::default());
    let follower = DirectoryFollower {
        directory,
        watch,
        context: context.clone(),
        readiness: Arc::clone(&readiness),
        reload: signals.requests(),
    };
    follower.apply_loaded();
    readiness.mark_policies_loaded();
    readiness.mark_identities_ready();

    let doors = Doors {
        engine: Arc::clone(&context.engine),
        authenticator: Arc::clone(&authenticator),
        trust: Arc::new(settings.trust),
    };
    let (grpc, grpc_health) = doors.grpc().await;
    let limits = ServerLimits::new(settings.connections, context.metrics.listeners().clone());
    let mut supervisor = Supervisor::new(limits)?;
    let addresses = sockets.addresses()?;
    let token_listener = TokenListener {
        context: &context,
        identity: &identity,
        trust: Arc::clone(&doors.trust),
        addresses: &addresses,
        issuer: settings.issuer,
    };
    let step_up = token_listener.open_step_up(&settings.state, settings.step_up).await?;
    let routers = StandaloneRouters {
        http: doors.http(),
        grpc,
        tokens: token_listener.router(step_up, &approvals),
        admin: admin_router(&context, readiness, admin_policy, &settings.admin),
    };

    let (approval_changes, changed_approvals) = mpsc::unbounded_channel();
    approvals.start(&context.engine, identity.seal, true, approval_changes, &mut supervisor);
    sockets.serve(&mut supervisor, &tls, routers);
    start_authenticator(&mut supervisor, Arc::clone(&authenticator));
    TokenKeyFolder::new(&settings.state).start_renewal(
        identity.token_keys,
        Arc::clone(&authenticator),
        &mut supervisor,
    );
    supervisor.spawn(|stop| key_uses::run_writer(settings.state, authenticator, stop));
    ready(&addresses, &follower.directory);
    supervisor.spawn(|stop| follower.run(changed_approvals, stop));
    let reload = signals.requests();
    supervisor.spawn(|stop| context.reopen_audit_log(reload, stop));
    supervisor.spawn(|stop| signals.run(stop));
    supervisor.run_until_shutdown(async move { grpc_health.set_closing().await }).await
}
