//! The CEL rules of the CRDs: examples that they accept, and examples that they refuse with the exact messages.
//!
//! The test applies them as the API server does: defaults first, then each rule at each place where its schema applies.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a failed expectation fails the test"
)]

use cel::extractors::This;
use cel::{Context, Program, Value as Cel};
use durward_api::crd;
use regex::Regex;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, LazyLock};

/// A refusal by a rule, with the place of the rule in the schema.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Refusal {
    /// `spec.operations[]` and the rule.
    rule: (String, String),
    /// `spec.operations[1]: message`.
    text: String,
}

/// The schemas of all kinds.
static SCHEMAS: LazyLock<BTreeMap<String, Value>> = LazyLock::new(|| {
    let schema = |crd| {
        let mut crd = serde_json::to_value(crd).expect("JSON");
        let kind = crd["spec"]["names"]["kind"].as_str().expect("kind").to_owned();
        (kind, crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"].take())
    };
    crd::crds().expect("CRDs").iter().map(schema).collect()
});

fn apply_defaults(schema: &Value, value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
                if let Some(default) = inner.get("default") {
                    fields.entry(name).or_insert_with(|| default.clone());
                }
            }
            for (name, field) in fields {
                let inner = schema["properties"].get(name).unwrap_or(&schema["additionalProperties"]);
                apply_defaults(inner, field);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| apply_defaults(&schema["items"], item)),
        _ => {}
    }
}

/// A value as the API server passes it to rules. Older API servers rename fields that are keywords of CEL; newer ones
/// provide both names ("Validation rules" of Kubernetes' custom resources).
fn escaped(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let escape = |name: &String| if name == "namespace" { "__namespace__".to_owned() } else { name.clone() };
            Value::Object(fields.iter().map(|(name, field)| (escape(name), escaped(field))).collect())
        }
        Value::Array(items) => items.iter().map(escaped).collect(),
        other => other.clone(),
    }
}

/// The function of the API server. Durward's own conditions have another one, so the library is built without.
fn matches(This(text): This<Arc<String>>, pattern: Arc<String>) -> bool {
    Regex::new(&pattern).expect("a pattern").is_match(&text)
}

fn judge(schema: &Value, value: &Value, place: &str, path: &str, refusals: &mut Vec<Refusal>) {
    for rule in schema["x-kubernetes-validations"].as_array().into_iter().flatten() {
        let message = rule["message"].as_str().expect("message");
        let rule = rule["rule"].as_str().expect("rule");
        let program = Program::compile(rule).unwrap_or_else(|error| panic!("{place}: `{rule}`: {error}"));
        let mut context = Context::default();
        context.add_variable("self", escaped(value)).expect("a value");
        context.add_function("matches", matches).expect("a function");
        match program.execute(&context) {
            Ok(Cel::Bool(true)) => {}
            Ok(Cel::Bool(false)) => {
                refusals.push(Refusal { rule: (place.to_owned(), rule.to_owned()), text: format!("{path}: {message}") })
            }
            other => panic!("{place}: `{rule}` over {value}: {other:?}"),
        }
    }
    let at = |base: &str, name: &str| if base.is_empty() { name.to_owned() } else { format!("{base}.{name}") };
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                if let Some(inner) = schema["properties"].get(name) {
                    judge(inner, field, &at(place, name), &at(path, name), refusals);
                } else if schema["additionalProperties"].is_object() {
                    let inner = &schema["additionalProperties"];
                    judge(inner, field, &format!("{place}{{}}"), &at(path, name), refusals);
                }
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                judge(&schema["items"], item, &format!("{place}[]"), &format!("{path}[{index}]"), refusals);
            }
        }
        _ => {}
    }
}

/// The refusals of a resource, given as YAML with `kind` and `spec`.
fn refusals(yaml: &str) -> Vec<Refusal> {
    let mut resource: Value = serde_saphyr::from_str(yaml).expect("YAML");
    let kind = resource["kind"].as_str().expect("kind").to_owned();
    let schema = &SCHEMAS[&kind];
    apply_defaults(schema, &mut resource);
    let mut found = Vec::new();
    judge(schema, &resource, "", "", &mut found);
    found
}

fn policy(spec: &str) -> String {
    format!("kind: AccessPolicy\nspec: {spec}")
}

