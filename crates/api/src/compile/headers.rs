//! Headers that conditions may read.

/// What callers prove themselves with.
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
/// What a proxy takes out, changes or sets on the way, so that the application reads another one.
const OF_PROXIES: [&str; 21] = [
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
const PREFIXES_OF_PROXIES: [&str; 2] = ["x-forwarded-", "x-original-"];
/// Longest name, in bytes.
const MAX_NAME: usize = 64;

/// Why conditions can't read a header, if they can't.
pub(crate) fn unfit(name: &str) -> Option<&'static str> {
    let good = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if name.is_empty() || name.len() > MAX_NAME || !good {
        return Some("is no name of a header in lower case: use 1 to 64 letters, digits and `-`, such as `x-tenant`");
    }
    if CREDENTIALS.contains(&name) || name.starts_with("x-durward-") {
        return Some("says who is calling; conditions read that as `principal`, once it is verified");
    }
    if name == "host" {
        return Some("is read as `request.host`");
    }
    let of_proxies = OF_PROXIES.contains(&name) || PREFIXES_OF_PROXIES.iter().any(|prefix| name.starts_with(prefix));
    of_proxies.then_some("is changed by proxies on the way, so that the application may read another one")
}
