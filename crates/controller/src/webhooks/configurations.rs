//! The desired webhook configurations, built from the snapshot.

use super::{INJECT_CA, WebhookConfiguration, WebhookConfigurations, configuration_names};
use durward_api::resources::{GROUP, VERSION};
use durward_core::kubernetes::{ApiPattern, Verb};
use durward_core::snapshot::Snapshot;
use durward_doors::admission::{
    INJECTION_LABEL, INJECTION_PATH, InjectionMode, NAMESPACE_INJECTION_PATH, OPERATIONS_PATH, RESOURCES_PATH,
};
use durward_kubernetes::requests::FIELD_MANAGER;
use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::{
    MatchCondition, MutatingWebhook, MutatingWebhookConfiguration, RuleWithOperations, ServiceReference,
    ValidatingWebhook, ValidatingWebhookConfiguration, WebhookClientConfig,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};
use kube::api::ObjectMeta;
use std::collections::{BTreeMap, BTreeSet};

/// How long the API server waits for an answer.
const TIMEOUT_SECONDS: i32 = 5;
/// Most namespaces that a selector lists. With more, the webhook is called in all namespaces and answers for itself.
const MAX_NAMESPACES: usize = 1000;
/// Label of every namespace with its own name.
const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";
/// The namespace of the control plane, which no webhook may block.
const KUBE_SYSTEM: &str = "kube-system";

impl WebhookConfigurations {
    pub(super) fn desired(&self, snapshot: &Snapshot) -> [WebhookConfiguration; 3] {
        let [resources, operations, injection] = configuration_names(&self.service);
        [
            WebhookConfiguration::new::<ValidatingWebhookConfiguration>(resources, &[self.resources()]),
            WebhookConfiguration::new::<ValidatingWebhookConfiguration>(operations, &[self.operations(snapshot)]),
            WebhookConfiguration::new::<MutatingWebhookConfiguration>(injection, &self.injection()),
        ]
    }

    /// Matches pods with the injection label, and pods without it in namespaces with the label. Only those pods wait for
    /// an answer.
    fn injection(&self) -> Vec<MutatingWebhook> {
        let labelled = |operator: &str, values: &[&str]| {
            let values = values.iter().map(|value| (*value).to_owned()).collect();
            requirement(INJECTION_LABEL, operator, values)
        };
        let outside = || {
            let namespaces = vec![KUBE_SYSTEM.to_owned(), self.namespace.clone()];
            requirement(NAMESPACE_NAME, "NotIn", namespaces)
        };
        let by_pod = self.injection_webhook(
            "pods.injection.durward.dev",
            INJECTION_PATH,
            vec![outside()],
            vec![labelled("Exists", &[])],
        );
        let by_namespace = InjectionMode::INJECTING.map(|mode| {
            self.injection_webhook(
                &format!("{}.injection.durward.dev", mode.as_str()),
                &format!("{NAMESPACE_INJECTION_PATH}{}", mode.as_str()),
                vec![outside(), labelled("In", &[mode.as_str()])],
                vec![labelled("DoesNotExist", &[])],
            )
        });
        [by_pod].into_iter().chain(by_namespace).collect()
    }

    fn injection_webhook(
        &self,
        name: &str,
        path: &str,
        namespaces: Vec<LabelSelectorRequirement>,
        pods: Vec<LabelSelectorRequirement>,
    ) -> MutatingWebhook {
        let select = |requirements| Some(LabelSelector { match_expressions: Some(requirements), match_labels: None });
        let creation_of_pods = RuleWithOperations {
            api_groups: Some(vec![String::new()]),
            api_versions: Some(vec!["v1".to_owned()]),
            operations: Some(vec!["CREATE".to_owned()]),
            resources: Some(vec!["pods".to_owned()]),
            scope: Some("Namespaced".to_owned()),
        };
        MutatingWebhook {
            name: name.to_owned(),
            admission_review_versions: vec!["v1".to_owned()],
            side_effects: "None".to_owned(),
            timeout_seconds: Some(TIMEOUT_SECONDS),
            match_policy: Some("Equivalent".to_owned()),
            // containers that other webhooks add later need the mount too
            reinvocation_policy: Some("IfNeeded".to_owned()),
            failure_policy: Some(self.injection_failure_policy.as_str().to_owned()),
            rules: Some(vec![creation_of_pods]),
            namespace_selector: select(namespaces),
            object_selector: select(pods),
            // the control plane creates the pods of Deployments, so the caller's name says nothing
            match_conditions: None,
            client_config: self.client_config(path),
        }
    }

    /// Reviews Durward's own resources. An invalid resource is never put in force, so nothing has to wait for an answer
    /// that does not come.
    pub(super) fn resources(&self) -> ValidatingWebhook {
        let rule = RuleWithOperations {
            api_groups: Some(vec![GROUP.to_owned()]),
            api_versions: Some(vec![VERSION.to_owned()]),
            operations: Some(vec!["CREATE".to_owned(), "UPDATE".to_owned()]),
            resources: Some(["accesspolicies", "identityproviders", "relationships"].map(ToOwned::to_owned).to_vec()),
            scope: Some("*".to_owned()),
        };
        ValidatingWebhook {
            failure_policy: Some("Ignore".to_owned()),
            rules: Some(vec![rule]),
            ..self.validating_webhook("resources.durward.dev", RESOURCES_PATH)
        }
    }

