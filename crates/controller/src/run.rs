//! `durward controller`: everything that runs in a cluster.

use crate::certificates::{Leaf, Listeners};
use crate::filled::Filled;
use crate::key_uses::{UseKeeper, uses_name};
use crate::owner::{Outlets, Owner};
use crate::replicas;
use crate::replicas::{Findings, Replicas};
use crate::watch::{Source, watch};
use crate::webhooks::{FailurePolicy, Standing, Webhooks};
use crate::writer::Writer;
use crate::{living, owner, service_accounts};
use axum::Router;
use durward_api::compile;
use durward_approvals as approval;
use durward_approvals::{Clerk, Known, QUEUE, Seal};
use durward_authn::{Authenticator, Living, TrustDomain, api_key};
use durward_core::authentication::AuthenticationMethod;
use durward_doors::admin;
use durward_doors::admin::{Admin, AdminPolicy, Administration};
use durward_doors::approvals;
use durward_doors::approvals::Desk;
use durward_doors::authorization;
use durward_doors::authorization::Authorization;
use durward_doors::exchange;
use durward_doors::exchange::Exchange;
use durward_doors::snapshots::{Resources, Snapshots};
use durward_doors::step_up;
use durward_doors::step_up::Page;
use durward_doors::token_review;
use durward_doors::token_review::TokenReviews;
use durward_doors::tokens;
use durward_doors::tokens::{Metadata, Published};
use durward_doors::{Doors, admission, mint, snapshots};
use durward_engine::Engine;
use durward_engine::audit::{Audit, OnLoss, Sink};
use durward_engine::metrics::Metrics;
use durward_engine::openfga::OpenFga;
use durward_identity::{
    Authorities, Bundle, Carriers, KeyStore, Mint, Origin, Rotation, Seen, Served, Signer, Store, TOKEN_KEYS,
    TokenService,
};
use durward_kubernetes::lease::{Candidate, LeaseObserver};
use durward_manifests::load::Domain;
use durward_pki::rotation::{RotationSchedule, TokenKeySchedule};
use durward_pki::token::SigningAlgorithm;
use durward_runtime::Failure;
use durward_runtime::random::random;
use durward_runtime::readiness::Readiness;
use durward_runtime::supervisor::{Parts, bind};
use durward_runtime::trust::Trust;
use durward_step_up as stepup;
use durward_step_up::StepUp;
use kube::{Api, Client};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch as channel};
use tokio_util::sync::CancellationToken;

/// How long a replica that is to end still answers: until every gateway and the API server know that it is gone.
const LINGER: Duration = Duration::from_secs(5);
/// Reviews that may wait for their turn.
const REVIEWS: usize = 64;

/// Everything that the controller can be told.
#[derive(Debug)]
pub struct Settings {
    /// Namespace of this installation.
    pub namespace: String,
    /// Name of this pod.
    pub pod: String,
    /// Service in front of all replicas; names of everything that belongs to the installation begin with it.
    pub service: String,
    /// Names that policies are compiled for.
    pub names: compile::ClusterDomains,
    /// Where to listen.
    pub listen: Listen,
    /// Who may administer.
    pub admin: Administration,
    /// Which peers are believed what.
    pub trust: Trust,
    /// Where the audit log goes.
    pub audit: Sink,
    /// What to do when it can't be written.
    pub on_loss: OnLoss,
    /// The OpenFGA server, if policies may ask one.
    pub openfga: Option<OpenFga>,
    /// Namespaces whose labelled Secrets are read for API keys, beside the installation's own.
    pub api_key_namespaces: Vec<String>,
    /// What happens to governed operations while nobody answers.
    pub failure_policy: FailurePolicy,
    /// Image of the agents that are put beside pods.
    pub agent_image: String,
    /// What happens to pods that ask for an identity while nobody answers.
    pub injection_failure_policy: FailurePolicy,
    /// Ways in that count at the API server itself (`TokenReview`).
    pub token_review: Vec<AuthenticationMethod>,
    /// Whether the authorization webhook allows what policies allow; otherwise it only denies.
    pub authorization_allows: bool,
    /// Where the CA comes from.
    pub ca: Origin,
    /// How long each step of its rotation takes.
    pub rotation: RotationSchedule,
    /// `iss` of tokens, an https URL under which discovery document and keys are found.
    pub issuer: String,
    /// People's second factors.
    pub step_up: stepup::Settings,
    /// Lifetime of the listeners' certificate.
    pub certificate_lifetime: Duration,
    /// Certificate of cert-manager for the webhooks, and the Secret that it fills.
    pub webhook_certificate: Option<String>,
}

