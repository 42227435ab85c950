//! Access in a cluster: API keys, administration, approvals, second factors.

use std::process::Command;

use durward_cluster::{Namespace, image};
use durward_tests::installation::people::{People, StepUpVisit, curl, decide};
use durward_tests::installation::shared::SharedInstallation;
use durward_tests::installation::{Installed, NAMESPACE, policy};
use durward_tests::venv::venv;
use serde_json::{Value, json};

const VALUES: [&str; 7] = [
    "trust.proxies={0.0.0.0/0}",
    "admin.readers[0].serviceAccount.namespace=durward-system",
    "admin.readers[0].serviceAccount.name=console",
    "admin.readers[1].serviceAccount.namespace=durward-system",
    "admin.readers[1].serviceAccount.name=auditor",
    "trust.enforcementPoints={spiffe://cluster.local/ns/durward-system/sa/bystander}",
    "stepUp.url=https://auth.example.com",
];

fn installed() -> SharedInstallation {
    SharedInstallation::of(module_path!(), || Installed::new(&VALUES))
}

/// Status and body of a request over TLS.
fn get(url: &str, headers: &[String]) -> (String, String) {
    let headers = headers.iter().flat_map(|header| ["--header", header]);
    curl(&headers.chain([url]).collect::<Vec<_>>())
}

/// The response of each replica's door to a request with these headers.
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
fn e2e_api_keys_are_created_rotated_and_revoked() {
    let installed = installed();
    let namespace = installed.cluster.namespace("keys").expect("a namespace");
    let name = namespace.name();
    let host = format!("orders.{}.svc", namespace.name());
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
    assert!(durward(&key(["mint", "api-key"]), 2).contains("replace it with `durward api-key rotate`"));
    let second = key_of(&durward(&key(["api-key", "rotate"]), 0));
    becomes(&second, "200");
    becomes(&first, "200");
    // each replica stores the last use after a while
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
fn e2e_the_admin_listener_accepts_readers_of_the_chart_only() {
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
        // every replica needs a moment to receive the service account
        let response = installed.until("the snapshot", || {
            let (status, body) = get(&url("/snapshot"), &console);
            (status == "200").then_some(body)
        });
        assert!(response.contains("\"revision\""), "{response}");
        assert_eq!(get(&url("/metrics"), &[]).0, "200");
        assert_eq!(get(&url("/readyz"), &[]), ("200".to_owned(), "ready\n".to_owned()));
    }
}

/// A request of a person for `/orders`, at the forward-auth door of one replica.
fn ask_for_orders(address: &str, host: &str, token: &str) -> (String, String) {
    let headers = [
        format!("Host: {host}"),
        "X-Original-Method: GET".to_owned(),
        "X-Original-URI: /orders".to_owned(),
        format!("Authorization: Bearer {token}"),
    ];
    get(&format!("https://{address}:8143/forward-auth"), &headers)
}

/// The list of approvals and the explanation of a decision contain the approver and the expiry.
fn assert_approval_is_reported(installed: &Installed, namespace: &Namespace<'_>, object: &str) {
    let name = namespace.name();
    let listed = namespace.kubectl(["get", "apr"]).expect("listed");
    let time = |field: &str| {
        let path = format!("jsonpath={{.status.{field}}}");
        namespace.kubectl(["get", "apr", object, "-o", &path]).expect("a time")
    };
    let now = time("decidedAt");
    let until = time("expiresAt");
    assert!(until > now, "{until}");
    for part in ["OPERATION", "STATE", "BY", "EXPIRES", "list", "Approved", "user:people/oscar", until.as_str()] {
        assert!(listed.contains(part), "{part}: {listed}");
    }
    let url = format!("http://orders.{name}.svc/orders");
    let check = ["check", "--as", "user:people/alice", "--assurance", "MultiFactor", "--authenticated-at"];
    let (code, response) = installed.durward(&[&check[..], &[&now, "GET", &url]].concat());
    let granted_line = format!("{name}/{object} is granted by user:people/oscar, until {until}");
    assert!(code == Some(0) && response.contains(&granted_line), "{response}");
    let (code, listed) = installed.durward(&["approvals", "--namespace", name]);
    assert_eq!(code, Some(0), "{listed}");
    assert!(listed.contains("Approved") && listed.contains("user:people/oscar"), "{listed}");
}

