//! The webhook configurations, kept as narrow as the policies need.

use crate::controller::api_server::{MANAGER, apply, brief};
use crate::controller::backlog::Backlog;
use crate::doors::admission::{
    INJECT, INJECTION_PATH, Mode, NAMESPACE_INJECTION_PATH, OPERATIONS_PATH, RESOURCES_PATH,
};
use crate::engine::Engine;
use crate::identity::Authorities;
use crate::process::Failure;
use durward_api::resources::{GROUP, VERSION};
use durward_core::digest::Digest;
use durward_core::kubernetes::{ApiPattern, Verb};
use durward_core::snapshot::Snapshot;
use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::{
    MatchCondition, MutatingWebhook, MutatingWebhookConfiguration, RuleWithOperations, ServiceReference,
    ValidatingWebhook, ValidatingWebhookConfiguration, WebhookClientConfig,
};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};
use kube::api::{Api, DeleteParams, DynamicObject, ObjectMeta, Patch, PatchParams};
use kube::core::ApiResource;
use kube::{Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// How long the API server waits for an answer.
const TIMEOUT_SECONDS: i32 = 5;
/// Seconds in which replicas that were scaled away have to begin their end.
const GONE_WITHIN: u32 = 30;
/// Most namespaces that one webhook names; more are told apart by the webhook's own answer.
const MAX_NAMESPACES: usize = 1000;

/// Label that every namespace carries with its own name.
const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";

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
pub(crate) struct Webhooks {
    pub(crate) service: String,
    pub(crate) namespace: String,
    pub(crate) port: i32,
    pub(crate) authorities: Authorities,
    /// Told the digest of the roots once every configuration has them.
    pub(crate) carried: watch::Sender<Option<Digest>>,
    /// For governed operations.
    pub(crate) failure_policy: FailurePolicy,
    /// For pods that ask for an identity.
    pub(crate) injection_failure_policy: FailurePolicy,
}

/// Names of the configurations that belong to a Service: reviews, operations, and the one that changes pods.
pub(crate) fn names(service: &str) -> [String; 3] {
    ["resources", "operations", "injection"].map(|name| format!("{service}-{name}"))
}

/// A configuration of either kind.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Configuration {
    Validating(ValidatingWebhookConfiguration),
    Mutating(MutatingWebhookConfiguration),
}

impl Configuration {
    fn name(&self) -> String {
        match self {
            Self::Validating(configuration) => configuration.name_any(),
            Self::Mutating(configuration) => configuration.name_any(),
        }
    }

    async fn apply(&self, client: &Client) -> Result<(), kube::Error> {
        let (name, client) = (self.name(), client.clone());
        match self {
            Self::Validating(configuration) => apply(&Api::all(client), &name, configuration).await,
            Self::Mutating(configuration) => apply(&Api::all(client), &name, configuration).await,
        }
    }
}

impl Webhooks {
    /// Keeps the configurations current while `leading`, until `shutdown`.
    pub(crate) async fn run(
        self,
        client: Client,
        engine: Arc<Engine>,
        mut leading: watch::Receiver<bool>,
        mut synced: watch::Receiver<bool>,
        shutdown: CancellationToken,
    ) -> Result<(), Failure> {
        let (mut revisions, mut trusts) = (engine.revisions(), self.authorities.changes());
        let mut backlog = Backlog::new();
        let mut written: BTreeMap<String, Configuration> = BTreeMap::new();
        loop {
            let leads = *leading.borrow_and_update() && *synced.borrow_and_update();
            let roots = self.authorities.current().digest();
            let mut all = leads;
            if leads {
                for wanted in self.wanted(&engine.snapshot()) {
                    let name = wanted.name();
                    if written.get(&name) != Some(&wanted) {
                        all = false;
                        backlog.push(name, Duration::ZERO);
                    }
                }
            } else {
                // another leader may have written something else meanwhile
                written.clear();
            }
            let carried = all.then_some(roots);
            self.carried.send_if_modified(|told| std::mem::replace(told, carried) != carried);
            tokio::select! {
                Ok(()) = trusts.changed() => {}
                Ok(()) = revisions.changed() => {}
                Ok(()) = leading.changed() => {}
                Ok(()) = synced.changed() => {}
                name = backlog.next(), if leads => {
                    let mut all = self.wanted(&engine.snapshot()).into_iter();
                    let Some(wanted) = all.find(|one| one.name() == name) else {
                        backlog.done(&name);
                        continue;
                    };
                    match wanted.apply(&client).await {
                        Ok(()) => {
                            backlog.done(&name);
                            written.insert(name, wanted);
                        }
                        Err(error) => {
                            tracing::warn!(name, error = %brief(&error), "a webhook configuration could not be written");
                            backlog.failed(name);
                        }
                    }
                }
                () = shutdown.cancelled() => return Ok(()),
            }
        }
    }

