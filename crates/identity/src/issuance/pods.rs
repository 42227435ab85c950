//! The pods that request certificates and tokens, as the API server describes them.

use durward_kubernetes::requests::RequestError;
use k8s_openapi::api::core::v1::Pod;
use kube::api::GetParams;
use kube::core::Request;
use kube::{Client, Resource};
use serde::Deserialize;
use std::collections::BTreeMap;

/// The fields of a pod that issuance needs. The complete type would be a twentieth of the program.
#[derive(Debug, Deserialize)]
pub struct PodFacts {
    metadata: PodMetadata,
    spec: PodPlacement,
}

#[derive(Debug, Deserialize)]
struct PodMetadata {
    uid: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PodPlacement {
    service_account_name: Option<String>,
    node_name: Option<String>,
}

/// An authenticated pod with its labels.
#[derive(Debug)]
pub struct LabelledPod {
    /// Its namespace.
    pub namespace: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

impl PodFacts {
    pub fn has_uid(&self, uid: &str) -> bool {
        self.metadata.uid == uid
    }

    pub fn service_account(&self) -> &str {
        self.spec.service_account_name.as_deref().unwrap_or("default")
    }

    pub fn node(&self) -> Option<&str> {
        self.spec.node_name.as_deref()
    }

    pub(crate) fn into_labels(self) -> BTreeMap<String, String> {
        self.metadata.labels
    }
}

/// Applies `check` to the pod of this name.
///
/// The first read is from the cache of the API server: that is cheap, and as current as the policies. If `check` fails,
/// a second read from the storage makes sure that a pod is not refused because the cache is behind.
///
/// # Errors
/// The outer error is that of the API server, the inner one that of `check`.
pub async fn check_pod<T, E>(
    client: &Client,
    namespace: &str,
    name: &str,
    check: impl Fn(Option<PodFacts>) -> Result<T, E>,
) -> Result<Result<T, E>, RequestError> {
    match check(get_pod(client, namespace, name, &GetParams::any()).await?) {
        Ok(passed) => Ok(Ok(passed)),
        Err(_) => Ok(check(get_pod(client, namespace, name, &GetParams::default()).await?)),
    }
}

async fn get_pod(
    client: &Client,
    namespace: &str,
    name: &str,
    parameters: &GetParams,
) -> Result<Option<PodFacts>, RequestError> {
    let request = Request::new(Pod::url_path(&(), Some(namespace)));
    let request = request.get(name, parameters).map_err(kube::Error::BuildRequest)?;
    match client.request(request).await {
        Ok(pod) => Ok(Some(pod)),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{Request, Response, StatusCode};
    use kube::client::Body;
    use serde_json::{Value, json};
    use std::sync::{Arc, Mutex};

    fn pod(uid: &str, node: Option<&str>) -> Value {
        let managed = json!([{"manager": "kubelet", "fieldsV1": {"f:metadata": {}}}]);
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "web", "uid": uid, "labels": {"app": "web"}, "managedFields": managed},
            "spec": {"nodeName": node, "containers": []},
        })
    }

    /// An API server with one pod in its cache and another in its storage, and the URIs of its requests.
    fn api_server(cached: Option<Value>, stored: Option<Value>) -> (Client, Arc<Mutex<Vec<String>>>) {
        let requests = Arc::new(Mutex::new(Vec::new()));
        let received = Arc::clone(&requests);
        let service = tower::service_fn(move |request: Request<Body>| {
            let uri = request.uri().to_string();
            let pod = if uri.ends_with("resourceVersion=0") { cached.clone() } else { stored.clone() };
            received.lock().expect("locks the requests").push(uri);
            let status = if pod.is_some() { StatusCode::OK } else { StatusCode::NOT_FOUND };
            let missing =
                json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404});
            let body = pod.unwrap_or(missing).to_string();
            async move { Response::builder().status(status).body(Body::from(body.into_bytes())) }
        });
        (Client::new(service, "default"), requests)
    }

    /// The result of a check for the pod with UID `one` on node `here`, and the number of requests.
    async fn checked(cached: Option<Value>, stored: Option<Value>) -> (Result<String, &'static str>, usize) {
        let (client, requests) = api_server(cached, stored);
        let check = |pod: Option<PodFacts>| {
            let pod = pod.filter(|pod| pod.has_uid("one")).ok_or("none")?;
            if pod.node() != Some("here") {
                return Err("elsewhere");
            }
            let account = pod.service_account().to_owned();
            Ok(format!("{account} {:?}", pod.into_labels()))
        };
        let result = check_pod(&client, "shop", "web", check).await.expect("the API server answers");
        let requests = requests.lock().expect("locks the requests");
        assert!(requests.iter().all(|uri| uri.starts_with("/api/v1/namespaces/shop/pods/web")), "{requests:?}");
        (result, requests.len())
    }

    #[tokio::test]
    async fn only_a_refusal_reads_the_pod_from_storage() {
        let right = || Some(pod("one", Some("here")));
        let accepted = Ok(r#"default {"app": "web"}"#.to_owned());
        assert_eq!(checked(right(), None).await, (accepted.clone(), 1));
        // the cache is behind: the pod is new, was replaced, or was just scheduled
        for outdated in [None, Some(pod("before", Some("here"))), Some(pod("one", None))] {
            assert_eq!(checked(outdated, right()).await, (accepted.clone(), 2));
        }
        assert_eq!(checked(None, None).await, (Err("none"), 2));
        assert_eq!(checked(None, Some(pod("one", Some("there")))).await, (Err("elsewhere"), 2));
    }
}