#[test]
fn e2e_an_approval_is_valid_at_every_replica_and_cannot_be_forged() {
    let installed = installed();
    let namespace = installed.cluster.namespace("approvals").expect("a namespace");
    let name = namespace.name();
    let host = format!("orders.{}.svc", namespace.name());
    let people = People::generate();
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
        replicas.iter().map(|address| ask_for_orders(address, &host, &token(subject)).0).collect()
    };
    assert_eq!(ask("alice"), ["403", "403"]);
    // one object for the requests of both replicas
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
    let listed = namespace.kubectl(["get", "apr"]).expect("listed");
    assert!(
        listed.contains("PRINCIPAL") && listed.contains("user:people/alice") && listed.contains("Pending"),
        "{listed}"
    );

    // a forged status has no effect
    let change = |subresource: &[&str], patch: Value| {
        let patch = format!("--patch={patch}");
        namespace.kubectl([&["patch", "apr", object, "--type=merge", &patch], subresource].concat())
    };
    let error = change(&[], json!({"spec": {"principal": "user:people/mallory"}})).expect_err("refused").to_string();
    assert!(error.contains("can't be changed"), "{error}");
    let forged = json!({"state": "Approved", "by": "user:people/oscar", "decidedAt": "2026-01-01T00:00:00Z", "expiresAt": "2999-01-01T00:00:00Z"});
    change(&["--subresource=status"], json!({"status": forged})).expect("the API server accepts it");
    assert_eq!(ask("alice"), ["403", "403"]);
    let approve = |who: &str| decide(&replicas[0], &format!("{name}/{object}"), &token(who), "approve");
    assert_eq!(approve("alice").0, "403", "a person can't approve their own request");
    let approved = installed.until("the decision", || {
        // the object just changed: the replica may have an older version for a moment
        let (status, body) = approve("oscar");
        (status == "200").then_some(body)
    });
    assert!(approved.contains("user:people/oscar"), "{approved}");
    installed.until("both replicas to have the approval", || (ask("alice") == ["200", "200"]).then_some(()));
    assert_eq!(ask("mallory"), ["403", "403"]);
    assert_approval_is_reported(&installed, &namespace, object);
    // a signature is bound to one object: a copy is not approved
    let good = namespace.kubectl(["get", "apr", object, "-o", "json"]).expect("the object");
    let mut recreated: Value = serde_json::from_str(&good).expect("JSON");
    let status = recreated["status"].take();
    recreated["metadata"] = json!({"name": object, "namespace": name});
    namespace.kubectl(["delete", "apr", object]).expect("deleted");
    installed.until("both replicas to drop the approval", || (ask("alice") == ["403", "403"]).then_some(()));
    let _ = namespace.apply(&recreated.to_string());
    change(&["--subresource=status"], json!({"status": status})).expect("the API server accepts it");
    assert_eq!(ask("alice"), ["403", "403"]);
    let response = installed.kubectl(["logs", "-n", NAMESPACE, "-l", "app.kubernetes.io/name=durward", "--tail=-1"]);
    for event in ["requested", "approved"] {
        assert!(response.contains(&format!("\"outcome\":\"{event}\",\"namespace\":\"{name}\"")), "{event}");
    }
}

/// The code of an authenticator app `seconds` from now.
fn code(secret: &str, seconds: i64) -> String {
    let text = "import pyotp,sys,time; print(pyotp.TOTP(sys.argv[1]).at(int(time.time()) + int(sys.argv[2])))";
    let output = Command::new(venv("python")).args(["-c", text, secret, &seconds.to_string()]).output();
    String::from_utf8_lossy(&output.expect("python runs").stdout).trim().to_owned()
}

