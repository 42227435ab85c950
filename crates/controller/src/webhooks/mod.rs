//! The webhook configurations of the installation, kept as narrow as the policies need.

mod configurations;
mod reconciler;
mod uninstall;

pub use reconciler::WebhookStatus;
pub use uninstall::{UninstallError, remove};

use durward_core::digest::Digest;
use durward_identity::Authorities;
use kube::Resource;
use kube::core::ApiResource;
use serde::Serialize;
use serde_json::Value;
use tokio::sync::watch;

/// Annotation that names the Certificate whose CA cert-manager's injector writes.
const INJECT_CA: &str = "cert-manager.io/inject-ca-from";

/// What the API server does with a governed operation when Durward does not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum FailurePolicy {
    /// Reject it.
    #[default]
    #[value(name = "Fail")]
    Fail,
    /// Allow it.
    #[value(name = "Ignore")]
    Ignore,
}

impl FailurePolicy {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Fail => "Fail",
            Self::Ignore => "Ignore",
        }
    }
}

/// The webhook configurations of this installation.
#[derive(Debug)]
pub struct WebhookConfigurations {
    pub service: String,
    pub namespace: String,
    pub port: i32,
    pub authorities: Authorities,
    /// Receives the digest of the roots once every configuration has them.
    pub roots: watch::Sender<Option<Digest>>,
    /// Receives whether the API server calls the webhook for governed operations.
    pub status: watch::Sender<WebhookStatus>,
    /// The Certificate whose CA cert-manager writes into the configurations, as `namespace/name`. Without it, Durward
    /// writes its own CA.
    pub certificate: Option<String>,
    /// For governed operations.
    pub failure_policy: FailurePolicy,
    /// For pods that request an identity.
    pub injection_failure_policy: FailurePolicy,
}

/// Names of the configurations that belong to a Service: for resources, for operations, and for injection into pods.
fn configuration_names(service: &str) -> [String; 3] {
    ["resources", "operations", "injection"].map(|name| format!("{service}-{name}"))
}

/// The desired state of a configuration, validating or mutating.
#[derive(Debug, Clone, PartialEq)]
struct WebhookConfiguration {
    resource: ApiResource,
    name: String,
    /// As the API server stores them.
    webhooks: Value,
}

impl WebhookConfiguration {
    fn new<K: Resource<DynamicType = ()>>(name: String, webhooks: &impl Serialize) -> Self {
        let webhooks = sorted_by_name(serde_json::to_value(webhooks).unwrap_or_default());
        Self { resource: ApiResource::erase::<K>(&()), name, webhooks }
    }
}

/// Sorts webhooks by name: their order in a configuration has no meaning.
fn sorted_by_name(webhooks: Value) -> Value {
    let Value::Array(mut webhooks) = webhooks else { return Value::Array(Vec::new()) };
    webhooks.sort_by_cached_key(|webhook| webhook.get("name").and_then(Value::as_str).map(ToOwned::to_owned));
    Value::Array(webhooks)
}

#[cfg(test)]
mod tests;
