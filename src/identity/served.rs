//! `certificates.k8s.io` as the cluster has it: v1 from Kubernetes 1.37 on, v1beta1 in 1.35 and 1.36.

use crate::controller::{PATIENCE, patiently};
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::ClusterTrustBundleSpec;
use kube::Client;
use kube::core::{ApiResource, GroupVersionKind, NotUsed, Object};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

const GROUP: &str = "certificates.k8s.io";

/// Which versions a cluster has.
#[derive(Debug, Clone)]
pub(crate) struct Served {
    pub(crate) requests: ApiResource,
    pub(crate) bundles: ApiResource,
}

impl Served {
    /// Asks the API server; what it does not have at all is looked for in v1, where it may come to be.
    pub(crate) async fn discover(client: &Client) -> Result<Self, kube::Error> {
        let mut versions = BTreeMap::new();
        for version in ["v1beta1", "v1"] {
            match patiently(PATIENCE, client.list_api_group_resources(&format!("{GROUP}/{version}"))).await {
                Ok(list) => versions.extend(list.resources.into_iter().map(|resource| (resource.name, version))),
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                Err(error) => return Err(error),
            }
        }
        let resource = |kind: &str, plural: &str| {
            let version = versions.get(plural).copied().unwrap_or("v1");
            ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(GROUP, version, kind), plural)
        };
        Ok(Self {
            requests: resource("PodCertificateRequest", "podcertificaterequests"),
            bundles: resource("ClusterTrustBundle", "clustertrustbundles"),
        })
    }
}

/// A ClusterTrustBundle, which is the same in both versions.
pub(crate) type TrustBundle = Object<ClusterTrustBundleSpec, NotUsed>;

/// A PodCertificateRequest of either version.
pub(crate) type PodCertificateRequest = Object<RequestSpec, RequestStatus>;

/// What is asked for.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RequestSpec {
    pub(crate) pod_name: String,
    #[serde(rename = "podUID")]
    pub(crate) pod_uid: String,
    pub(crate) service_account_name: String,
    #[serde(rename = "serviceAccountUID")]
    pub(crate) service_account_uid: String,
    pub(crate) node_name: String,
    #[serde(rename = "nodeUID")]
    pub(crate) node_uid: String,
    #[serde(default)]
    pub(crate) max_expiration_seconds: Option<i32>,
    /// PKCS#10 in DER; not in Kubernetes 1.35.
    #[serde(default, rename = "stubPKCS10Request")]
    pub(crate) stub_pkcs10_request: Option<ByteString>,
    /// The key alone (SubjectPublicKeyInfo in DER), in v1beta1, where there is no request for it.
    #[serde(default, rename = "pkixPublicKey")]
    pub(crate) pkix_public_key: Option<ByteString>,
    #[serde(default)]
    pub(crate) unverified_user_annotations: Option<BTreeMap<String, String>>,
}

/// What became of it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct RequestStatus {
    #[serde(default)]
    pub(crate) conditions: Option<Vec<Value>>,
}