/// Exchanges the same code at both replicas at once: one exchange succeeds. Returns its token.
fn token_of_concurrent_exchanges(
    replicas: &[&String; 2],
    exchange: &(dyn Fn(&str) -> (String, String) + Sync),
) -> String {
    let mut both = std::thread::scope(|scope| {
        let both = replicas.map(|address| scope.spawn(|| exchange(address)));
        both.map(|one| one.join().expect("an answer"))
    });
    both.sort();
    let [(granted_line, token), (refused, why)] = &both;
    assert_eq!((granted_line.as_str(), refused.as_str(), why.as_str()), ("200", "400", r#"{"error":"invalid_grant"}"#));
    let token: Value = serde_json::from_str(token).expect("JSON");
    token["access_token"].as_str().expect("a token").to_owned()
}

/// The one Secret with the second factors of a person. It does not contain a recovery code in clear.
fn factor_secret(installed: &Installed, principal: &str, code: &str) -> String {
    let list = installed.kubectl(["get", "secret", "-n", NAMESPACE, "-l", "durward.dev/second-factors", "-o", "json"]);
    assert!(!list.contains(code));
    let list: Value = serde_json::from_str(&list).expect("a list");
    let of = |item: &&Value| item["metadata"]["annotations"]["durward.dev/principal"] == json!(principal);
    let own: Vec<&Value> = list["items"].as_array().expect("items").iter().filter(of).collect();
    assert_eq!(own.len(), 1, "{list}");
    own[0]["metadata"]["name"].as_str().expect("a name").to_owned()
}

fn assert_factor_events(installed: &Installed, principal: &str) {
    let response = installed.kubectl(["logs", "-n", NAMESPACE, "-l", "app.kubernetes.io/name=durward", "--tail=-1"]);
    let events =
        response.lines().filter(|line| line.contains("\"event\":\"second-factor\"") && line.contains(principal));
    let events: Vec<&str> = events.collect();
    for (outcome, count) in [("enrolled", 1), ("proved", 3), ("paused", 2)] {
        let outcome = format!("\"outcome\":\"{outcome}\"");
        assert_eq!(events.iter().filter(|line| line.contains(&outcome)).count(), count, "{outcome}: {events:#?}");
    }
}

#[test]
fn e2e_replicas_share_second_factors() {
    let installed = installed();
    let namespace = installed.cluster.namespace("factors").expect("a namespace");
    let name = namespace.name();
    let host = format!("orders.{}.svc", namespace.name());
    let people = People::generate();
    let audience = format!("orders.{}", namespace.name());
    installed.cluster.apply(&people.provider()).expect("accepted");
    let spec = json!({
        "service": {"hosts": [host]}, "authentication": [{"provider": "people"}],
        "operations": [{"name": "refund", "risk": "High", "http": [{"methods": ["GET"], "paths": ["/orders"]}]}],
        "grants": [{"name": "people", "to": [{"provider": "people"}], "scopes": ["refund"]}],
    });
    namespace.apply(&policy(name, "orders", spec)).expect("accepted");
    installed.in_force(name, "orders");
    let replicas = installed.addresses();
    let [one, other] = replicas.as_slice() else { panic!("two replicas: {replicas:?}") };
    let who = format!("alice-of-{name}");
    let first = people.token(&who, &audience);
    let ask = |address: &str, token: &str| ask_for_orders(address, &host, token);
    for replica in [one, other] {
        let (status, response) = ask(replica, &first);
        let page = format!("https://auth.example.com/step-up?audience={audience}&operation=refund");
        assert!(status == "401" && response.contains(&page), "{status} {response}");
    }

    // started at one replica, confirmed at the other
    let mut visit = StepUpVisit::begin(one, &audience, &first);
    assert_eq!(visit.submit(one, "/step-up/totp", &[]), "200", "{}", visit.page);
    let secret = visit.between("<code id=\"secret\">", "</code>");
    // no time step ends while codes are used
    let second = || std::time::UNIX_EPOCH.elapsed().expect("a clock").as_secs() % 30;
    installed.until("time left of the step", || (second() < 15).then_some(()));
    assert_eq!(visit.submit(other, "/step-up/totp/confirm", &[("otp", &code(&secret, -30))]), "200", "{}", visit.page);
    let list = visit.between("<ol class=\"codes\">", "</ol>");
    let codes: Vec<&str> = list.split("</li>").filter_map(|item| item.strip_prefix("<li>")).collect();
    assert_eq!(codes.len(), 10, "{list}");

    let exchange = |address: &str, factor: &str| {
        let fields = [
            "grant_type=urn:ietf:params:oauth:grant-type:token-exchange".to_owned(),
            "subject_token_type=urn:ietf:params:oauth:token-type:jwt".to_owned(),
            format!("subject_token={first}"),
            format!("audience={audience}"),
            factor.to_owned(),
        ];
        let url = format!("https://{address}:8145/token");
        let fields = fields.iter().flat_map(|field| ["--data-urlencode", field]);
        curl(&fields.chain([url.as_str()]).collect::<Vec<_>>())
    };
    // the same code at both replicas at once is accepted once, and never later
    let otp = format!("otp={}", code(&secret, 0));
    let token = token_of_concurrent_exchanges(&[one, other], &|replica| exchange(replica, &otp));
    for replica in [one, other] {
        assert_eq!(exchange(replica, &otp).0, "400", "{replica}");
    }
    // three wrong codes in total: the replicas share the pause
    for replica in [one, other] {
        assert_eq!(exchange(replica, "otp=000000").0, "429", "{replica}");
    }
    // a recovery code ends it, and works once
    let recovery = format!("recovery_code={}", codes[0]);
    assert_eq!(exchange(one, &recovery).0, "200");
    for replica in [other, one] {
        assert_eq!(exchange(replica, &recovery).0, "400", "{replica}");
    }
    assert_eq!(exchange(other, &format!("recovery_code={}", codes[1])).0, "200");
    // the new token is valid at both
    for replica in [one, other] {
        assert_eq!(ask(replica, &token).0, "200", "{replica}");
    }

    // one Secret without recovery codes in clear; deleting it resets a person without any factor
    let principal = format!("user:people/{who}");
    let secret = factor_secret(&installed, &principal, codes[2]);
    installed.kubectl(["delete", "secret", "-n", NAMESPACE, &secret]);
    assert_eq!(exchange(one, &format!("recovery_code={}", codes[2])).0, "400");
    assert_factor_events(&installed, &principal);
}

/// A pod of a service account, and a certificate from the mint: the files of chain and key.
fn certified(installed: &Installed, account: &str, folder: &std::path::Path) -> [String; 2] {
    for kind in ["pod", "serviceaccount"] {
        installed.kubectl(["delete", kind, account, "-n", NAMESPACE, "--ignore-not-found"]);
    }
    installed.kubectl(["create", "serviceaccount", account, "-n", NAMESPACE]);
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": account, "namespace": NAMESPACE, "labels": {"tests": "admin"}},
        "spec": {
            "serviceAccountName": account, "terminationGracePeriodSeconds": 0,
            "securityContext": {"runAsNonRoot": true, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{
                "name": "main", "image": image::BUSYBOX, "imagePullPolicy": "Never", "command": ["sleep", "3600"],
                "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
            }],
        },
    });
    installed.cluster.apply(&pod.to_string()).expect("applied");
    installed.kubectl(["wait", &format!("pod/{account}"), "-n", NAMESPACE, "--for=condition=Ready", "--timeout=60s"]);
    let path = |file: &str| folder.join(format!("{account}-{file}")).display().to_string();
    let key = path("key.pem");
    let csr = path("csr.der");
    let chain = path("chain.pem");
    for args in [
        &["ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", &key][..],
        &["req", "-new", "-key", &key, "-subj", "/", "-outform", "DER", "-out", &csr],
    ] {
        assert!(Command::new("openssl").args(args).output().expect("openssl runs").status.success(), "{args:?}");
    }
    let csr = std::fs::read(&csr).expect("a request");
    let body = json!({"csr": base64::Engine::encode(&base64::engine::general_purpose::STANDARD, csr)}).to_string();
    let bound = format!("--bound-object-name={account}");
    let proof = ["create", "token", account, "-n", NAMESPACE, "--audience=durward", "--bound-object-kind=Pod", &bound];
    let bearer = format!("Authorization: Bearer {}", installed.kubectl(proof).trim());
    let minted = installed.until("a certificate", || {
        let url = format!("https://{}:8145/mint/x509", installed.addresses().first()?);
        let (status, response) = curl(&["--header", &bearer, "--data-binary", &body, &url]);
        (status == "200").then_some(response)
    });
    let minted: Value = serde_json::from_str(&minted).expect("JSON");
    let pem = |der: &Value| {
        format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", der.as_str().unwrap_or_default())
    };
    let pem: String = minted["chain"].as_array().expect("a chain").iter().map(pem).collect();
    std::fs::write(&chain, pem).expect("written");
    [chain, key]
}

