//! The webhook configurations, kept as narrow as the policies need.

mod reconciler;

pub use reconciler::WebhookStatus;

use durward_api::resources::{GROUP, VERSION};
use durward_core::digest::Digest;
use durward_core::kubernetes::{ApiPattern, Verb};
use durward_core::snapshot::Snapshot;
use durward_doors::admission::{
    INJECTION_LABEL, INJECTION_PATH, InjectionMode, NAMESPACE_INJECTION_PATH, OPERATIONS_PATH, RESOURCES_PATH,
};
use durward_identity::Authorities;
use durward_kubernetes::requests::{FIELD_MANAGER, redacted};
use durward_runtime::Failure;
use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::{
    MatchCondition, MutatingWebhook, MutatingWebhookConfiguration, RuleWithOperations, ServiceReference,
    ValidatingWebhook, ValidatingWebhookConfiguration, WebhookClientConfig,
};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};
use reconciler::sorted;
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, ObjectMeta, Patch, PatchParams};
use kube::core::ApiResource;
use kube::{Client, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::sleep;

/// How long the API server waits for an answer.
const TIMEOUT_SECONDS: i32 = 5;
/// Seconds in which replicas that were scaled away have to begin their end.
const GONE_WITHIN: u32 = 30;
/// Most namespaces that one webhook names; more are told apart by the webhook's own answer.
const MAX_NAMESPACES: usize = 1000;

/// Label that every namespace carries with its own name.
const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";

/// Where cert-manager's injector is told whose CA it is to write.
const INJECT_CA: &str = "cert-manager.io/inject-ca-from";

/// What the API server does with a governed operation when Durward does not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum FailurePolicy {
    /// Refuse it.
    #[default]
    #[value(name = "Fail")]
    Fail,
    /// Let it through.
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
    /// ConfigurationEvent the digest of the roots once every configuration has them.
    pub carried: watch::Sender<Option<Digest>>,
    /// ConfigurationEvent whether the API server asks before governed operations.
    pub standing: watch::Sender<WebhookStatus>,
    /// The Certificate whose CA cert-manager writes into the configurations, in place of ours.
    pub certificate: Option<String>,
    /// For governed operations.
    pub failure_policy: FailurePolicy,
    /// For pods that ask for an identity.
    pub injection_failure_policy: FailurePolicy,
}

/// Names of the configurations that belong to a Service: reviews, operations, and the one that changes pods.
pub fn names(service: &str) -> [String; 3] {
    ["resources", "operations", "injection"].map(|name| format!("{service}-{name}"))
}

/// A configuration of either kind, as it should be.
#[derive(Debug, Clone, PartialEq)]
pub struct WebhookConfiguration {
    resource: ApiResource,
    name: String,
    /// As the API server stores them.
    webhooks: Value,
}

impl WebhookConfiguration {
    fn of<K: Resource<DynamicType = ()>>(name: String, webhooks: &impl Serialize) -> Self {
        let webhooks = sorted(serde_json::to_value(webhooks).unwrap_or_default());
        Self { resource: ApiResource::erase::<K>(&()), name, webhooks }
    }
}

impl WebhookConfigurations {
    fn wanted(&self, snapshot: &Snapshot) -> [WebhookConfiguration; 3] {
        let [resources, operations, injection] = names(&self.service);
        [
            WebhookConfiguration::of::<ValidatingWebhookConfiguration>(resources, &self.resources()),
            WebhookConfiguration::of::<ValidatingWebhookConfiguration>(operations, &[self.operations(snapshot)]),
            WebhookConfiguration::of::<MutatingWebhookConfiguration>(injection, &self.injection()),
        ]
    }

