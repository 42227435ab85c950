//! The doors: each translates its protocol in, asks the engine once, and translates the answer out. None decides.

pub mod admin;
pub mod admission;
pub mod answer;
pub mod approvals;
pub mod authorization;
pub mod authzen;
#[cfg(test)]
mod corpus;
pub mod exchange;
pub mod ext_authz;
mod ext_authz_failure;
pub mod ext_authz_service;
pub mod forward_auth;
pub mod headers;
pub mod mint;
pub mod snapshots;
pub mod step_up;
pub mod token_review;
pub mod tokens;

use axum::Router;
use durward_engine::Engine;
use durward_runtime::trust::Trust;
use ext_authz::{Health, Listener};
use std::sync::Arc;

/// What the doors share.
#[derive(Debug, Clone)]
pub struct Doors {
    /// Decides.
    pub engine: Arc<Engine>,
    /// Which peers are believed what.
    pub trust: Arc<Trust>,
}

impl Doors {
    /// Forward auth and AuthZEN, on one listener.
    pub fn http(&self) -> Router {
        forward_auth::router(self.clone()).merge(authzen::router(self.clone()))
    }

    /// Envoy's `ext_authz` with gRPC health and reflection.
    pub async fn grpc(&self) -> (Listener, Health) {
        ext_authz::listener(self.clone()).await
    }
}
