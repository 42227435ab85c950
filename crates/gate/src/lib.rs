//! `durward gate`: the enforcing proxy beside one application. It authenticates callers, asks the engine, and forwards what is
//! allowed.
//!
//! It decides nothing itself, and it reads and answers requests as the doors do.
//! Begin with [`run`], then `inbound`.
//!
//! ```text
//!           mTLS, HTTP/1.1 or HTTP/2            plain HTTP on loopback
//! callers ─────────────────────────▶ inbound ───────────────────────▶ application
//!                                       │ the engine decides here            │
//! services ◀──────── mTLS ────────── outbound ◀───── plain HTTP ─────────────┘
//! ```
//!
//! Policies, certificate and trust come from files or from the controller.

mod application;
mod cluster;
mod forwarding;
mod identity;
mod inbound;
mod local;
mod outbound;
mod proxy_error;
mod server_verifier;
mod tunnel;

pub use cluster::ClusterGate;
use durward_protocol::upstream::Upstream;
pub use local::{GateCertificate, LocalGate};

use application::Application;
use durward_api::compile::ClusterDomains;
use durward_authn::{Authenticator, LivenessIndex, TrustDomain};
use durward_doors::admin;
use durward_engine::EngineContext;
use durward_engine::audit::{AuditSink, AuditWriter, LogSigner, OnLoss};
use durward_engine::metrics::Metrics;
use durward_engine::openfga::OpenFga;
use durward_identity::TokenKeys;
use durward_pki::token::{SigningAlgorithm, TokenKey};
use durward_runtime::Failure;
use durward_runtime::listener::{Listener, serve_with_drain};
use durward_runtime::random::random_bytes;
use durward_runtime::readiness::Readiness;
use durward_runtime::supervisor::{Supervisor, bind};
use durward_state::LocalState;
use identity::IdentityPublisher;
use inbound::Inbound;
use outbound::Outbound;
use serde::Serialize;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tunnel::Tunnels;

/// The settings of a gate.
#[derive(Debug)]
pub struct GateSettings {
    /// Where to listen.
    pub listen: GateAddresses,
    /// The application.
    pub upstream: Upstream,
    /// Where policies and identity come from.
    pub source: GateSource,
    /// Trust domain and cluster domain that policies are compiled for.
    pub domain: ClusterDomains,
    /// Limits on requests and times.
    pub limits: GateLimits,
    /// Whether callers may use TLS 1.2.
    pub tls12: bool,
    /// The OpenFGA server, if policies may ask one.
    pub openfga: Option<OpenFga>,
    /// Where the audit log goes.
    pub audit: AuditSink,
    /// What to do when it can't be written.
    pub on_loss: OnLoss,
}

/// Where policies and identity come from.
#[derive(Debug)]
pub enum GateSource {
    /// A directory of policies on this host.
    Local(LocalGate),
    /// The controller of a cluster.
    Cluster(ClusterGate),
}

impl GateSource {
    /// The key that signs the audit log: the one in the state directory, or else a key of this process that is never published.
    fn log_signer(&self, trust_domain: &str) -> Result<LogSigner, Failure> {
        match self {
            Self::Local(LocalGate { certificate: GateCertificate::State { state, .. }, .. }) => {
                Ok(TokenKeys::new(LocalState::open(state, trust_domain)?.audit_keys).log_signer())
            }
            Self::Local(_) | Self::Cluster(_) => {
                let key = TokenKey::generate(SigningAlgorithm::Es256)?;
                Ok(LogSigner::new(move |claims, typ| key.sign(claims, typ)))
            }
        }
    }
}

/// The addresses to listen on; port 0 takes any free port.
#[derive(Debug, Clone, clap::Args, Serialize)]
pub struct GateAddresses {
    /// Address for callers, over TLS
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:8148", env = "DURWARD_LISTEN")]
    pub listen: SocketAddr,
    /// Address where the application calls other services in plain HTTP; a loopback address
    #[arg(long, value_name = "ADDRESS", env = "DURWARD_OUTBOUND")]
    pub outbound: Option<SocketAddr>,
    /// Health and metrics
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8181", env = "DURWARD_ADMIN")]
    pub admin: SocketAddr,
}

/// Limits on requests and times.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct GateLimits {
    /// Most concurrent requests on each side; further ones are refused with 503
    #[arg(long = "max-requests", value_name = "NUMBER", default_value = "4096")]
    pub requests: usize,
    /// Time for the application, or a service, to begin its response
    #[arg(long = "response-timeout", value_name = "DURATION", default_value = "60s", value_parser = durward_runtime::duration::parse_duration)]
    pub response: Duration,
    /// Longest pause of a body in either direction; an open WebSocket may be silent
    #[arg(long = "idle-timeout", value_name = "DURATION", default_value = "5m", value_parser = durward_runtime::duration::parse_duration)]
    pub idle: Duration,
    /// Time for open requests to complete after shutdown
    #[arg(long, value_name = "DURATION", default_value = "25s", value_parser = durward_runtime::duration::parse_duration)]
    pub drain: Duration,
}