    /// Pods that carry the label, and pods without it in namespaces that do. Only those wait for an answer.
    fn injection(&self) -> Vec<MutatingWebhook> {
        let labelled = |operator: &str, values: &[&str]| LabelSelectorRequirement {
            key: INJECTION_LABEL.to_owned(),
            operator: operator.to_owned(),
            values: (!values.is_empty()).then(|| values.iter().map(|value| (*value).to_owned()).collect()),
        };
        let select = |requirements| Some(LabelSelector { match_expressions: Some(requirements), match_labels: None });
        let pods = RuleWithOperations {
            api_groups: Some(vec![String::new()]),
            api_versions: Some(vec!["v1".to_owned()]),
            operations: Some(vec!["CREATE".to_owned()]),
            resources: Some(vec!["pods".to_owned()]),
            scope: Some("Namespaced".to_owned()),
        };
        let webhook = |name: &str, path: &str, namespaces, objects| MutatingWebhook {
            name: name.to_owned(),
            admission_review_versions: vec!["v1".to_owned()],
            side_effects: "None".to_owned(),
            timeout_seconds: Some(TIMEOUT_SECONDS),
            match_policy: Some("Equivalent".to_owned()),
            // what other webhooks add after this one gets its mount too
            reinvocation_policy: Some("IfNeeded".to_owned()),
            failure_policy: Some(self.injection_failure_policy.as_str().to_owned()),
            rules: Some(vec![pods.clone()]),
            namespace_selector: select(namespaces),
            object_selector: select(objects),
            // pods of Deployments are made by the control plane, so who asks says nothing
            match_conditions: None,
            client_config: self.client_config(path),
        };
        let outside = LabelSelectorRequirement {
            key: NAMESPACE_NAME.to_owned(),
            operator: "NotIn".to_owned(),
            values: Some(vec!["kube-system".to_owned(), self.namespace.clone()]),
        };
        let own =
            webhook("pods.injection.durward.dev", INJECTION_PATH, vec![outside.clone()], vec![labelled("Exists", &[])]);
        let of_namespaces = InjectionMode::INJECTING.map(|mode| {
            webhook(
                &format!("{}.injection.durward.dev", mode.as_str()),
                &format!("{NAMESPACE_INJECTION_PATH}{}", mode.as_str()),
                vec![outside.clone(), labelled("In", &[mode.as_str()])],
                vec![labelled("DoesNotExist", &[])],
            )
        });
        [own].into_iter().chain(of_namespaces).collect()
    }

    /// Reviews of Durward's own resources. What they would refuse is not put in force either way, so nothing waits for
    /// an answer that does not come.
    fn resources(&self) -> [ValidatingWebhook; 1] {
        let rule = RuleWithOperations {
            api_groups: Some(vec![GROUP.to_owned()]),
            api_versions: Some(vec![VERSION.to_owned()]),
            operations: Some(vec!["CREATE".to_owned(), "UPDATE".to_owned()]),
            resources: Some(["accesspolicies", "identityproviders", "relationships"].map(ToOwned::to_owned).to_vec()),
            scope: Some("*".to_owned()),
        };
        let webhook = ValidatingWebhook {
            failure_policy: Some("Ignore".to_owned()),
            rules: Some(vec![rule]),
            ..self.webhook("resources.durward.dev", RESOURCES_PATH)
        };
        [webhook]
    }

    /// Decisions on operations: only the requests that some policy declares, only in the namespaces of such policies.
    fn operations(&self, snapshot: &Snapshot) -> ValidatingWebhook {
        let (mut namespaces, mut patterns) = (BTreeSet::new(), BTreeSet::new());
        for (namespace, services) in snapshot.governed_namespaces() {
            namespaces.insert(namespace.to_string());
            patterns.extend(services.iter().flat_map(|service| service.kubernetes()).map(rule));
        }
        let within = |operator: &str, values| LabelSelectorRequirement {
            key: NAMESPACE_NAME.to_owned(),
            operator: operator.to_owned(),
            values: Some(values),
        };
        let selector = if namespaces.len() <= MAX_NAMESPACES {
            within("In", namespaces.into_iter().collect())
        } else {
            within("NotIn", vec!["kube-system".to_owned(), self.namespace.clone()])
        };
        // Without rules it is never asked. It stays nevertheless: cert-manager's injector can have written to it, and what
        // two have written one can't remove.
        let governed = !patterns.is_empty();
        ValidatingWebhook {
            failure_policy: Some(self.failure_policy.as_str().to_owned()),
            rules: governed.then(|| patterns.into_iter().map(written).collect()),
            namespace_selector: Some(LabelSelector {
                match_expressions: governed.then(|| vec![selector]),
                match_labels: None,
            }),
            match_conditions: Some(self.recovery()),
            ..self.webhook("operations.durward.dev", OPERATIONS_PATH)
        }
    }

    /// What the cluster needs to recover is never put to a webhook, whether it answers or not: kube-system, our own
    /// namespace, and the control plane and nodes themselves.
    fn recovery(&self) -> Vec<MatchCondition> {
        let condition = |name: &str, expression: String| MatchCondition { name: name.to_owned(), expression };
        vec![
            condition(
                "not-the-cluster-itself",
                format!("!(request.namespace in ['kube-system', '{}'])", self.namespace),
            ),
            condition(
                "not-the-control-plane",
                "!(request.userInfo.username.startsWith('system:kube-') || request.userInfo.username.startsWith('system:serviceaccount:kube-system:') || (has(request.userInfo.groups) && 'system:nodes' in request.userInfo.groups))".to_owned(),
            ),
        ]
    }

