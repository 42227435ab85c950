//! `durward up`: all doors on this host, deciding by a directory that is followed as it changes.

use axum::Router;
use chrono::Utc;
use durward_api::compile::ClusterDomains;
use durward_approvals::ApprovalSeal;
use durward_authn::tls::WorkloadClientVerifier;
use durward_authn::{Authenticator, ServiceAccountIssuer, TrustDomain};
use durward_doors::admin::{AdminPolicy, AdminSettings};
use durward_doors::assembly::{ApprovalAccess, TokenEndpoints, admin_router, start_authenticator};
use durward_doors::{Doors, ext_authz, tokens};
use durward_engine::EngineContext;
use durward_engine::audit::{AuditSink, AuditWriter, OnLoss};
use durward_engine::metrics::Metrics;
use durward_engine::openfga::OpenFga;
use durward_identity::TokenKeys;
use durward_manifests::load::{ManifestDirectory, load};
use durward_manifests::watch::{DirectoryWatch, follow};
use durward_runtime::Failure;
use durward_runtime::peers::TrustedPeers;
use durward_runtime::random::random_bytes;
use durward_runtime::readiness::Readiness;
use durward_runtime::supervisor::{ListenError, Supervisor, bind};
use durward_runtime::tls::{ReloadableCertificate, server_config};
use durward_state::LocalApprovals;
use durward_state::LocalState;
use durward_state::TokenKeyFolder;
use durward_state::key_uses;
use durward_step_up::{FactorStore, StepUpArguments, StepUpService};
use rustls::ServerConfig;
use serde::Serialize;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

/// Everything that `durward up` can be told.
#[derive(Debug)]
pub struct Settings {
    /// Directory of manifests.
    pub manifests: PathBuf,
    /// State directory.
    pub state: PathBuf,
    /// Names that policies are compiled for.
    pub domain: ClusterDomains,
    /// Where to listen.
    pub listen: Listen,
    /// Who may administer.
    pub admin: AdminSettings,
    /// Which peers are believed what.
    pub trust: TrustedPeers,
    /// Where the audit log goes.
    pub audit: AuditSink,
    /// What to do when it can't be written.
    pub on_loss: OnLoss,
    /// `iss` of tokens; a URL of the token listener if left out.
    pub issuer: Option<String>,
    /// People's second factors; where their page is follows from the issuer, or from where tokens are, if left out.
    pub step_up: StepUpArguments,
    /// Issuer of service-account tokens.
    pub service_accounts: Option<ServiceAccountIssuer>,
    /// The OpenFGA server, if policies may ask one.
    pub openfga: Option<OpenFga>,
}

/// Where to listen; port 0 takes any free one.
#[derive(Debug, Clone, clap::Args, Serialize)]
pub struct Listen {
    /// Forward auth and AuthZEN
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8180")]
    pub http: SocketAddr,
    /// Forward auth and AuthZEN over TLS
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8143")]
    pub https: SocketAddr,
    /// Envoy ext_authz over gRPC
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9180")]
    pub grpc: SocketAddr,
    /// Envoy ext_authz over gRPC with TLS
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9143")]
    pub grpcs: SocketAddr,
    /// Keys and exchange of tokens, and the trust bundle
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8182")]
    pub tokens: SocketAddr,
    /// The same over TLS, for clients with certificates
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8145")]
    pub tokens_tls: SocketAddr,
    /// Health, metrics and the snapshot
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8181")]
    pub admin: SocketAddr,
}

