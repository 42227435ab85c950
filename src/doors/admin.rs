//! The admin listener: health, metrics and the snapshot. No user-facing listener serves any of it.

use crate::engine::Engine;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use serde::Serialize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether everything was loaded once, and the end has not begun.
#[derive(Debug, Default)]
pub struct Readiness {
    loaded: AtomicBool,
    /// Whether it is known who lives, or need not be.
    living: AtomicBool,
    closing: AtomicBool,
}

impl Readiness {
    /// Whether decisions are made from what was loaded, and will be for a while.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.loaded.load(Ordering::Acquire)
            && self.living.load(Ordering::Acquire)
            && !self.closing.load(Ordering::Acquire)
    }

    /// From now on nobody new is to come.
    pub fn closing(&self) {
        self.closing.store(true, Ordering::Release);
    }

    /// From now on it is known who lives.
    pub fn living(&self) {
        self.living.store(true, Ordering::Release);
    }

    /// What was loaded counts no more.
    pub fn unloaded(&self) {
        self.loaded.store(false, Ordering::Release);
    }

    /// From now on decisions are made from what was loaded.
    pub fn loaded(&self) {
        self.loaded.store(true, Ordering::Release);
    }
}

#[derive(Debug, Clone)]
struct Admin {
    engine: Arc<Engine>,
    readiness: Arc<Readiness>,
}

/// The admin listener as a router.
pub fn router(engine: Arc<Engine>, readiness: Arc<Readiness>) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .route("/snapshot", get(snapshot))
        .with_state(Admin { engine, readiness })
}

async fn ready(State(admin): State<Admin>) -> impl IntoResponse {
    if admin.readiness.is_ready() {
        (StatusCode::OK, "ready\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "the policies are not loaded yet, or the end has begun\n")
    }
}

async fn metrics(State(admin): State<Admin>) -> impl IntoResponse {
    let format = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, format)], admin.engine.metrics().text())
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

async fn snapshot(State(admin): State<Admin>) -> impl IntoResponse {
    let snapshot = admin.engine.snapshot();
    let mut services: Vec<ServiceView> = snapshot
        .services()
        .map(|service| ServiceView {
            namespace: service.key().namespace.to_string(),
            audience: service.key().audience.to_string(),
            hosts: service.hosts().iter().map(ToString::to_string).collect(),
            operations: service.operations(),
        })
        .collect();
    services.sort();
    Json(SnapshotView { revision: snapshot.revision().to_string(), services })
}
