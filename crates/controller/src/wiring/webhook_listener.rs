//! The certificate of the webhook listener: the listeners' own, or one that cert-manager issues.

use super::context::Context;
use crate::cert_manager::CertManagerCertificate;
use crate::listener_tls::ListenerTls;
use durward_runtime::Failure;
use durward_runtime::supervisor::Supervisor;
use durward_runtime::tls::ReloadableCertificate;
use rustls::ServerConfig;
use std::sync::Arc;

/// TLS of the webhook listener.
pub(super) struct WebhookListener {
    pub tls: Arc<ServerConfig>,
    cert_manager: Option<(CertManagerCertificate, Arc<ReloadableCertificate>)>,
}

impl WebhookListener {
    /// Waits for the certificate of cert-manager if one is configured by name.
    pub async fn open(context: &Context, listener_tls: &ListenerTls, name: Option<String>) -> Result<Self, Failure> {
        let Some(name) = name else { return Ok(Self { tls: listener_tls.server_config()?, cert_manager: None }) };
        let issued = CertManagerCertificate {
            secrets: context.namespaced(),
            name,
            host: context.host(),
            metrics: Arc::clone(&context.engine.metrics),
        };
        let certificate = issued.open().await?;
        let tls = listener_tls.server_config_with(Arc::clone(&certificate))?;
        Ok(Self { tls, cert_manager: Some((issued, certificate)) })
    }

    /// The cert-manager Certificate, as `namespace/name`.
    pub fn certificate_name(&self, namespace: &str) -> Option<String> {
        self.cert_manager.as_ref().map(|(issued, _)| format!("{namespace}/{}", issued.name))
    }

    /// Whether this listener has a certificate of the installation's own CA. Replicas verify each other by that CA, so
    /// they query a listener that has one.
    pub const fn has_own_certificate(&self) -> bool {
        self.cert_manager.is_none()
    }

    /// Port of the Service on which replicas query each other.
    pub const fn replica_port(&self) -> &'static str {
        if self.has_own_certificate() { "webhooks" } else { "tokens" }
    }

    /// Starts to follow the Secret of cert-manager.
    pub fn start(self, supervisor: &mut Supervisor) {
        if let Some((issued, certificate)) = self.cert_manager {
            supervisor.spawn(|stop| issued.follow(certificate, stop));
        }
    }
}
