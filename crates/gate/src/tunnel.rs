//! WebSockets: connections that stopped being HTTP. The gate copies bytes both ways until one end closes.

use crate::exchange::Exchange;
use crate::forwarding::{pass, strip_hop_by_hop};
use crate::proxy_error::ProxyError;
use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use durward_runtime::random::random_bytes;
use http::header::{CONNECTION, HeaderMap, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE};
use http::{Method, StatusCode, Version};
use hyper::body::Incoming;
use hyper::upgrade::{OnUpgrade, on};
use hyper_util::rt::TokioIo;
use std::time::Duration;
use tokio::io::copy_bidirectional;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// All open tunnels.
#[derive(Debug, Clone, Default)]
pub(super) struct Tunnels {
    tasks: TaskTracker,
    cut: CancellationToken,
}

/// The end of the caller, until the other end accepts the upgrade.
pub(super) struct WebSocketCaller {
    end: OnUpgrade,
    /// The `Sec-WebSocket-Accept` that the gate expects. In HTTP/1.1 the two ends check it themselves; HTTP/2 has no such
    /// header (RFC 8441 section 5), so the gate adds the key and checks the answer.
    accept: Option<HeaderValue>,
}

impl WebSocketCaller {
    /// The end of a request that asks for a WebSocket.
    pub(super) fn of(request: &mut Request) -> Self {
        Self { end: on(request), accept: None }
    }

    /// The end of a request for a WebSocket over HTTP/2; the request becomes one of HTTP/1.1.
    pub(super) fn over_http2(request: &mut Request) -> Result<Self, ProxyError> {
        let key = STANDARD.encode(random_bytes::<16>().map_err(|_| ProxyError::Unreachable)?);
        let value = |text: &str| HeaderValue::try_from(text).map_err(|_| ProxyError::Unreachable);
        let (key, accept) = (value(&key)?, value(&accept(&key))?);
        let end = on(&mut *request);
        *request.method_mut() = Method::GET;
        request.headers_mut().insert(SEC_WEBSOCKET_KEY, key);
        Ok(Self { end, accept: Some(accept) })
    }
}

/// The `Sec-WebSocket-Accept` for a key (RFC 6455 section 4.2.2).
fn accept(key: &str) -> String {
    let text = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes()))
}

const WEBSOCKET: HeaderValue = HeaderValue::from_static("websocket");

/// Adds the headers that request a WebSocket, or accept one.
pub(super) fn request_upgrade(headers: &mut HeaderMap) {
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, WEBSOCKET);
}

impl Tunnels {
    /// The response for the caller. If it accepts the upgrade, the two ends are joined, and the exchange ends with the
    /// tunnel instead of the body.
    pub(super) fn return_response(
        &self,
        mut answer: http::Response<Incoming>,
        caller: Option<WebSocketCaller>,
        exchange: Exchange,
    ) -> Result<Response, ProxyError> {
        let switched = answer.status() == StatusCode::SWITCHING_PROTOCOLS;
        let to = answer.headers().get(UPGRADE);
        let websocket = to.is_some_and(|to| to.as_bytes().eq_ignore_ascii_case(WEBSOCKET.as_bytes()));
        let next = switched.then(|| on(&mut answer));
        let (mut head, body) = answer.into_parts();
        strip_hop_by_hop(&mut head.headers);
        head.extensions.clear();
        // each connection has its own version
        head.version = Version::HTTP_11;
        let exchange = match (next, caller) {
            // over HTTP/2 a success accepts the upgrade, but the application did not accept it
            (None, Some(WebSocketCaller { accept: Some(_), .. })) if head.status.is_success() => {
                return Err(ProxyError::Unreachable);
            }
            (None, _) => Some(exchange),
            (Some(next), Some(WebSocketCaller { end, accept: None })) if websocket => {
                request_upgrade(&mut head.headers);
                self.join(end, next, exchange);
                None
            }
            (Some(next), Some(WebSocketCaller { end, accept }))
                if websocket && head.headers.remove(SEC_WEBSOCKET_ACCEPT) == accept =>
            {
                head.status = StatusCode::OK;
                self.join(end, next, exchange);
                None
            }
            // it accepts what was not requested
            (Some(_), _) => return Err(ProxyError::Unreachable),
        };
        let body = pass(Body::new(body));
        Ok(Response::from_parts(head, exchange.map_or_else(Body::empty, |exchange| exchange.into_response_body(body))))
    }

    fn join(&self, caller: OnUpgrade, next: OnUpgrade, exchange: Exchange) {
        let shutdown = self.cut.clone();
        let (denied, hold) = exchange.into_tunnel();
        self.tasks.spawn(async move {
            let joined = async {
                let (caller, next) = tokio::try_join!(caller, next).map_err(std::io::Error::other)?;
                copy_bidirectional(&mut TokioIo::new(caller), &mut TokioIo::new(next)).await
            };
            tokio::select! {
                ended = joined => if let Err(error) = ended {
                    tracing::debug!(%error, "a tunnel ended with an error");
                },
                () = denied.cancelled() => {}
                () = shutdown.cancelled() => {}
            }
            drop(hold);
        });
    }

    /// Closes all tunnels after `shutdown`, at most `drain` later.
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
    fn the_accept_header_matches_the_rfc() {
        assert_eq!(accept("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }
}