    fn wanted(&self, snapshot: &Snapshot) -> [Configuration; 3] {
        [
            Configuration::Validating(self.resources()),
            Configuration::Validating(self.operations(snapshot)),
            Configuration::Mutating(self.injection()),
        ]
    }

    /// Pods that carry the label, and pods without it in namespaces that do. Only those wait for an answer.
    fn injection(&self) -> MutatingWebhookConfiguration {
        let [.., name] = names(&self.service);
        let labelled = |operator: &str, values: &[&str]| LabelSelectorRequirement {
            key: INJECT.to_owned(),
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
        let of_namespaces = Mode::ASKED.map(|mode| {
            webhook(
                &format!("{}.injection.durward.dev", mode.as_str()),
                &format!("{NAMESPACE_INJECTION_PATH}{}", mode.as_str()),
                vec![outside.clone(), labelled("In", &[mode.as_str()])],
                vec![labelled("DoesNotExist", &[])],
            )
        });
        let all = [own].into_iter().chain(of_namespaces).collect();
        MutatingWebhookConfiguration { metadata: metadata(name), webhooks: Some(all) }
    }

    /// Reviews of Durward's own resources. What they would refuse is not put in force either way, so nothing waits for
    /// an answer that does not come.
    fn resources(&self) -> ValidatingWebhookConfiguration {
        let [name, ..] = names(&self.service);
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
        configuration(name, vec![webhook])
    }

    /// Decisions on operations: only the requests that some policy declares, only in the namespaces of such policies.
    pub(crate) fn operations(&self, snapshot: &Snapshot) -> ValidatingWebhookConfiguration {
        let (mut namespaces, mut patterns) = (BTreeSet::new(), BTreeSet::new());
        for (namespace, services) in snapshot.governed() {
            namespaces.insert(namespace.to_string());
            patterns.extend(services.iter().flat_map(|service| service.kubernetes()).map(rule));
        }
        let [_, name, _] = names(&self.service);
        if patterns.is_empty() {
            return configuration(name, Vec::new());
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
        let webhook = ValidatingWebhook {
            failure_policy: Some(self.failure_policy.as_str().to_owned()),
            rules: Some(patterns.into_iter().map(written).collect()),
            namespace_selector: Some(LabelSelector { match_expressions: Some(vec![selector]), match_labels: None }),
            match_conditions: Some(self.recovery()),
            ..self.webhook("operations.durward.dev", OPERATIONS_PATH)
        };
        configuration(name, vec![webhook])
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
            client_config: self.client_config(path),
            ..ValidatingWebhook::default()
        }
    }

    fn client_config(&self, path: &str) -> WebhookClientConfig {
        WebhookClientConfig {
            ca_bundle: Some(ByteString(self.authorities.current().roots_pem().into_bytes())),
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

fn configuration(name: String, webhooks: Vec<ValidatingWebhook>) -> ValidatingWebhookConfiguration {
    ValidatingWebhookConfiguration { metadata: metadata(name), webhooks: Some(webhooks) }
}

fn metadata(name: String) -> ObjectMeta {
    let labels = BTreeMap::from([("app.kubernetes.io/managed-by".to_owned(), MANAGER.to_owned())]);
    ObjectMeta { name: Some(name), labels: Some(labels), ..ObjectMeta::default() }
}

/// Groups, resources and verbs of a rule, in the order in which rules are written.
type Rule = (String, String, String);

fn rule(pattern: &ApiPattern) -> Rule {
    let group = pattern.group.as_deref().unwrap_or("*").to_owned();
    (group, pattern.resources(), pattern.verb.map_or("*", Verb::as_str).to_owned())
}

fn written((group, resources, verb): Rule) -> RuleWithOperations {
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
        Err(error) => return Err(format!("deployment `{service}` can't be scaled down: {}", brief(&error)).into()),
    }
    let resource = ApiResource::erase::<Deployment>(&());
    let deployments: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &resource);
    for _ in 0..GONE_WITHIN {
        let replicas = deployments
            .get_opt(service)
            .await
            .map(|found| found.and_then(|d| d.data.get("status")?.get("replicas")?.as_u64()));
        if replicas.is_ok_and(|replicas| replicas.is_none_or(|replicas| replicas == 0)) {
            break;
        }
        sleep(Duration::from_secs(1)).await;
    }
    let [resources, operations, injection] = names(service);
    let mut removed = Vec::new();
    for name in [resources, operations] {
        removed.extend(delete::<ValidatingWebhookConfiguration>(&client, name).await?);
    }
    removed.extend(delete::<MutatingWebhookConfiguration>(&client, injection).await?);
    Ok(removed)
}

/// Removes one configuration; tells its name if it was there.
async fn delete<K>(client: &Client, name: String) -> Result<Option<String>, Failure>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
{
    match Api::<K>::all(client.clone()).delete(&name, &DeleteParams::default()).await {
        Ok(_) => Ok(Some(name)),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
        Err(error) => Err(format!("webhook configuration `{name}` can't be removed: {}", brief(&error)).into()),
    }
}

#[cfg(test)]
mod tests;