/// Where to listen; port 0 takes any free one.
#[derive(Debug, Clone, clap::Args)]
pub struct Listen {
    /// Forward auth and AuthZEN over TLS
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:8143")]
    pub https: SocketAddr,
    /// Envoy ext_authz over gRPC with TLS
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:9143")]
    pub grpcs: SocketAddr,
    /// Webhooks of the API server
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:8443")]
    pub webhooks: SocketAddr,
    /// Token keys, discovery and the trust bundle over TLS
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:8145")]
    pub tokens: SocketAddr,
    /// Health, metrics and the snapshot over TLS
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:8181")]
    pub admin: SocketAddr,
}

/// How keys of the audit log follow one another: logs are verified for years.
const AUDIT_KEYS: TokenKeySchedule = TokenKeySchedule {
    algorithms: &[SigningAlgorithm::Es256],
    signs: Duration::from_secs(365 * 24 * 3600),
    ahead: Duration::from_secs(24 * 3600),
    after: Duration::from_secs(10 * 365 * 24 * 3600),
};

/// Runs until a signal ends it.
///
/// # Errors
/// When a port, the authority or the API server can't be used at the start, or when a part of it dies.
pub async fn run(client: Client, settings: Settings) -> Result<(), Failure> {
    let Settings { namespace, pod, service, names, listen, .. } = settings;
    let admin_policy = AdminPolicy::read(
        settings.admin.policy.as_deref(),
        &Domain { trust_domain: names.trust_domain.clone(), cluster_domain: names.cluster_domain.clone() },
    )?;
    let https = bind(listen.https, "forward auth and AuthZEN over TLS", "https").await?;
    let grpcs = bind(listen.grpcs, "ext_authz over TLS", "grpcs").await?;
    let webhooks = bind(listen.webhooks, "webhooks", "webhooks").await?;
    let token_listener = bind(listen.tokens, "token keys", "tokens").await?;
    let admin = bind(listen.admin, "admin", "admin").await?;
    let metrics = Arc::new(Metrics::default());
    let secrets = Api::namespaced(client.clone(), &namespace);
    let store = Store::new(secrets.clone(), &service, settings.ca, &names.trust_domain);
    let authorities = Authorities::new(store.open().await?);
    let audit_store =
        KeyStore { secrets: secrets.clone(), name: format!("{service}-audit-keys"), schedule: AUDIT_KEYS };
    let audit_keys = audit_store.open().await?;
    let audit = Audit::open(&settings.audit, settings.on_loss, audit_keys.log_signer())?;
    let factors = stepup::Store::Secrets(Box::new(secrets.clone()), service.clone());
    let key_store = KeyStore { secrets, name: format!("{service}-token-keys"), schedule: TOKEN_KEYS };
    let token_keys = key_store.open().await?;
    let served = Served::discover(&client).await?;

    // nobody is ready before the cluster's own tokens can be told from others
    let service_accounts = service_accounts::read(&client).await;
    let service_accounts =
        service_accounts.inspect_err(|error| tracing::warn!(%error, "{}", service_accounts::UNREADABLE));
    let domain = TrustDomain {
        name: names.trust_domain.clone(),
        roots: authorities.current().roots(),
        own_keys: Some(token_keys.current().jwks()),
        service_accounts: service_accounts.ok(),
    };
    let living = Arc::new(Living::nobody());
    let authenticator = Authenticator::new(domain, Arc::clone(&living));
    let process = u64::from_be_bytes(random()?);
    let engine = Engine::new(Arc::new(authenticator), audit, Arc::clone(&metrics), process);
    let engine = Arc::new(engine.with_openfga(settings.openfga));

    let host = format!("{service}.{namespace}.svc");
    let trust_domain = names.trust_domain.clone();
    let leaf = Leaf {
        id: format!("spiffe://{}/ns/{namespace}/sa/{service}", names.trust_domain),
        dns_names: vec![format!("{service}.{namespace}"), host.clone(), format!("{host}.{}", names.cluster_domain)],
        lifetime: settings.certificate_lifetime,
        metrics: Arc::clone(&metrics),
    };
    let listeners = Listeners::new(leaf, authorities.clone(), Arc::clone(engine.authenticator()))?;
    let tls = listeners.tls()?;
    let filled = settings.webhook_certificate.map(|name| Filled {
        secrets: Api::namespaced(client.clone(), &namespace),
        name,
        host: host.clone(),
        metrics: Arc::clone(&metrics),
    });
    let certificate = filled.as_ref().map(|filled| format!("{namespace}/{}", filled.name));
    let filled = match filled {
        Some(filled) => Some((filled.open().await?, filled)),
        None => None,
    };
    let webhooks_tls = match &filled {
        Some((shown, _)) => listeners.tls_with(Arc::clone(shown))?,
        None => Arc::clone(&tls),
    };

    let (reviewer, reviews) = mpsc::channel(REVIEWS);
    let (batches, written) = mpsc::unbounded_channel();
    let (applied, revisions) = mpsc::unbounded_channel();
    let (leading, leads) = channel::channel(false);
    let (synced, syncs) = channel::channel(false);
    let (confirmed, confirmations) = channel::channel(replicas::Confirmed::default());
    let (of_replicas, replicas_have) = channel::channel(None);
    let (of_bundles, bundles_have) = channel::channel(None);
    let (of_webhooks, webhooks_have) = channel::channel(None);
    let (standing, stands) = channel::channel(Standing::default());
    let (unenforced, audited) = mpsc::unbounded_channel();
    let (seen, sight) = channel::channel(Seen::default());
    let (gates, of_gates) = channel::channel(Resources::default());
    let (approvals, approvals_have) = channel::channel(Known::default());
    let seal = Seal::new(audit_keys.clone());
    let readiness = Arc::new(Readiness::default());
    let (gate, closing) = (Arc::clone(&readiness), CancellationToken::new());

    let mut parts = Parts::new()?;
    let trust = Arc::new(settings.trust);
    let doors = Doors { engine: Arc::clone(&engine), trust: Arc::clone(&trust) };
    let port = webhooks.local_addr()?.port();
    let admit = admission::Webhooks {
        engine: Arc::clone(&engine),
        trust_domain: names.trust_domain.as_str().into(),
        reviewer,
        agent: admission::Agent {
            image: settings.agent_image,
            controller: format!("https://{host}:{}", token_listener.local_addr()?.port()),
            domain: Domain { trust_domain: names.trust_domain.clone(), cluster_domain: names.cluster_domain.clone() },
        },
    };
    parts.serve(https, Some(Arc::clone(&tls)), doors.http());
    let (grpc, health) = doors.grpc().await;
    parts.serve(grpcs, Some(Arc::clone(&tls)), grpc);
    let authorization = Authorization {
        engine: Arc::clone(&engine),
        trust_domain: names.trust_domain.as_str().into(),
        namespace: namespace.as_str().into(),
        admission_fails_closed: settings.failure_policy == FailurePolicy::Fail,
        allows: settings.authorization_allows,
    };
    let token_reviews = TokenReviews { engine: Arc::clone(&engine), ways: settings.token_review.into() };
    let routers =
        admission::router(admit).merge(authorization::router(authorization)).merge(token_review::router(token_reviews));
    // replicas know each other by our own CA: they ask where a certificate of it is shown
    let among_replicas = replicas::router(Arc::clone(&engine), listeners.in_force());
    let (replicas_port, routers, beside_tokens) = match &filled {
        Some(_) => ("tokens", routers, among_replicas),
        None => ("webhooks", routers.merge(among_replicas), Router::new()),
    };
    parts.serve(webhooks, Some(webhooks_tls), routers);
    if let Some((shown, filled)) = filled {
        parts.add(|stop| filled.follow(shown, stop));
    }
    let (known, keys) = (authorities.clone(), token_keys.clone());
    let mint = Mint::new(client.clone(), Arc::clone(&engine), known, keys, &names.trust_domain, &settings.issuer);
    let published = Published {
        trust_domain: names.trust_domain.as_str().into(),
        authorities: authorities.clone(),
        keys: token_keys.clone(),
        authenticator: Arc::clone(engine.authenticator()),
    };
    let snapshots = Snapshots {
        mint: mint.clone(),
        resources: of_gates,
        engine: Arc::clone(&engine),
        seal: seal.clone(),
        closing: closing.clone(),
    };
    let metadata = tokens::metadata(Metadata::new(&settings.issuer, None, token_keys.clone(), audit_keys.clone()));
    let second_factors = StepUp::open(Arc::clone(&engine), factors, settings.step_up).await?;
    let token_service = TokenService::new(Arc::clone(&engine), token_keys.clone(), &settings.issuer);
    let token_service = token_service.with(second_factors.clone());
    let page = Page { service: token_service.clone(), step_up: second_factors, trust: Arc::clone(&trust) };
    let exchange = Exchange { service: token_service, trust: Arc::clone(&trust) };
    let routers = tokens::router(published).merge(metadata).merge(exchange::router(exchange)).merge(mint::router(mint));
    let routers = routers.merge(beside_tokens);
    let desk = Desk {
        engine: Arc::clone(&engine),
        store: approval::Store::Cluster(client.clone()),
        seal: seal.clone(),
        known: approvals_have.clone(),
        trust: Arc::clone(&trust),
        slots: Desk::slots(),
    };
    let routers =
        routers.merge(snapshots::router(snapshots)).merge(step_up::router(page)).merge(approvals::router(desk));
    let (wanted, lacking) = mpsc::channel(QUEUE);
    engine.ask_for_approvals(wanted);
    let clerk = Clerk {
        store: approval::Store::Cluster(client.clone()),
        seal: seal.clone(),
        known: approvals_have,
        engine: Arc::clone(&engine),
        leading: leads.clone(),
    };
    parts.add(|stop| clerk.run(lacking, stop));
    parts.serve(token_listener, Some(Arc::clone(&tls)), routers);
    let administration = Admin {
        engine: Arc::clone(&engine),
        readiness: Arc::clone(&readiness),
        policy: admin_policy,
        open_metrics: !settings.admin.closed_metrics,
    };
    parts.serve(admin, Some(tls), admin::router(administration));

    let mut api_key_namespaces = settings.api_key_namespaces;
    if !api_key_namespaces.contains(&namespace) {
        api_key_namespaces.push(namespace.clone());
    }
    let sources = Source::all(&api_key_namespaces);
    let events = watch(&client, &api_key_namespaces, api_key::LABEL);
    let (lives, ready) = (client.clone(), Arc::clone(&readiness));
    parts.add(|stop| living::follow(lives, living, ready, stop));
    let outlets = Outlets {
        engine: Arc::clone(&engine),
        readiness,
        batches: owner::Batches { batches, applied, number: 0 },
        synced,
        gates,
        approvals,
    };
    let owner = Owner::new(names, sources, seal.clone());
    parts.add(|stop| owner.run(events, reviews, outlets, stop));
    let (keys, authenticator) = (client.clone(), Arc::clone(engine.authenticator()));
    parts.add(|stop| service_accounts::follow(keys, authenticator, stop));
    let (own_keys, authenticator) = (token_keys.clone(), Arc::clone(engine.authenticator()));
    parts.add(|stop| own_keys.verified_by(authenticator, stop));
    let authenticator = Arc::clone(engine.authenticator());
    parts.add(|stop| async move {
        authenticator.run(stop).await;
        Ok(())
    });

    let uses = UseKeeper {
        maps: Api::namespaced(client.clone(), &namespace),
        name: uses_name(&service),
        authenticator: Arc::clone(engine.authenticator()),
    };
    parts.add(|stop| uses.run(stop));
    let candidate = Candidate {
        leases: Api::namespaced(client.clone(), &namespace),
        lease: service.clone(),
        identity: pod.clone(),
        closing: closing.clone(),
    };
    let metrics = Arc::clone(engine.metrics());
    let observer = Arc::new(LeaseMetrics(metrics));
    parts.add(|stop| candidate.run(leading, observer, stop));
    let in_force = listeners.in_force();
    parts.add(|stop| listeners.run(stop));
    let replicas = Replicas {
        client: client.clone(),
        namespace: namespace.clone(),
        service: service.clone(),
        pod: pod.clone(),
        host,
        port: replicas_port,
        authorities: authorities.clone(),
        in_force,
        engine: Arc::clone(&engine),
    };
    let findings = Findings { confirmed, roots: of_replicas, unenforced };
    let leads_replicas = leads.clone();
    parts.add(|stop| replicas.run(revisions, leads_replicas, findings, stop));
    let signer =
        Signer::new(client.clone(), Arc::clone(&engine), authorities.clone(), served.requests, &trust_domain, &pod);
    let leads_signer = leads.clone();
    parts.add(|stop| signer.run(leads_signer, stop));
    let bundle = Bundle {
        client: client.clone(),
        trust_domain,
        bundles: served.bundles,
        engine: Arc::clone(&engine),
        authorities: authorities.clone(),
        carried: of_bundles,
    };
    let (leads_bundle, syncs_bundle) = (leads.clone(), syncs.clone());
    parts.add(|stop| bundle.run(leads_bundle, syncs_bundle, stop));
    let rotation = Rotation {
        store: store.clone(),
        authorities: authorities.clone(),
        schedule: settings.rotation,
        carriers: Carriers { replicas: replicas_have, bundles: bundles_have, webhooks: webhooks_have },
        metrics: Arc::clone(engine.metrics()),
        namespace: namespace.clone(),
        status: format!("{service}-ca-status"),
    };
    let (of_rotation, leads_rotation) = (client.clone(), leads.clone());
    parts.add(|stop| rotation.run(of_rotation, sight, leads_rotation, stop));
    let known = authorities.clone();
    parts.add(|stop| store.follow(known, seen, stop));
    let leads_keys = leads.clone();
    parts.add(|stop| key_store.run(token_keys, leads_keys, stop));
    let leads_audit_keys = leads.clone();
    parts.add(|stop| audit_store.run(audit_keys, leads_audit_keys, stop));
    let writer = Writer::new(client.clone(), &pod);
    let leads_writer = leads.clone();
    parts.add(|stop| writer.run(written, confirmations, stands, audited, leads_writer, stop));
    let webhooks = Webhooks {
        service,
        namespace,
        port: i32::from(port),
        authorities,
        carried: of_webhooks,
        standing,
        certificate,
        failure_policy: settings.failure_policy,
        injection_failure_policy: settings.injection_failure_policy,
    };
    parts.add(|stop| webhooks.run(client, engine, leads, syncs, stop));
    parts
        .until_the_end(async move {
            gate.closing();
            health.closing().await;
            closing.cancel();
            tokio::time::sleep(LINGER).await;
        })
        .await
}

/// Counts what the election learns.
struct LeaseMetrics(Arc<Metrics>);

impl LeaseObserver for LeaseMetrics {
    fn api_server_answered(&self) {
        self.0.api_server_seen();
    }

    fn leadership_changed(&self, leads: bool) {
        self.0.leader(leads);
    }
}
