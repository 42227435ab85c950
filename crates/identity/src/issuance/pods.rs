//! Pods that are to get something, as the API server tells of them.

use k8s_openapi::api::core::v1::Pod;
use kube::api::GetParams;
use kube::core::Request;
use kube::{Client, Resource};
use serde::Deserialize;
use std::collections::BTreeMap;

/// What matters of a pod: its whole type would be a twentieth of the program.
#[derive(Debug, Deserialize)]
pub struct Found {
    metadata: Metadata,
    spec: Spec,
}

#[derive(Debug, Deserialize)]
struct Metadata {
    uid: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    service_account_name: Option<String>,
    node_name: Option<String>,
}

impl Found {
    pub fn is(&self, uid: &str) -> bool {
        self.metadata.uid == uid
    }

    pub fn account(&self) -> &str {
        self.spec.service_account_name.as_deref().unwrap_or("default")
    }

    pub fn node(&self) -> Option<&str> {
        self.spec.node_name.as_deref()
    }

    pub(crate) fn into_labels(self) -> BTreeMap<String, String> {
        self.metadata.labels
    }
}

/// What `check` makes of the pod of this name. The API server is asked for what it remembers first, which costs it little
/// and is as old as what policies are made of; a refusal has to be about what is stored.
pub async fn checked<T, E>(
    client: &Client,
    namespace: &str,
    name: &str,
    check: impl Fn(Option<Found>) -> Result<T, E>,
) -> Result<Result<T, E>, kube::Error> {
    match check(get(client, namespace, name, &GetParams::any()).await?) {
        Ok(good) => Ok(Ok(good)),
        Err(_) => Ok(check(get(client, namespace, name, &GetParams::default()).await?)),
    }
}

async fn get(client: &Client, namespace: &str, name: &str, at: &GetParams) -> Result<Option<Found>, kube::Error> {
    let request = Request::new(Pod::url_path(&(), Some(namespace))).get(name, at).map_err(kube::Error::BuildRequest)?;
    match client.request(request).await {
        Ok(found) => Ok(Some(found)),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
        Err(error) => Err(error),
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

    /// An API server that remembers one thing and has stored another; and what it was asked for.
    fn api_server(remembered: Option<Value>, stored: Option<Value>) -> (Client, Arc<Mutex<Vec<String>>>) {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&asked);
        let service = tower::service_fn(move |request: Request<Body>| {
            let uri = request.uri().to_string();
            let found = if uri.ends_with("resourceVersion=0") { remembered.clone() } else { stored.clone() };
            heard.lock().expect("a lock").push(uri);
            let status = if found.is_some() { StatusCode::OK } else { StatusCode::NOT_FOUND };
            let missing =
                json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404});
            let body = found.unwrap_or(missing).to_string();
            async move { Response::builder().status(status).body(Body::from(body.into_bytes())) }
        });
        (Client::new(service, "default"), asked)
    }

    /// What comes of asking for the pod of UID `one` on node `here`, and how often it was asked for.
    async fn asked(remembered: Option<Value>, stored: Option<Value>) -> (Result<String, &'static str>, usize) {
        let (client, asked) = api_server(remembered, stored);
        let check = |found: Option<Found>| {
            let pod = found.filter(|pod| pod.is("one")).ok_or("none")?;
            if pod.node() != Some("here") {
                return Err("elsewhere");
            }
            let account = pod.account().to_owned();
            Ok(format!("{account} {:?}", pod.into_labels()))
        };
        let found = checked(&client, "shop", "web", check).await.expect("answered");
        let asked = asked.lock().expect("a lock");
        assert!(asked.iter().all(|uri| uri.starts_with("/api/v1/namespaces/shop/pods/web")), "{asked:?}");
        (found, asked.len())
    }

    #[tokio::test]
    async fn a_pod_that_is_remembered_is_not_looked_for_and_one_that_is_not_is_never_refused_for_it() {
        let right = || Some(pod("one", Some("here")));
        let good = Ok(r#"default {"app": "web"}"#.to_owned());
        assert_eq!(asked(right(), None).await, (good.clone(), 1));
        // what is remembered lags behind: the pod is new, or made again, or has only now come to its node
        for behind in [None, Some(pod("before", Some("here"))), Some(pod("one", None))] {
            assert_eq!(asked(behind, right()).await, (good.clone(), 2));
        }
        assert_eq!(asked(None, None).await, (Err("none"), 2));
        assert_eq!(asked(None, Some(pod("one", Some("there")))).await, (Err("elsewhere"), 2));
    }
}

/// A pod that proved which it is.
#[derive(Debug)]
pub struct LabelledPod {
    /// Its namespace.
    pub namespace: String,
    /// Its labels.
    pub labels: std::collections::BTreeMap<String, String>,
}
