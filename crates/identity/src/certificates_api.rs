//! The API group `certificates.k8s.io` in the version that the cluster serves: v1 since Kubernetes 1.37, v1beta1
//! in 1.35 and 1.36.

use durward_kubernetes::requests::{REQUEST_TIMEOUT, RequestError, with_timeout};
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::ClusterTrustBundleSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::core::{ApiResource, DynamicResourceScope, GroupVersionKind, NotUsed, Object};
use kube::{Client, Resource};
use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer};
use std::borrow::Cow;
use std::collections::BTreeMap;

const GROUP: &str = "certificates.k8s.io";

/// The resources of the API group, each in the newest version that the cluster serves.
#[derive(Debug, Clone)]
pub struct CertificatesApi {
    /// PodCertificateRequests.
    pub requests: ApiResource,
    /// ClusterTrustBundles.
    pub bundles: ApiResource,
}

impl CertificatesApi {
    /// Reads the versions from the API server. A resource that the cluster does not serve is assumed in v1, where an
    /// upgrade would add it.
    ///
    /// # Errors
    /// If the API server does not answer.
    pub async fn discover(client: &Client) -> Result<Self, RequestError> {
        let mut versions = BTreeMap::new();
        for version in ["v1beta1", "v1"] {
            let group_version = format!("{GROUP}/{version}");
            match with_timeout(REQUEST_TIMEOUT, client.list_api_group_resources(&group_version)).await {
                Ok(list) => versions.extend(list.resources.into_iter().map(|resource| (resource.name, version))),
                Err(error) if error.status() == Some(404) => {}
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

/// A ClusterTrustBundle. Both versions have the same fields.
pub type ClusterTrustBundle = Object<ClusterTrustBundleSpec, NotUsed>;

/// A PodCertificateRequest of either version, without the fields that signing does not need: there can be thousands,
/// and their managed fields are most of their size.
#[derive(Debug, Clone, Deserialize)]
pub struct PodCertificateRequest {
    #[serde(deserialize_with = "needed_metadata")]
    pub metadata: ObjectMeta,
    pub spec: PodCertificateRequestSpec,
    #[serde(default)]
    status: Option<PodCertificateRequestStatus>,
}

impl PodCertificateRequest {
    /// Whether the request is issued, denied or failed.
    pub(crate) fn is_settled(&self) -> bool {
        let conditions = self.status.as_ref().and_then(|status| status.conditions.as_ref());
        conditions.is_some_and(|conditions| !conditions.is_empty())
    }
}

/// Reads the metadata that the signer needs.
fn needed_metadata<'de, D: Deserializer<'de>>(metadata: D) -> Result<ObjectMeta, D::Error> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct NeededMetadata {
        name: Option<String>,
        namespace: Option<String>,
        resource_version: Option<String>,
        creation_timestamp: Option<Time>,
    }
    let needed = NeededMetadata::deserialize(metadata)?;
    Ok(ObjectMeta {
        name: needed.name,
        namespace: needed.namespace,
        resource_version: needed.resource_version,
        creation_timestamp: needed.creation_timestamp,
        ..ObjectMeta::default()
    })
}

impl Resource for PodCertificateRequest {
    type DynamicType = ApiResource;
    type Scope = DynamicResourceScope;

    fn kind(resource: &ApiResource) -> Cow<'_, str> {
        resource.kind.as_str().into()
    }

    fn group(resource: &ApiResource) -> Cow<'_, str> {
        resource.group.as_str().into()
    }

    fn version(resource: &ApiResource) -> Cow<'_, str> {
        resource.version.as_str().into()
    }

    fn plural(resource: &ApiResource) -> Cow<'_, str> {
        resource.plural.as_str().into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

/// The certificate that a kubelet requests for a pod.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodCertificateRequestSpec {
    pub pod_name: String,
    #[serde(rename = "podUID")]
    pub pod_uid: String,
    pub(crate) service_account_name: String,
    #[serde(rename = "serviceAccountUID")]
    pub(crate) service_account_uid: String,
    pub(crate) node_name: String,
    #[serde(rename = "nodeUID")]
    pub(crate) node_uid: String,
    #[serde(default)]
    pub(crate) max_expiration_seconds: Option<i32>,
    /// PKCS#10 in DER. Kubernetes 1.35 does not send it.
    #[serde(default, rename = "stubPKCS10Request")]
    pub(crate) stub_pkcs10_request: Option<ByteString>,
    /// SubjectPublicKeyInfo in DER, in v1beta1 requests without PKCS#10.
    #[serde(default, rename = "pkixPublicKey")]
    pub(crate) pkix_public_key: Option<ByteString>,
    #[serde(default)]
    pub(crate) unverified_user_annotations: Option<BTreeMap<String, String>>,
}

/// The conditions of a request. Only their number matters.
#[derive(Debug, Clone, Deserialize)]
struct PodCertificateRequestStatus {
    #[serde(default)]
    conditions: Option<Vec<IgnoredAny>>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn unneeded_fields_of_a_request_are_dropped() {
        let request = |status| {
            let request = json!({
                "apiVersion": "certificates.k8s.io/v1", "kind": "PodCertificateRequest",
                "metadata": {
                    "name": "r", "namespace": "shop", "resourceVersion": "7", "uid": "u", "labels": {"a": "b"},
                    "creationTimestamp": "2026-11-26T10:00:00Z",
                    "managedFields": [{"manager": "kubelet", "fieldsV1": {"f:spec": {"f:podName": {}}}}],
                },
                "spec": {
                    "signerName": "durward.dev/workload", "podName": "web", "podUID": "p", "serviceAccountName": "web",
                    "serviceAccountUID": "s", "nodeName": "n", "nodeUID": "m", "maxExpirationSeconds": 86400,
                    "stubPKCS10Request": "AQI=", "unverifiedUserAnnotations": {"a/b": "c"},
                },
                "status": status,
            });
            serde_json::from_value::<PodCertificateRequest>(request).expect("parses the request")
        };
        let PodCertificateRequest { metadata, spec, .. } = request(json!({}));
        assert_eq!((metadata.name.as_deref(), metadata.namespace.as_deref()), (Some("r"), Some("shop")));
        assert_eq!(metadata.resource_version.as_deref(), Some("7"));
        assert_eq!(metadata.creation_timestamp.map(|at| at.0.as_second()), Some(1_795_687_200));
        assert!(metadata.managed_fields.is_none() && metadata.labels.is_none());
        assert_eq!((spec.pod_name.as_str(), spec.pod_uid.as_str()), ("web", "p"));
        assert_eq!(spec.stub_pkcs10_request, Some(ByteString(vec![1, 2])));
        assert!(spec.unverified_user_annotations.is_some_and(|annotations| annotations.contains_key("a/b")));
        for (status, settled) in
            [(json!(null), false), (json!({"conditions": []}), false), (json!({"conditions": [{}]}), true)]
        {
            assert_eq!(request(status.clone()).is_settled(), settled, "{status}");
        }
    }
}
