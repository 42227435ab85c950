//! `durward controller`: everything that runs in a cluster.

use crate::audit::{Audit, OnLoss, Sink};
use crate::authn::tls::{ServerCertificate, server_config};
use crate::authn::{Authenticator, Setup, TrustDomain, api_key};
use crate::controller::certificates::{Leaf, Origin, authority};
use crate::controller::leader::Candidate;
use crate::controller::owner::{Outlets, Owner};
use crate::controller::replicas::{self, Replicas};
use crate::controller::watch::{Source, watch};
use crate::controller::webhooks::{FailurePolicy, Webhooks};
use crate::controller::writer::Writer;
use crate::controller::{owner, service_accounts};
use crate::doors::admin::{self, Readiness};
use crate::doors::trust::Trust;
use crate::doors::{Doors, admission};
use crate::engine::Engine;
use crate::identity::{Bundle, Signer};
use crate::metrics::Metrics;
use crate::process::{Failure, Parts, bind};
use crate::random::random;
use durward_api::compile;
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
#[derive(Debug, Clone)]
pub struct Settings {
    /// Namespace of this installation.
    pub namespace: String,
    /// Name of this pod.
    pub pod: String,
    /// Service in front of all replicas; names of everything that belongs to the installation begin with it.
    pub service: String,
    /// Names that policies are compiled for.
    pub names: compile::Settings,
    /// Where to listen.
    pub listen: Listen,
    /// Which peers are believed what.
    pub trust: Trust,
    /// Where the audit log goes.
    pub audit: Sink,
    /// What to do when it can't be written.
    pub on_loss: OnLoss,
    /// Namespaces whose labelled Secrets are read for API keys, beside the installation's own.
    pub api_key_namespaces: Vec<String>,
    /// What happens to governed operations while nobody answers.
    pub failure_policy: FailurePolicy,
    /// Where the CA comes from.
    pub ca: Origin,
    /// Lifetime of the listeners' certificate.
    pub certificate_lifetime: Duration,
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
    /// Health, metrics and the snapshot
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:8181")]
    pub admin: SocketAddr,
}

