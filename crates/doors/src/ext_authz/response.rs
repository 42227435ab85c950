//! The messages that answer a check.

use crate::answer::{HttpAnswer, METHOD_OVERRIDES};
use crate::ext_authz::service::messages::check_response::{self, HttpResponse};
use crate::ext_authz::service::messages::denied_http_response::HttpStatus;
use crate::ext_authz::service::messages::header_value_option::{AppendAction, HeaderValue};
use crate::ext_authz::service::messages::{CheckResponse, DeniedHttpResponse, HeaderValueOption, OkHttpResponse};
use axum::body::Bytes;
use http::StatusCode;
use tonic::Code;

/// An allow or a denial, as the engine's answer says.
pub(super) fn check_response(answer: HttpAnswer) -> CheckResponse {
    if !answer.status.is_success() {
        return denial(answer.status, answer.headers, answer.body);
    }
    let headers_to_remove = METHOD_OVERRIDES.map(|name| Bytes::from_static(name.as_bytes())).into();
    let ok = OkHttpResponse { headers: header_options(answer.headers), headers_to_remove };
    with_code(Code::Ok, HttpResponse::OkResponse(ok))
}

/// The message with which Envoy refuses a request with this status.
pub(super) fn denial(status: StatusCode, headers: Vec<(&'static str, String)>, body: String) -> CheckResponse {
    let status = Some(HttpStatus { code: i32::from(status.as_u16()) });
    let denied = DeniedHttpResponse { status, headers: header_options(headers), body: Some(body.into()) };
    with_code(Code::PermissionDenied, HttpResponse::DeniedResponse(denied))
}

fn header_options(headers: Vec<(&'static str, String)>) -> Vec<HeaderValueOption> {
    let option = |(name, value): (&'static str, String)| HeaderValueOption {
        header: Some(HeaderValue { key: Some(name.into()), value: Some(value.into()) }),
        append_action: AppendAction::OverwriteIfExistsOrAdd.into(),
    };
    headers.into_iter().map(option).collect()
}

fn with_code(code: Code, http_response: HttpResponse) -> CheckResponse {
    let status = check_response::Status { code: code.into() };
    CheckResponse { status: Some(status), http_response: Some(http_response) }
}