/// Runs until a signal ends the process. Calls `ready` with the addresses once it listens.
///
/// # Errors
/// When a port, the policies or the certificate can't be used, or when a task of the process fails.
pub async fn run(settings: GateSettings, ready: impl FnOnce(&GateAddresses)) -> Result<(), Failure> {
    let GateSettings { listen, upstream, source, domain, limits, tls12, .. } = settings;
    let inbound = bind(listen.listen, "callers", "listen").await?;
    let outbound = match listen.outbound {
        // every client of this listener acts with the identity of the pod
        Some(address) if !address.ip().is_loopback() => {
            return Err(format!("--outbound {address} would give the pod's identity to others; use 127.0.0.1").into());
        }
        Some(address) => Some(bind(address, "the application's calls", "outbound").await?),
        None => None,
    };
    let admin = bind(listen.admin, "admin", "admin").await?;
    let listen = GateAddresses {
        listen: inbound.local_addr()?,
        outbound: outbound.as_ref().map(TcpListener::local_addr).transpose()?,
        admin: admin.local_addr()?,
    };
    let audit = AuditWriter::open(&settings.audit, settings.on_loss, source.log_signer(&domain.trust_domain)?)?;
    let liveness = Arc::new(match source {
        GateSource::Local(_) => LivenessIndex::default(),
        GateSource::Cluster(_) => LivenessIndex::deletions_only(),
    });
    let trust = TrustDomain { name: domain.trust_domain.clone(), ..TrustDomain::default() };
    let authenticator = Arc::new(Authenticator::new(trust, Arc::clone(&liveness)));
    let process = u64::from_be_bytes(random_bytes()?);
    let metrics = Arc::new(Metrics::default());
    let context =
        EngineContext::new(Arc::clone(&authenticator), audit, Arc::clone(&metrics), settings.openfga, process);
    let publisher = IdentityPublisher::new(Arc::clone(&authenticator), &domain);
    let readiness = Arc::new(Readiness::default());
    let closing = Arc::clone(&readiness);

    let mut supervisor = Supervisor::new()?;
    match source {
        GateSource::Local(local) => local.start(&domain, &context, &publisher, &readiness, &mut supervisor)?,
        GateSource::Cluster(remote) => {
            remote.start(&domain, &context, liveness, &publisher, &readiness, &mut supervisor)
        }
    }
    supervisor.serve(admin, None, admin::gate_router(metrics, Arc::clone(&readiness)));
    supervisor.spawn(|stop| async move {
        authenticator.run(stop).await;
        Ok(())
    });
    let application = Application::new(&upstream);
    let inbound_identity = publisher.clone();
    let inbound = supervisor.listener(inbound);
    supervisor.spawn(|stop| serve_inbound(inbound, context, application, inbound_identity, limits, tls12, stop));
    if let Some(outbound) = outbound.map(|socket| supervisor.listener(socket)) {
        supervisor.spawn(|stop| serve_outbound(outbound, publisher, limits, stop));
    }
    ready(&listen);
    // a sidecar ends after its application, so no further requests are expected
    supervisor.run_until_shutdown(async move { closing.mark_closing() }).await
}

async fn serve_inbound(
    listener: Listener,
    context: EngineContext,
    application: Application,
    publisher: IdentityPublisher,
    limits: GateLimits,
    tls12: bool,
    shutdown: CancellationToken,
) -> Result<(), Failure> {
    let identity = tokio::select! {
        Some(identity) = publisher.identity() => identity,
        () = shutdown.cancelled() => return Ok(()),
    };
    let tunnels = Tunnels::default();
    let inbound = Inbound::new(context, application, limits, tunnels.clone());
    let tls = identity.tls(tls12)?;
    let served = serve_with_drain(listener, Some(tls), inbound, limits.drain, shutdown.clone());
    let (served, ()) = tokio::join!(served, tunnels.end(limits.drain, shutdown));
    Ok(served?)
}

async fn serve_outbound(
    listener: Listener,
    publisher: IdentityPublisher,
    limits: GateLimits,
    shutdown: CancellationToken,
) -> Result<(), Failure> {
    let identity = tokio::select! {
        Some(identity) = publisher.identity() => identity,
        () = shutdown.cancelled() => return Ok(()),
    };
    let tunnels = Tunnels::default();
    let outbound = Outbound::new(&identity.peers, &identity.certificate, limits, tunnels.clone())?;
    let served = serve_with_drain(listener, None, outbound, limits.drain, shutdown.clone());
    let (served, ()) = tokio::join!(served, tunnels.end(limits.drain, shutdown));
    Ok(served?)
}
