//! Connections that stopped being HTTP: both ends joined until one of them ends.

use crate::passing::{pass, strip_hop_by_hop};
use crate::trouble::Trouble;
use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use durward_runtime::random::random;
use http::header::{CONNECTION, HeaderMap, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE};
use http::{Method, StatusCode, Version};
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
pub(super) struct Caller {
    end: OnUpgrade,
    /// What the other end has to prove that it has read. In HTTP/1.1 that is between the two ends; a caller by HTTP/2 knows no
    /// such thing (RFC 8441 section 5), so we ask for it.
    accept: Option<HeaderValue>,
}

impl Caller {
    /// Of a request that asks to become a WebSocket.
    pub(super) fn of(request: &mut Request) -> Self {
        Self { end: on(request), accept: None }
    }

    /// Of a request for a WebSocket over HTTP/2, which goes on as the same in HTTP/1.1.
    pub(super) fn over_http2(request: &mut Request) -> Result<Self, Trouble> {
        let key = STANDARD.encode(random::<16>().map_err(|_| Trouble::Unreachable)?);
        let value = |text: &str| HeaderValue::try_from(text).map_err(|_| Trouble::Unreachable);
        let (key, accept) = (value(&key)?, value(&accept(&key))?);
        let end = on(&mut *request);
        *request.method_mut() = Method::GET;
        request.headers_mut().insert(SEC_WEBSOCKET_KEY, key);
        Ok(Self { end, accept: Some(accept) })
    }
}

/// What proves that a key was read (RFC 6455 section 4.2.2).
fn accept(key: &str) -> String {
    let text = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes()))
}

const WEBSOCKET: HeaderValue = HeaderValue::from_static("websocket");

/// Asks for a WebSocket, or agrees to one.
pub(super) fn ask(headers: &mut HeaderMap) {
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
            // by HTTP/2 a success is the agreement
            (None, Some(Caller { accept: Some(_), .. })) if head.status.is_success() => {
                return Err(Trouble::Unreachable);
            }
            (None, _) => Some(permit),
            (Some(next), Some(Caller { end, accept: None })) if websocket => {
                ask(&mut head.headers);
                self.join(end, next, permit);
                None
            }
            (Some(next), Some(Caller { end, accept }))
                if websocket && head.headers.remove(SEC_WEBSOCKET_ACCEPT) == accept =>
            {
                head.status = StatusCode::OK;
                self.join(end, next, permit);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_proved_as_the_rfc_says() {
        assert_eq!(accept("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }
}