fn provider(spec: &str) -> String {
    format!("kind: IdentityProvider\nspec: {spec}")
}

fn accepts(yaml: &str) {
    assert_eq!(refusals(yaml), [], "{yaml}");
}

fn operation(fields: &str) -> String {
    policy(&format!("{{operations: [{{name: a, {fields}}}]}}"))
}

fn subject(fields: &str) -> String {
    policy(&format!("{{grants: [{{name: a, scopes: [x], to: [{{{fields}}}]}}]}}"))
}

const HTTP: &str = "http: [{methods: [GET], paths: [/]}]";

/// Examples, each with its one refusal.
fn refused() -> Vec<(String, &'static str)> {
    let methods_text = "spec.authentication[0]: exactly one of `workload` and `provider` must be given";
    let one_rule = "spec.relations[0].relations.r: at most one of `union`, `intersection`, `exclusion`, `this` and \
                    `relation` can be given";
    let mut table = vec![
        (policy("{authentication: [{}]}"), methods_text),
        (policy("{authentication: [{workload: {}, provider: x}]}"), methods_text),
        (
            operation("scopes: [x]"),
            "spec.operations[0]: an operation needs at least one of `http`, `grpc` and `kubernetes`",
        ),
        (
            operation(&format!("{HTTP}, public: true, scopes: [x]")),
            "spec.operations[0]: a public operation can't require scopes: remove `scopes` or `public`",
        ),
        (
            operation(&format!("{HTTP}, public: true, risk: High")),
            "spec.operations[0]: a public operation can't have `risk: High`",
        ),
        (operation(&format!("{HTTP}, stepUp: {{}}")), "spec.operations[0]: `stepUp` is only for `risk: High`"),
        (
            operation(&format!("{HTTP}, stepUp: {{}}, risk: Low")),
            "spec.operations[0]: `stepUp` is only for `risk: High`",
        ),
        (
            operation(&format!("{HTTP}, approval: {{by: [{{provider: a}}]}}")),
            "spec.operations[0]: `approval` is only for `risk: High`",
        ),
        (
            policy("{headers: [x-durward-principal]}"),
            "spec.headers[0]: conditions can't read credentials; the verified caller is `principal`",
        ),
        (
            policy("{headers: [x-tenant, cookie]}"),
            "spec.headers[1]: conditions can't read credentials; the verified caller is `principal`",
        ),
        (policy("{headers: [host]}"), "spec.headers[0]: `host` is read as `request.host`"),
        (policy("{roles: [{name: a}]}"), "spec.roles[0]: a role needs at least one of `scopes` and `includes`"),
        (
            policy("{grants: [{name: a, to: [{authenticated: true}]}]}"),
            "spec.grants[0]: a grant needs at least one of `scopes` and `roles`",
        ),
        (policy("{relations: [{object: o, relations: {r: {this: {}, relation: x}}}]}"), one_rule),
        (policy("{relations: [{object: o, relations: {r: {union: [{}], exclusion: [{}]}}}]}"), one_rule),
        (
            policy("{relations: [{object: o, relations: {r: {from: x}}}]}"),
            "spec.relations[0].relations.r: `from` needs `relation`: the relation to look up on the other object",
        ),
    ];
    for host in ["a:80", "*.a", "*", "[::1]:80", "::1"] {
        let yaml = policy(&format!("{{service: {{hosts: ['{host}']}}}}"));
        table.push((yaml, "spec.service.hosts[0]: a host has no wildcard and no port"));
    }
    for method in ["get", "Get", "**", "GET,POST", ""] {
        let yaml = operation(&format!("http: [{{methods: ['{method}'], paths: [/]}}]"));
        table.push((yaml, "spec.operations[0].http[0].methods[0]: write methods in upper case, or `*` for any"));
    }
    for path in ["orders", "*", "https://x/orders"] {
        let yaml = operation(&format!("http: [{{methods: [GET], paths: [/, '{path}']}}]"));
        table.push((yaml, "spec.operations[0].http[0].paths[1]: a path starts with `/`"));
    }
    table.extend(refused_subjects());
    table.extend(refused_providers());
    table
}

