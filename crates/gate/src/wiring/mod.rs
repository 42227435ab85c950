//! Assembles the process. Each file builds one part of it.
//!
//! ```text
//! sockets ───────────────────────────────┐
//! engine ──▶ policies and identity ──▶ inbound and outbound sides
//!            (local or cluster)
//! ```

mod cluster;
mod engine;
mod local;
mod sides;
mod sockets;

pub use cluster::ClusterGate;
pub use local::{GateCertificate, LocalGate};

use crate::application::Application;
use crate::identity::IdentityPublisher;
use crate::settings::{GateAddresses, GateSettings, GateSource};
use durward_doors::admin;
use durward_doors::assembly::start_authenticator;
use durward_runtime::Failure;
use durward_runtime::limits::ServerLimits;
use durward_runtime::readiness::Readiness;
use durward_runtime::signals::ReloadSignals;
use durward_runtime::supervisor::Supervisor;
use engine::GateEngine;
use sides::Side;
use sockets::GateSockets;
use std::sync::Arc;

/// Runs until a signal ends the process. Calls `ready` with the addresses once it listens.
///
/// # Errors
/// When a port, the policies or the certificate can't be used, or when a task of the process fails.
pub async fn run(mut settings: GateSettings, ready: impl FnOnce(&GateAddresses)) -> Result<(), Failure> {
    let signals = ReloadSignals::catch()?;
    let sockets = GateSockets::bind(&settings.listen).await?;
    let addresses = sockets.addresses()?;
    let GateEngine { context, liveness } = GateEngine::build(&mut settings)?;
    let readiness = Arc::new(Readiness::default());
    let authenticator = Arc::clone(&context.authenticator);
    let publisher = IdentityPublisher::new(authenticator, Arc::clone(&readiness), &settings.domain);
    let closing = Arc::clone(&readiness);

    let limits = ServerLimits::new(settings.connections, context.metrics.listeners().clone());
    let mut supervisor = Supervisor::new(limits)?;
    match settings.source {
        GateSource::Local(local) => {
            local.start(&settings.domain, &context, &publisher, &readiness, signals.requests(), &mut supervisor)?;
        }
        GateSource::Cluster(cluster) => {
            cluster.start(&settings.domain, &context, liveness, &publisher, &readiness, &mut supervisor);
        }
    }
    let admin_router = admin::gate_router(Arc::clone(&context.metrics), readiness);
    supervisor.serve_admin(sockets.admin, None, admin_router);
    start_authenticator(&mut supervisor, Arc::clone(&context.authenticator));

    let reopening = context.clone();
    let application = Application::new(&settings.upstream);
    let callers = Side::new(supervisor.listener(sockets.callers), publisher.clone(), settings.limits);
    supervisor.spawn(|stop| callers.serve_inbound(context, application, settings.tls12, stop));
    if let Some(socket) = sockets.outbound {
        let services = Side::new(supervisor.listener(socket), publisher, settings.limits);
        supervisor.spawn(|stop| services.serve_outbound(stop));
    }
    let reload = signals.requests();
    supervisor.spawn(|stop| reopening.reopen_audit_log(reload, stop));
    supervisor.spawn(|stop| signals.run(stop));
    ready(&addresses);
    // a sidecar ends after its application, so no further requests are expected
    supervisor.run_until_shutdown(async move { closing.mark_closing() }).await
}
