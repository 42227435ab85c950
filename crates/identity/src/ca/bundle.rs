//! The trust bundle of the workloads: a ClusterTrustBundle (`certificates.k8s.io`), and a ConfigMap in each namespace
//! whose pods policies are about, for what can't read the other.

use crate::SIGNER_NAME;
use crate::ca::authorities::Authorities;
use crate::issuance::served::{CertificatesApi, ClusterTrustBundle};
use durward_core::digest::Digest;
use durward_engine::Engine;
use durward_kubernetes::requests::{FIELD_MANAGER, REQUEST_TIMEOUT, apply, redacted, with_timeout};
use durward_kubernetes::work_queue::WorkQueue;
use durward_pki::authority::certificates;
use durward_runtime::Failure;
use k8s_openapi::api::certificates::v1::ClusterTrustBundleSpec;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, DeleteParams, ListParams, ObjectMeta};
use kube::core::{ApiResource, PartialObjectMeta};
use kube::{Client, ResourceExt};
use rustls_pki_types::CertificateDer;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Name of the ConfigMap.
pub const TRUST_BUNDLE_CONFIG_MAP: &str = "durward-trust-bundle";
/// Its key.
pub const TRUST_BUNDLE_KEY: &str = "trust-bundle.pem";

/// How often it is looked whether a place has come to be.
const ANOTHER_LOOK: Duration = Duration::from_secs(30);

/// An object that carries the bundle.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum BundleLocation {
    Cluster,
    Namespace(String),
}

/// Publishes the roots.
pub struct TrustBundlePublisher {
    pub client: Client,
    pub trust_domain: String,
    /// The version of ClusterTrustBundles.
    pub bundle_resource: ApiResource,
    pub engine: Arc<Engine>,
    pub authorities: Authorities,
    /// Told the digest of the roots once everything that is published has them.
    pub propagated: watch::Sender<Option<Digest>>,
}

impl std::fmt::Debug for TrustBundlePublisher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TrustBundlePublisher").finish_non_exhaustive()
    }
}

impl TrustBundlePublisher {
    /// Keeps what is published current while `leading`, until `shutdown`.
    pub async fn run(
        self,
        mut leading: watch::Receiver<bool>,
        mut synced: watch::Receiver<bool>,
        shutdown: CancellationToken,
    ) -> Result<(), Failure> {
        let (mut revisions, mut changes) = (self.engine.revisions(), self.authorities.changes());
        let mut queue = WorkQueue::new();
        // what each carries, as far as this leader has seen to it; none is one that may have to go
        let mut carry: BTreeMap<BundleLocation, Option<Digest>> = BTreeMap::new();
        let mut listed = false;
        loop {
            let leads = *leading.borrow_and_update() && *synced.borrow_and_update();
            if !leads {
                (listed, carry) = (false, BTreeMap::new());
            } else if !listed {
                match self.published().await {
                    Ok(namespaces) => {
                        carry.extend(
                            namespaces.into_iter().map(|namespace| (BundleLocation::Namespace(namespace), None)),
                        );
                        listed = true;
                    }
                    Err(error) => tracing::warn!(error = %redacted(&error), "the trust bundles can't be listed"),
                }
            }
            let wanted = self.wanted();
            let now = self.authorities.current().digest();
            let stale = |carrier: &BundleLocation, has: Option<Digest>| wanted.contains(carrier) != (has == Some(now));
            if leads {
                wanted.iter().for_each(|carrier| _ = carry.entry(carrier.clone()).or_default());
                carry
                    .iter()
                    .filter(|(carrier, has)| stale(carrier, **has))
                    .for_each(|(carrier, _)| queue.push(carrier.clone(), Duration::ZERO));
            }
            let all = leads && listed && wanted.iter().all(|carrier| carry.get(carrier) == Some(&Some(now)));
            self.propagated.send_if_modified(|told| {
                let news = all.then_some(now);
                std::mem::replace(told, news) != news
            });
            tokio::select! {
                Ok(()) = leading.changed() => {}
                Ok(()) = synced.changed() => {}
                Ok(()) = revisions.changed() => {}
                Ok(()) = changes.changed() => {}
                carrier = queue.next(), if leads => {
                    let wanted = self.wanted().contains(&carrier);
                    let pem = self.authorities.current();
                    match self.publish(&carrier, wanted.then(|| pem.roots_pem())).await {
                        Ok(published) => {
                            queue.done(&carrier);
                            if published == PublishResult::NoPlace {
                                queue.push(carrier.clone(), ANOTHER_LOOK);
                            }
                            match wanted {
                                true => drop(carry.insert(carrier, Some(pem.digest()))),
                                false => drop(carry.remove(&carrier)),
                            }
                        }
                        Err(error) => {
                            tracing::warn!(?carrier, error = %redacted(&error), "the trust bundle could not be written");
                            queue.failed(carrier);
                        }
                    }
                }
                () = shutdown.cancelled() => return Ok(()),
            }
        }
    }

