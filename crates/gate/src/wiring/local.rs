//! A gate without a cluster: policies from a watched directory, a certificate from files or from the local CA.

use crate::certificate_files::CertificateFiles;
use crate::identity::{IdentityMaterial, IdentityPublisher};
use chrono::{TimeDelta, Utc};
use durward_api::catalog::CatalogChange;
use durward_api::compile::ClusterDomains;
use durward_approvals::ApprovalSeal;
use durward_core::principal::PrincipalId;
use durward_engine::EngineContext;
use durward_identity::TokenKeys;
use durward_manifests::load::ManifestDirectory;
use durward_manifests::open::open;
use durward_manifests::watch::DirectoryFollower;
use durward_runtime::Failure;
use durward_runtime::readiness::Readiness;
use durward_runtime::supervisor::Supervisor;
use durward_state::{LocalApprovals, LocalState, TokenKeyFolder};
use durward_step_up::step_up_page;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use url::Url;

/// Lifetime of a certificate of the local CA. Each start issues a new one, and half of the lifetime later another.
const CERTIFICATE_LIFETIME: TimeDelta = TimeDelta::days(90);
/// Interval between checks whether the certificate is due for renewal: by wall clock, and rare next to its lifetime.
const RENEWAL_CHECK_INTERVAL: Duration = Duration::from_secs(60);

/// The settings of a gate without a cluster.
#[derive(Debug)]
pub struct LocalGate {
    /// Directory of manifests.
    pub manifests: PathBuf,
    /// Whether to refuse to start with invalid manifests.
    pub strict: bool,
    /// Its certificate.
    pub certificate: GateCertificate,
    /// URL of the token listener as browsers see it, for the step-up page.
    pub step_up: Option<Url>,
}

/// The source of the certificate.
#[derive(Debug, Clone)]
pub enum GateCertificate {
    /// From the CA in a state directory, for a workload.
    State {
        /// The directory.
        state: PathBuf,
        /// Namespace and name of the service account.
        account: (String, String),
    },
    /// From files that another program renews.
    Files(CertificateFiles),
}

impl LocalGate {
    /// Loads policies and certificate, and starts the tasks that follow them.
    pub(super) fn start(
        self,
        domain: &ClusterDomains,
        context: &EngineContext,
        publisher: &IdentityPublisher,
        readiness: &Arc<Readiness>,
        reload: watch::Receiver<u64>,
        supervisor: &mut Supervisor,
    ) -> Result<(), Failure> {
        let (mut directory, watch) = open(&self.manifests, domain, self.strict)?;
        context.engine.set_step_up_page(self.step_up.as_ref().map(step_up_page));
        let (approval_changes, changed_approvals) = unbounded_channel();
        match self.certificate {
            GateCertificate::State { state: folder, account } => {
                let state = OpenState::issue(&folder, &domain.trust_domain, &account)?;
                publisher.publish(&state.material)?;
                state.start(context, &mut directory, approval_changes, supervisor)?;
                let renewal = CertificateRenewal { state: folder, trust_domain: domain.trust_domain.clone(), account };
                let publisher = publisher.clone();
                supervisor.spawn(|stop| renewal.run(publisher, stop));
            }
            // without a state directory no key verifies approvals: operations that need one stay denied
            GateCertificate::Files(files) => {
                let contents = files.read()?;
                publisher.publish(&files.parse(&contents)?)?;
                let publisher = publisher.clone();
                supervisor.spawn(|stop| files.follow(contents, publisher, stop));
            }
        }
        let follower =
            DirectoryFollower { directory, watch, context: context.clone(), readiness: Arc::clone(readiness), reload };
        follower.apply_loaded();
        supervisor.spawn(|stop| follower.run(changed_approvals, stop));
        readiness.mark_policies_loaded();
        Ok(())
    }
}

/// A state directory, and the certificate that its CA has issued to this gate.
struct OpenState {
    folder: PathBuf,
    material: IdentityMaterial,
    token_keys: TokenKeys,
    seal: ApprovalSeal,
}

impl OpenState {
    fn issue(folder: &Path, trust_domain: &str, (namespace, name): &(String, String)) -> Result<Self, Failure> {
        let id = PrincipalId::workload(trust_domain, namespace, name)?;
        let state = LocalState::open(folder, trust_domain)?;
        let names = ["localhost".to_owned()];
        let now = Utc::now();
        let issued = state.issue(&id.to_string(), &names, &[], CERTIFICATE_LIFETIME, now)?;
        let material = IdentityMaterial {
            id,
            chain_pem: issued.chain_pem,
            key_pem: issued.key_pem,
            not_after: (now + CERTIFICATE_LIFETIME).into(),
            roots: state.authority.roots().to_vec(),
            jwks: Some(state.token_keys.jwks()),
        };
        Ok(Self {
            folder: folder.to_owned(),
            material,
            token_keys: TokenKeys::new(state.token_keys),
            seal: ApprovalSeal::new(TokenKeys::new(state.audit_keys)),
        })
    }

    /// Applies the approvals of the state directory, and follows them and the token keys.
    fn start(
        self,
        context: &EngineContext,
        directory: &mut ManifestDirectory,
        changes: UnboundedSender<Vec<CatalogChange>>,
        supervisor: &mut Supervisor,
    ) -> Result<(), Failure> {
        let (approvals, stored) = LocalApprovals::open(&self.folder, self.seal.clone())?;
        directory.catalog.apply(stored);
        // `durward up`, where people decide, removes expired approvals
        approvals.start(&context.engine, self.seal, false, changes, supervisor);
        let authenticator = Arc::clone(&context.authenticator);
        TokenKeyFolder::new(&self.folder).start_renewal(self.token_keys, authenticator, supervisor);
        Ok(())
    }
}

/// Renews the certificate of the local CA.
struct CertificateRenewal {
    state: PathBuf,
    trust_domain: String,
    account: (String, String),
}

impl CertificateRenewal {
    /// Issues and publishes a certificate from half of the lifetime of the previous one, until `shutdown`. A failure is
    /// logged and the previous certificate stays in use.
    async fn run(self, publisher: IdentityPublisher, shutdown: CancellationToken) -> Result<(), Failure> {
        let renewal = Arc::new(self);
        let mut renew_at = Utc::now() + CERTIFICATE_LIFETIME / 2;
        loop {
            tokio::select! {
                () = sleep(RENEWAL_CHECK_INTERVAL) => {}
                () = shutdown.cancelled() => return Ok(()),
            }
            if Utc::now() < renew_at {
                continue;
            }
            let (renewal, publisher) = (Arc::clone(&renewal), publisher.clone());
            match tokio::task::spawn_blocking(move || renewal.renew(&publisher)).await? {
                Ok(()) => renew_at = Utc::now() + CERTIFICATE_LIFETIME / 2,
                Err(error) => tracing::warn!(%error, "renewing the certificate failed; keeping the previous one"),
            }
        }
    }

    fn renew(&self, publisher: &IdentityPublisher) -> Result<(), Failure> {
        let state = OpenState::issue(&self.state, &self.trust_domain, &self.account)?;
        Ok(publisher.publish(&state.material)?)
    }
}
