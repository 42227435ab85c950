//! The desired configurations, by policy.

use super::*;
use durward_api::catalog::{Catalog, CatalogChange};
use durward_api::compile::ClusterDomains;
use durward_api::resources::AccessPolicy;
use durward_core::snapshot::Snapshot;
use durward_identity::TrustState;
use durward_pki::authority::CertificateAuthority;
use durward_pki::serial::CertificateSerial;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use std::sync::Arc;

fn snapshot(policies: &[(&str, &str)]) -> Snapshot {
    let domains = ClusterDomains { trust_domain: "cluster.local".into(), cluster_domain: "cluster.local".into() };
    let mut catalog = Catalog::new(domains);
    let changes = policies.iter().map(|(namespace, kubernetes)| {
        let operation = match *kubernetes {
            "" => "http: [{methods: [GET], paths: [/]}]".to_owned(),
            kubernetes => format!("kubernetes: [{kubernetes}]"),
        };
        let text = format!(
            "{{apiVersion: durward.dev/v1alpha1, kind: AccessPolicy, metadata: {{name: p, namespace: {namespace}}}, \
             spec: {{operations: [{{name: x, {operation}}}]}}}}"
        );
        let policy: AccessPolicy = serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
        CatalogChange::PolicyApplied(Box::new(policy))
    });
    let statuses = catalog.apply(changes);
    assert!(statuses.iter().all(|(_, status)| status.rejected.is_none()), "{statuses:?}");
    catalog.snapshot().clone()
}

fn webhooks() -> WebhookConfigurations {
    let authority =
        CertificateAuthority::create("cluster.local", chrono::Utc::now(), CertificateSerial::unbound([1; 15])).unwrap();
    WebhookConfigurations {
        service: "durward".into(),
        namespace: "durward-system".into(),
        port: 8443,
        authorities: Authorities::new(TrustState::steady(Arc::new(authority))),
        roots: watch::Sender::new(None),
        status: watch::Sender::default(),
        certificate: None,
        failure_policy: FailurePolicy::Fail,
        injection_failure_policy: FailurePolicy::Fail,
    }
}

#[test]
fn without_governed_operations_there_is_no_rule() {
    let webhook = webhooks().operations(&snapshot(&[("shop", "")]));
    assert_eq!((webhook.rules, webhook.namespace_selector), (None, Some(LabelSelector::default())));
}

#[test]
fn durward_writes_no_ca_where_cert_manager_injects_one() {
    let webhooks = WebhookConfigurations { certificate: Some("durward-system/durward-webhooks".into()), ..webhooks() };
    for configuration in webhooks.desired(&snapshot(&[])) {
        let clients = configuration.webhooks.as_array().into_iter().flatten().map(|webhook| &webhook["clientConfig"]);
        let clients: Vec<_> = clients.collect();
        assert!(!clients.is_empty() && clients.iter().all(|client| client.get("caBundle").is_none()), "{clients:?}");
    }
}

#[test]
fn rules_cover_declared_operations_in_their_namespaces() {
    let exec = "{apiGroups: [''], resources: [pods/exec], verbs: [CONNECT]}";
    let scale = "{apiGroups: [apps], resources: [deployments/scale, '*/*'], verbs: ['*']}";
    let snapshot = snapshot(&[("shop", exec), ("farm", exec), ("bank", scale), ("other", "")]);
    let webhook = webhooks().operations(&snapshot);
    let rules: Vec<String> = webhook
        .rules
        .iter()
        .flatten()
        .map(|rule| {
            let text = |list: &Option<Vec<String>>| list.clone().unwrap_or_default().join(",");
            format!("{} {} {} {:?}", text(&rule.operations), text(&rule.resources), text(&rule.api_groups), rule.scope)
        })
        .collect();
    assert_eq!(
        rules,
        [
            "CONNECT pods/exec  Some(\"Namespaced\")",
            "* */* apps Some(\"Namespaced\")",
            "* deployments/scale apps Some(\"Namespaced\")",
        ]
    );
    let selector = webhook.namespace_selector.and_then(|selector| selector.match_expressions).unwrap_or_default();
    assert_eq!(selector[0].values.as_deref(), Some(["bank".into(), "farm".into(), "shop".into()].as_slice()));
    assert_eq!(webhook.failure_policy.as_deref(), Some("Fail"));
    let conditions: String =
        webhook.match_conditions.iter().flatten().map(|condition| condition.expression.as_str()).collect();
    assert!(
        conditions.contains("'kube-system', 'durward-system'") && conditions.contains("system:nodes"),
        "{conditions}"
    );
}

#[test]
fn the_order_of_policies_does_not_change_the_configuration() {
    let exec = "{apiGroups: [''], resources: [pods/exec], verbs: [CONNECT]}";
    let pods = "{apiGroups: [''], resources: [pods], verbs: [CREATE, DELETE]}";
    let webhooks = webhooks();
    let one = webhooks.operations(&snapshot(&[("shop", exec), ("farm", pods)]));
    let other = webhooks.operations(&snapshot(&[("farm", pods), ("shop", exec)]));
    assert_eq!(one, other);
}

#[test]
fn reviews_of_durward_resources_never_block_the_api_server() {
    let webhook = webhooks().resources();
    assert_eq!(webhook.failure_policy.as_deref(), Some("Ignore"));
    assert_eq!(webhook.side_effects, "None");
}