/// Examples of grants, denials and approvers, each with its one refusal.
fn refused_subjects() -> Vec<(String, &'static str)> {
    let subject_text = "spec.grants[0].to[0]: exactly one of `serviceAccount`, `namespace`, `namespaceSelector`, `spiffe`, \
                        `principal`, `provider` (with or without `group` and `claims`) and `authenticated` must be given";
    let denied_text = "spec.denials[0].to[0]: exactly one of `serviceAccount`, `namespace`, `namespaceSelector`, `spiffe`, \
                        `principal`, `provider` (with or without `group` and `claims`) and `authenticated` must be given";
    let approver_text = "spec.operations[0].approval.by[0]: exactly one of `serviceAccount`, `namespace`, `namespaceSelector`, \
                         `spiffe`, `principal`, `provider` (with or without `group` and `claims`) and `authenticated` must be given";
    let approver = |by: &str| operation(&format!("{HTTP}, risk: High, approval: {{by: [{by}]}}"));
    vec![
        (approver("{}"), approver_text),
        (approver("{group: a}"), "spec.operations[0].approval.by[0]: `group` and `claims` need their `provider`"),
        (approver("{authenticated: false}"), "spec.operations[0].approval.by[0]: `authenticated` can only be `true`"),
        (subject(""), subject_text),
        (subject("principal: 'user:a/b', authenticated: true"), subject_text),
        (subject("serviceAccount: {namespace: a, name: b}, provider: c"), subject_text),
        (subject("authenticated: true, group: a, provider: b"), subject_text),
        (subject("group: a"), "spec.grants[0].to[0]: `group` and `claims` need their `provider`"),
        (subject("authenticated: false"), "spec.grants[0].to[0]: `authenticated` can only be `true`"),
        (policy("{denials: [{name: a, to: [{}]}]}"), denied_text),
        (
            policy("{denials: [{name: a, to: [{group: a}]}]}"),
            "spec.denials[0].to[0]: `group` and `claims` need their `provider`",
        ),
        (
            policy("{denials: [{name: a, to: [{authenticated: false}]}]}"),
            "spec.denials[0].to[0]: `authenticated` can only be `true`",
        ),
    ]
}

/// Examples of providers, each with its one refusal.
fn refused_providers() -> Vec<(String, &'static str)> {
    let uri_text = "spec.jwt.jwksUri: write an https URL (http only for localhost)";
    let discovered = "spec.jwt: `issuer` must be an https URL (http only for localhost) when its keys are discovered; \
                      for another issuer give `jwksUri` or `jwks`";
    let one_provider = "spec: exactly one of `jwt`, `apiKey` and `x509` must be given";
    let mut table = vec![
        (provider("{}"), one_provider),
        (provider("{apiKey: {selector: {}}, x509: {trustDomain: a, bundle: b}}"), one_provider),
        (
            provider("{jwt: {issuer: x, jwksUri: 'https://x', jwks: {keys: []}}}"),
            "spec.jwt: `jwksUri` and `jwks` exclude each other",
        ),
        (
            provider("{x509: {trustDomain: a}}"),
            "spec.x509: set the source of the trust bundle: `bundle`, `endpoint`, or both",
        ),
        (
            provider(
                "{x509: {trustDomain: a, endpoint: {url: 'https://x', profile: https_spiffe, spiffeId: 'spiffe://a/b'}}}",
            ),
            "spec.x509: profile `https_spiffe` needs an initial `bundle`, which verifies the endpoint",
        ),
        (
            provider("{x509: {trustDomain: a, bundle: b, endpoint: {url: 'https://x', profile: https_spiffe}}}"),
            "spec.x509.endpoint: `spiffeId` is required with profile `https_spiffe`, and allowed only with it",
        ),
        (
            provider(
                "{x509: {trustDomain: a, endpoint: {url: 'https://x', profile: https_web, spiffeId: 'spiffe://a/b'}}}",
            ),
            "spec.x509.endpoint: `spiffeId` is required with profile `https_spiffe`, and allowed only with it",
        ),
        (
            provider("{x509: {trustDomain: a, endpoint: {url: 'http://localhost', profile: https_web}}}"),
            "spec.x509.endpoint.url: write an https URL",
        ),
        (provider("{jwt: {issuer: x}}"), discovered),
        (provider("{jwt: {issuer: 'http://x'}}"), discovered),
        (provider("{jwt: {issuer: 'http://localhost.evil.example'}}"), discovered),
    ];
    for uri in ["http://x/jwks", "http://localhostess/", "http://127.0.0.1@x/", "http://127a0b0c1/", "ftp://x", "x"] {
        table.push((provider(&format!("{{jwt: {{issuer: x, jwksUri: '{uri}'}}}}")), uri_text));
    }
    table
}