    fn wanted(&self) -> BTreeSet<BundleLocation> {
        let namespaces = self.engine.snapshot().entitled_namespaces(&self.trust_domain);
        let namespaces = namespaces.iter().map(|namespace| BundleLocation::Namespace(namespace.to_string()));
        [BundleLocation::Cluster].into_iter().chain(namespaces).collect()
    }

    /// Namespaces with a ConfigMap of ours.
    async fn published(&self) -> Result<Vec<String>, kube::Error> {
        let all: Api<PartialObjectMeta<ConfigMap>> = Api::all(self.client.clone());
        let ours = ListParams::default().fields(&format!("metadata.name={TRUST_BUNDLE_CONFIG_MAP}"));
        let all = with_timeout(REQUEST_TIMEOUT, all.list_metadata(&ours)).await?;
        let ours = all.items.iter().filter(|map| map.labels().get(MANAGED).is_some_and(|by| by == FIELD_MANAGER));
        Ok(ours.filter_map(ResourceExt::namespace).collect())
    }

    async fn publish(&self, carrier: &BundleLocation, pem: Option<String>) -> Result<PublishResult, kube::Error> {
        let done = match (carrier, pem) {
            (BundleLocation::Cluster, Some(pem)) => {
                let bundle = cluster(&self.bundle_resource, pem);
                apply(&Api::all_with(self.client.clone(), &self.bundle_resource), &bundle.name_any(), &bundle).await
            }
            (BundleLocation::Cluster, None) => Ok(()),
            (BundleLocation::Namespace(namespace), Some(pem)) => {
                apply(&Api::namespaced(self.client.clone(), namespace), TRUST_BUNDLE_CONFIG_MAP, &config_map(pem)).await
            }
            (BundleLocation::Namespace(namespace), None) => {
                let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), namespace);
                with_timeout(REQUEST_TIMEOUT, api.delete(TRUST_BUNDLE_CONFIG_MAP, &DeleteParams::default()))
                    .await
                    .map(drop)
            }
        };
        match done {
            Ok(()) => Ok(PublishResult::Yes),
            // a cluster before 1.35 has no ClusterTrustBundles; a namespace that a policy names need not be there, or is going
            Err(kube::Error::Api(status)) if matches!(status.code, 403 | 404) => Ok(PublishResult::NoPlace),
            Err(error) => Err(error),
        }
    }
}

/// What became of one object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PublishResult {
    Yes,
    /// There is nowhere to put it, so nobody lacks it there.
    NoPlace,
}

/// The roots that a cluster publishes, for somebody who has no more rights than any workload.
///
/// # Errors
/// When they can't be read.
pub async fn published_roots(client: &Client) -> Result<Vec<CertificateDer<'static>>, Failure> {
    let resource = CertificatesApi::discover(client).await.map_err(|error| redacted(&error))?.bundles;
    let bundles: Api<ClusterTrustBundle> = Api::all_with(client.clone(), &resource);
    let name = cluster(&resource, String::new()).name_any();
    let bundle = bundles.get(&name).await;
    let bundle = bundle.map_err(|error| format!("ClusterTrustBundle `{name}` can't be read: {}", redacted(&error)))?;
    Ok(certificates(&bundle.spec.trust_bundle).map_err(|error| format!("ClusterTrustBundle `{name}`: {error}"))?)
}

const MANAGED: &str = "app.kubernetes.io/managed-by";

fn cluster(resource: &ApiResource, pem: String) -> ClusterTrustBundle {
    // the signer's name, and after it any other
    let name = format!("{}:roots", SIGNER_NAME.replace('/', ":"));
    ClusterTrustBundle::new(
        &name,
        resource,
        ClusterTrustBundleSpec { signer_name: Some(SIGNER_NAME.to_owned()), trust_bundle: pem },
    )
}

fn config_map(pem: String) -> ConfigMap {
    let labels = BTreeMap::from([(MANAGED.to_owned(), FIELD_MANAGER.to_owned())]);
    ConfigMap {
        metadata: ObjectMeta {
            name: Some(TRUST_BUNDLE_CONFIG_MAP.to_owned()),
            labels: Some(labels),
            ..ObjectMeta::default()
        },
        data: Some(BTreeMap::from([(TRUST_BUNDLE_KEY.to_owned(), pem)])),
        ..ConfigMap::default()
    }
}