    /// Decides operations: only those that a policy declares, and only in the namespaces of such policies.
    pub(super) fn operations(&self, snapshot: &Snapshot) -> ValidatingWebhook {
        let mut namespaces = BTreeSet::new();
        let mut rules = BTreeSet::new();
        for (namespace, services) in snapshot.governed_namespaces() {
            namespaces.insert(namespace.to_string());
            rules.extend(services.iter().flat_map(|service| service.kubernetes()).map(OperationRule::new));
        }
        let selector = if namespaces.len() <= MAX_NAMESPACES {
            requirement(NAMESPACE_NAME, "In", namespaces.into_iter().collect())
        } else {
            requirement(NAMESPACE_NAME, "NotIn", vec![KUBE_SYSTEM.to_owned(), self.namespace.clone()])
        };
        // Without rules the webhook is never called. It stays in the configuration: cert-manager's injector may have
        // written to it, and server-side apply does not remove what two managers own.
        let governed = !rules.is_empty();
        ValidatingWebhook {
            failure_policy: Some(self.failure_policy.as_str().to_owned()),
            rules: governed.then(|| rules.into_iter().map(OperationRule::into_rule).collect()),
            namespace_selector: Some(LabelSelector {
                match_expressions: governed.then(|| vec![selector]),
                match_labels: None,
            }),
            match_conditions: Some(self.recovery_conditions()),
            ..self.validating_webhook("operations.durward.dev", OPERATIONS_PATH)
        }
    }

    /// Keeps what the cluster needs to recover away from the webhook: kube-system, the installation's namespace, the
    /// control plane and the nodes.
    fn recovery_conditions(&self) -> Vec<MatchCondition> {
        let condition = |name: &str, expression: String| MatchCondition { name: name.to_owned(), expression };
        let not_the_control_plane = "!(request.userInfo.username.startsWith('system:kube-') \
             || request.userInfo.username.startsWith('system:serviceaccount:kube-system:') \
             || (has(request.userInfo.groups) && 'system:nodes' in request.userInfo.groups))";
        vec![
            condition(
                "not-the-cluster-itself",
                format!("!(request.namespace in ['kube-system', '{}'])", self.namespace),
            ),
            condition("not-the-control-plane", not_the_control_plane.to_owned()),
        ]
    }

    fn validating_webhook(&self, name: &str, path: &str) -> ValidatingWebhook {
        ValidatingWebhook {
            name: name.to_owned(),
            admission_review_versions: vec!["v1".to_owned()],
            side_effects: "None".to_owned(),
            timeout_seconds: Some(TIMEOUT_SECONDS),
            match_policy: Some("Equivalent".to_owned()),
            // explicit, so that a selector that another client adds is recognized as a difference
            namespace_selector: Some(LabelSelector::default()),
            object_selector: Some(LabelSelector::default()),
            client_config: self.client_config(path),
            ..ValidatingWebhook::default()
        }
    }

    fn client_config(&self, path: &str) -> WebhookClientConfig {
        let own_ca = || ByteString(self.authorities.current().roots_pem().into_bytes());
        WebhookClientConfig {
            ca_bundle: self.certificate.is_none().then(own_ca),
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

/// Metadata of a configuration. `certificate` is the Certificate whose CA cert-manager writes into it.
pub(super) fn metadata(name: String, certificate: Option<&str>) -> ObjectMeta {
    let labels = BTreeMap::from([("app.kubernetes.io/managed-by".to_owned(), FIELD_MANAGER.to_owned())]);
    let annotations = certificate.map(|certificate| [(INJECT_CA.to_owned(), certificate.to_owned())].into());
    ObjectMeta { name: Some(name), labels: Some(labels), annotations, ..ObjectMeta::default() }
}

/// A requirement of a label selector. `Exists` and `DoesNotExist` have no values.
fn requirement(key: &str, operator: &str, values: Vec<String>) -> LabelSelectorRequirement {
    let values = if operator.ends_with("In") { Some(values) } else { None };
    LabelSelectorRequirement { key: key.to_owned(), operator: operator.to_owned(), values }
}

/// A rule of the webhook for operations, in the order in which the rules are written.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct OperationRule {
    group: String,
    resources: String,
    verb: String,
}

impl OperationRule {
    fn new(pattern: &ApiPattern) -> Self {
        Self {
            group: pattern.group.as_deref().unwrap_or("*").to_owned(),
            resources: pattern.resources(),
            verb: pattern.verb.map_or("*", Verb::as_str).to_owned(),
        }
    }

    fn into_rule(self) -> RuleWithOperations {
        RuleWithOperations {
            api_groups: Some(vec![self.group]),
            api_versions: Some(vec!["*".to_owned()]),
            operations: Some(vec![self.verb]),
            resources: Some(vec![self.resources]),
            scope: Some("Namespaced".to_owned()),
        }
    }
}