#[test]
fn each_mistake_is_refused_with_its_own_message() {
    for (yaml, message) in refused() {
        let texts: Vec<_> = refusals(&yaml).into_iter().map(|refusal| refusal.text).collect();
        assert_eq!(texts, [message], "{yaml}");
    }
    // two mistakes at one place
    let step_up = operation(&format!("{HTTP}, public: true, stepUp: {{}}"));
    assert_eq!(refusals(&step_up).len(), 2);
}

#[test]
fn every_rule_refuses_an_example() {
    let mut unmatched = BTreeSet::new();
    for schema in SCHEMAS.values() {
        collect("", schema, &mut unmatched);
    }
    assert!(unmatched.len() >= 20, "the walk finds the rules: {unmatched:?}");
    // a rule about changes of an object needs an API server
    unmatched.retain(|(_, rule)| !rule.contains("oldSelf"));
    let step_up = operation(&format!("{HTTP}, public: true, stepUp: {{}}"));
    for yaml in refused().into_iter().map(|(yaml, _)| yaml).chain([step_up]) {
        for refusal in refusals(&yaml) {
            unmatched.remove(&refusal.rule);
        }
    }
    assert_eq!(unmatched, BTreeSet::new());
}

/// Every rule with its place.
fn collect(place: &str, schema: &Value, rules: &mut BTreeSet<(String, String)>) {
    for rule in schema["x-kubernetes-validations"].as_array().into_iter().flatten() {
        rules.insert((place.to_owned(), rule["rule"].as_str().expect("rule").to_owned()));
    }
    for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
        let place = if place.is_empty() { name.clone() } else { format!("{place}.{name}") };
        collect(&place, inner, rules);
    }
    for (key, mark) in [("items", "[]"), ("additionalProperties", "{}")] {
        if schema[key].is_object() {
            collect(&format!("{place}{mark}"), &schema[key], rules);
        }
    }
}

#[test]
fn valid_resources_are_accepted() {
    accepts(include_str!("orders.yaml"));
    accepts(&policy("{}"));
    for fields in [
        "principal: 'user:corporate/alice'",
        "provider: corporate",
        "provider: corporate, group: support",
        "provider: corporate, claims: {department: finance}",
        "namespace: billing",
        "namespaceSelector: {matchLabels: {team: a}}",
        "spiffe: 'spiffe://cluster.local/ns/*/sa/billing'",
        "authenticated: true",
        "serviceAccount: {namespace: a, name: b}",
    ] {
        accepts(&subject(fields));
    }
    accepts(&operation(&format!("{HTTP}, public: true, risk: Low")));
    accepts(&operation(&format!("{HTTP}, public: false, scopes: [x], risk: High, stepUp: {{maxAge: 5m}}")));
    accepts(&operation("http: [{methods: ['*', M-SEARCH], paths: ['/*']}]"));
    accepts(&policy("{service: {hosts: [a.example, '[::1]', 127.0.0.1]}}"));
    for spec in [
        "{jwt: {issuer: 'https://login.example.com'}}",
        "{jwt: {issuer: 'http://localhost:8080/realms/x'}}",
        "{jwt: {issuer: 'http://[::1]:8080'}}",
        "{jwt: {issuer: kubernetes/serviceaccount, jwks: {keys: []}}}",
        "{jwt: {issuer: x, jwksUri: 'http://127.0.0.1/jwks'}}",
        "{apiKey: {selector: {matchLabels: {a: b}}}}",
        "{x509: {trustDomain: partner.example, bundle: '{}'}}",
        "{x509: {trustDomain: partner.example, endpoint: {url: 'https://x', profile: https_web}}}",
        "{x509: {trustDomain: partner.example, bundle: '{}', endpoint: {url: 'https://x', profile: https_spiffe, spiffeId: 'spiffe://partner.example/spire/server'}}}",
    ] {
        accepts(&provider(spec));
    }
    accepts(
        "kind: Relationship\nspec: {service: orders-api, tuples: [{object: 'order:1', relation: owner, subject: a}]}",
    );
}
