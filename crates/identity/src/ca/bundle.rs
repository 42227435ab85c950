//! The trust bundle for workloads: a ClusterTrustBundle (`certificates.k8s.io`), and a ConfigMap in each namespace with
//! pods that policies select, for clients that can't read ClusterTrustBundles.

use crate::ca::authorities::Authorities;
use crate::certificates_api::{CertificatesApi, ClusterTrustBundle};
use crate::names::SIGNER_NAME;
use durward_core::digest::Digest;
use durward_engine::Engine;
use durward_kubernetes::requests::{FIELD_MANAGER, REQUEST_TIMEOUT, RequestError, apply, with_timeout};
use durward_kubernetes::work_queue::WorkQueue;
use durward_pki::authority::{AuthorityError, certificates};
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
use thiserror::Error;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Name of the ConfigMap with the trust bundle.
pub const TRUST_BUNDLE_CONFIG_MAP: &str = "durward-trust-bundle";
/// Key of the trust bundle in the ConfigMap.
pub const TRUST_BUNDLE_KEY: &str = "trust-bundle.pem";

const MANAGED_BY_LABEL: &str = "app.kubernetes.io/managed-by";

/// Pause before the next attempt to write to a namespace or resource that does not exist yet.
const MISSING_LOCATION_RETRY: Duration = Duration::from_secs(30);

/// Where a copy of the trust bundle is published.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum BundleLocation {
    /// The ClusterTrustBundle.
    Cluster,
    /// The ConfigMap in a namespace.
    Namespace(String),
}

/// The roots that this leader wrote to each location. `None`: the location may have other roots, or has to be removed.
type PublishedDigests = BTreeMap<BundleLocation, Option<Digest>>;

/// Publishes the trusted roots to the workloads.
pub struct TrustBundlePublisher {
    pub client: Client,
    pub trust_domain: String,
    /// ClusterTrustBundles in the version that the cluster serves.
    pub bundle_resource: ApiResource,
    pub engine: Arc<Engine>,
    pub authorities: Authorities,
    /// Receives the digest of the roots once all locations have them.
    pub propagated: watch::Sender<Option<Digest>>,
}

/// Shows only the type name: the fields are large.
impl std::fmt::Debug for TrustBundlePublisher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TrustBundlePublisher").finish_non_exhaustive()
    }
}

impl TrustBundlePublisher {
    /// Keeps the published bundles current while `leading` and once the policies are `synced`, until `shutdown`.
    pub async fn run(
        self,
        mut leading: watch::Receiver<bool>,
        mut synced: watch::Receiver<bool>,
        shutdown: CancellationToken,
    ) -> Result<(), Failure> {
        let mut revisions = self.engine.revisions();
        let mut changes = self.authorities.changes();
        let mut queue = WorkQueue::new();
        let mut published = PublishedDigests::new();
        let mut listed = false;
        loop {
            let active = *leading.borrow_and_update() && *synced.borrow_and_update();
            if !active {
                listed = false;
                published.clear();
            } else if !listed {
                match self.existing_locations().await {
                    Ok(locations) => {
                        published.extend(locations.into_iter().map(|location| (location, None)));
                        listed = true;
                    }
                    Err(error) => {
                        tracing::warn!(%error, "listing the trust bundles failed; trying again at the next change");
                    }
                }
            }
            let current = self.authorities.current().digest();
            let everywhere = self.queue_outdated(current, active, &mut published, &mut queue);
            self.report_propagation((active && listed && everywhere).then_some(current));
            tokio::select! {
                Ok(()) = leading.changed() => {}
                Ok(()) = synced.changed() => {}
                Ok(()) = revisions.changed() => {}
                Ok(()) = changes.changed() => {}
                location = queue.next(), if active => self.reconcile(location, &mut published, &mut queue).await,
                () = shutdown.cancelled() => return Ok(()),
            }
        }
    }

    /// Queues each location whose bundle is missing, outdated or to be removed. Returns whether all wanted locations
    /// have the `current` roots.
    fn queue_outdated(
        &self,
        current: Digest,
        active: bool,
        published: &mut PublishedDigests,
        queue: &mut WorkQueue<BundleLocation>,
    ) -> bool {
        let wanted = self.wanted_locations();
        if active {
            for location in &wanted {
                published.entry(location.clone()).or_default();
            }
            for (location, digest) in &*published {
                if wanted.contains(location) != (*digest == Some(current)) {
                    queue.push(location.clone(), Duration::ZERO);
                }
            }
        }
        wanted.iter().all(|location| published.get(location) == Some(&Some(current)))
    }

    fn report_propagation(&self, digest: Option<Digest>) {
        self.propagated.send_if_modified(|reported| std::mem::replace(reported, digest) != digest);
    }

    /// Writes or removes the bundle of one location.
    async fn reconcile(
        &self,
        location: BundleLocation,
        published: &mut PublishedDigests,
        queue: &mut WorkQueue<BundleLocation>,
    ) {
        let wanted = self.wanted_locations().contains(&location);
        let state = self.authorities.current();
        let result = if wanted { self.write(&location, state.roots_pem()).await } else { self.remove(&location).await };
        match result {
            Ok(outcome) => {
                queue.done(&location);
                if outcome == PublishOutcome::NoLocation {
                    queue.push(location.clone(), MISSING_LOCATION_RETRY);
                }
                if wanted {
                    published.insert(location, Some(state.digest()));
                } else {
                    published.remove(&location);
                }
            }
            Err(error) => {
                tracing::warn!(?location, %error, "writing the trust bundle failed; trying again");
                queue.failed(location);
            }
        }
    }

