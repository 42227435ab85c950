//! A gate without a cluster: policies from a watched directory, a certificate from files or from the local CA.

use crate::identity::{IdentityMaterial, IdentityPublisher};
use chrono::{TimeDelta, Utc};
use durward_api::compile::ClusterDomains;
use durward_approvals::ApprovalSeal;
use durward_core::principal::PrincipalId;
use durward_engine::EngineContext;
use durward_identity::{TokenKeyRing, TokenKeys};
use durward_manifests::load::load;
use durward_manifests::watch::{DirectoryWatch, follow};
use durward_pki::authority::pem;
use durward_pki::svid;
use durward_runtime::Failure;
use durward_runtime::readiness::Readiness;
use durward_runtime::supervisor::Supervisor;
use durward_state::LocalApprovals;
use durward_state::LocalState;
use durward_state::TokenKeyFolder;
use durward_step_up::step_up_page;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use url::Url;
use zeroize::Zeroizing;

/// Lifetime of a certificate of the local CA; each start issues a new one.
const LIFETIME: TimeDelta = TimeDelta::days(90);
/// Interval between checks of the files; kubelet renews them hours before they expire.
const LOOK: Duration = Duration::from_secs(5);

/// The settings of a gate without a cluster.
#[derive(Debug)]
pub struct LocalGate {
    /// Directory of manifests.
    pub manifests: PathBuf,
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
    Files {
        /// Key and chain, leaf first, in PEM.
        bundle: PathBuf,
        /// Roots, in PEM.
        roots: PathBuf,
        /// Keys of the trust domain's own tokens (a JWKS), if tokens are accepted.
        jwks: Option<PathBuf>,
    },
}

impl LocalGate {
    /// Loads policies and certificate, and starts the tasks that follow them.
    pub(super) fn start(
        self,
        domain: &ClusterDomains,
        context: &EngineContext,
        publisher: &IdentityPublisher,
        readiness: &Readiness,
        supervisor: &mut Supervisor,
    ) -> Result<(), Failure> {
        let watch = DirectoryWatch::start(&self.manifests);
        // the loader reports a missing directory better than the watch
        let mut directory = load(&self.manifests, domain)?;
        let watch = watch?;
        context.engine.set_step_up_page(self.step_up.as_ref().map(step_up_page));
        let (changes, changed) = mpsc::unbounded_channel();
        let authenticator = Arc::clone(&context.authenticator);
        match self.certificate {
            GateCertificate::State { state, account } => {
                let (material, keys, audit_keys) = issued(&state, &domain.trust_domain, &account)?;
                publisher.publish(&material)?;
                let seal = ApprovalSeal::new(TokenKeys::new(audit_keys));
                let (approvals, approved) = LocalApprovals::open(&state, seal.clone())?;
                directory.catalog.apply(approved);
                // `durward up`, where people decide, removes expired approvals
                approvals.start(&context.engine, seal, false, changes, supervisor);
                TokenKeyFolder::new(&state).start_renewal(keys, authenticator, supervisor);
            }
            // without a state directory no key verifies approvals: operations that need one stay denied
            GateCertificate::Files { bundle, roots, jwks } => {
                let files = CertificateFiles { bundle, roots, jwks };
                let text = files.read()?;
                publisher.publish(&files.material(&text)?)?;
                let publisher = publisher.clone();
                supervisor.spawn(|stop| files.follow(text, publisher, stop));
            }
        }
        let problems = context.authenticator.replace_providers(&directory.providers(), &directory.secrets());
        problems.iter().for_each(|(provider, problem)| eprintln!("provider {provider}: {problem}"));
        directory.print_problems();
        context.engine.replace_snapshot(directory.catalog.snapshot().clone());
        context.metrics.policies_rejected(directory.catalog.rejected_count());
        let context = context.clone();
        supervisor.spawn(|stop| follow(watch, directory, context, changed, stop));
        readiness.mark_policies_loaded();
        readiness.mark_identities_ready();
        Ok(())
    }
}