/// Runs until a signal ends it. `ready` is told where it listens once every door is open.
///
/// # Errors
/// When a port, the state or the directory can't be used, or when a part of it dies.
pub async fn up(settings: Settings, ready: impl FnOnce(&Listen, &ManifestDirectory)) -> Result<(), Failure> {
    let sockets = Sockets::bind(&settings.listen).await?;
    let admin_policy = AdminPolicy::read(settings.admin.policy.as_deref(), &settings.domain)?;
    let state = LocalState::open(&settings.state, &settings.domain.trust_domain)?;
    let certificate = state.server_certificate(&settings.domain.trust_domain, Utc::now())?;
    let (token_keys, audit_keys) = (TokenKeys::new(state.token_keys), TokenKeys::new(state.audit_keys));
    let audit = AuditWriter::open(&settings.audit, settings.on_loss, audit_keys.log_signer())?;
    let watch = DirectoryWatch::start(&settings.manifests);
    // a directory that is not there is told by the loader, which knows what it is for
    let mut directory = load(&settings.manifests, &settings.domain)?;
    let watch = watch?;
    let seal = ApprovalSeal::new(audit_keys.clone());
    let (approvals, approved) = LocalApprovals::open(&settings.state, seal.clone())?;
    directory.catalog.apply(approved);

    let domain = TrustDomain {
        name: settings.domain.trust_domain.clone(),
        roots: state.authority.roots().to_vec(),
        own_keys: Some(token_keys.current().jwks()),
        service_accounts: settings.service_accounts.clone(),
    };
    // another state directory has a younger CA
    let bundle = tokens::own_bundle(domain.roots.clone(), state.authority.validity().0, token_keys.clone());
    let authenticator = Authenticator::new(domain, Arc::default());
    let problems = authenticator.replace_providers(&directory.providers(), &directory.secrets());
    problems.iter().for_each(|(provider, problem)| eprintln!("provider {provider}: {problem}"));
    directory.print_problems();

    let metrics = Arc::new(Metrics::default());
    let process = u64::from_be_bytes(random_bytes()?);
    let context = EngineContext::new(Arc::new(authenticator), audit, metrics, settings.openfga, process);
    let EngineContext { engine, authenticator, metrics } = context.clone();
    engine.replace_snapshot(directory.catalog.snapshot().clone());
    metrics.policies_rejected(directory.catalog.rejected_count());
    let readiness = Arc::new(Readiness::default());
    readiness.mark_policies_loaded();
    readiness.mark_identities_ready();

    let clients = WorkloadClientVerifier::verifier(Arc::clone(&authenticator));
    let tls = server_config(
        ReloadableCertificate::new(&certificate.chain_pem, &certificate.key_pem)?,
        clients,
        rustls::DEFAULT_VERSIONS,
    )?;
    let trust = Arc::new(settings.trust);
    let doors =
        Doors { engine: Arc::clone(&engine), authenticator: Arc::clone(&authenticator), trust: Arc::clone(&trust) };

    let (grpc, health) = doors.grpc().await;
    let mut supervisor = Supervisor::new()?;
    let listen = sockets.listen()?;
    // browsers let WebAuthn run at `localhost`, and at no address
    let page = settings.issuer.clone().unwrap_or_else(|| format!("http://localhost:{}", listen.tokens.port()));
    let step_up_settings = settings.step_up.into_settings(&page)?;
    let step_up = StepUpService::open(Arc::clone(&engine), second_factors(&settings.state), step_up_settings).await?;
    let issuer = settings.issuer.unwrap_or_else(|| format!("http://{}", listen.tokens));
    let tls_url = format!("https://{}", listen.tokens_tls);
    let (changes, changed) = mpsc::unbounded_channel();
    let endpoints = TokenEndpoints {
        context: context.clone(),
        trust,
        issuer,
        mtls_url: Some(tls_url),
        token_keys: token_keys.clone(),
        audit_keys,
        step_up,
        approvals: ApprovalAccess { store: approvals.store(), seal: seal.clone(), stored: approvals.objects() },
    };
    approvals.start(&engine, seal, true, changes, &mut supervisor);
    sockets.serve(
        &mut supervisor,
        &tls,
        Routers {
            http: doors.http(),
            grpc,
            tokens: endpoints.router().merge(bundle),
            admin: admin_router(&context, readiness, admin_policy, &settings.admin),
        },
    );
    start_authenticator(&mut supervisor, Arc::clone(&authenticator));
    TokenKeyFolder::new(&settings.state).start_renewal(token_keys, Arc::clone(&authenticator), &mut supervisor);
    supervisor.spawn(|stop| key_uses::run_writer(settings.state, authenticator, stop));
    ready(&listen, &directory);
    supervisor.spawn(|stop| follow(watch, directory, context, changed, stop));
    supervisor.run_until_shutdown(async move { health.set_closing().await }).await
}

/// Where second factors are kept in a state directory.
fn second_factors(state: &Path) -> FactorStore {
    FactorStore::Files(state.join("second-factors"))
}

struct Routers {
    http: Router,
    grpc: ext_authz::ExtAuthzListener,
    tokens: Router,
    admin: Router,
}

struct Sockets {
    http: TcpListener,
    https: TcpListener,
    grpc: TcpListener,
    grpcs: TcpListener,
    tokens: TcpListener,
    tokens_tls: TcpListener,
    admin: TcpListener,
}

impl Sockets {
    async fn bind(listen: &Listen) -> Result<Self, ListenError> {
        Ok(Self {
            http: bind(listen.http, "forward auth and AuthZEN", "http").await?,
            https: bind(listen.https, "forward auth and AuthZEN over TLS", "https").await?,
            grpc: bind(listen.grpc, "ext_authz", "grpc").await?,
            grpcs: bind(listen.grpcs, "ext_authz over TLS", "grpcs").await?,
            tokens: bind(listen.tokens, "tokens", "tokens").await?,
            tokens_tls: bind(listen.tokens_tls, "tokens over TLS", "tokens-tls").await?,
            admin: bind(listen.admin, "admin", "admin").await?,
        })
    }

    /// Where they listen, once the system has chosen ports.
    fn listen(&self) -> io::Result<Listen> {
        Ok(Listen {
            http: self.http.local_addr()?,
            https: self.https.local_addr()?,
            grpc: self.grpc.local_addr()?,
            grpcs: self.grpcs.local_addr()?,
            tokens: self.tokens.local_addr()?,
            tokens_tls: self.tokens_tls.local_addr()?,
            admin: self.admin.local_addr()?,
        })
    }

    fn serve(self, supervisor: &mut Supervisor, tls: &Arc<ServerConfig>, routers: Routers) {
        let all = [
            (self.http, None, routers.http.clone()),
            (self.https, Some(tls), routers.http),
            (self.tokens, None, routers.tokens.clone()),
            (self.tokens_tls, Some(tls), routers.tokens),
            (self.admin, None, routers.admin),
        ];
        supervisor.serve(self.grpc, None, routers.grpc.clone());
        supervisor.serve(self.grpcs, Some(Arc::clone(tls)), routers.grpc);
        for (listener, tls, router) in all {
            supervisor.serve(listener, tls.cloned(), router);
        }
    }
}
