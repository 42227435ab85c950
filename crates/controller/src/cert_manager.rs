//! The webhooks' certificate, if cert-manager issues it: read from the Secret of a Certificate, and reloaded on change.

use durward_engine::metrics::Metrics;
use durward_identity::{SecretTextError, secret_text};
use durward_kubernetes::requests::{RequestError, follow_secret};
use durward_pki::authority::certificates;
use durward_pki::svid::not_after;
use durward_runtime::Failure;
use durward_runtime::tls::{ReloadableCertificate, TlsError};
use futures::StreamExt;
use k8s_openapi::api::core::v1::Secret;
use kube::api::Api;
use rustls::client::verify_server_name;
use rustls::server::ParsedCertificate;
use rustls_pki_types::ServerName;
use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

/// Interval between reads of the Secret while it holds no usable certificate.
const PAUSE: Duration = Duration::from_secs(1);

/// Why the Secret of cert-manager can't be used.
#[derive(Debug, Error)]
pub enum CertificateSecretError {
    #[error("Secret `{name}` can't be read: {source}")]
    Read { name: String, source: RequestError },
    #[error("Secret `{name}` has no `{entry}`")]
    MissingEntry { name: String, entry: &'static str },
    #[error(transparent)]
    NotText(#[from] SecretTextError),
    #[error("`tls.crt` of Secret `{name}` can't be used: {reason}")]
    Certificate { name: String, reason: String },
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// The Secret, and the host that its certificate has to be valid for.
pub struct CertManagerCertificate {
    pub secrets: Api<Secret>,
    pub name: String,
    /// Host name that the API server connects to.
    pub host: String,
    pub metrics: Arc<Metrics>,
}

/// A certificate chain and its key, both in PEM.
struct CertificatePair {
    chain: Zeroizing<String>,
    key: Zeroizing<String>,
    /// End of validity, in seconds since 1970.
    not_after: i64,
}

impl CertManagerCertificate {
    /// Waits for a usable certificate.
    ///
    /// # Errors
    /// When the API server does not let the Secret be read.
    pub async fn open(&self) -> Result<Arc<ReloadableCertificate>, CertificateSecretError> {
        let name = &self.name;
        loop {
            let secret = self.secrets.get_opt(name).await;
            let unreadable =
                |error| CertificateSecretError::Read { name: name.clone(), source: RequestError::Api(error) };
            match secret.map_err(unreadable)? {
                Some(secret) => match self.first(&secret) {
                    Ok(certificate) => return Ok(certificate),
                    Err(error) => tracing::warn!(%error, "the webhooks' certificate can't be used; reading it again"),
                },
                None => tracing::info!(secret = name, "waiting for cert-manager to issue the webhooks' certificate"),
            }
            sleep(PAUSE).await;
        }
    }

    /// Replaces the certificate with each new one, until `shutdown`. An unusable one is logged and ignored.
    pub async fn follow(
        self,
        certificate: Arc<ReloadableCertificate>,
        shutdown: CancellationToken,
    ) -> Result<(), Failure> {
        let mut versions = follow_secret(&self.secrets, &self.name);
        loop {
            tokio::select! {
                Some(version) = versions.next() => match version {
                    Some(secret) => {
                        if let Err(error) = self.replace(&certificate, &secret) {
                            tracing::error!(%error, "reload of the webhooks' certificate failed; keeping the previous one");
                        }
                    }
                    None => tracing::warn!(
                        secret = self.name,
                        "the Secret with the webhooks' certificate was deleted; keeping the last certificate"
                    ),
                },
                () = shutdown.cancelled() => return Ok(()),
            }
        }
    }

    fn first(&self, secret: &Secret) -> Result<Arc<ReloadableCertificate>, CertificateSecretError> {
        let pair = read_pair(&self.name, secret, &self.host)?;
        let certificate = ReloadableCertificate::new(&pair.chain, &pair.key)?;
        self.metrics.listener_certificate_expiry("webhooks", pair.not_after);
        Ok(certificate)
    }

    fn replace(&self, certificate: &ReloadableCertificate, secret: &Secret) -> Result<(), CertificateSecretError> {
        let pair = read_pair(&self.name, secret, &self.host)?;
        certificate.replace(&pair.chain, &pair.key)?;
        self.metrics.listener_certificate_expiry("webhooks", pair.not_after);
        Ok(())
    }
}

/// Reads certificate and key. The certificate has to be valid for `host`; the API server would reject any other.
fn read_pair(name: &str, secret: &Secret, host: &str) -> Result<CertificatePair, CertificateSecretError> {
    let missing = |entry| CertificateSecretError::MissingEntry { name: name.to_owned(), entry };
    let entry = |entry| secret_text(name, secret, entry)?.ok_or_else(|| missing(entry));
    let chain = entry("tls.crt")?;
    let key = entry("tls.key")?;
    let unusable = |reason: &dyn Display| CertificateSecretError::Certificate {
        name: name.to_owned(),
        reason: reason.to_string(),
    };
    let all = certificates(&chain).map_err(|error| unusable(&error))?;
    let leaf = all.first().ok_or_else(|| unusable(&"it is empty"))?;
    let server = ServerName::try_from(host).map_err(|error| unusable(&error))?;
    let parsed = ParsedCertificate::try_from(leaf).map_err(|error| unusable(&error))?;
    verify_server_name(&parsed, &server).map_err(|error| unusable(&error))?;
    let not_after = not_after(leaf).ok_or_else(|| unusable(&"it has no end of validity"))?;
    Ok(CertificatePair { chain, key, not_after })
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
    fn a_certificate_is_read_with_its_expiry() {
        let pair = read_pair("webhooks", &secret(HOST), HOST).expect("read");
        assert!((pair.not_after - chrono::Utc::now().timestamp() - 3600).abs() < 60, "{}", pair.not_after);
        ReloadableCertificate::new(&pair.chain, &pair.key).expect("usable");
    }

    #[test]
    fn an_unusable_certificate_is_rejected_with_its_entry() {
        let data = |secret: &Secret, key: &str| secret.data.as_ref().and_then(|data| data.get(key).cloned());
        for (key, value, expected) in [
            ("tls.crt", None, "Secret `webhooks` has no `tls.crt`"),
            ("tls.key", None, "Secret `webhooks` has no `tls.key`"),
            ("tls.crt", Some(ByteString(b"x".to_vec())), "`tls.crt` of Secret `webhooks`"),
            ("tls.crt", Some(ByteString(vec![0xff])), "`tls.crt` of Secret `webhooks` is not UTF-8 text"),
            ("tls.crt", data(&secret("other.durward-system.svc"), "tls.crt"), "`tls.crt` of Secret `webhooks`"),
            ("tls.key", data(&secret(HOST), "tls.key"), "KeyMismatch"),
        ] {
            let mut wrong = secret(HOST);
            let all = wrong.data.get_or_insert_default();
            match value {
                Some(value) => drop(all.insert(key.to_owned(), value)),
                None => drop(all.remove(key)),
            }
            let rejected = read_pair("webhooks", &wrong, HOST)
                .and_then(|pair| Ok(ReloadableCertificate::new(&pair.chain, &pair.key)?))
                .expect_err("rejected");
            assert!(rejected.to_string().contains(expected), "{key}: {rejected}");
        }
    }
}