fn issued(
    state: &Path,
    trust_domain: &str,
    (namespace, name): &(String, String),
) -> Result<(IdentityMaterial, TokenKeys, TokenKeyRing), Failure> {
    let id = PrincipalId::workload(trust_domain, namespace, name)?;
    let state = LocalState::open(state, trust_domain)?;
    let names = ["localhost".to_owned()];
    let issued = state.issue(&id.to_string(), &names, &[], LIFETIME, Utc::now())?;
    let material = IdentityMaterial {
        id,
        chain_pem: issued.chain_pem,
        key_pem: issued.key_pem,
        roots: state.authority.roots().to_vec(),
        jwks: Some(state.token_keys.jwks()),
    };
    Ok((material, TokenKeys::new(state.token_keys), state.audit_keys))
}

#[derive(Debug)]
struct CertificateFiles {
    bundle: PathBuf,
    roots: PathBuf,
    jwks: Option<PathBuf>,
}

/// The contents of the files.
#[derive(PartialEq, Eq)]
struct CertificateFileContents {
    bundle: Zeroizing<String>,
    roots: String,
    jwks: Option<String>,
}

impl CertificateFiles {
    fn read(&self) -> Result<CertificateFileContents, Failure> {
        let read = |path: &Path| {
            fs::read_to_string(path).map_err(|error| Failure::from(format!("can't read {}: {error}", path.display())))
        };
        Ok(CertificateFileContents {
            bundle: Zeroizing::new(read(&self.bundle)?),
            roots: read(&self.roots)?,
            jwks: self.jwks.as_deref().map(read).transpose()?,
        })
    }

    fn material(&self, text: &CertificateFileContents) -> Result<IdentityMaterial, Failure> {
        let wrong = |path: &Path, what: String| Failure::from(format!("{}: {what}", path.display()));
        let certificates = |path: &Path, text: &str| -> Result<Vec<CertificateDer<'static>>, Failure> {
            let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
            all.map_err(|error| wrong(path, error.to_string()))
        };
        let chain = certificates(&self.bundle, &text.bundle)?;
        let leaf = chain.first().ok_or_else(|| wrong(&self.bundle, "there is no certificate in it".to_owned()))?;
        let id = svid::parse(leaf).map_err(|error| wrong(&self.bundle, error.to_string()))?.id;
        let id: PrincipalId = id.parse().map_err(|_| wrong(&self.bundle, format!("`{id}` is not a workload")))?;
        PrivateKeyDer::from_pem_slice(text.bundle.as_bytes())
            .map_err(|error| wrong(&self.bundle, format!("its key: {error}")))?;
        Ok(IdentityMaterial {
            id,
            chain_pem: chain.iter().map(pem).collect(),
            // readers of the key skip certificates
            key_pem: text.bundle.clone(),
            roots: certificates(&self.roots, &text.roots)?,
            jwks: text.jwks.clone(),
        })
    }

    /// Publishes the files whenever they change, until `shutdown`. Logs unusable files and keeps the previous certificate.
    async fn follow(
        self,
        mut known: CertificateFileContents,
        publisher: IdentityPublisher,
        shutdown: CancellationToken,
    ) -> Result<(), Failure> {
        loop {
            tokio::select! {
                () = sleep(LOOK) => {}
                () = shutdown.cancelled() => return Ok(()),
            }
            match self.read() {
                Ok(text) if text != known => {
                    let taken = self.material(&text).and_then(|material| publisher.publish(&material));
                    match taken {
                        Ok(()) => tracing::info!("certificate or roots changed; in use for new connections"),
                        Err(error) => tracing::warn!(%error, "certificate reload failed; keeping the previous one"),
                    }
                    known = text;
                }
                Ok(_) => {}
                Err(error) => tracing::warn!(%error, "certificate reload failed; keeping the previous one"),
            }
        }
    }
}
