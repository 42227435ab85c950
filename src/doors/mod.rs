//! The doors: each translates its protocol in, asks the engine once, and translates the answer out. None decides.

pub mod admin;
pub mod admission;
pub(crate) mod answer;
pub(crate) mod approvals;
pub mod authorization;
pub mod authzen;
#[cfg(test)]
mod corpus;
pub(crate) mod exchange;
pub mod ext_authz;
mod ext_authz_failure;
pub mod forward_auth;
pub(crate) mod headers;
pub(crate) mod mint;
pub mod server;
pub(crate) mod snapshots;
pub(crate) mod step_up;
pub mod token_review;
pub mod tokens;
pub mod trust;

use crate::engine::Engine;
use axum::Router;
use ext_authz::{Health, Listener};
use std::sync::Arc;
use trust::Trust;

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
    pub(crate) async fn grpc(&self) -> (Listener, Health) {
        ext_authz::listener(self.clone()).await
    }
}