    fn webhook(&self, name: &str, path: &str) -> ValidatingWebhook {
        ValidatingWebhook {
            name: name.to_owned(),
            admission_review_versions: vec!["v1".to_owned()],
            side_effects: "None".to_owned(),
            timeout_seconds: Some(TIMEOUT_SECONDS),
            match_policy: Some("Equivalent".to_owned()),
            // said, so that what others put there is seen to be other than this
            namespace_selector: Some(LabelSelector::default()),
            object_selector: Some(LabelSelector::default()),
            client_config: self.client_config(path),
            ..ValidatingWebhook::default()
        }
    }

    fn client_config(&self, path: &str) -> WebhookClientConfig {
        WebhookClientConfig {
            ca_bundle: self
                .certificate
                .is_none()
                .then(|| ByteString(self.authorities.current().roots_pem().into_bytes())),
            service: Some(ServiceReference {
                name: self.service.clone(),
                namespace: self.namespace.clone(),
                path: Some(path.to_owned()),
                port: Some(self.port),
            }),
            url: None,
        }
    }
}

fn metadata(name: String, certificate: Option<&str>) -> ObjectMeta {
    let labels = BTreeMap::from([("app.kubernetes.io/managed-by".to_owned(), FIELD_MANAGER.to_owned())]);
    let annotations = certificate.map(|certificate| [(INJECT_CA.to_owned(), certificate.to_owned())].into());
    ObjectMeta { name: Some(name), labels: Some(labels), annotations, ..ObjectMeta::default() }
}

/// Groups, resources and verbs of a rule, in the order in which rules are written.
type RuleKey = (String, String, String);

fn rule(pattern: &ApiPattern) -> RuleKey {
    let group = pattern.group.as_deref().unwrap_or("*").to_owned();
    (group, pattern.resources(), pattern.verb.map_or("*", Verb::as_str).to_owned())
}

fn written((group, resources, verb): RuleKey) -> RuleWithOperations {
    RuleWithOperations {
        api_groups: Some(vec![group]),
        api_versions: Some(vec!["*".to_owned()]),
        operations: Some(vec![verb]),
        resources: Some(vec![resources]),
        scope: Some("Namespaced".to_owned()),
    }
}

/// Ends the replicas of an installation and removes its webhook configurations, which would refuse every governed
/// operation without them.
///
/// # Errors
/// When the API server refuses.
pub async fn remove(client: Client, namespace: &str, service: &str) -> Result<Vec<String>, Failure> {
    // or the leader would write them again
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), namespace);
    let none = Patch::Merge(serde_json::json!({"spec": {"replicas": 0}}));
    match deployments.patch_metadata(service, &PatchParams::default(), &none).await {
        Ok(_) => {}
        Err(kube::Error::Api(status)) if status.code == 404 => {}
        Err(error) => return Err(format!("deployment `{service}` can't be scaled down: {}", redacted(&error)).into()),
    }
    gone(&client, namespace, service).await;
    let [resources, operations, injection] = names(service);
    let mut removed = Vec::new();
    for name in [resources, operations] {
        removed.extend(delete::<ValidatingWebhookConfiguration>(&client, name).await?);
    }
    removed.extend(delete::<MutatingWebhookConfiguration>(&client, injection).await?);
    Ok(removed)
}

/// Waits until no replica is left, not even one that is about to end: the one that leads would put back what is removed.
async fn gone(client: &Client, namespace: &str, service: &str) {
    let resource = ApiResource::erase::<Deployment>(&());
    let deployments: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &resource);
    let pods: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &ApiResource::erase::<Pod>(&()));
    for _ in 0..GONE_WITHIN {
        let left = async {
            let deployment = deployments.get_opt(service).await?;
            let labels = deployment
                .as_ref()
                .and_then(|it| it.data.get("spec")?.get("selector")?.get("matchLabels")?.as_object());
            let Some(labels) = labels else { return Ok(0) };
            let labels = labels.iter().filter_map(|(name, value)| Some(format!("{name}={}", value.as_str()?)));
            let labels = ListParams::default().labels(&labels.collect::<Vec<_>>().join(","));
            Ok::<_, kube::Error>(pods.list(&labels).await?.items.len())
        };
        if left.await.is_ok_and(|left| left == 0) {
            return;
        }
        sleep(Duration::from_secs(1)).await;
    }
}

/// Removes one configuration; tells its name if it was there.
async fn delete<K>(client: &Client, name: String) -> Result<Option<String>, Failure>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
{
    match Api::<K>::all(client.clone()).delete(&name, &DeleteParams::default()).await {
        Ok(_) => Ok(Some(name)),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
        Err(error) => Err(format!("webhook configuration `{name}` can't be removed: {}", redacted(&error)).into()),
    }
}

#[cfg(test)]
mod tests;
