//! A gate without a cluster: policies from a directory that is followed, a certificate from files or from the local CA.

use crate::identity::{Material, Shown};
use chrono::{TimeDelta, Utc};
use durward_api::compile::ClusterDomains;
use durward_approvals::Seal;
use durward_core::principal::PrincipalId;
use durward_engine::Engine;
use durward_identity::{TokenKeyRing, TokenKeys};
use durward_manifests::load::load;
use durward_manifests::watch::{Watch, follow};
use durward_pki::authority::pem;
use durward_pki::svid;
use durward_runtime::Failure;
use durward_runtime::readiness::Readiness;
use durward_runtime::supervisor::Parts;
use durward_state::approvals::Approvals;
use durward_state::state::State;
use durward_state::token_keys::KeyFolder;
use durward_step_up::page_of;
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

/// Lifetime of a certificate of the local CA; made anew at each start.
const LIFETIME: TimeDelta = TimeDelta::days(90);
/// How often files are looked at: kubelet renews them hours before their end.
const LOOK: Duration = Duration::from_secs(5);

/// What a gate without a cluster works with.
#[derive(Debug)]
pub struct Local {
    /// Directory of manifests.
    pub manifests: PathBuf,
    /// Its certificate.
    pub certificate: Certificate,
    /// The token listener as browsers see it, where people step up.
    pub step_up: Option<Url>,
}

/// Where the certificate comes from.
#[derive(Debug, Clone)]
pub enum Certificate {
    /// From the CA in a state directory, for a workload.
    State {
        /// The directory.
        state: PathBuf,
        /// Namespace and name of the service account.
        account: (String, String),
    },
    /// From files that somebody else keeps fresh.
    Files {
        /// Key and chain, leaf first, in PEM.
        bundle: PathBuf,
        /// Roots, in PEM.
        roots: PathBuf,
        /// Keys of the trust domain's own tokens (a JWKS), if tokens count.
        jwks: Option<PathBuf>,
    },
}

impl Local {
    /// Loads policies and certificate, and adds the parts that follow them.
    pub(super) fn begin(
        self,
        domain: &ClusterDomains,
        engine: &Arc<Engine>,
        shown: &Shown,
        readiness: &Readiness,
        parts: &mut Parts,
    ) -> Result<(), Failure> {
        let watch = Watch::begin(&self.manifests);
        // a directory that is not there is told by the loader, which knows what it is for
        let mut directory = load(&self.manifests, domain)?;
        let watch = watch?;
        engine.step_up_at(self.step_up.as_ref().map(page_of));
        let (changes, changed) = mpsc::unbounded_channel();
        let authenticator = Arc::clone(engine.authenticator());
        match self.certificate {
            Certificate::State { state, account } => {
                let (material, keys, audit_keys) = issued(&state, &domain.trust_domain, &account)?;
                shown.show(&material)?;
                let seal = Seal::new(TokenKeys::new(audit_keys));
                let (approvals, approved) = Approvals::open(&state, seal.clone())?;
                directory.catalog.apply(approved);
                // `durward up` clears away, where people decide too
                approvals.begin(engine, seal, false, changes, parts);
                KeyFolder::new(&state).keep(keys, authenticator, parts);
            }
            // without a state directory nobody knows who signs approvals: what asks for one stays refused
            Certificate::Files { bundle, roots, jwks } => {
                let files = Files { bundle, roots, jwks };
                let text = files.read()?;
                shown.show(&files.material(&text)?)?;
                let shown = shown.clone();
                parts.add(|stop| files.follow(text, shown, stop));
            }
        }
        let problems = engine.authenticator().replace_providers(&directory.providers(), &directory.secrets());
        problems.iter().for_each(|(provider, problem)| eprintln!("provider {provider}: {problem}"));
        directory.warn();
        engine.replace_snapshot(directory.catalog.snapshot().clone());
        engine.metrics().policies_rejected(directory.catalog.rejected_count());
        let engine = Arc::clone(engine);
        parts.add(|stop| follow(watch, directory, engine, changed, stop));
        readiness.loaded();
        readiness.living();
        Ok(())
    }
}

fn issued(
    state: &Path,
    trust_domain: &str,
    (namespace, name): &(String, String),
) -> Result<(Material, TokenKeys, TokenKeyRing), Failure> {
    let id = PrincipalId::workload(trust_domain, namespace, name)?;
    let state = State::open(state, trust_domain)?;
    let names = ["localhost".to_owned()];
    let issued = state.issue(&id.to_string(), &names, &[], LIFETIME, Utc::now())?;
    let material = Material {
        id,
        chain_pem: issued.chain_pem,
        key_pem: issued.key_pem,
        roots: state.authority.roots().to_vec(),
        jwks: Some(state.token_keys.jwks()),
    };
    Ok((material, TokenKeys::new(state.token_keys), state.audit_keys))
}

#[derive(Debug)]
struct Files {
    bundle: PathBuf,
    roots: PathBuf,
    jwks: Option<PathBuf>,
}

/// What stands in the files.
#[derive(PartialEq, Eq)]
struct Text {
    bundle: Zeroizing<String>,
    roots: String,
    jwks: Option<String>,
}

impl Files {
    fn read(&self) -> Result<Text, Failure> {
        let read = |path: &Path| {
            fs::read_to_string(path).map_err(|error| Failure::from(format!("can't read {}: {error}", path.display())))
        };
        Ok(Text {
            bundle: Zeroizing::new(read(&self.bundle)?),
            roots: read(&self.roots)?,
            jwks: self.jwks.as_deref().map(read).transpose()?,
        })
    }

    fn material(&self, text: &Text) -> Result<Material, Failure> {
        let wrong = |path: &Path, what: String| Failure::from(format!("{}: {what}", path.display()));
        let certificates = |path: &Path, text: &str| -> Result<Vec<CertificateDer<'static>>, Failure> {
            let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
            all.map_err(|error| wrong(path, error.to_string()))
        };
        let chain = certificates(&self.bundle, &text.bundle)?;
        let leaf = chain.first().ok_or_else(|| wrong(&self.bundle, "there is no certificate in it".to_owned()))?;
        let id = svid::parse(leaf).map_err(|error| wrong(&self.bundle, error.to_string()))?.id;
        let id: PrincipalId = id.parse().map_err(|_| wrong(&self.bundle, format!("`{id}` is no workload")))?;
        PrivateKeyDer::from_pem_slice(text.bundle.as_bytes())
            .map_err(|error| wrong(&self.bundle, format!("its key: {error}")))?;
        Ok(Material {
            id,
            chain_pem: chain.iter().map(pem).collect(),
            // what reads a key passes over certificates
            key_pem: text.bundle.clone(),
            roots: certificates(&self.roots, &text.roots)?,
            jwks: text.jwks.clone(),
        })
    }

    /// Shows what the files hold whenever it changes, until `shutdown`; what can't be used is told, and changes nothing.
    async fn follow(self, mut known: Text, shown: Shown, shutdown: CancellationToken) -> Result<(), Failure> {
        loop {
            tokio::select! {
                () = sleep(LOOK) => {}
                () = shutdown.cancelled() => return Ok(()),
            }
            match self.read() {
                Ok(text) if text != known => {
                    let taken = self.material(&text).and_then(|material| shown.show(&material));
                    match taken {
                        Ok(()) => tracing::info!("another certificate, or other roots"),
                        Err(error) => tracing::warn!(%error, "what was shown before stays"),
                    }
                    known = text;
                }
                Ok(_) => {}
                Err(error) => tracing::warn!(%error, "what was shown before stays"),
            }
        }
    }
}
