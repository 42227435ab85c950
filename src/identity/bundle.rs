//! The trust bundle of the workloads, as a ClusterTrustBundle (`certificates.k8s.io/v1`).

use crate::controller::{Backlog, apply, brief};
use crate::identity::SIGNER;
use crate::process::Failure;
use k8s_openapi::api::certificates::v1::{ClusterTrustBundle, ClusterTrustBundleSpec};
use kube::Client;
use kube::api::{Api, ObjectMeta};
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Roots that workloads trust.
pub(crate) struct Bundle {
    pub(crate) roots_pem: String,
}

impl Bundle {
    /// Publishes the bundle while `leading`, until `shutdown`.
    pub(crate) async fn run(
        self,
        client: Client,
        mut leading: watch::Receiver<bool>,
        shutdown: CancellationToken,
    ) -> Result<(), Failure> {
        let api: Api<ClusterTrustBundle> = Api::all(client);
        let wanted = self.wanted();
        let name = wanted.metadata.name.clone().unwrap_or_default();
        let mut backlog = Backlog::new();
        loop {
            let leads = *leading.borrow();
            tokio::select! {
                Ok(()) = leading.changed() => {
                    if *leading.borrow_and_update() {
                        backlog.push((), Duration::ZERO);
                    }
                }
                () = backlog.next(), if leads => {
                    match apply(&api, &name, &wanted).await {
                        Ok(()) => backlog.done(&()),
                        // a cluster before 1.37 has no such thing
                        Err(kube::Error::Api(status)) if status.code == 404 => {
                            tracing::info!("the cluster has no ClusterTrustBundles of certificates.k8s.io/v1");
                            backlog.done(&());
                        }
                        Err(error) => {
                            tracing::warn!(error = %brief(&error), "the trust bundle could not be written");
                            backlog.failed(());
                        }
                    }
                }
                () = shutdown.cancelled() => return Ok(()),
            }
        }
    }

    fn wanted(&self) -> ClusterTrustBundle {
        ClusterTrustBundle {
            // the signer's name, and after it any other
            metadata: ObjectMeta { name: Some(format!("{}:roots", SIGNER.replace('/', ":"))), ..ObjectMeta::default() },
            spec: ClusterTrustBundleSpec { signer_name: Some(SIGNER.to_owned()), trust_bundle: self.roots_pem.clone() },
        }
    }
}
