//! Connections that stopped being HTTP: both ends joined until one of them ends.

use crate::gate::passing::{pass, strip_hop_by_hop};
use crate::gate::trouble::Trouble;
use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use http::header::{CONNECTION, HeaderValue, UPGRADE};
use http::{StatusCode, Version};
use hyper::body::Incoming;
use hyper::upgrade::{OnUpgrade, on};
use hyper_util::rt::TokioIo;
use std::time::Duration;
use tokio::io::copy_bidirectional;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// All that are open.
#[derive(Debug, Clone, Default)]
pub(super) struct Tunnels {
    tasks: TaskTracker,
    cut: CancellationToken,
}

/// The caller's end, while it is not known whether the other end agrees.
pub(super) struct Caller(OnUpgrade);

impl Caller {
    /// Of a request that asks to become a WebSocket.
    pub(super) fn of(request: &mut Request) -> Self {
        Self(on(request))
    }
}

const WEBSOCKET: HeaderValue = HeaderValue::from_static("websocket");

/// Asks for a WebSocket, or agrees to one.
pub(super) fn ask(headers: &mut http::HeaderMap) {
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, WEBSOCKET);
}

impl Tunnels {
    /// The answer as it goes back to the caller; if it agrees to the upgrade, both ends are joined. `permit` is held until
    /// the end of the body, or of the tunnel.
    pub(super) fn pass_back(
        &self,
        mut answer: http::Response<Incoming>,
        caller: Option<Caller>,
        idle: Duration,
        permit: OwnedSemaphorePermit,
    ) -> Result<Response, Trouble> {
        let switched = answer.status() == StatusCode::SWITCHING_PROTOCOLS;
        let to = answer.headers().get(UPGRADE);
        let websocket = to.is_some_and(|to| to.as_bytes().eq_ignore_ascii_case(WEBSOCKET.as_bytes()));
        let next = switched.then(|| on(&mut answer));
        let (mut head, body) = answer.into_parts();
        strip_hop_by_hop(&mut head.headers);
        head.extensions.clear();
        // the version is of each connection
        head.version = Version::HTTP_11;
        let permit = match (next, caller) {
            (None, _) => Some(permit),
            (Some(next), Some(Caller(caller))) if websocket => {
                ask(&mut head.headers);
                self.join(caller, next, permit);
                None
            }
            // it agrees to what it was not asked
            (Some(_), _) => return Err(Trouble::Unreachable),
        };
        Ok(Response::from_parts(head, pass(Body::new(body), idle, permit)))
    }

    fn join(&self, caller: OnUpgrade, next: OnUpgrade, permit: OwnedSemaphorePermit) {
        let cut = self.cut.clone();
        self.tasks.spawn(async move {
            let joined = async {
                let (caller, next) = tokio::try_join!(caller, next).map_err(std::io::Error::other)?;
                copy_bidirectional(&mut TokioIo::new(caller), &mut TokioIo::new(next)).await
            };
            tokio::select! {
                ended = joined => if let Err(error) = ended {
                    tracing::debug!(%error, "a tunnel ended");
                },
                () = cut.cancelled() => {}
            }
            drop(permit);
        });
    }

    /// Ends them once `shutdown` was told, after `drain` at the latest.
    pub(super) async fn end(self, drain: Duration, shutdown: CancellationToken) {
        shutdown.cancelled().await;
        self.tasks.close();
        let _ = timeout(drain, self.tasks.wait()).await;
        self.cut.cancel();
        self.tasks.wait().await;
    }
}
