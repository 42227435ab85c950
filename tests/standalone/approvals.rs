//! Approvals: requested by a denial, granted by a person, valid for exactly one subject.

use durward_tests::gate::{GateFixture, RecordingApp};
use durward_tests::tokens::{IssuerKey, now};
use durward_tests::{HttpReply, UpProcess, durward, eventually, repository, request, run};
use serde_json::{Value, json};
use std::path::PathBuf;

const CLEANER: &str = "spiffe://cluster.local/ns/ops/sa/cleaner";

/// `purge` requires an approval by `oncall`.
fn manifests(key: &IssuerKey, lasts: &str) -> String {
    let jwks = json!({"keys": [&key.jwk]});
    format!(
        r#"
apiVersion: durward.dev/v1alpha1
kind: IdentityProvider
metadata: {{name: corporate}}
spec: {{jwt: {{issuer: "https://id.example", jwks: {jwks}, assurance: {{multiFactor: [mfa], phishingResistant: [phr]}}}}}}
---
apiVersion: durward.dev/v1alpha1
kind: AccessPolicy
metadata: {{name: orders, namespace: shop}}
spec:
  service: {{hosts: [orders.shop.svc]}}
  authentication: [{{workload: {{}}}}, {{provider: corporate}}]
  operations:
    - {{name: list, http: [{{methods: [GET], paths: [/orders]}}], scopes: [orders.read]}}
    - name: purge
      http: [{{methods: [DELETE], paths: [/orders]}}]
      scopes: [orders.purge]
      risk: High
      approval: {{by: [{{provider: corporate, group: oncall}}], for: {lasts}}}
  grants:
    - {{name: cleaner, to: [{{serviceAccount: {{namespace: ops, name: cleaner}}}}], scopes: [orders.read, orders.purge]}}
    - {{name: people, to: [{{provider: corporate, group: oncall}}], scopes: [orders.purge]}}
"#
    )
}

/// A person's token with a second factor `seconds` ago.
fn token(key: &IssuerKey, sub: &str, groups: &[&str], factor: Value, age: i64) -> String {
    let claims =
        json!({"sub": sub, "aud": "orders.shop", "groups": groups, "amr": ["pwd", factor], "auth_time": now() - age});
    key.token(&claims)
}

struct ApprovalSetup {
    up: UpProcess,
    key: IssuerKey,
}

impl ApprovalSetup {
    fn new(lasts: &str) -> Self {
        let key = IssuerKey::rsa("k1");
        Self { up: UpProcess::with(&[("shop.yaml", &manifests(&key, lasts))]), key }
    }

    fn oncall(&self, name: &str) -> String {
        token(&self.key, name, &["oncall"], json!("mfa"), 10)
    }

    /// The decision about a workload that an enforcement point vouches for, with its context.
    fn ask(&self, who: &str, operation: &str) -> (bool, Value) {
        let requested_record = json!({
            "subject": {"type": "workload", "id": who, "properties": {"assurance": "ProofOfPossession"}},
            "action": {"name": operation}, "resource": {"type": "orders.shop", "id": "1"}, "context": {"explain": true},
        });
        let (status, answer) = self.up.authzen("/access/v1/evaluation", &requested_record);
        assert_eq!(status, 200, "{answer}");
        (answer["decision"].as_bool().unwrap(), answer["context"].clone())
    }

    /// Sends the cleaner's request; returns the name of the approval that it creates.
    fn request_approval(&self) -> String {
        let (allowed, explanation) = self.ask(CLEANER, "purge");
        assert_eq!((allowed, &explanation["reason"]), (false, &json!("ApprovalRequired")), "{explanation}");
        let name = explanation["approval"].as_str().unwrap().to_owned();
        self.wait_until_decidable(&name);
        name
    }

