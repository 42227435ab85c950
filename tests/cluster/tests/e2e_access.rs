//! Who gets in, in a cluster: API keys that the command makes and ends there, administration, and approvals.
#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "a test says what it expects")]

mod install;

use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use install::people::{People, curl, decide};
use install::{Installed, NAMESPACE, policy};
use serde_json::{Value, json};

const VALUES: [&str; 3] = [
    "trust.proxies={0.0.0.0/0}",
    "admin.readers[0].serviceAccount.namespace=durward-system",
    "admin.readers[0].serviceAccount.name=console",
];

static INSTALLED: LazyLock<Mutex<Installed>> = LazyLock::new(|| Mutex::new(Installed::new(&VALUES)));

fn installed() -> MutexGuard<'static, Installed> {
    // a test that failed has left nothing that the next one minds
    INSTALLED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Status and body of a request over TLS.
fn get(url: &str, headers: &[String]) -> (String, String) {
    let headers = headers.iter().flat_map(|header| ["--header", header]);
    curl(&headers.chain([url]).collect::<Vec<_>>())
}

/// What each replica's door says of a request with these headers.
fn everywhere(installed: &Installed, host: &str, key: &str) -> Vec<String> {
    let headers = [
        format!("Host: {host}"),
        "X-Original-Method: GET".to_owned(),
        "X-Original-URI: /orders".to_owned(),
        format!("X-Api-Key: {key}"),
    ];
    let ask = |address: String| get(&format!("https://{address}:8143/forward-auth"), &headers).0;
    installed.addresses().into_iter().map(ask).collect()
}

