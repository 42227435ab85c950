//! `durward gate`: the enforcing proxy beside one application.
//!
//! ```text
//!           mTLS, HTTP/1.1 or HTTP/2            plain HTTP on loopback
//! callers ─────────────────────────▶ inbound ───────────────────────▶ application
//!                                       │ engine: decided here               │
//! services ◀──────── mTLS ────────── outbound ◀───── plain HTTP ─────────────┘
//! ```
//!
//! Policies come from a directory, or from the controller; so do certificate and trust.

mod app;
mod cluster;
mod identity;
mod inbound;
mod local;
mod outbound;
mod passing;
mod peers;
mod trouble;
mod tunnel;

pub use cluster::Remote;
use durward_protocol::upstream::Upstream;
pub use local::{Certificate, Local};

use app::App;
use durward_api::compile::ClusterDomains;
use durward_authn::{Authenticator, LivenessIndex, TrustDomain};
use durward_doors::admin;
use durward_engine::Engine;
use durward_engine::audit::{Audit, LogSigner, OnLoss, Sink};
use durward_engine::metrics::Metrics;
use durward_engine::openfga::OpenFga;
use durward_identity::TokenKeys;
use durward_pki::token::{SigningAlgorithm, TokenKey};
use durward_runtime::Failure;
use durward_runtime::listener::{Listening, serve_service};
use durward_runtime::random::random;
use durward_runtime::readiness::Readiness;
use durward_runtime::supervisor::{Parts, bind};
use durward_state::state::State;
use identity::Shown;
use inbound::Inbound;
use outbound::Outbound;
use serde::Serialize;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tunnel::Tunnels;

/// Everything that the gate can be told.
#[derive(Debug)]
pub struct Settings {
    /// Where to listen.
    pub listen: Listen,
    /// The application.
    pub upstream: Upstream,
    /// Where policies and identity come from.
    pub source: Source,
    /// Names that policies are compiled for.
    pub domain: ClusterDomains,
    /// How much, and how long.
    pub limits: Limits,
    /// Whether callers may use TLS 1.2.
    pub tls12: bool,
    /// The OpenFGA server, if policies may ask one.
    pub openfga: Option<OpenFga>,
    /// Where the audit log goes.
    pub audit: Sink,
    /// What to do when it can't be written.
    pub on_loss: OnLoss,
}

/// Where policies and identity come from.
#[derive(Debug)]
pub enum Source {
    /// This host.
    Local(Local),
    /// The controller of a cluster.
    Remote(Remote),
}

impl Source {
    /// Who proves the audit log: the local CA's key for it; elsewhere a key of this process, which nobody knows later.
    fn log_signer(&self, trust_domain: &str) -> Result<LogSigner, Failure> {
        match self {
            Self::Local(Local { certificate: Certificate::State { state, .. }, .. }) => {
                Ok(TokenKeys::new(State::open(state, trust_domain)?.audit_keys).log_signer())
            }
            Self::Local(_) | Self::Remote(_) => {
                let key = TokenKey::generate(SigningAlgorithm::Es256)?;
                Ok(LogSigner::new(move |claims, typ| key.sign(claims, typ)))
            }
        }
    }
}

/// Where to listen; port 0 takes any free one.
#[derive(Debug, Clone, clap::Args, Serialize)]
pub struct Listen {
    /// Where callers come in, over TLS
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:8148", env = "DURWARD_LISTEN")]
    pub listen: SocketAddr,
    /// Where the application calls other services in plain HTTP; a loopback address
    #[arg(long, value_name = "ADDRESS", env = "DURWARD_OUTBOUND")]
    pub outbound: Option<SocketAddr>,
    /// Health and metrics
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8181", env = "DURWARD_ADMIN")]
    pub admin: SocketAddr,
}

/// How much, and how long.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct Limits {
    /// Requests at once on each side; more are refused with 503
    #[arg(long = "max-requests", value_name = "NUMBER", default_value = "4096")]
    pub requests: usize,
    /// How long the application, or a service, may take to begin with an answer
    #[arg(long = "response-timeout", value_name = "DURATION", default_value = "60s", value_parser = durward_runtime::duration::duration)]
    pub response: Duration,
    /// How long a body may pause in either direction; an open WebSocket may be silent
    #[arg(long = "idle-timeout", value_name = "DURATION", default_value = "5m", value_parser = durward_runtime::duration::duration)]
    pub idle: Duration,
    /// How long open requests have to end, once it is to stop
    #[arg(long, value_name = "DURATION", default_value = "25s", value_parser = durward_runtime::duration::duration)]
    pub drain: Duration,
}