    fn wanted_locations(&self) -> BTreeSet<BundleLocation> {
        let namespaces = self.engine.snapshot().entitled_namespaces(&self.trust_domain);
        let namespaces = namespaces.iter().map(|namespace| BundleLocation::Namespace(namespace.to_string()));
        [BundleLocation::Cluster].into_iter().chain(namespaces).collect()
    }

    /// The namespaces that have a ConfigMap managed by Durward.
    async fn existing_locations(&self) -> Result<Vec<BundleLocation>, RequestError> {
        let config_maps: Api<PartialObjectMeta<ConfigMap>> = Api::all(self.client.clone());
        let named = ListParams::default().fields(&format!("metadata.name={TRUST_BUNDLE_CONFIG_MAP}"));
        let list = with_timeout(REQUEST_TIMEOUT, config_maps.list_metadata(&named)).await?;
        let managed =
            list.items.iter().filter(|map| map.labels().get(MANAGED_BY_LABEL).is_some_and(|by| by == FIELD_MANAGER));
        Ok(managed.filter_map(ResourceExt::namespace).map(BundleLocation::Namespace).collect())
    }

    async fn write(&self, location: &BundleLocation, pem: String) -> Result<PublishOutcome, RequestError> {
        let client = self.client.clone();
        publish_outcome(match location {
            BundleLocation::Cluster => {
                let bundle = cluster_trust_bundle(&self.bundle_resource, pem);
                apply(&Api::all_with(client, &self.bundle_resource), &bundle.name_any(), &bundle).await
            }
            BundleLocation::Namespace(namespace) => {
                apply(&Api::namespaced(client, namespace), TRUST_BUNDLE_CONFIG_MAP, &config_map(pem)).await
            }
        })
    }

    async fn remove(&self, location: &BundleLocation) -> Result<PublishOutcome, RequestError> {
        // the ClusterTrustBundle is always wanted
        let BundleLocation::Namespace(namespace) = location else { return Ok(PublishOutcome::Done) };
        let config_maps: Api<ConfigMap> = Api::namespaced(self.client.clone(), namespace);
        let parameters = DeleteParams::default();
        let removal = config_maps.delete(TRUST_BUNDLE_CONFIG_MAP, &parameters);
        publish_outcome(with_timeout(REQUEST_TIMEOUT, removal).await.map(drop))
    }
}

/// The outcome of writing or removing one bundle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PublishOutcome {
    Done,
    /// The location does not exist, so no workload there lacks the bundle.
    NoLocation,
}

fn publish_outcome(result: Result<(), RequestError>) -> Result<PublishOutcome, RequestError> {
    match result {
        Ok(()) => Ok(PublishOutcome::Done),
        // a cluster before 1.35 has no ClusterTrustBundles; a namespace that a policy names may not exist, or may be
        // terminating
        Err(error) if matches!(error.status(), Some(403 | 404)) => Ok(PublishOutcome::NoLocation),
        Err(error) => Err(error),
    }
}

/// The published roots can't be read.
#[derive(Debug, Error)]
pub enum PublishedRootsError {
    /// The API server does not list its resources.
    #[error("the API versions of the cluster can't be read: {0}")]
    Discovery(#[source] RequestError),
    /// The ClusterTrustBundle can't be read.
    #[error("ClusterTrustBundle `{name}` can't be read: {source}")]
    Request {
        /// Name of the ClusterTrustBundle.
        name: String,
        /// Why the request failed.
        source: RequestError,
    },
    /// The ClusterTrustBundle holds no valid certificates.
    #[error("ClusterTrustBundle `{name}`: {source}")]
    Certificates {
        /// Name of the ClusterTrustBundle.
        name: String,
        /// What is wrong with the certificates.
        source: AuthorityError,
    },
}

/// The roots in the ClusterTrustBundle, which every workload may read.
///
/// # Errors
/// If the ClusterTrustBundle can't be read.
pub async fn published_roots(client: &Client) -> Result<Vec<CertificateDer<'static>>, PublishedRootsError> {
    let api = CertificatesApi::discover(client).await;
    let resource = api.map_err(PublishedRootsError::Discovery)?.bundles;
    let bundles: Api<ClusterTrustBundle> = Api::all_with(client.clone(), &resource);
    let name = cluster_trust_bundle(&resource, String::new()).name_any();
    let bundle = bundles
        .get(&name)
        .await
        .map_err(|error| PublishedRootsError::Request { name: name.clone(), source: error.into() })?;
    certificates(&bundle.spec.trust_bundle).map_err(|source| PublishedRootsError::Certificates { name, source })
}

fn cluster_trust_bundle(resource: &ApiResource, pem: String) -> ClusterTrustBundle {
    // the API server requires the name of the signer as the prefix
    let name = format!("{}:roots", SIGNER_NAME.replace('/', ":"));
    ClusterTrustBundle::new(
        &name,
        resource,
        ClusterTrustBundleSpec { signer_name: Some(SIGNER_NAME.to_owned()), trust_bundle: pem },
    )
}

fn config_map(pem: String) -> ConfigMap {
    let labels = BTreeMap::from([(MANAGED_BY_LABEL.to_owned(), FIELD_MANAGER.to_owned())]);
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
