//! The doors: the HTTP and gRPC endpoints through which proxies, the API server and callers reach Durward.
//! A door translates a request, asks the engine once, and translates its answer; deciding belongs to `durward-core`.
//! Begin with [`forward_auth`], the smallest door that asks for decisions; it shares [`answer`] and [`headers`] with others.

pub mod admin;
pub mod admission;
pub mod answer;
pub mod api_server;
pub mod approvals;
pub mod assembly;
pub mod authorization;
pub mod authzen;
mod body_limit;
mod doors;
pub mod exchange;
pub mod ext_authz;
mod form;
pub mod forward_auth;
pub mod headers;
#[cfg(test)]
mod kubernetes_corpus;
pub mod mint;
pub mod snapshots;
pub mod step_up;
pub mod token_review;
pub mod tokens;

use axum::Router;
pub use doors::Doors;
use ext_authz::{ExtAuthzHealth, ExtAuthzListener};

impl Doors {
    /// Forward auth and AuthZEN, on one listener.
    pub fn http(&self) -> Router {
        forward_auth::router(self.clone()).merge(authzen::router(self.clone()))
    }

    /// Envoy's `ext_authz` with gRPC health and reflection.
    pub async fn grpc(&self) -> (ExtAuthzListener, ExtAuthzHealth) {
        ext_authz::listener(self.clone()).await
    }
}