#[test]
fn e2e_a_certificate_administers_at_the_admin_listener_only() {
    let installed = installed();
    let about = json!({
        "service": {"podSelector": {"matchLabels": {"tests": "admin"}}}, "authentication": [{"workload": {}}],
        "operations": [{"name": "none", "http": [{"methods": ["GET"], "paths": ["/none"]}]}],
    });
    installed.cluster.apply(&policy(NAMESPACE, "admins", about)).expect("accepted");
    installed.in_force(NAMESPACE, "admins");
    let folder = tempfile::tempdir().expect("a folder");
    let auditor = certified(&installed, "auditor", folder.path());
    let other = certified(&installed, "bystander", folder.path());
    let by = |[chain, key]: &[String; 2], more: &[&str]| curl(&[&["--cert", chain, "--key", key], more].concat());

    for address in installed.addresses() {
        let admin = |path: &str| format!("https://{address}:8181{path}");
        // every replica needs a moment to receive the pod
        let response = installed.until("the snapshot", || {
            let (status, response) = by(&auditor, &[&admin("/snapshot")]);
            (status == "200").then_some(response)
        });
        assert!(response.contains("\"revision\""), "{response}");
        installed.until("the refusal", || (by(&other, &[&admin("/snapshot")]).0 == "403").then_some(()));
        assert_eq!(curl(&[&admin("/snapshot")]).0, "401");

        // the doors of users do not serve administration
        let http = format!("https://{address}:8143");
        let tokens = format!("https://{address}:8145");
        for (path, status) in [("/snapshot", "404"), ("/metrics", "404"), ("/readyz", "404"), ("/healthz", "404")] {
            assert_eq!(by(&auditor, &[&format!("{http}{path}")]).0, status, "{path}");
        }
        assert_eq!(by(&auditor, &[&format!("{tokens}/metrics")]).0, "404");
        assert_eq!(
            by(&auditor, &[&format!("{tokens}/snapshot")]).0,
            "401",
            "this path is for gates, with tokens of their pods"
        );
        let forward = |host: &str| {
            let host = format!("Host: {host}");
            let uri = ["--header", "X-Original-Method: GET", "--header", "X-Original-URI: /snapshot"];
            by(&auditor, &[&["--header", &host][..], &uri, &[&format!("{http}/forward-auth")]].concat())
        };
        for host in ["durward-admin", "durward-admin.durward-system.svc", "durward.durward-system.svc", "localhost"] {
            assert_eq!(forward(host).0, "403", "{host}");
        }
        let arguments = json!({
            "subject": {"type": "workload", "id": "spiffe://cluster.local/ns/durward-system/sa/auditor", "properties": {"assurance": "ProofOfPossession"}},
            "action": {"name": "read-snapshot"}, "resource": {"type": "durward-admin", "id": "1"},
        });
        let arguments =
            ["--header", "Content-Type: application/json", "--data", &arguments.to_string()].map(ToOwned::to_owned);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        // an enforcement point can't request it for a workload
        let (status, response) = by(&other, &[&arguments[..], &[&format!("{http}/access/v1/evaluation")]].concat());
        assert_eq!((status.as_str(), response.as_str()), ("200", r#"{"decision":false}"#));
        let expected = r#"{"audience":"durward-admin","operation":"read-snapshot"}"#;
        let approvals = format!("{tokens}/approvals");
        assert_eq!(
            by(&auditor, &["--header", "Content-Type: application/json", "--data", expected, &approvals]).0,
            "401"
        );
    }
    // a policy can't claim it
    let claims = json!({
        "service": {"audience": "durward-admin"}, "authentication": [{"workload": {}}],
        "operations": [{"name": "read-snapshot", "http": [{"methods": ["GET"], "paths": ["/snapshot"]}]}],
    });
    let error = installed.cluster.apply(&policy(NAMESPACE, "claims", claims)).expect_err("refused").to_string();
    assert!(error.contains("durward-admin"), "{error}");

    // the certificate is invalid without its pod
    installed.kubectl(["delete", "pod", "auditor", "-n", NAMESPACE]);
    for address in installed.addresses() {
        let url = format!("https://{address}:8181/snapshot");
        installed.until("the certificate to be refused", || (by(&auditor, &[&url]).0 != "200").then_some(()));
    }
}
