//! Envoy's header `x-forwarded-client-cert`.

use crate::bearer::single_header;
use crate::cause::Cause;
use crate::credentials::Credentials;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

/// Envoy's header with the certificate of its client.
pub const FORWARDED_CLIENT_CERT: &str = "x-forwarded-client-cert";

/// The forwarded chain. Only the certificates are used: `URI`, `Subject` and `Hash` are unverified text.
pub(super) fn forwarded_chain(credentials: &Credentials<'_>) -> Result<Option<Vec<CertificateDer<'static>>>, Cause> {
    let Some(value) = single_header(credentials.headers, FORWARDED_CLIENT_CERT)? else { return Ok(None) };
    let text = value.to_str().map_err(|_| Cause::Forwarded("it is not ASCII"))?;
    let pairs = pairs(text)?;
    let get = |name: &str| {
        let mut values = pairs.iter().filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value);
        match (values.next(), values.next()) {
            (_, Some(_)) => Err(Cause::Forwarded("a key is there twice")),
            (first, None) => Ok(first.map(String::as_str)),
        }
    };
    let encoded = get("Chain")?.or(get("Cert")?).ok_or(Cause::Forwarded("it has neither `Cert` nor `Chain`"))?;
    let pem = percent_encoding::percent_decode_str(encoded)
        .decode_utf8()
        .map_err(|_| Cause::Forwarded("the certificate is not readable"))?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    match chain {
        Ok(chain) if !chain.is_empty() => Ok(Some(chain)),
        _ => Err(Cause::Forwarded("the certificate is not readable")),
    }
}

/// The `key=value` pairs of the only element. Each proxy adds an element, and only one proxy is trusted.
fn pairs(text: &str) -> Result<Vec<(String, String)>, Cause> {
    let mut pairs = Vec::new();
    let mut key = String::new();
    let mut value = None::<String>;
    let mut quoted = false;
    let mut escaped = false;
    for c in text.chars() {
        let in_value = value.is_some();
        let current = value.as_mut().unwrap_or(&mut key);
        match c {
            _ if escaped => {
                current.push(c);
                escaped = false;
            }
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            _ if quoted => current.push(c),
            ',' => return Err(Cause::Forwarded("it has more than one element")),
            ';' => pairs.push((std::mem::take(&mut key), value.take().ok_or(Cause::Forwarded("a key has no value"))?)),
            '=' if !in_value => value = Some(String::new()),
            c => current.push(c),
        }
    }
    if quoted || escaped {
        return Err(Cause::Forwarded("a quote is not closed"));
    }
    pairs.push((key, value.ok_or(Cause::Forwarded("a key has no value"))?));
    Ok(pairs)
}
