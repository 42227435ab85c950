//! What all parts of the process share: the API client, names of the installation, engine, metrics and readiness.

use super::identity::ControllerIdentity;
use crate::listener_tls::ListenerCertificateProfile;
use crate::service_accounts;
use crate::settings::ControllerSettings;
use durward_api::compile::ClusterDomains;
use durward_authn::{Authenticator, LivenessIndex, TrustDomain};
use durward_engine::EngineContext;
use durward_engine::audit::AuditWriter;
use durward_engine::metrics::Metrics;
use durward_runtime::Failure;
use durward_runtime::random::random_bytes;
use durward_runtime::readiness::Readiness;
use durward_step_up::{FactorStore, StepUpService, StepUpSettings};
use kube::{Api, Client};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Values that every builder may use.
pub(super) struct Context {
    pub client: Client,
    /// Namespace of this installation.
    pub namespace: String,
    /// Service in front of all replicas.
    pub service: String,
    /// Name of this pod.
    pub pod: String,
    pub domains: ClusterDomains,
    pub engine: EngineContext,
    /// Which pods and service accounts exist.
    pub liveness: Arc<LivenessIndex>,
    pub readiness: Arc<Readiness>,
    /// Cancelled when the end of this replica begins.
    pub closing: CancellationToken,
}

impl Context {
    /// Builds the engine. The keys of the cluster's own tokens are read first, so that a replica that becomes ready can
    /// tell those tokens from others.
    pub async fn open(
        client: Client,
        settings: &mut ControllerSettings,
        identity: &ControllerIdentity,
    ) -> Result<Self, Failure> {
        let audit = AuditWriter::open(&settings.audit, settings.on_loss, identity.audit_keys.log_signer())?;
        let service_accounts = service_accounts::read(&client).await.inspect_err(service_accounts::log_unreadable);
        let domain = TrustDomain {
            name: settings.domains.trust_domain.clone(),
            roots: identity.authorities.current().roots(),
            own_keys: Some(identity.token_keys.current().jwks()),
            service_accounts: service_accounts.ok(),
        };
        let metrics = Arc::new(Metrics::default());
        let liveness = Arc::new(LivenessIndex::empty());
        let authenticator = Arc::new(Authenticator::new(domain, Arc::clone(&liveness)));
        let process = u64::from_be_bytes(random_bytes()?);
        let engine = EngineContext::new(authenticator, audit, metrics, settings.openfga.take(), process);
        Ok(Self {
            client,
            namespace: settings.namespace.clone(),
            service: settings.service.clone(),
            pod: settings.pod.clone(),
            domains: settings.domains.clone(),
            engine,
            liveness,
            readiness: Arc::new(Readiness::default()),
            closing: CancellationToken::new(),
        })
    }

    /// Host name of the Service inside the cluster.
    pub fn host(&self) -> String {
        format!("{}.{}.svc", self.service, self.namespace)
    }

    /// A client for objects of the installation's namespace.
    pub fn namespaced<K>(&self) -> Api<K>
    where
        K: kube::Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// What the listeners' certificate is issued for.
    pub fn certificate_profile(&self, lifetime: Duration) -> ListenerCertificateProfile {
        let Self { namespace, service, .. } = self;
        let host = self.host();
        ListenerCertificateProfile {
            id: format!("spiffe://{}/ns/{namespace}/sa/{service}", self.domains.trust_domain),
            dns_names: vec![
                format!("{service}.{namespace}"),
                host.clone(),
                format!("{host}.{}", self.domains.cluster_domain),
            ],
            lifetime,
            metrics: Arc::clone(&self.engine.metrics),
        }
    }

    /// Opens the store of second factors, which all replicas share.
    pub async fn open_step_up(&self, settings: StepUpSettings) -> Result<StepUpService, Failure> {
        let store = FactorStore::Secrets(Box::new(self.namespaced()), self.service.clone());
        Ok(StepUpService::open(Arc::clone(&self.engine.engine), store, settings).await?)
    }
}