/// Runs until a signal ends it.
///
/// # Errors
/// When a port, the authority or the API server can't be used at the start, or when a part of it dies.
pub async fn run(client: Client, settings: Settings) -> Result<(), Failure> {
    let Settings { namespace, pod, service, names, listen, .. } = settings;
    let https = bind(listen.https, "forward auth and AuthZEN over TLS", "https").await?;
    let grpcs = bind(listen.grpcs, "ext_authz over TLS", "grpcs").await?;
    let webhooks = bind(listen.webhooks, "webhooks", "webhooks").await?;
    let admin = bind(listen.admin, "admin", "admin").await?;
    let audit = Audit::open(&settings.audit, settings.on_loss)?;
    let metrics = Arc::new(Metrics::default());
    let secrets = Api::namespaced(client.clone(), &namespace);
    let authority = Arc::new(authority(&secrets, &format!("{service}-ca"), &names.trust_domain, settings.ca).await?);
    let (ca_pem, roots) = (authority.certificate_pem(), vec![authority.certificate().clone()]);

    // nobody is ready before the cluster's own tokens can be told from others
    let service_accounts = service_accounts::read(&client).await;
    let service_accounts =
        service_accounts.inspect_err(|error| tracing::warn!(%error, "{}", service_accounts::UNREADABLE));
    let domain = TrustDomain {
        name: names.trust_domain.clone(),
        roots: roots.clone(),
        own_keys: None,
        service_accounts: service_accounts.ok(),
    };
    let (authenticator, _) = Authenticator::new(Setup { domain: domain.clone(), ..Setup::default() });
    let process = u64::from_be_bytes(random()?);
    let engine = Arc::new(Engine::new(Arc::new(authenticator), audit, Arc::clone(&metrics), process));

    let host = format!("{service}.{namespace}.svc");
    let trust_domain = names.trust_domain.clone();
    let leaf = Leaf {
        authority: Arc::clone(&authority),
        id: format!("spiffe://{}/ns/{namespace}/sa/{service}", names.trust_domain),
        dns_names: vec![format!("{service}.{namespace}"), host.clone(), format!("{host}.{}", names.cluster_domain)],
        lifetime: settings.certificate_lifetime,
        metrics,
    };
    let issued = leaf.issue()?;
    let certificate = ServerCertificate::new(&issued.certificate_pem, &issued.key_pem)?;
    let tls = server_config(Arc::clone(&certificate), &roots)?;

    let (reviewer, reviews) = mpsc::channel(REVIEWS);
    let (batches, written) = mpsc::unbounded_channel();
    let (applied, revisions) = mpsc::unbounded_channel();
    let (domains, domain_changes) = channel::channel(domain.clone());
    let (leading, leads) = channel::channel(false);
    let (synced, syncs) = channel::channel(false);
    let (confirmed, confirmations) = channel::channel(replicas::Confirmed::default());
    let readiness = Arc::new(Readiness::default());
    let (gate, closing) = (Arc::clone(&readiness), CancellationToken::new());

    let mut parts = Parts::default();
    let doors = Doors { engine: Arc::clone(&engine), trust: Arc::new(settings.trust) };
    let port = webhooks.local_addr()?.port();
    let admit =
        admission::Webhooks { engine: Arc::clone(&engine), trust_domain: names.trust_domain.as_str().into(), reviewer };
    parts.serve(https, Some(Arc::clone(&tls)), doors.http());
    parts.serve(grpcs, Some(Arc::clone(&tls)), doors.grpc().await);
    parts.serve(webhooks, Some(tls), admission::router(admit).merge(replicas::router(Arc::clone(&engine))));
    parts.serve(admin, None, admin::router(Arc::clone(&engine), Arc::clone(&readiness)));
    parts.add(|stop| leaf.renew(certificate, stop));

    let mut api_key_namespaces = settings.api_key_namespaces;
    if !api_key_namespaces.contains(&namespace) {
        api_key_namespaces.push(namespace.clone());
    }
    let sources = Source::all(&api_key_namespaces);
    let events = watch(&client, &api_key_namespaces, api_key::LABEL);
    let outlets = Outlets {
        engine: Arc::clone(&engine),
        readiness,
        batches: owner::Batches { batches, applied, number: 0 },
        synced,
    };
    let owner = Owner::new(names, domain, sources);
    parts.add(|stop| owner.run(events, domain_changes, reviews, outlets, stop));
    let keys = client.clone();
    parts.add(|stop| service_accounts::follow(keys, domains, stop));
    let authenticator = Arc::clone(engine.authenticator());
    parts.add(|stop| async move {
        authenticator.run(stop).await;
        Ok(())
    });

    let candidate = Candidate {
        leases: Api::namespaced(client.clone(), &namespace),
        lease: service.clone(),
        identity: pod.clone(),
        closing: closing.clone(),
    };
    let metrics = Arc::clone(engine.metrics());
    parts.add(|stop| candidate.run(leading, metrics, stop));
    let replicas = Replicas {
        client: client.clone(),
        namespace: namespace.clone(),
        service: service.clone(),
        pod: pod.clone(),
        host,
        roots,
        engine: Arc::clone(&engine),
    };
    let leads_replicas = leads.clone();
    parts.add(|stop| replicas.run(revisions, leads_replicas, confirmed, stop));
    let signer = Signer::new(client.clone(), Arc::clone(&engine), authority, &trust_domain, &pod);
    let leads_signer = leads.clone();
    parts.add(|stop| signer.run(leads_signer, stop));
    let bundle = Bundle { roots_pem: ca_pem.clone() };
    let (of_bundle, leads_bundle) = (client.clone(), leads.clone());
    parts.add(|stop| bundle.run(of_bundle, leads_bundle, stop));
    let writer = Writer::new(client.clone(), &pod);
    let leads_writer = leads.clone();
    parts.add(|stop| writer.run(written, confirmations, leads_writer, stop));
    let webhooks =
        Webhooks { service, namespace, port: i32::from(port), ca_pem, failure_policy: settings.failure_policy };
    parts.add(|stop| webhooks.run(client, engine, leads, syncs, stop));
    parts
        .until_the_end(async move {
            gate.closing();
            closing.cancel();
            tokio::time::sleep(LINGER).await;
        })
        .await
}