    /// Waits until an approval can be decided: from then on approvers without a second factor are asked for one.
    fn wait_until_decidable(&self, approval: &str) {
        let without_factor = token(&self.key, "peter", &["oncall"], json!("pwd"), 10);
        let knows = || {
            let reply = self.decide(approval, Some(&without_factor), r#"{"decision":"approve"}"#);
            reply.header("www-authenticate").is_some_and(|challenge| challenge.contains("insufficient_user"))
        };
        eventually("the approvals endpoint to have the approval", || knows().then_some(())).unwrap();
    }

    fn file(&self, approval: &str) -> PathBuf {
        self.up.state.join("approvals").join(approval.replace('/', ".") + ".json")
    }

    fn object(&self, approval: &str) -> Value {
        serde_json::from_str(&std::fs::read_to_string(self.file(approval)).unwrap()).unwrap()
    }

    fn decide(&self, approval: &str, token: Option<&str>, body: &str) -> HttpReply {
        let bearer = token.map(|token| format!("Bearer {token}"));
        let mut headers = vec![("Host", "durward"), ("Content-Type", "application/json")];
        headers.extend(bearer.iter().map(|bearer| ("Authorization", bearer.as_str())));
        request(self.up.listen["tokens"], "POST", &format!("/approvals/{approval}"), &headers, body)
    }

    fn approve(&self, approval: &str) {
        let reply = self.decide(approval, Some(&self.oncall("olga")), r#"{"decision":"approve"}"#);
        assert_eq!(reply.status, 200, "{reply:?}");
    }

    fn wait_for_decision(&self, allowed: bool) {
        eventually(&format!("allowed: {allowed}"), || (self.ask(CLEANER, "purge").0 == allowed).then_some(())).unwrap();
    }

    /// The approvals in the audit log, without refused and forged decisions.
    fn events(&self) -> Vec<Value> {
        let effective = |record: &Value| record["outcome"] != "refused" && record["outcome"] != "forged";
        self.up.records(1).into_iter().filter(|record| record["event"] == "approval" && effective(record)).collect()
    }

    /// The refused decisions in the audit log, by who decided and why.
    fn refusals(&self) -> Vec<(String, String)> {
        let refused = self.up.records(1).into_iter().filter(|record| record["outcome"] == "refused");
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        refused
            .map(|record| {
                assert!(record["source"].is_string() && record["namespace"] == "shop", "{record}");
                (text(&record["by"]), text(&record["reason"]))
            })
            .collect()
    }

    fn command(&self, arguments: &[&str]) -> (i32, String, String) {
        run(durward().args(arguments).env("DURWARD_TOKENS", format!("http://{}", self.up.listen["tokens"])))
    }
}

#[test]
fn an_approval_is_requested_granted_used_and_consumed() {
    let world = ApprovalSetup::new("1m");
    let name = world.request_approval();
    assert!(name.starts_with("shop/purge-"), "{name}");
    let list = |world: &ApprovalSetup| world.command(&["approvals", "--state", world.up.state.to_str().unwrap()]).1;
    let pending = list(&world);
    assert!(pending.contains(&name) && pending.contains(CLEANER) && pending.contains("Pending"), "{pending}");

    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("token");
    std::fs::write(&file, world.oncall("olga") + "\n").unwrap();
    let (code, output, stderr) = world.command(&["approve", &name, "--token-file", file.to_str().unwrap()]);
    assert_eq!(code, 0, "{stderr}");
    assert!(output.starts_with(&format!("Approved: purge for {CLEANER}, until ")), "{output}");
    world.wait_for_decision(true);
    assert!(list(&world).contains("user:corporate/olga"));
    // the approval applies to this principal only
    assert!(!world.ask("spiffe://cluster.local/ns/ops/sa/other", "purge").0);
    assert!(world.ask(CLEANER, "list").0);
    // a decision is final
    assert_eq!(world.decide(&name, Some(&world.oncall("otto")), r#"{"decision":"deny"}"#).status, 409);
    let (code, _, stderr) = world.command(&["deny", &name, "--token-file", file.to_str().unwrap()]);
    assert_eq!((code, stderr.as_str()), (1, "the approval is already decided\n"));

    // the record names the approval, so a replay needs no approval object
    let carried = |record: &Value| record["operation"] == "purge" && record["verdict"] == "allow";
    let carried = world.up.record("the allowed request", carried);
    assert_eq!(carried["approval"]["by"], "user:corporate/olga");
    assert_eq!(format!("shop/{}", carried["approval"]["name"].as_str().unwrap()), name);
    let mut replay = durward();
    replay.args(["audit", "replay"]).arg(&world.up.audit).arg("--policies").arg(&world.up.manifests);
    let (code, stdout, stderr) = run(&mut replay);
    assert_eq!(code, 0, "{stdout}{stderr}");
    let log = world.up.audit.display();
    let id = carried["id"].as_str().unwrap();
    let (code, stdout, _) =
        run(durward().args(["check", "--record", &format!("{log}:{id}"), "-p"]).arg(&world.up.manifests));
    let granted_line = format!("{name} is granted by user:corporate/olga, until ");
    assert!(code == 0 && stdout.starts_with("ALLOW  Granted") && stdout.contains(&granted_line), "{stdout}");

    // a deleted approval is no longer valid
    std::fs::remove_file(world.file(&name)).unwrap();
    world.wait_for_decision(false);
    let outcomes: Vec<_> = world.events().iter().map(|event| event["outcome"].as_str().unwrap().to_owned()).collect();
    assert_eq!(&outcomes[..2], ["requested", "approved"], "{outcomes:?}");
}

#[test]
fn only_named_approvers_with_a_fresh_login_decide() {
    let world = ApprovalSetup::new("30m");
    let name = world.request_approval();
    let key = &world.key;
    let approve = r#"{"decision":"approve"}"#;
    let other_key = IssuerKey::rsa("k2");
    let of = |sub: &str, groups: &[&str], factor: &str, age: i64| Some(token(key, sub, groups, json!(factor), age));
    let workload = world.up.token("ops/cleaner", "orders.shop");
    let other_audience =
        key.token(&json!({"sub": "olga", "aud": "other", "groups": ["oncall"], "amr": ["mfa"], "auth_time": now()}));
    let challenge = r#"Bearer realm="durward", error="insufficient_user_authentication", acr_values="urn:durward:assurance:multi-factor", max_age="300""#;
    let invalid = r#"Bearer realm="durward", error="invalid_token""#;
    for (what, token, status, header) in [
        ("no token", None, 401, Some(r#"Bearer realm="durward""#)),
        ("a forged token", Some(token(&other_key, "olga", &["oncall"], json!("mfa"), 10)), 401, Some(invalid)),
        ("a token for another service", Some(other_audience), 401, Some(invalid)),
        ("a workload", Some(workload), 401, Some(invalid)),
        ("a person who is not on call", of("peter", &["support"], "mfa", 10), 401, Some(invalid)),
        ("no second factor", of("olga", &["oncall"], "sms", 10), 401, Some(challenge)),
        ("an old second factor", of("olga", &["oncall"], "mfa", 301), 401, Some(challenge)),
        ("a second factor from the future", of("olga", &["oncall"], "mfa", -3600), 401, Some(challenge)),
    ] {
        let reply = world.decide(&name, token.as_deref(), approve);
        assert_eq!((reply.status, reply.header("www-authenticate")), (status, header), "{what}: {reply:?}");
    }
    // responses to other people do not reveal whether an approval exists
    let oncall = world.oncall("olga");
    let unknown = world.decide("shop/purge-0123", Some(&oncall), approve);
    let forged = world.decide(&name, Some("x"), approve);
    assert_eq!((unknown.status, &unknown.body, &unknown.headers), (401, &forged.body, &forged.headers));
    for bad in ["", "{}", r#"{"decision":"maybe"}"#, r#"{"decision":"approve","for":"1y"}"#, "approve"] {
        assert_eq!(world.decide(&name, Some(&oncall), bad).status, 400, "{bad}");
    }
    assert_eq!(
        world.decide(&name, Some(&oncall), &format!("{{\"decision\":\"approve\"{}}}", " ".repeat(5000))).status,
        400
    );
    assert_eq!(world.object(&name)["status"]["state"], "Pending");
    assert!(!world.ask(CLEANER, "purge").0);
    // each refusal has a record
    let refusals = eventually("the records", || {
        let refusals = world.refusals();
        refusals.iter().any(|(_, reason)| reason == "there is no such approval").then_some(refusals)
    })
    .unwrap();
    for (by, reason) in [
        ("", "no credential"),
        ("", "the issuer has no key of the token's name"),
        ("", "the token is for another audience"),
        ("user:corporate/peter", "the policy does not list the caller as an approver"),
        ("user:corporate/olga", "a fresh second factor is required"),
    ] {
        let found = refusals.iter().any(|(who, why)| who == by && why.contains(reason));
        assert!(found, "{by} {reason}: {refusals:#?}");
    }

    // no self-approval
    let ask = |who: &str| {
        let bearer = format!("Bearer {}", world.oncall(who));
        world.up.forward_auth("DELETE", "orders.shop.svc", "/orders", &[("Authorization", &bearer)])
    };
    let refused = ask("olga");
    let explanation: Value = serde_json::from_str(&refused.body).unwrap();
    assert_eq!((refused.status, &explanation["error"]), (403, &json!("approval_required")));
    let own = explanation["approval"].as_str().unwrap().to_owned();
    world.wait_until_decidable(&own);
    let by = |who: &str| world.decide(&own, Some(&world.oncall(who)), approve).status;
    assert_eq!((by("olga"), by("otto")), (403, 200));
    let own = ("user:corporate/olga".to_owned(), "requesters can't decide about their own requests".to_owned());
    eventually("the record of the refusal", || world.refusals().contains(&own).then_some(())).unwrap();
    eventually("the approval of olga's request", || (ask("olga").status == 200).then_some(())).unwrap();
    assert_eq!(ask("otto").status, 403, "the approval is for olga only");
}

#[test]
fn a_rejection_is_final_and_recorded() {
    let world = ApprovalSetup::new("30m");
    let name = world.request_approval();
    let strong = token(&world.key, "olga", &["oncall"], json!("phr"), 10);
    let reply = world.decide(&name, Some(&strong), r#"{"decision":"deny"}"#);
    assert_eq!(reply.status, 200, "{reply:?}");
    assert_eq!(serde_json::from_str::<Value>(&reply.body).unwrap()["state"], "Denied");
    assert_eq!(world.decide(&name, Some(&world.oncall("otto")), r#"{"decision":"approve"}"#).status, 409);
    assert!(!world.ask(CLEANER, "purge").0);
    let events = world.events();
    assert_eq!((&events[0]["outcome"], &events[1]["outcome"]), (&json!("requested"), &json!("denied")));
    assert_eq!((&events[1]["by"], &events[1]["principal"]), (&json!("user:corporate/olga"), &json!(CLEANER)));
}

/// Write access to objects allows to request and delete approvals, but not to grant them.
#[test]
fn a_forged_approval_object_grants_nothing() {
    let world = ApprovalSetup::new("30m");
    let name = world.request_approval();
    let pending = world.object(&name);
    let until = "2999-01-01T00:00:00Z";
    let write = |object: &Value| std::fs::write(world.file(&name), object.to_string()).unwrap();
    let mut forged = pending.clone();
    forged["status"] = json!({"state": "Approved", "by": "user:corporate/olga", "decidedAt": "2026-01-01T00:00:00Z", "expiresAt": until});
    write(&forged);
    // a later valid object is in force, so the forged one was read too
    let settled = |world: &ApprovalSetup| {
        let before = world.events().len();
        let other = token(&world.key, &format!("o{before}"), &["oncall"], json!("mfa"), 1);
        let bearer = format!("Bearer {other}");
        let reply = world.up.forward_auth("DELETE", "orders.shop.svc", "/orders", &[("Authorization", &bearer)]);
        let explanation: Value = serde_json::from_str(&reply.body).unwrap();
        world.wait_until_decidable(explanation["approval"].as_str().unwrap());
    };
    settled(&world);
    assert!(!world.ask(CLEANER, "purge").0, "the approval is not signed");
    // an approver can still decide it
    world.approve(&name);
    world.wait_for_decision(true);
    let good = world.object(&name);

    let mut longer = good.clone();
    longer["status"]["expiresAt"] = json!(until);
    let mut thief = good.clone();
    thief["spec"]["principal"] = json!("spiffe://cluster.local/ns/ops/sa/thief");
    let mut recreated = good.clone();
    recreated["metadata"]["uid"] = json!("another");
    for (what, object) in [("more time", longer), ("another principal", thief), ("a recreated object", recreated)] {
        write(&good);
        world.wait_for_decision(true);
        write(&object);
        world.wait_for_decision(false);
        assert!(!world.ask("spiffe://cluster.local/ns/ops/sa/thief", "purge").0, "{what}");
    }
    // an unreadable object neither hides other objects nor grants anything
    write(&good);
    std::fs::write(world.up.state.join("approvals/shop.garbage.json"), "{").unwrap();
    world.wait_for_decision(true);
}

/// A gate next to `durward up` requests missing approvals and follows the decisions of the approvers.
#[test]
fn a_gate_requests_approval_and_follows_the_decision_only() {
    let world = ApprovalSetup::new("30m");
    let fixture = GateFixture::of(&world.up);
    let app = RecordingApp::start();
    let gate = fixture.gate("shop/orders", &app.upstream(), &[]);
    let cleaner = fixture.caller(Some("ops/cleaner"));
    let other = fixture.caller(Some("ops/other"));
    let anonymous = fixture.caller(None);
    let host = ("Host", "orders.shop.svc");
    let purge = || cleaner.request(gate.address(), "DELETE", "/orders", &[host]);
    let by = |who: &str| {
        let bearer = format!("Bearer {}", world.oncall(who));
        anonymous.request(gate.address(), "DELETE", "/orders", &[host, ("Authorization", &bearer)])
    };

    let refused = purge();
    let explanation: Value = serde_json::from_str(&refused.body).unwrap();
    assert_eq!((refused.status, &explanation["error"]), (403, &json!("approval_required")));
    let name = explanation["approval"].as_str().unwrap();
    // the doors agree
    assert_eq!(world.ask(CLEANER, "purge").1["approval"], explanation["approval"]);
    assert_eq!(
        other.request(gate.address(), "DELETE", "/orders", &[host]).body,
        r#"{"error":"insufficient_scope","scope":"orders.purge"}"#
    );
    world.wait_until_decidable(name);
    let requested =
        || gate.records(1).into_iter().chain(world.events()).find(|record| record["outcome"] == "requested");
    let requested_record = eventually("a record of the request", requested).unwrap();
    assert_eq!((&requested_record["principal"], &requested_record["operation"]), (&json!(CLEANER), &json!("purge")));
    assert!(app.requests().is_empty());

    // write access to the object approves nothing
    let pending = world.object(name);
    let write = |object: &Value| std::fs::write(world.file(name), object.to_string()).unwrap();
    let mut forged = pending.clone();
    forged["status"] = json!({"state": "Approved", "by": "user:corporate/olga", "decidedAt": "2026-01-01T00:00:00Z", "expiresAt": "2999-01-01T00:00:00Z", "signature": "x"});
    write(&forged);
    eventually("a log message about the signature", || {
        gate.stderr().contains("the signature of an Approval is not valid").then_some(())
    })
    .unwrap();
    assert_eq!(purge().status, 403, "the approval is not signed");

    // the endpoint may still have the previous object
    let decide = || world.decide(name, Some(&world.oncall("olga")), r#"{"decision":"approve"}"#).status;
    eventually("the decision", || (decide() == 200).then_some(())).unwrap();
    eventually("the gate to have the policy", || (purge().status == 200).then_some(())).unwrap();
    assert_eq!(app.requests().last().unwrap()["headers"]["x-durward-principal"], json!([CLEANER]));
    let carried = gate.record("what was allowed", |record| record["verdict"] == "allow");
    assert_eq!((&carried["door"], &carried["approval"]["by"]), (&json!("gate"), &json!("user:corporate/olga")));
    assert_eq!(by("otto").status, 403, "the approval is for the cleaner only");
    // a modified object is not valid
    let good = world.object(name);
    type ApprovalChange = fn(&mut Value);
    let changes: [(&str, ApprovalChange); 4] = [
        ("more time", |object| object["status"]["expiresAt"] = json!("2999-01-01T00:00:00Z")),
        ("another principal", |object| object["spec"]["principal"] = json!("user:corporate/otto")),
        ("a recreated object", |object| object["metadata"]["uid"] = json!("another")),
        ("unsigned", |object| drop(object["status"].as_object_mut().unwrap().remove("signature"))),
    ];
    for (what, change) in changes {
        write(&good);
        eventually("the valid object", || (purge().status == 200).then_some(())).unwrap();
        let mut forged = good.clone();
        change(&mut forged);
        write(&forged);
        eventually(what, || (purge().status == 403).then_some(())).unwrap();
        assert_eq!(by("otto").status, 403, "{what}");
    }
    // revoked
    write(&good);
    eventually("the valid object", || (purge().status == 200).then_some(())).unwrap();
    std::fs::remove_file(world.file(name)).unwrap();
    eventually("the revocation", || (purge().status == 403).then_some(())).unwrap();
}

#[test]
fn a_gate_without_approval_keys_denies() {
    let world = ApprovalSetup::new("30m");
    let name = world.request_approval();
    world.approve(&name);
    world.wait_for_decision(true);
    let fixture = GateFixture::of(&world.up);
    let app = RecordingApp::start();
    let svid = fixture.svid("shop/orders");
    let bundle = fixture.path("bundle.pem");
    let pem = |file: &str| std::fs::read_to_string(svid.join(file)).unwrap();
    std::fs::write(&bundle, pem("svid.pem") + &pem("key.pem")).unwrap();
    let (bundle, roots) = (bundle.to_str().unwrap(), svid.join("bundle.pem"));
    let gate =
        fixture.gate("shop/orders", &app.upstream(), &["--certificate", bundle, "--roots", roots.to_str().unwrap()]);
    let reply = fixture.caller(Some("ops/cleaner")).request(
        gate.address(),
        "DELETE",
        "/orders",
        &[("Host", "orders.shop.svc")],
    );
    assert_eq!((reply.status, reply.body.contains("approval_required")), (403, true), "{reply:?}");
}

#[test]
fn a_caller_requests_approval_at_the_token_listener() {
    let world = ApprovalSetup::new("30m");
    let bearer = format!("Bearer {}", world.oncall("olga"));
    let ask = |body: &str| {
        let headers = [("Host", "durward"), ("Content-Type", "application/json"), ("Authorization", bearer.as_str())];
        request(world.up.listen["tokens"], "POST", "/approvals", &headers, body)
    };
    let reply = ask(r#"{"audience":"orders.shop","operation":"purge"}"#);
    let explanation: Value = serde_json::from_str(&reply.body).unwrap();
    assert_eq!((reply.status, &explanation["error"]), (403, &json!("approval_required")));
    eventually("the object", || world.file(explanation["approval"].as_str().unwrap()).exists().then_some(())).unwrap();
    // without an operation, or with another reason to deny, no approval is requested
    assert_eq!(ask(r#"{"audience":"orders.shop","operation":"list"}"#).status, 403);
    // strangers don't learn which services and operations exist
    let stranger = |body: &str| {
        let headers = [("Host", "durward"), ("Content-Type", "application/json"), ("Authorization", "Bearer x")];
        let reply = request(world.up.listen["tokens"], "POST", "/approvals", &headers, body);
        (reply.status, reply.body, reply.headers)
    };
    let unknown = stranger(r#"{"audience":"other","operation":"purge"}"#);
    assert_eq!(unknown.0, 401);
    for body in [r#"{"audience":"orders.shop","operation":"purge"}"#, r#"{"audience":"orders.shop","operation":"x"}"#] {
        assert_eq!(stranger(body), unknown, "{body}");
    }
    assert_eq!(ask(r#"{"audience":"other","operation":"purge"}"#).status, 401);
    assert_eq!(ask("{}").status, 400);
    assert_eq!(world.events().len(), 1);
}

#[test]
fn policies_name_approvers_and_lifetimes() {
    let key = IssuerKey::rsa("k1");
    let good = manifests(&key, "30m");
    for (from, to, why) in [
        ("risk: High\n", "risk: Standard\n", "an approval needs `risk: High`"),
        (
            "{provider: corporate, group: oncall}], for",
            "{serviceAccount: {namespace: a, name: b}}], for",
            "approvers are people",
        ),
        ("{provider: corporate, group: oncall}], for", "{authenticated: true}], for", "approvers are people"),
        (
            "{provider: corporate, group: oncall}], for",
            "{provider: kubernetes, group: oncall}], for",
            "approvers are people",
        ),
        (
            "{provider: corporate, group: oncall}], for",
            "{principal: 'key:partners/acme'}], for",
            "approvers are people",
        ),
        ("[{provider: corporate, group: oncall}], for", "[], for", "spec.operations[1].approval.by"),
        ("for: 30m", "for: 25h", "is not a duration from 1m to 24h"),
        ("for: 30m", "for: 1s", "is not a duration from 1m to 24h"),
    ] {
        assert!(good.contains(from), "{from}");
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("policy.yaml"), good.replacen(from, to, 1)).unwrap();
        let mut check = durward();
        check.arg("check").arg("-p").arg(directory.path()).args(["GET", "http://orders.shop.svc/orders"]);
        let (_, _, stderr) = run(&mut check);
        assert!(stderr.contains(why), "{to}: {stderr}");
    }
}

#[test]
fn the_approvals_document_runs() {
    let document = std::fs::read_to_string(repository("docs/approvals.md")).unwrap();
    let commands = document.split("```bash\n").nth(1).unwrap().split("```").next().unwrap();
    let world = ApprovalSetup::new("30m");
    let name = world.request_approval();
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("token"), world.oncall("olga")).unwrap();
    let mut bash = std::process::Command::new("bash");
    bash.args(["-euc", commands]).current_dir(directory.path()).env("PATH", durward_tests::path_with_program());
    bash.env("DURWARD_STATE", &world.up.state).env("APPROVAL", &name);
    let (code, stdout, stderr) = run(bash.env("DURWARD_TOKENS", format!("http://{}", world.up.listen["tokens"])));
    assert_eq!(code, 0, "{stderr}");
    assert!(
        stdout.starts_with("APPROVAL") && stdout.contains("Pending") && stdout.contains("Approved: purge"),
        "{stdout}"
    );
    world.wait_for_decision(true);
}
