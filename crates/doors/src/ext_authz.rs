//! Envoy's external authorization over gRPC (`envoy.service.auth.v3`).

use crate::Doors;
use crate::answer::{HttpAnswer, IDENTITY_HEADERS, METHOD_OVERRIDES, PATH_OVERRIDES};
use crate::ext_authz_failure::deny_failures;
use crate::ext_authz_service::messages::attribute_context::HttpRequest;
use crate::ext_authz_service::messages::check_response::{self, HttpResponse};
use crate::ext_authz_service::messages::denied_http_response::HttpStatus;
use crate::ext_authz_service::messages::header_value_option::{AppendAction, HeaderValue};
use crate::ext_authz_service::messages::{
    CheckRequest, CheckResponse, DeniedHttpResponse, HeaderValueOption, OkHttpResponse,
};
use crate::ext_authz_service::{Checks, Deciding};
use crate::headers::{Shown, accept, mislead, moved};
use axum::Router;
use axum::body::Bytes;
use axum::extract;
use durward_authn::Credentials;
use durward_authn::certificate::FORWARDED_CLIENT_CERT;
use durward_core::request::{Call, Request, ServiceTarget};
use durward_engine::{Caller, Door};
use durward_runtime::listener::Answers;
use durward_runtime::trust::Peer;
use futures::FutureExt;
use http::{Extensions, HeaderMap, HeaderName, StatusCode};
use std::mem;
use std::net::IpAddr;
use std::sync::Arc;
use tonic::{Code, Status};
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

/// Largest request, in bytes: 64 kB of headers and what Envoy says around them. Bodies are not looked at.
const MAX_REQUEST: usize = 1024 * 1024;

/// Descriptors of the service, for reflection.
const DESCRIPTORS: &[u8] = include_bytes!("ext_authz.descriptors.bin");

/// What the door says of its health (`grpc.health.v1`).
#[derive(Debug, Clone)]
pub struct Health(HealthReporter);

impl Health {
    /// From now on nobody new is to come.
    pub async fn closing(&self) {
        // the door, and the server as a whole
        for service in [SERVICE, ""] {
            self.0.set_service_status(service, ServingStatus::NotServing).await;
        }
    }
}

/// What the door is called in gRPC.
const SERVICE: &str = "envoy.service.auth.v3.Authorization";
/// Its one method.
const CHECK: &str = "/envoy.service.auth.v3.Authorization/Check";

/// The door's listener. Checks take the short way, past the router.
#[derive(Debug, Clone)]
pub struct Listener {
    doors: Doors,
    checks: Checks,
    others: Router,
}

impl Answers for Listener {
    async fn answer(mut self, request: extract::Request) -> axum::response::Response {
        if request.uri().path() != CHECK {
            return self.others.answer(request).await;
        }
        deny_failures(&self.doors, self.checks.answer(request)).await
    }
}

/// What answers on the door's listener, and its health.
pub async fn listener(doors: Doors) -> (Listener, Health) {
    let asked = doors.clone();
    let deciding: Deciding = Arc::new(move |extensions, message| answer(asked.clone(), extensions, message).boxed());
    let checks = Checks::new(deciding, MAX_REQUEST);
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter.set_service_status(SERVICE, ServingStatus::Serving).await;
    let mut routes = tonic::service::Routes::new(health);
    match tonic_reflection::server::Builder::configure().register_encoded_file_descriptor_set(DESCRIPTORS).build_v1() {
        Ok(reflection) => routes = routes.add_service(reflection),
        Err(error) => tracing::error!(%error, "gRPC reflection is not served"),
    }
    let others = routes.prepare().into_axum_router().fallback(|| async { StatusCode::NOT_FOUND });
    (Listener { doors, checks, others }, Health(reporter))
}

async fn answer(doors: Doors, extensions: Extensions, request: CheckRequest) -> Result<CheckResponse, Status> {
    let peer = extensions.get::<Peer>().ok_or_else(|| Status::internal("no peer"))?;
    let attributes = request.attributes.unwrap_or_default();
    let source = attributes.source.unwrap_or_default();
    let http = attributes.request.and_then(|request| request.http);
    let mut clear = http.as_ref().is_some_and(|http| http.fragment.is_empty());
    let mut http = http.unwrap_or_default();
    let mut headers = headers(&mut http).unwrap_or_else(|Unreadable| {
        clear = false;
        HeaderMap::new()
    });
    let [method, path, host] = [&http.method, &http.path, &http.host].map(|field| {
        let text = str::from_utf8(field);
        clear &= text.is_ok();
        text.unwrap_or_default()
    });
    let certificates = doors.trust.forwards_certificates(peer);
    if certificates && !source.certificate.is_empty() {
        // the certificate as Envoy itself saw it, in the form in which its header has it; a header that is there
        // already may be the client's
        headers.remove(FORWARDED_CLIENT_CERT);
        let value = [b"Cert=\"", &*source.certificate, b"\""].concat();
        if let Ok(value) = http::HeaderValue::try_from(value) {
            headers.insert(HeaderName::from_static(FORWARDED_CLIENT_CERT), value);
        }
    }
    clear &= !mislead(method, &headers) && !moved(path, &headers, &PATH_OVERRIDES);
    let address = source.address.and_then(|address| address.socket_address);
    let asked = Request {
        // an unclear request is to no service, or a client could choose one whose policy only audits
        target: ServiceTarget::Host(if clear { host } else { "" }),
        call: if clear && !path.is_empty() { Call::Http { method, path } } else { Call::Ambiguous },
        source: address.and_then(|socket| str::from_utf8(&socket.address).ok()?.parse::<IpAddr>().ok()),
        evidence: &Shown { headers: &headers, authenticator: doors.engine.authenticator() },
    };
    let credentials = Credentials { headers: &headers, certificate: None, client_cert_header_trusted: certificates };
    let answer = doors.engine.ask(Door::ExtAuthz, &asked, Caller::Credentials(credentials)).await;
    Ok(response(HttpAnswer::of(&answer, accept(&headers))))
}

