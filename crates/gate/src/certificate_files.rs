//! Certificate, key, roots and token keys from files that another program renews.

use crate::error::{CertificateFileProblem, GateError};
use crate::identity::{IdentityMaterial, IdentityPublisher};
use durward_core::principal::PrincipalId;
use durward_pki::authority::pem;
use durward_pki::svid::{self, X509Svid};
use durward_runtime::Failure;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

/// Interval between checks of the files; kubelet renews them hours before they expire.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);

/// The paths of the files.
#[derive(Debug, Clone)]
pub struct CertificateFiles {
    /// Key and chain, leaf first, in PEM.
    pub bundle: PathBuf,
    /// Roots, in PEM.
    pub roots: PathBuf,
    /// Keys of the trust domain's own tokens (a JWKS), if tokens are accepted.
    pub jwks: Option<PathBuf>,
}

/// The contents of the files.
#[derive(PartialEq, Eq)]
pub(super) struct CertificateFileContents {
    bundle: Zeroizing<String>,
    roots: String,
    jwks: Option<String>,
}

impl CertificateFiles {
    /// Reads all files.
    pub(super) fn read(&self) -> Result<CertificateFileContents, GateError> {
        let read =
            |path: &Path| fs::read_to_string(path).map_err(|source| GateError::Read { path: path.to_owned(), source });
        Ok(CertificateFileContents {
            bundle: Zeroizing::new(read(&self.bundle)?),
            roots: read(&self.roots)?,
            jwks: self.jwks.as_deref().map(read).transpose()?,
        })
    }

    /// Parses the contents of the files.
    pub(super) fn parse(&self, contents: &CertificateFileContents) -> Result<IdentityMaterial, GateError> {
        let in_bundle = |problem| GateError::CertificateFile { path: self.bundle.clone(), problem };
        let in_roots = |problem| GateError::CertificateFile { path: self.roots.clone(), problem };
        let chain = certificates(&contents.bundle).map_err(in_bundle)?;
        let (id, not_after) = subject(&chain).map_err(in_bundle)?;
        PrivateKeyDer::from_pem_slice(contents.bundle.as_bytes())
            .map_err(|error| in_bundle(CertificateFileProblem::Key(error)))?;
        Ok(IdentityMaterial {
            id,
            chain_pem: chain.iter().map(pem).collect(),
            // readers of the key skip certificates
            key_pem: contents.bundle.clone(),
            not_after,
            roots: certificates(&contents.roots).map_err(in_roots)?,
            jwks: contents.jwks.clone(),
        })
    }

    /// Publishes the files whenever they change, until `shutdown`. Logs unusable files and keeps the previous certificate.
    pub(super) async fn follow(
        self,
        mut current: CertificateFileContents,
        publisher: IdentityPublisher,
        shutdown: CancellationToken,
    ) -> Result<(), Failure> {
        loop {
            tokio::select! {
                () = sleep(CHECK_INTERVAL) => {}
                () = shutdown.cancelled() => return Ok(()),
            }
            let reloaded = match self.read() {
                Ok(contents) if contents == current => continue,
                Ok(contents) => {
                    let published = self.parse(&contents).and_then(|material| publisher.publish(&material));
                    current = contents;
                    published
                }
                Err(error) => Err(error),
            };
            match reloaded {
                Ok(()) => tracing::info!("certificate or roots changed; in use for new connections"),
                Err(error) => tracing::warn!(%error, "certificate reload failed; keeping the previous one"),
            }
        }
    }
}

fn certificates(text: &str) -> Result<Vec<CertificateDer<'static>>, CertificateFileProblem> {
    CertificateDer::pem_slice_iter(text.as_bytes()).collect::<Result<_, _>>().map_err(CertificateFileProblem::Pem)
}

/// The workload of the leaf, and when the leaf expires.
fn subject(chain: &[CertificateDer<'_>]) -> Result<(PrincipalId, SystemTime), CertificateFileProblem> {
    let leaf = chain.first().ok_or(CertificateFileProblem::NoCertificate)?;
    let X509Svid { id, not_after, .. } = svid::parse(leaf).map_err(CertificateFileProblem::Svid)?;
    let not_after = SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(not_after).unwrap_or_default());
    let id = id.parse().map_err(|_| CertificateFileProblem::NotAWorkload(id))?;
    Ok((id, not_after))
}
