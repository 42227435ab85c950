//! The webhooks' certificate where cert-manager makes it: the Secret that a Certificate of it fills.

use durward_engine::metrics::Metrics;
use durward_identity::text;
use durward_kubernetes::requests::{brief, versions};
use durward_pki::authority::certificates;
use durward_pki::svid::not_after;
use durward_runtime::Failure;
use durward_runtime::tls::ServerCertificate;
use futures::StreamExt;
use k8s_openapi::api::core::v1::Secret;
use kube::api::Api;
use rustls::client::verify_server_name;
use rustls::server::ParsedCertificate;
use rustls_pki_types::ServerName;
use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

/// How often it is looked whether the Secret is there.
const PAUSE: Duration = Duration::from_secs(1);

/// The Secret, and what its certificate has to be for.
pub struct Filled {
    pub secrets: Api<Secret>,
    pub name: String,
    /// Name under which the API server calls.
    pub host: String,
    pub metrics: Arc<Metrics>,
}

/// A certificate chain and its key, both in PEM.
struct Pair {
    chain: Zeroizing<String>,
    key: Zeroizing<String>,
    ends: i64,
}

impl Filled {
    /// Waits until there is a certificate.
    pub async fn open(&self) -> Result<Arc<ServerCertificate>, Failure> {
        let name = &self.name;
        loop {
            let secret = self.secrets.get_opt(name).await;
            match secret.map_err(|error| format!("Secret `{name}` can't be read: {}", brief(&error)))? {
                Some(secret) => match self.first(&secret) {
                    Ok(certificate) => return Ok(certificate),
                    Err(error) => tracing::warn!(%error, "waiting for a certificate of the webhooks that can be used"),
                },
                None => tracing::info!(secret = name, "waiting for cert-manager to make the webhooks' certificate"),
            }
            sleep(PAUSE).await;
        }
    }

    /// Shows each new certificate as soon as it is there, until `shutdown`. What can't be used changes nothing.
    pub async fn follow(self, certificate: Arc<ServerCertificate>, shutdown: CancellationToken) -> Result<(), Failure> {
        let mut versions = versions(&self.secrets, &self.name);
        loop {
            tokio::select! {
                Some(version) = versions.next() => match version {
                    Some(secret) => {
                        if let Err(error) = self.next(&certificate, &secret) {
                            tracing::error!(%error, "the webhooks' certificate stays what it was");
                        }
                    }
                    None => tracing::warn!(secret = self.name, "the Secret with the webhooks' certificate was removed"),
                },
                () = shutdown.cancelled() => return Ok(()),
            }
        }
    }

    fn first(&self, secret: &Secret) -> Result<Arc<ServerCertificate>, Failure> {
        let pair = read(&self.name, secret, &self.host)?;
        let certificate = ServerCertificate::new(&pair.chain, &pair.key)?;
        self.metrics.certificate_ends("webhooks", pair.ends);
        Ok(certificate)
    }

    fn next(&self, shown: &ServerCertificate, secret: &Secret) -> Result<(), Failure> {
        let pair = read(&self.name, secret, &self.host)?;
        shown.replace(&pair.chain, &pair.key)?;
        self.metrics.certificate_ends("webhooks", pair.ends);
        Ok(())
    }
}

/// What the Secret has, provided that it is for `host`: the API server would take no other.
fn read(name: &str, secret: &Secret, host: &str) -> Result<Pair, Failure> {
    let part = |key| text(name, secret, key)?.ok_or_else(|| Failure::from(format!("Secret `{name}` has no `{key}`")));
    let (chain, key) = (part("tls.crt")?, part("tls.key")?);
    let unusable = |error: &dyn Display| format!("`tls.crt` of Secret `{name}` can't be used: {error}");
    let all = certificates(&chain).map_err(|error| unusable(&error))?;
    let leaf = all.first().ok_or_else(|| unusable(&"it is empty"))?;
    let server = ServerName::try_from(host)?;
    let parsed = ParsedCertificate::try_from(leaf).map_err(|error| unusable(&error))?;
    verify_server_name(&parsed, &server).map_err(|error| unusable(&error))?;
    let ends = not_after(leaf).ok_or_else(|| unusable(&"it has no end"))?;
    Ok(Pair { chain, key, ends })
}

#[cfg(test)]
mod tests {
    use super::*;
    use durward_pki::authority::{CertificateAuthority, SvidRequest};
    use durward_pki::serial::CertificateSerial;
    use k8s_openapi::ByteString;

    const HOST: &str = "durward.durward-system.svc";

    fn secret(host: &str) -> Secret {
        let now = chrono::Utc::now();
        let authority =
            CertificateAuthority::create("cluster.local", now, CertificateSerial::unbound([1; 15])).expect("a CA");
        let issued = authority.issue(&SvidRequest {
            id: "spiffe://cluster.local/ns/durward-system/sa/durward",
            dns_names: &[host.to_owned()],
            addresses: &[],
            not_before: now,
            not_after: now + Duration::from_secs(3600),
            serial: CertificateSerial::unbound([2; 15]),
        });
        let issued = issued.expect("a certificate");
        let part = |key: &str, pem: &str| (key.to_owned(), ByteString(pem.as_bytes().to_vec()));
        let data = [part("tls.crt", &issued.chain_pem), part("tls.key", &issued.key_pem)];
        Secret { data: Some(data.into()), ..Secret::default() }
    }

    #[test]
    fn a_certificate_for_this_service_is_read_with_its_end() {
        let pair = read("webhooks", &secret(HOST), HOST).expect("read");
        assert!((pair.ends - chrono::Utc::now().timestamp() - 3600).abs() < 60, "{}", pair.ends);
        ServerCertificate::new(&pair.chain, &pair.key).expect("usable");
    }

    #[test]
    fn what_the_api_server_would_not_take_is_refused_with_the_field() {
        let data = |secret: &Secret, key: &str| secret.data.as_ref().and_then(|data| data.get(key).cloned());
        for (key, value, expected) in [
            ("tls.crt", None, "Secret `webhooks` has no `tls.crt`"),
            ("tls.key", None, "Secret `webhooks` has no `tls.key`"),
            ("tls.crt", Some(ByteString(b"x".to_vec())), "`tls.crt` of Secret `webhooks`"),
            ("tls.crt", Some(ByteString(vec![0xff])), "`tls.crt` of Secret `webhooks` is no text"),
            ("tls.crt", data(&secret("other.durward-system.svc"), "tls.crt"), "`tls.crt` of Secret `webhooks`"),
            ("tls.key", data(&secret(HOST), "tls.key"), "KeyMismatch"),
        ] {
            let mut wrong = secret(HOST);
            let all = wrong.data.get_or_insert_default();
            match value {
                Some(value) => drop(all.insert(key.to_owned(), value)),
                None => drop(all.remove(key)),
            }
            let refused = read("webhooks", &wrong, HOST)
                .and_then(|pair| Ok(ServerCertificate::new(&pair.chain, &pair.key)?))
                .expect_err("refused");
            assert!(refused.to_string().contains(expected), "{key}: {refused}");
        }
    }
}
