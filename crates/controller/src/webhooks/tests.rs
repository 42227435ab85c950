//! Rules follow the policies.

use super::*;
use durward_api::catalog::{Catalog, CatalogChange};
use durward_api::compile::ClusterDomains;
use durward_api::resources::AccessPolicy;
use durward_identity::Trust;
use durward_pki::authority::CertificateAuthority;
use durward_pki::serial::CertificateSerial;
use std::sync::Arc;

fn snapshot(policies: &[(&str, &str)]) -> Snapshot {
    let settings = ClusterDomains { trust_domain: "cluster.local".into(), cluster_domain: "cluster.local".into() };
    let mut catalog = Catalog::new(settings);
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
    let fates = catalog.apply(changes);
    assert!(fates.iter().all(|(_, fate)| fate.rejected.is_none()), "{fates:?}");
    catalog.snapshot().clone()
}

fn webhooks() -> Webhooks {
    let authority =
        CertificateAuthority::create("cluster.local", chrono::Utc::now(), CertificateSerial::unbound([1; 15])).unwrap();
    Webhooks {
        service: "durward".into(),
        namespace: "durward-system".into(),
        port: 8443,
        authorities: Authorities::new(Trust::of(Arc::new(authority))),
        carried: watch::Sender::new(None),
        standing: watch::Sender::default(),
        certificate: None,
        failure_policy: FailurePolicy::Fail,
        injection_failure_policy: FailurePolicy::Fail,
    }
}

#[test]
fn without_such_a_policy_there_is_no_rule() {
    let webhook = webhooks().operations(&snapshot(&[("shop", "")]));
    assert_eq!((webhook.rules, webhook.namespace_selector), (None, Some(LabelSelector::default())));
}

#[test]
fn what_cert_manager_writes_is_not_written_in_its_place() {
    let webhooks = Webhooks { certificate: Some("durward-system/durward-webhooks".into()), ..webhooks() };
    for configuration in webhooks.wanted(&snapshot(&[])) {
        let clients = configuration.webhooks.as_array().into_iter().flatten().map(|webhook| &webhook["clientConfig"]);
        let clients: Vec<_> = clients.collect();
        assert!(!clients.is_empty() && clients.iter().all(|client| client.get("caBundle").is_none()), "{clients:?}");
    }
}

#[test]
fn rules_are_what_policies_declare_where_they_declare_it() {
    let exec = "{apiGroups: [''], resources: [pods/exec], verbs: [CONNECT]}";
    let scale = "{apiGroups: [apps], resources: [deployments/scale, '*/*'], verbs: ['*']}";
    let world = snapshot(&[("shop", exec), ("farm", exec), ("bank", scale), ("other", "")]);
    let webhook = webhooks().operations(&world);
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
    let spared: String =
        webhook.match_conditions.iter().flatten().map(|condition| condition.expression.as_str()).collect();
    assert!(spared.contains("'kube-system', 'durward-system'") && spared.contains("system:nodes"), "{spared}");
}

#[test]
fn the_same_policies_make_the_same_configuration() {
    let exec = "{apiGroups: [''], resources: [pods/exec], verbs: [CONNECT]}";
    let pods = "{apiGroups: [''], resources: [pods], verbs: [CREATE, DELETE]}";
    let webhooks = webhooks();
    let one = webhooks.operations(&snapshot(&[("shop", exec), ("farm", pods)]));
    let other = webhooks.operations(&snapshot(&[("farm", pods), ("shop", exec)]));
    assert_eq!(one, other);
}

#[test]
fn reviews_of_our_own_resources_never_stand_in_the_way() {
    let webhook = webhooks().resources().into_iter().next().unwrap();
    assert_eq!(webhook.failure_policy.as_deref(), Some("Ignore"));
    assert_eq!(webhook.side_effects, "None");
}
