//! Checks that the pod, service account and node of a certificate request are the ones in the cluster.

use crate::certificates_api::PodCertificateRequestSpec;
use crate::issuance::pods::{PodFacts, check_pod};
use durward_kubernetes::requests::RequestError;
use k8s_openapi::api::core::v1::{Node, ServiceAccount};
use kube::Client;
use kube::api::Api;
use kube::core::PartialObjectMeta;
use quick_cache::sync::Cache;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::time::Duration;
use thiserror::Error;
use tokio::time::Instant;

/// Time for which the UID of a service account or node is cached.
const UID_CACHE_TIME: Duration = Duration::from_secs(2);
/// Most cached UIDs.
const UID_CACHE_SIZE: usize = 4096;

/// A pod with the properties that its request states, or the first statement that is not true.
pub(super) enum Attestation {
    Attested { labels: BTreeMap<String, String> },
    Refused(AttestationRefusal),
}

/// A statement of a certificate request is not true. The text is the denial in the status of the request and in its
/// audit record.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(super) enum AttestationRefusal {
    #[error("pod {namespace}/{name} with UID {uid} is not there")]
    Pod { namespace: String, name: String, uid: String },
    #[error("pod {pod} runs as service account {service_account}")]
    OtherServiceAccount { pod: String, service_account: String },
    #[error("pod {pod} does not live on node {node}")]
    OtherNode { pod: String, node: String },
    #[error("service account {name} with UID {uid} is not there")]
    ServiceAccount { name: String, uid: String },
    #[error("node {name} with UID {uid} is not there")]
    Node { name: String, uid: String },
}

/// Attests the pods of certificate requests.
pub(super) struct PodAttestor {
    client: Client,
    /// Namespace, name and UID of objects that exist, and when they were read.
    known_uids: Cache<String, Instant>,
}

impl PodAttestor {
    pub(super) fn new(client: Client) -> Self {
        Self { client, known_uids: Cache::new(UID_CACHE_SIZE) }
    }

    /// Checks what a request states about its pod.
    ///
    /// # Errors
    /// If the API server does not answer.
    pub(super) async fn attest(
        &self,
        namespace: &str,
        spec: &PodCertificateRequestSpec,
    ) -> Result<Attestation, RequestError> {
        let accounts: Api<PartialObjectMeta<ServiceAccount>> = Api::namespaced(self.client.clone(), namespace);
        let nodes: Api<PartialObjectMeta<Node>> = Api::all(self.client.clone());
        let (labels, account_exists, node_exists) = tokio::try_join!(
            check_pod(&self.client, namespace, &spec.pod_name, |pod| pod_labels(pod, namespace, spec)),
            self.exists(&accounts, namespace, &spec.service_account_name, &spec.service_account_uid),
            self.exists(&nodes, "", &spec.node_name, &spec.node_uid)
        )?;
        Ok(match labels {
            Err(refusal) => Attestation::Refused(refusal),
            Ok(_) if !account_exists => Attestation::Refused(AttestationRefusal::ServiceAccount {
                name: spec.service_account_name.clone(),
                uid: spec.service_account_uid.clone(),
            }),
            Ok(_) if !node_exists => Attestation::Refused(AttestationRefusal::Node {
                name: spec.node_name.clone(),
                uid: spec.node_uid.clone(),
            }),
            Ok(labels) => Attestation::Attested { labels },
        })
    }

    /// Whether the object of this name has this UID.
    ///
    /// An object that exists is cached for a moment, since many pods share a service account and a node. If it is
    /// deleted in this moment, its certificates are still rejected: their serial numbers contain the UID.
    async fn exists<K>(
        &self,
        api: &Api<PartialObjectMeta<K>>,
        namespace: &str,
        name: &str,
        uid: &str,
    ) -> Result<bool, RequestError>
    where
        K: Clone,
        PartialObjectMeta<K>: Clone + Debug + DeserializeOwned,
    {
        let key = format!("{namespace}/{name}/{uid}");
        if self.known_uids.get(&key).is_some_and(|at| at.elapsed() < UID_CACHE_TIME) {
            return Ok(true);
        }
        let object = api.get_opt(name).await?;
        let exists = object.is_some_and(|object| object.metadata.uid.as_deref() == Some(uid));
        if exists {
            self.known_uids.insert(key, Instant::now());
        }
        Ok(exists)
    }
}

/// The labels of the pod, if it is the pod that the request names.
fn pod_labels(
    pod: Option<PodFacts>,
    namespace: &str,
    spec: &PodCertificateRequestSpec,
) -> Result<BTreeMap<String, String>, AttestationRefusal> {
    let Some(pod) = pod.filter(|pod| pod.has_uid(&spec.pod_uid)) else {
        return Err(AttestationRefusal::Pod {
            namespace: namespace.to_owned(),
            name: spec.pod_name.clone(),
            uid: spec.pod_uid.clone(),
        });
    };
    if pod.service_account() != spec.service_account_name {
        return Err(AttestationRefusal::OtherServiceAccount {
            pod: spec.pod_name.clone(),
            service_account: pod.service_account().to_owned(),
        });
    }
    if pod.node() != Some(&spec.node_name) {
        return Err(AttestationRefusal::OtherNode { pod: spec.pod_name.clone(), node: spec.node_name.clone() });
    }
    Ok(pod.into_labels())
}
