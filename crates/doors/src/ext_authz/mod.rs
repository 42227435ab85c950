//! Envoy's external authorization over gRPC (`envoy.service.auth.v3`).

mod failure;
mod response;
mod service;

use crate::answer::{HttpAnswer, PATH_OVERRIDES};
use crate::doors::Doors;
use crate::headers::{ENVOY_REPLACEMENT, HeaderEvidence, accept_header, is_misleading, overrides_path};
use axum::Router;
use axum::body::Bytes;
use axum::extract;
use durward_authn::Credentials;
use durward_authn::certificate::FORWARDED_CLIENT_CERT;
use durward_core::request::{Call, Request, ServiceTarget};
use durward_engine::{Door, EngineCaller};
use durward_runtime::connection::{HttpService, RequestBodies};
use durward_runtime::peers::Peer;
use failure::deny_failures;
use futures::FutureExt;
use http::{Extensions, HeaderMap, HeaderName, StatusCode};
use response::check_response;
use service::messages::attribute_context::HttpRequest;
use service::messages::{CheckRequest, CheckResponse};
use service::{CheckFunction, CheckService};
use std::mem;
use std::net::IpAddr;
use std::sync::Arc;
use tonic::Status;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

/// Largest request, in bytes: 64 kB of headers and the attributes that Envoy adds. Bodies are not read.
const MAX_REQUEST: usize = 1024 * 1024;

/// Envoy's own descriptors of the service, for reflection.
const DESCRIPTORS: &[u8] = include_bytes!("descriptors.bin");

/// Name of the service in gRPC.
const SERVICE: &str = "envoy.service.auth.v3.Authorization";
/// Path of its one method.
const CHECK: &str = "/envoy.service.auth.v3.Authorization/Check";

/// Reports the health of the door (`grpc.health.v1`).
#[derive(Debug, Clone)]
pub struct ExtAuthzHealth(HealthReporter);

impl ExtAuthzHealth {
    /// Reports that the door is closing, so that clients connect elsewhere.
    pub async fn set_closing(&self) {
        // the empty name stands for the server as a whole
        for service in [SERVICE, ""] {
            self.0.set_service_status(service, ServingStatus::NotServing).await;
        }
    }
}

/// Answers requests on the door's listener. Checks bypass the router, which saves time in each of them.
#[derive(Debug, Clone)]
pub struct ExtAuthzListener {
    doors: Doors,
    checks: CheckService,
    other_services: Router,
}

impl HttpService for ExtAuthzListener {
    async fn handle(mut self, request: extract::Request) -> axum::response::Response {
        if request.uri().path() != CHECK {
            return self.other_services.handle(request).await;
        }
        deny_failures(&self.doors, self.checks.call(request)).await
    }

    fn request_bodies(&self) -> RequestBodies {
        // a check whose message can't be read is denied, not failed
        RequestBodies::CollectedWithOwnErrors
    }
}

/// The door's listener, and the handle that reports its health.
pub async fn listener(doors: Doors) -> (ExtAuthzListener, ExtAuthzHealth) {
    let check_doors = doors.clone();
    let check: CheckFunction =
        Arc::new(move |extensions, message| check(check_doors.clone(), extensions, message).boxed());
    let checks = CheckService::new(check, MAX_REQUEST);
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter.set_service_status(SERVICE, ServingStatus::Serving).await;
    let mut routes = tonic::service::Routes::new(health);
    match tonic_reflection::server::Builder::configure().register_encoded_file_descriptor_set(DESCRIPTORS).build_v1() {
        Ok(reflection) => routes = routes.add_service(reflection),
        Err(error) => tracing::error!(%error, "gRPC descriptors can't be read; serving checks without reflection"),
    }
    let other_services = routes.prepare().into_axum_router().fallback(|| async { StatusCode::NOT_FOUND });
    (ExtAuthzListener { doors, checks, other_services }, ExtAuthzHealth(reporter))
}

