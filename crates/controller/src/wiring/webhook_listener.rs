//! The certificate of the webhook listener: the listeners' own, or one that cert-manager issues.

use super::context::Context;
use crate::cert_manager::CertManagerCertificate;
use crate::listener_tls::ListenerTls;
use crate::settings::ControllerSettings;
use durward_doors::api_server::ApiServerClients;
use durward_runtime::Failure;
use durward_runtime::supervisor::Supervisor;
use durward_runtime::tls::ReloadableCertificate;
use rustls::ServerConfig;
use std::sync::Arc;

/// TLS of the webhook listener, and the clients that its webhooks accept.
pub(super) struct WebhookListener {
    pub tls: Arc<ServerConfig>,
    pub clients: ApiServerClients,
    cert_manager: Option<(CertManagerCertificate, Arc<ReloadableCertificate>)>,
}

impl WebhookListener {
    /// Waits for the certificate of cert-manager if one is configured.
    pub async fn open(
        context: &Context,
        listener_tls: &ListenerTls,
        settings: &mut ControllerSettings,
    ) -> Result<Self, Failure> {
        let clients = ApiServerClients::open(&settings.api_server, Arc::clone(&context.engine.metrics))?;
        let mut cert_manager = None;
        if let Some(name) = settings.webhook_certificate.take() {
            let issued = CertManagerCertificate {
                secrets: context.namespaced(),
                name,
                host: context.host(),
                metrics: Arc::clone(&context.engine.metrics),
            };
            let certificate = issued.open().await?;
            cert_manager = Some((issued, certificate));
        }
        let certificate = cert_manager.as_ref().map(|(_, certificate)| certificate);
        let tls = listener_tls.webhook_config(certificate, clients.roots())?;
        Ok(Self { tls, clients, cert_manager })
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

    /// Starts to follow the Secret of cert-manager, and the tokens of the API server.
    pub fn start(self, supervisor: &mut Supervisor) {
        supervisor.spawn(|stop| self.clients.follow(stop));
        if let Some((issued, certificate)) = self.cert_manager {
            supervisor.spawn(|stop| issued.follow(certificate, stop));
        }
    }
}
