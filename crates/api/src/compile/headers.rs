//! Request headers that conditions may read.

/// Headers with credentials.
const CREDENTIALS: [&str; 8] = [
    "authorization",
    "cookie",
    "dpop",
    "proxy-authenticate",
    "proxy-authorization",
    "set-cookie",
    "x-api-key",
    "x-forwarded-client-cert",
];
/// Headers that a proxy may remove, change or set, so that the application reads another value.
const SET_BY_PROXIES: [&str; 21] = [
    "connection",
    "content-length",
    "expect",
    "forwarded",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "true-client-ip",
    "upgrade",
    "via",
    "x-client-ip",
    "x-host",
    "x-http-host-override",
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
    "x-real-ip",
    "x-request-id",
    "x-rewrite-url",
];
const PREFIXES_SET_BY_PROXIES: [&str; 2] = ["x-forwarded-", "x-original-"];
/// Maximum length of a name, in bytes.
const MAX_NAME: usize = 64;

/// The reason why conditions can't read a header; `None` if they can.
pub(super) fn refusal(name: &str) -> Option<&'static str> {
    let valid = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if name.is_empty() || name.len() > MAX_NAME || !valid {
        return Some("is not a header name in lower case: use 1 to 64 letters, digits and `-`, such as `x-tenant`");
    }
    if CREDENTIALS.contains(&name) || name.starts_with("x-durward-") {
        return Some("identifies the caller; conditions read the verified caller as `principal`");
    }
    if name == "host" {
        return Some("is read as `request.host`");
    }
    let set_by_proxies =
        SET_BY_PROXIES.contains(&name) || PREFIXES_SET_BY_PROXIES.iter().any(|prefix| name.starts_with(prefix));
    set_by_proxies.then_some("can be changed by proxies, so the application may read another value")
}