async fn check(doors: Doors, extensions: Extensions, request: CheckRequest) -> Result<CheckResponse, Status> {
    let peer = extensions.get::<Peer>().ok_or_else(|| Status::internal("no peer"))?;
    let attributes = request.attributes.unwrap_or_default();
    let source = attributes.source.unwrap_or_default();
    let http = attributes.request.and_then(|request| request.http);
    let mut unambiguous = http.as_ref().is_some_and(|http| http.fragment.is_empty());
    let mut http = http.unwrap_or_default();
    // without `encode_raw_headers`, Envoy replaces bytes of the path and of headers before it asks
    let as_text = http.header_map.as_ref().is_none_or(|map| map.headers.iter().any(|header| !header.value.is_empty()));
    let mut headers = take_headers(&mut http).unwrap_or_else(|InvalidHeaders| {
        unambiguous = false;
        HeaderMap::new()
    });
    let [method, path, host] = [&http.method, &http.path, &http.host].map(|field| {
        let text = str::from_utf8(field);
        unambiguous &= text.is_ok();
        text.unwrap_or_default()
    });
    let forwards_certificates = doors.trust.forwards_certificates(peer);
    if forwards_certificates && !source.certificate.is_empty() {
        // the certificate that Envoy itself saw, in the format of its header; a header in the request may be the
        // client's
        headers.remove(FORWARDED_CLIENT_CERT);
        let value = [b"Cert=\"", &*source.certificate, b"\""].concat();
        if let Ok(value) = http::HeaderValue::try_from(value) {
            headers.insert(HeaderName::from_static(FORWARDED_CLIENT_CERT), value);
        }
    }
    unambiguous &= !(as_text && path.as_bytes().contains(&ENVOY_REPLACEMENT));
    unambiguous &= !is_misleading(method, &headers) && !overrides_path(path, &headers, &PATH_OVERRIDES);
    // any other peer could claim an address that a condition lets in
    let stated_address = || {
        let socket = source.address.as_ref()?.socket_address.as_ref()?;
        str::from_utf8(&socket.address).ok()?.parse::<IpAddr>().ok()
    };
    let address = if doors.trust.is_proxy(peer) { stated_address() } else { Some(peer.address.ip()) };
    let request = Request {
        // an ambiguous request names no service, or a client could choose one whose policy only audits
        target: ServiceTarget::Host(if unambiguous { host } else { "" }),
        call: if unambiguous && !path.is_empty() { Call::Http { method, path } } else { Call::Ambiguous },
        source: address,
        evidence: &HeaderEvidence { headers: &headers, authenticator: &doors.authenticator, as_text },
    };
    let credentials =
        Credentials { headers: &headers, certificate: None, client_cert_header_trusted: forwards_certificates };
    let answer = doors.engine.authorize(Door::ExtAuthz, &request, EngineCaller::Credentials(credentials)).await;
    Ok(check_response(HttpAnswer::new(&answer, accept_header(&headers))))
}

/// A header is malformed, or contradicts a field of the check.
struct InvalidHeaders;

/// Takes the headers out of the check, in either of the two forms in which Envoy sends them.
fn take_headers(http: &mut HttpRequest) -> Result<HeaderMap, InvalidHeaders> {
    let header_map = http.header_map.take();
    let entries = mem::take(&mut http.headers);
    let count = header_map.as_ref().map_or(entries.len(), |map| map.headers.len());
    let mut headers = HeaderMap::with_capacity(count + 2);
    let mut add = |name: &[u8], value: Bytes| {
        // a header that also has a field must equal it, or one of the two did not come from Envoy
        let field = match name {
            b":method" => Some(&http.method),
            b":path" => Some(&http.path),
            b":authority" | b"host" => Some(&http.host),
            _ => None,
        };
        if field.is_some_and(|field| *field != value) {
            return Err(InvalidHeaders);
        }
        if name.starts_with(b":") {
            return Ok(());
        }
        let name = HeaderName::from_bytes(name).map_err(|_| InvalidHeaders)?;
        let value = http::HeaderValue::from_maybe_shared(value).map_err(|_| InvalidHeaders)?;
        // a map holds 32,768 names, and `append` panics at the next one
        headers.try_append(name, value).map_err(|_| InvalidHeaders)?;
        Ok(())
    };
    match header_map {
        Some(map) => {
            for header in map.headers {
                add(&header.key, if header.raw_value.is_empty() { header.value } else { header.raw_value })?;
            }
        }
        None => entries.into_iter().try_for_each(|header| add(&header.key, header.value))?,
    }
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::{Body, to_bytes};
    use durward_authn::{Authenticator, TrustDomain};
    use durward_engine::Engine;
    use durward_engine::audit::AuditWriter;
    use durward_engine::metrics::Metrics;
    use durward_runtime::peers::TrustedPeers;

    /// The status byte of a health check's answer: 1 is serving, 2 is not serving.
    async fn health(listener: &ExtAuthzListener) -> Option<u8> {
        let request = http::Request::post("/grpc.health.v1.Health/Check")
            .header("content-type", "application/grpc")
            // an empty message requests the state of the whole server
            .body(Body::from(vec![0_u8; 5]))
            .expect("a request");
        let answer = listener.clone().handle(request).await;
        let bytes = to_bytes(answer.into_body(), 64).await.expect("a message");
        bytes.last().copied()
    }

    #[tokio::test]
    async fn a_closing_door_reports_not_serving() {
        let audit = AuditWriter::nowhere();
        let authenticator = Arc::new(Authenticator::new(TrustDomain::default(), Arc::default()));
        let engine = Arc::new(Engine::new(Arc::clone(&authenticator), audit, Arc::new(Metrics::default()), 1));
        let (listener, reporter) =
            listener(Doors { engine, authenticator, trust: Arc::new(TrustedPeers::default()) }).await;
        assert_eq!(health(&listener).await, Some(1));
        reporter.set_closing().await;
        assert_eq!(health(&listener).await, Some(2));
    }
}