/// Some header can't be what it says.
struct Unreadable;

/// The headers of the request, in whichever of its two forms Envoy sends them. They are taken out of it, not copied.
fn headers(http: &mut HttpRequest) -> Result<HeaderMap, Unreadable> {
    let (map, others) = (http.header_map.take(), mem::take(&mut http.headers));
    let mut headers = HeaderMap::with_capacity(map.as_ref().map_or(others.len(), |map| map.headers.len()) + 2);
    let mut add = |name: &[u8], value: Bytes| {
        // what has a field of its own has to be there alike, or one of the two is not Envoy's
        let field = match name {
            b":method" => Some(&http.method),
            b":path" => Some(&http.path),
            b":authority" | b"host" => Some(&http.host),
            _ => None,
        };
        if field.is_some_and(|field| *field != value) {
            return Err(Unreadable);
        }
        if name.starts_with(b":") {
            return Ok(());
        }
        let name = HeaderName::from_bytes(name).map_err(|_| Unreadable)?;
        let value = http::HeaderValue::from_maybe_shared(value).map_err(|_| Unreadable)?;
        // a map takes 32,768 names and panics at the next
        headers.try_append(name, value).map_err(|_| Unreadable)?;
        Ok(())
    };
    match map {
        Some(map) => {
            for header in map.headers {
                add(&header.key, if header.raw_value.is_empty() { header.value } else { header.raw_value })?;
            }
        }
        None => others.into_iter().try_for_each(|header| add(&header.key, header.value))?,
    }
    Ok(headers)
}

fn response(answer: HttpAnswer) -> CheckResponse {
    if !answer.status.is_success() {
        return denial(answer.status, answer.headers, answer.body);
    }
    let missing = IDENTITY_HEADERS.into_iter().filter(|name| answer.headers.iter().all(|(set, _)| set != name));
    let headers_to_remove = missing.chain(METHOD_OVERRIDES).map(|name| Bytes::from_static(name.as_bytes())).collect();
    let ok = OkHttpResponse { headers: options(answer.headers), headers_to_remove };
    check_response(Code::Ok, HttpResponse::OkResponse(ok))
}

/// The response that refuses a request with this status.
pub fn denial(status: StatusCode, headers: Vec<(&'static str, String)>, body: String) -> CheckResponse {
    let status = Some(HttpStatus { code: i32::from(status.as_u16()) });
    let denied = DeniedHttpResponse { status, headers: options(headers), body: Some(body.into()) };
    check_response(Code::PermissionDenied, HttpResponse::DeniedResponse(denied))
}

fn options(headers: Vec<(&'static str, String)>) -> Vec<HeaderValueOption> {
    let option = |(name, value): (&'static str, String)| HeaderValueOption {
        header: Some(HeaderValue { key: Some(name.into()), value: Some(value.into()) }),
        append_action: AppendAction::OverwriteIfExistsOrAdd.into(),
    };
    headers.into_iter().map(option).collect()
}

fn check_response(code: Code, http_response: HttpResponse) -> CheckResponse {
    let status = check_response::Status { code: code.into() };
    CheckResponse { status: Some(status), http_response: Some(http_response) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::{Body, to_bytes};
    use durward_authn::{Authenticator, TrustDomain};
    use durward_engine::Engine;
    use durward_engine::audit::Audit;
    use durward_engine::metrics::Metrics;
    use durward_runtime::trust::Trust;

    /// What a health check is answered, as it stands in the message: 1 is serving, 2 is not.
    async fn health(listener: &Listener) -> Option<u8> {
        let request = http::Request::post("/grpc.health.v1.Health/Check")
            .header("content-type", "application/grpc")
            // a message of no bytes: the server as a whole
            .body(Body::from(vec![0_u8; 5]))
            .expect("a request");
        let answer = listener.clone().answer(request).await;
        let bytes = to_bytes(answer.into_body(), 64).await.expect("a message");
        bytes.last().copied()
    }

    #[tokio::test]
    async fn a_door_that_is_about_to_close_says_so() {
        let audit = Audit::nowhere();
        let authenticator = Arc::new(Authenticator::new(TrustDomain::default(), Arc::default()));
        let engine = Arc::new(Engine::new(authenticator, audit, Arc::new(Metrics::default()), 1));
        let (listener, closing) = listener(Doors { engine, trust: Arc::new(Trust::default()) }).await;
        assert_eq!(health(&listener).await, Some(1));
        closing.closing().await;
        assert_eq!(health(&listener).await, Some(2));
    }
}
