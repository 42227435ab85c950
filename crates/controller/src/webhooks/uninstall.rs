//! Removal of the webhook configurations when an installation is uninstalled.

use super::configuration_names;
use durward_kubernetes::requests::{RequestError, redacted};
use k8s_openapi::api::admissionregistration::v1::{MutatingWebhookConfiguration, ValidatingWebhookConfiguration};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams};
use kube::core::ApiResource;
use kube::{Client, Resource};
use serde::de::DeserializeOwned;
use std::fmt::Debug;
use std::time::Duration;
use thiserror::Error;
use tokio::time::sleep;

/// Seconds to wait until the replicas are gone.
const REPLICAS_GONE_WITHIN: u32 = 30;

/// Why the webhook configurations can't be removed.
#[derive(Debug, Error)]
pub enum UninstallError {
    #[error("deployment `{name}` can't be scaled down: {source}")]
    ScaleDown { name: String, source: RequestError },
    #[error("webhook configuration `{name}` can't be removed: {source}")]
    Remove { name: String, source: RequestError },
}

/// Ends the replicas of an installation, then removes its webhook configurations. Without replicas, the configurations
/// would make the API server reject every governed operation.
///
/// # Errors
/// When the API server rejects a request.
pub async fn remove(client: Client, namespace: &str, service: &str) -> Result<Vec<String>, UninstallError> {
    // a leader that still runs would write the configurations again
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), namespace);
    let no_replicas = Patch::Merge(serde_json::json!({"spec": {"replicas": 0}}));
    match deployments.patch_metadata(service, &PatchParams::default(), &no_replicas).await {
        Ok(_) => {}
        Err(kube::Error::Api(status)) if status.code == 404 => {}
        Err(error) => {
            return Err(UninstallError::ScaleDown { name: service.to_owned(), source: RequestError::Api(error) });
        }
    }
    wait_until_gone(&client, namespace, service).await;
    let [resources, operations, injection] = configuration_names(service);
    let mut removed = Vec::new();
    for name in [resources, operations] {
        removed.extend(delete::<ValidatingWebhookConfiguration>(&client, name).await?);
    }
    removed.extend(delete::<MutatingWebhookConfiguration>(&client, injection).await?);
    Ok(removed)
}

/// Waits until no replica is left, not even a terminating one: the leader would restore what is removed.
async fn wait_until_gone(client: &Client, namespace: &str, service: &str) {
    for _ in 0..REPLICAS_GONE_WITHIN {
        match count_pods(client, namespace, service).await {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) => tracing::debug!(error = %redacted(&error), "replicas can't be counted; trying again"),
        }
        sleep(Duration::from_secs(1)).await;
    }
}

async fn count_pods(client: &Client, namespace: &str, service: &str) -> Result<usize, kube::Error> {
    let resource = ApiResource::erase::<Deployment>(&());
    let deployments: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &resource);
    let pods: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &ApiResource::erase::<Pod>(&()));
    let deployment = deployments.get_opt(service).await?;
    let labels = deployment
        .as_ref()
        .and_then(|deployment| deployment.data.get("spec")?.get("selector")?.get("matchLabels")?.as_object());
    let Some(labels) = labels else { return Ok(0) };
    let labels = labels.iter().filter_map(|(name, value)| Some(format!("{name}={}", value.as_str()?)));
    let selected = ListParams::default().labels(&labels.collect::<Vec<_>>().join(","));
    Ok(pods.list(&selected).await?.items.len())
}

/// Removes one configuration; returns its name if it existed.
async fn delete<K>(client: &Client, name: String) -> Result<Option<String>, UninstallError>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
{
    match Api::<K>::all(client.clone()).delete(&name, &DeleteParams::default()).await {
        Ok(_) => Ok(Some(name)),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
        Err(error) => Err(UninstallError::Remove { name, source: RequestError::Api(error) }),
    }
}
