//! The admin listener: health, metrics and the snapshot. No user-facing listener serves any of it, and a policy of its own
//! decides who may: it is in no snapshot of the doors, so no door reaches it, and none that users write is in it.

use crate::answer::HttpAnswer;
use crate::answer::response;
use axum::extract::{Extension, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use durward_api::compile::ClusterDomains;
use durward_api::compile::compile;
use durward_api::ownership::ADMIN_AUDIENCE;
use durward_authn::Credentials;
use durward_core::authentication::AuthenticationMethod;
use durward_core::policy::{CompiledOperation, EnforcementMode, Policy};
use durward_core::request::{Call, Request as Asked, ServiceTarget};
use durward_core::risk::RiskLevel;
use durward_core::service::PolicyUnion;
use durward_core::snapshot::Snapshot;
use durward_engine::Engine;
use durward_engine::metrics::Metrics;
use durward_manifests::load::read_text;
use durward_manifests::manifest;
use durward_manifests::manifest::{ManifestContents, ManifestResource};
use durward_runtime::Failure;
use durward_runtime::readiness::Readiness;
use durward_runtime::peers::Peer;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Who may administer, as settings say it.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Administration {
    /// File with the AccessPolicy of the admin listener, instead of the built-in one
    #[arg(long = "admin-policy", value_name = "FILE")]
    pub policy: Option<PathBuf>,
    /// Ask the admin listener's policy about metrics too; without this, anybody who reaches it can read them
    #[arg(long)]
    pub closed_metrics: bool,
}

/// What the listener needs.
#[derive(Debug, Clone)]
pub struct Admin {
    /// What is told of.
    pub engine: Arc<Engine>,
    /// The metrics that are served.
    pub metrics: Arc<Metrics>,
    /// Whether it is ready.
    pub readiness: Arc<Readiness>,
    /// Who may what.
    pub policy: AdminPolicy,
    /// Whether metrics are anybody's to read.
    pub open_metrics: bool,
}

/// The admin listener as a router. Its policy decides all but health, and metrics if they are open.
pub fn router(admin: Admin) -> Router {
    let metrics = metrics_router(Arc::clone(&admin.metrics));
    let snapshot = Router::new().route("/snapshot", get(snapshot)).with_state(Arc::clone(&admin.engine));
    let (open, asked) = if admin.open_metrics { (metrics, snapshot) } else { (Router::new(), snapshot.merge(metrics)) };
    let asked = asked.route_layer(from_fn_with_state(admin.clone(), ask));
    healthy(Arc::clone(&admin.readiness)).merge(open.merge(asked))
}

/// What a gate tells of itself: health and metrics.
pub fn gate_router(metrics: Arc<Metrics>, readiness: Arc<Readiness>) -> Router {
    healthy(readiness).merge(metrics_router(metrics))
}

fn metrics_router(metrics: Arc<Metrics>) -> Router {
    Router::new().route("/metrics", get(self::metrics)).with_state(metrics)
}

fn healthy(readiness: Arc<Readiness>) -> Router {
    Router::new().route("/healthz", get(|| async { "ok\n" })).route("/readyz", get(ready)).with_state(readiness)
}

/// Lets through what the policy allows.
async fn ask(State(admin): State<Admin>, Extension(peer): Extension<Peer>, request: Request, next: Next) -> Response {
    let call = Call::Http { method: request.method().as_str(), path: request.uri().path() };
    let asked =
        Asked { target: ServiceTarget::Audience(ADMIN_AUDIENCE), call, source: Some(peer.address.ip()), evidence: &() };
    let credentials = Credentials {
        headers: request.headers(),
        // nobody stands between: whoever shows a certificate is the caller
        certificate: peer.certificate.as_deref(),
        client_cert_header_trusted: false,
    };
    let answer = admin.engine.ask_admin(&admin.policy.0, &asked, credentials).await;
    if answer.passes() { next.run(request).await } else { response(HttpAnswer::of(&answer, None)) }
}

/// The policy of the admin listener, which is no policy of a namespace: nothing that users write can change it.
#[derive(Debug, Clone)]
pub struct AdminPolicy(Arc<Snapshot>);

impl AdminPolicy {
    /// Reads it; the one that is built in without a file.
    ///
    /// # Errors
    /// When it can't be read, or lets in what may not administer.
    pub fn read(file: Option<&Path>, domain: &ClusterDomains) -> Result<Self, Failure> {
        let shown = file.map_or("the built-in policy".to_owned(), |file| file.display().to_string());
        let wrong = |why: String| Failure::from(format!("the admin listener's policy in {shown} can't be used: {why}"));
        let text = match file {
            None => include_str!("policy.yaml").to_owned(),
            Some(file) => read_text(file).map_err(|why| wrong(format!("it {why}")))?,
        };
        let ManifestContents { mut documents, problems, .. } = manifest::read(&shown, &text);
        let resource = match (documents.pop().map(|document| document.resource), documents.len(), problems.first()) {
            (_, _, Some(problem)) => return Err(wrong(problem.to_string())),
            (Some(ManifestResource::Policy(policy)), 0, None) => policy,
            _ => return Err(wrong("it is not one AccessPolicy and nothing else".to_owned())),
        };
        let policy = compile(&resource, &domain.clone().into())
            .map_err(|errors| wrong(errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")))?;
        if let Some(why) = unfit(&policy) {
            return Err(wrong(why));
        }
        let (digest, mut union, mut snapshot) = (policy.digest, PolicyUnion::default(), Snapshot::default());
        union.add(Arc::new(policy)).map_err(|conflict| wrong(conflict.to_string()))?;
        union.unite().into_iter().for_each(|service| snapshot.put(service));
        snapshot.record("AccessPolicy", Some(digest));
        snapshot.update_revision();
        Ok(Self(Arc::new(snapshot)))
    }
}

/// Why a policy may not be that of administration, if it may not.
fn unfit(policy: &Policy) -> Option<String> {
    if &*policy.audience != ADMIN_AUDIENCE {
        return Some(format!("`spec.service.audience` has to be `{ADMIN_AUDIENCE}`"));
    }
    if *policy.authentication_methods != [AuthenticationMethod::Workload] {
        return Some(
            "`spec.authentication` has to be `[{workload: {}}]`: certificates and service-account tokens".into(),
        );
    }
    if policy.mode != EnforcementMode::Enforce {
        return Some("`spec.mode` has to be `Enforce`".to_owned());
    }
    let reads = |operation: &CompiledOperation| {
        operation.matches.iter().all(|one| one.method.as_ref().is_some_and(|method| method.as_str() == "GET"))
    };
    let careless = |operation: &&Arc<CompiledOperation>| {
        operation.public || !(reads(operation) || operation.risk == RiskLevel::High)
    };
    let found = policy.operations.iter().find(careless)?;
    Some(format!("operation `{}` is public, or changes something without `risk: High`", found.name))
}

async fn ready(State(readiness): State<Arc<Readiness>>) -> impl IntoResponse {
    if readiness.is_ready() {
        (StatusCode::OK, "ready\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "the policies are not loaded yet, or the end has begun\n")
    }
}

async fn metrics(State(metrics): State<Arc<Metrics>>) -> impl IntoResponse {
    let format = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, format)], metrics.text())
}

#[derive(Debug, Serialize)]
struct SnapshotView {
    revision: String,
    services: Vec<ServiceView>,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
struct ServiceView {
    namespace: String,
    audience: String,
    hosts: Vec<String>,
    operations: usize,
}

async fn snapshot(State(engine): State<Arc<Engine>>) -> impl IntoResponse {
    let snapshot = engine.snapshot();
    let mut services: Vec<ServiceView> = snapshot
        .services()
        .map(|service| ServiceView {
            namespace: service.key().namespace.to_string(),
            audience: service.key().audience.to_string(),
            hosts: service.hosts().iter().map(ToString::to_string).collect(),
            operations: service.operations(),
        })
        .collect();
    services.sort_unstable();
    Json(SnapshotView { revision: snapshot.revision().to_string(), services })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn read(text: &str) -> Result<(), String> {
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        file.write_all(text.as_bytes()).expect("written");
        let domain =
            ClusterDomains { trust_domain: "cluster.local".to_owned(), cluster_domain: "cluster.local".to_owned() };
        AdminPolicy::read(Some(file.path()), &domain).map(drop).map_err(|error| error.to_string())
    }

    #[test]
    fn a_policy_that_lets_others_administer_is_none() {
        let good = include_str!("policy.yaml");
        assert!(read(good).is_ok());
        let changed = |from: &str, to: &str| {
            assert!(good.contains(from), "{from}");
            good.replacen(from, to, 1)
        };
        for (text, why) in [
            (changed("audience: durward-admin", "audience: orders"), "has to be `durward-admin`"),
            (changed("[{workload: {}}]", "[{workload: {}}, {provider: corporate}]"), "service-account tokens"),
            (changed("[{workload: {}}]", "[]"), "service-account tokens"),
            (changed("spec:", "spec:\n  mode: Audit"), "has to be `Enforce`"),
            (changed("methods: [GET], paths: [/snapshot]", "methods: [POST], paths: [/snapshot]"), "`read-snapshot`"),
            (changed("methods: [GET], paths: [/snapshot]", "methods: [\"*\"], paths: [/snapshot]"), "`read-snapshot`"),
            (changed("scopes: [admin.read]}", "public: true}"), "`read-snapshot`"),
            (changed("kind: AccessPolicy", "sort: AccessPolicy"), "can't be used"),
            ("{".to_owned(), "can't be used"),
        ] {
            let error = read(&text).expect_err(why);
            assert!(error.contains(why), "{why}: {error}");
        }
        assert!(
            read(&changed("methods: [GET], paths: [/snapshot]}], ", "methods: [POST], paths: [/x]}], risk: High, "))
                .is_ok()
        );
    }
}