#[test]
fn e2e_api_keys_are_made_replaced_and_ended_in_the_cluster() {
    let installed = installed();
    let namespace = installed.cluster.namespace("keys").expect("a namespace");
    let (name, host) = (namespace.name(), format!("orders.{}.svc", namespace.name()));
    let durward = |args: &[&str], code: i32| {
        let (got, text) = installed.durward(args);
        assert_eq!(got, Some(code), "{args:?}: {text}");
        text
    };
    let key = |command: [&'static str; 2]| [&command[..], &["--provider", "partners", "--name", "acme"]].concat();
    let key_of = |text: &str| text.lines().find(|line| line.starts_with("dwk_acme_")).expect("a key").to_owned();
    installed.kubectl(["delete", "identityprovider", "partners", "--ignore-not-found"]);
    assert!(durward(&key(["mint", "api-key"]), 2).contains("there is no IdentityProvider `partners`"));
    let provider = json!({
        "apiVersion": "durward.dev/v1alpha1", "kind": "IdentityProvider", "metadata": {"name": "partners"},
        "spec": {"apiKey": {"selector": {"matchLabels": {"durward.dev/api-keys": "partners"}}}},
    });
    installed.cluster.apply(&provider.to_string()).expect("accepted");
    let spec = json!({
        "service": {"hosts": [host]},
        "authentication": [{"provider": "partners"}],
        "operations": [{"name": "list", "risk": "Low", "http": [{"methods": ["GET"], "paths": ["/orders"]}]}],
        "grants": [{"name": "partners", "to": [{"provider": "partners"}], "scopes": ["list"]}],
    });
    namespace.apply(&policy(name, "orders", spec)).expect("accepted");
    installed.in_force(name, "orders");

    let becomes = |key: &str, status: &str| {
        installed.until(&format!("{status} everywhere"), || {
            let all = everywhere(&installed, &host, key);
            (all.len() == 2 && all.iter().all(|got| got == status)).then_some(())
        });
    };
    let first = key_of(&durward(&key(["mint", "api-key"]), 0));
    becomes(&first, "200");
    assert!(durward(&key(["mint", "api-key"]), 2).contains("makes another in its place"));
    let second = key_of(&durward(&key(["api-key", "rotate"]), 0));
    becomes(&second, "200");
    becomes(&first, "200");
    // when it was used is known after a while, by whichever replica it was used at
    let listed: Value = installed.until("the last use", || {
        let listed: Value = serde_json::from_str(&durward(&["api-key", "list", "-o", "json"], 0)).expect("JSON");
        listed[0]["lastUsed"].is_string().then_some(listed)
    });
    assert_eq!((&listed[0]["name"], &listed[0]["provider"]), (&json!("acme"), &json!("partners")));
    assert!(listed[0]["formerUntil"].is_string(), "{listed}");
    let secret = installed.kubectl(["get", "secret", "-n", NAMESPACE, "partners-acme", "-o", "json"]);
    assert!(!secret.contains(&first) && !secret.contains(&second));
    durward(&key(["api-key", "revoke"]), 0);
    becomes(&first, "401");
    becomes(&second, "401");
    assert!(durward(&key(["api-key", "revoke"]), 2).contains("there is no key `acme`"));
}

#[test]
fn e2e_the_admin_listener_lets_in_whom_the_chart_names() {
    let installed = installed();
    for name in ["console", "other"] {
        installed.kubectl(["delete", "serviceaccount", name, "-n", NAMESPACE, "--ignore-not-found"]);
        installed.kubectl(["create", "serviceaccount", name, "-n", NAMESPACE]);
    }
    let token = |name: &str, audience: &str| {
        let token = installed.kubectl(["create", "token", name, "-n", NAMESPACE, &format!("--audience={audience}")]);
        vec![format!("Authorization: Bearer {}", token.trim())]
    };
    let (console, other, elsewhere) =
        (token("console", "durward-admin"), token("other", "durward-admin"), token("console", "elsewhere"));
    for pod in installed.pods() {
        let url = |path: &str| format!("https://{}:8181{path}", pod["status"]["podIP"].as_str().expect("an address"));
        assert_eq!(get(&url("/snapshot"), &[]).0, "401");
        assert_eq!(get(&url("/snapshot"), &elsewhere).0, "401");
        assert_eq!(get(&url("/snapshot"), &other).0, "403");
        // it lives for a moment before every replica knows it
        let told = installed.until("the snapshot", || {
            let (status, body) = get(&url("/snapshot"), &console);
            (status == "200").then_some(body)
        });
        assert!(told.contains("\"revision\""), "{told}");
        assert_eq!(get(&url("/metrics"), &[]).0, "200");
        assert_eq!(get(&url("/readyz"), &[]), ("200".to_owned(), "ready\n".to_owned()));
    }
}

#[test]
fn e2e_an_approval_counts_at_every_replica_and_can_not_be_forged_by_whoever_writes_objects() {
    let installed = installed();
    let namespace = installed.cluster.namespace("approvals").expect("a namespace");
    let (name, host) = (namespace.name(), format!("orders.{}.svc", namespace.name()));
    let people = People::new();
    installed.cluster.apply(&people.provider()).expect("accepted");
    let spec = json!({
        "service": {"hosts": [host]},
        "authentication": [{"provider": "people"}],
        "operations": [{
            "name": "list", "risk": "High", "http": [{"methods": ["GET"], "paths": ["/orders"]}],
            "approval": {"by": [{"provider": "people", "group": "oncall"}], "for": "10m"},
        }],
        "grants": [{"name": "people", "to": [{"provider": "people"}], "scopes": ["list"]}],
    });
    namespace.apply(&policy(name, "orders", spec)).expect("accepted");
    installed.in_force(name, "orders");
    let token = |subject: &str| people.oncall(subject, &format!("orders.{name}"));
    let replicas = installed.addresses();
    let ask = |subject: &str| -> Vec<String> {
        let headers = [
            format!("Host: {host}"),
            "X-Original-Method: GET".to_owned(),
            "X-Original-URI: /orders".to_owned(),
            format!("Authorization: Bearer {}", token(subject)),
        ];
        replicas.iter().map(|address| get(&format!("https://{address}:8143/forward-auth"), &headers).0).collect()
    };
    assert_eq!(ask("alice"), ["403", "403"]);
    // one object, whichever replica asked for it
    let approval = installed.until("the approval", || {
        let list = namespace.kubectl(["get", "apr", "-o", "json"]).ok()?;
        let list: Value = serde_json::from_str(&list).expect("a list");
        let items = list["items"].as_array().expect("items").clone();
        assert!(items.len() < 2, "{list}");
        items.into_iter().find(|item| item["status"]["state"] == "Pending")
    });
    let object = approval["metadata"]["name"].as_str().expect("a name");
    assert_eq!(approval["spec"]["principal"], "user:people/alice");
    assert_eq!(approval["metadata"]["ownerReferences"][0]["name"], "orders");
    let shown = namespace.kubectl(["get", "apr"]).expect("listed");
    assert!(shown.contains("PRINCIPAL") && shown.contains("user:people/alice") && shown.contains("Pending"), "{shown}");

    // whoever may write objects says what they like, and it counts for nothing
    let change = |subresource: &[&str], patch: Value| {
        let patch = format!("--patch={patch}");
        namespace.kubectl([&["patch", "apr", object, "--type=merge", &patch], subresource].concat())
    };
    let error = change(&[], json!({"spec": {"principal": "user:people/mallory"}})).expect_err("refused").to_string();
    assert!(error.contains("can't be changed"), "{error}");
    let forged = json!({"state": "Approved", "by": "user:people/oscar", "decidedAt": "2026-01-01T00:00:00Z", "expiresAt": "2999-01-01T00:00:00Z"});
    change(&["--subresource=status"], json!({"status": forged})).expect("the API server lets it");
    assert_eq!(ask("alice"), ["403", "403"]);
    let approve = |who: &str| decide(&replicas[0], &format!("{name}/{object}"), &token(who), "approve");
    assert_eq!(approve("alice").0, "403", "nobody approves for themselves");
    let approved = installed.until("the decision", || {
        // the object has just changed: the replica may know an older version for a moment
        let (status, body) = approve("oscar");
        (status == "200").then_some(body)
    });
    assert!(approved.contains("user:people/oscar"), "{approved}");
    installed.until("both replicas to know it", || (ask("alice") == ["200", "200"]).then_some(()));
    assert_eq!(ask("mallory"), ["403", "403"]);
    let (code, listed) = installed.durward(&["approvals", "--namespace", name]);
    assert_eq!(code, Some(0), "{listed}");
    assert!(listed.contains("Approved") && listed.contains("user:people/oscar"), "{listed}");
    // a signature is good for one object: the same made anew is not approved
    let good = namespace.kubectl(["get", "apr", object, "-o", "json"]).expect("the object");
    let mut anew: Value = serde_json::from_str(&good).expect("JSON");
    let status = anew["status"].take();
    anew["metadata"] = json!({"name": object, "namespace": name});
    namespace.kubectl(["delete", "apr", object]).expect("deleted");
    installed.until("both replicas to forget it", || (ask("alice") == ["403", "403"]).then_some(()));
    let _ = namespace.apply(&anew.to_string());
    change(&["--subresource=status"], json!({"status": status})).expect("the API server lets it");
    assert_eq!(ask("alice"), ["403", "403"]);
    let told = installed.kubectl(["logs", "-n", NAMESPACE, "-l", "app.kubernetes.io/name=durward", "--tail=-1"]);
    for event in ["requested", "approved"] {
        assert!(told.contains(&format!("\"outcome\":\"{event}\",\"namespace\":\"{name}\"")), "{event}");
    }
}