/// Runs until a signal ends it. `ready` is told where it listens, once it does.
///
/// # Errors
/// When a port, the policies or the certificate can't be used, or when a part of it dies.
pub async fn run(settings: Settings, ready: impl FnOnce(&Listen)) -> Result<(), Failure> {
    let Settings { listen, upstream, source, domain, limits, tls12, .. } = settings;
    let inbound = bind(listen.listen, "callers", "listen").await?;
    let outbound = match listen.outbound {
        // whoever reaches it has the pod's identity
        Some(address) if !address.ip().is_loopback() => {
            return Err(format!("--outbound {address} would give the pod's identity to others; use 127.0.0.1").into());
        }
        Some(address) => Some(bind(address, "the application's calls", "outbound").await?),
        None => None,
    };
    let admin = bind(listen.admin, "admin", "admin").await?;
    let listen = Listen {
        listen: inbound.local_addr()?,
        outbound: outbound.as_ref().map(TcpListener::local_addr).transpose()?,
        admin: admin.local_addr()?,
    };
    let audit = Audit::open(&settings.audit, settings.on_loss, source.log_signer(&domain.trust_domain)?)?;
    let living = Arc::new(match source {
        Source::Local(_) => LivenessIndex::default(),
        Source::Remote(_) => LivenessIndex::deletions_only(),
    });
    let trust = TrustDomain { name: domain.trust_domain.clone(), ..TrustDomain::default() };
    let authenticator = Arc::new(Authenticator::new(trust, Arc::clone(&living)));
    let process = u64::from_be_bytes(random()?);
    let engine = Engine::new(Arc::clone(&authenticator), audit, Arc::new(Metrics::default()), process);
    let engine = Arc::new(engine.with_openfga(settings.openfga));
    let shown = Shown::new(Arc::clone(&authenticator), &domain);
    let readiness = Arc::new(Readiness::default());
    let closing = Arc::clone(&readiness);

    let mut parts = Parts::new()?;
    match source {
        Source::Local(local) => local.begin(&domain, &engine, &shown, &readiness, &mut parts)?,
        Source::Remote(remote) => remote.begin(&domain, &engine, living, &shown, &readiness, &mut parts),
    }
    parts.serve(admin, None, admin::gate_router(Arc::clone(&engine), Arc::clone(&readiness)));
    parts.add(|stop| async move {
        authenticator.run(stop).await;
        Ok(())
    });
    let (app, known) = (App::new(&upstream), shown.clone());
    let inbound = parts.listening(inbound);
    parts.add(|stop| serve_inbound(inbound, Arc::clone(&engine), app, known, limits, tls12, stop));
    if let Some(outbound) = outbound.map(|socket| parts.listening(socket)) {
        parts.add(|stop| serve_outbound(outbound, shown, limits, stop));
    }
    ready(&listen);
    // the end of a sidecar comes after that of the application, so nobody is waited for who might still come
    parts.until_the_end(async move { closing.closing() }).await
}

async fn serve_inbound(
    listening: Listening,
    engine: Arc<Engine>,
    app: App,
    shown: Shown,
    limits: Limits,
    tls12: bool,
    shutdown: CancellationToken,
) -> Result<(), Failure> {
    let identity = tokio::select! {
        Some(identity) = shown.identity() => identity,
        () = shutdown.cancelled() => return Ok(()),
    };
    let tunnels = Tunnels::default();
    let inbound = Inbound::new(engine, app, limits, tunnels.clone());
    let tls = identity.tls(tls12)?;
    let served = serve_service(listening, Some(tls), inbound, limits.drain, shutdown.clone());
    let (served, ()) = tokio::join!(served, tunnels.end(limits.drain, shutdown));
    Ok(served?)
}

async fn serve_outbound(
    listening: Listening,
    shown: Shown,
    limits: Limits,
    shutdown: CancellationToken,
) -> Result<(), Failure> {
    let identity = tokio::select! {
        Some(identity) = shown.identity() => identity,
        () = shutdown.cancelled() => return Ok(()),
    };
    let tunnels = Tunnels::default();
    let outbound = Outbound::new(&identity.peers, &identity.certificate, limits, tunnels.clone())?;
    let served = serve_service(listening, None, outbound, limits.drain, shutdown.clone());
    let (served, ()) = tokio::join!(served, tunnels.end(limits.drain, shutdown));
    Ok(served?)
}
