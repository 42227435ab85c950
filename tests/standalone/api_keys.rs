//! API keys: decisions at each door, and their life cycle.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use durward_tests::gate::{GateFixture, RecordingApp};
use durward_tests::tokens::{IssuerKey, manifests};
use durward_tests::{UpProcess, durward, eventually, repository, run};
use envoy_types::ext_authz::v3::pb::{CheckRequest, HttpResponse};
use envoy_types::pb::envoy::service::auth::v3::AttributeContext;
use envoy_types::pb::envoy::service::auth::v3::attribute_context::{HttpRequest, Request};
use envoy_types::pb::envoy::service::auth::v3::authorization_client::AuthorizationClient;
use serde_json::Value;
use std::path::Path;

const HOST: &str = "orders.example.com";

/// Runs `durward` with these arguments and a file; returns its output.
fn keys(arguments: &[&str], file: &Path) -> String {
    let (code, stdout, stderr) = run(durward().args(arguments).arg(file));
    assert_eq!(code, 0, "{stderr}");
    stdout.trim().to_owned()
}

const MINT: [&str; 7] = ["mint", "api-key", "--provider", "partners", "--name", "acme", "--out"];

fn on(command: &'static str, more: &[&'static str]) -> Vec<&'static str> {
    [&["api-key", command, "--provider", "partners", "--name", "acme"], more, &["--file"]].concat()
}

/// Status, challenge and body from `ext_authz`.
async fn envoy(up: &UpProcess, method: &str, path: &str, key: &str) -> (u16, Option<String>, String) {
    let http = HttpRequest {
        method: method.to_owned(),
        host: HOST.to_owned(),
        path: path.to_owned(),
        headers: [("x-api-key".to_owned(), key.to_owned())].into(),
        ..HttpRequest::default()
    };
    let request = Request { http: Some(http), ..Request::default() };
    let attributes = AttributeContext { request: Some(request), ..AttributeContext::default() };
    let address = format!("http://{}", up.listen["grpc"]);
    let mut client = AuthorizationClient::connect(address).await.unwrap();
    let answer = client.check(CheckRequest { attributes: Some(attributes) }).await.unwrap().into_inner();
    match answer.http_response.unwrap() {
        HttpResponse::OkResponse(_) => (200, None, String::new()),
        HttpResponse::DeniedResponse(denied) => {
            let headers: Vec<_> = denied.headers.iter().filter_map(|option| option.header.as_ref()).collect();
            let challenge = headers.iter().find(|header| header.key.eq_ignore_ascii_case("www-authenticate"));
            let status = denied.status.map(|status| u16::try_from(status.code).unwrap()).unwrap();
            (status, challenge.map(|header| header.value.clone()), denied.body)
        }
        HttpResponse::ErrorResponse(error) => panic!("{error:?}"),
    }
}

#[test]
fn only_a_valid_key_learns_that_its_assurance_is_too_low() {
    let issuer = IssuerKey::rsa("k1");
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("acme.yaml");
    let right = keys(&MINT, &file);
    let policy = manifests(&[&issuer]) + "---\n" + &std::fs::read_to_string(&file).unwrap();
    let up = UpProcess::with(&[("shop.yaml", &policy)]);
    let fixture = GateFixture::new(&policy);
    let app = RecordingApp::start();
    let gate = fixture.gate("shop/orders", &app.upstream(), &[]);
    let anonymous = fixture.caller(None);
    let runtime = tokio::runtime::Runtime::new().unwrap();

    let invalid = Some(r#"Bearer realm="orders-api", error="invalid_token""#.to_owned());
    let challenge = |enough: &str| {
        Some(format!(
            r#"Bearer realm="orders-api", error="insufficient_user_authentication", acr_values="urn:durward:assurance:{enough}"#
        ))
    };
    let bearer = challenge("bearer\"");
    let factor = challenge("multi-factor\", max_age=\"300\"");
    let wrong_secret = format!("dwk_acme_{}", URL_SAFE_NO_PAD.encode([7; 32]));
    let unknown = format!("dwk_nobody_{}", URL_SAFE_NO_PAD.encode([7; 32]));
    let bad = r#"{"error":"invalid_token"}"#;
    let low = r#"{"error":"insufficient_user_authentication"}"#;
    let requests = [("GET", "/orders", None), ("POST", "/orders", bearer), ("POST", "/orders/4/refund", factor)];
    for (method, path, challenge) in requests {
        let expected = match challenge {
            None => (200, None, ""),
            challenge => (401, challenge, low),
        };
        let cases =
            [(&right, expected), (&wrong_secret, (401, invalid.clone(), bad)), (&unknown, (401, invalid.clone(), bad))];
        for (key, (status, challenge, body)) in cases {
            let header = ("x-api-key", key.as_str());
            let forward = up.forward_auth(method, HOST, path, &[header]);
            let through = anonymous.request(gate.address(), method, path, &[("Host", HOST), header]);
            let envoy = runtime.block_on(envoy(&up, method, path, key));
            for (door, got) in [
                ("forward auth", (forward.status, forward.header("www-authenticate"), forward.body.as_str())),
                ("gate", (through.status, through.header("www-authenticate"), through.body.as_str())),
                ("ext_authz", (envoy.0, envoy.1.as_deref(), envoy.2.as_str())),
            ] {
                // the application has its own body
                let body = if status == 200 { got.2 } else { body };
                assert_eq!(got, (status, challenge.as_deref(), body), "{door}: {method} {path} with {key}");
            }
        }
    }
}

#[test]
fn a_key_is_created_used_rotated_and_revoked() {
    let issuer = IssuerKey::rsa("k1");
    let up = UpProcess::with(&[("shop.yaml", &manifests(&[&issuer]))]);
    let file = up.manifests.join("acme.yaml");
    let list = || -> Value {
        let mut command = durward();
        command.args(["api-key", "list", "-o", "json", "-p"]).arg(&up.manifests).arg("--state").arg(&up.state);
        let (code, stdout, stderr) = run(&mut command);
        assert_eq!(code, 0, "{stderr}");
        serde_json::from_str(&stdout).unwrap()
    };
    let status = |key: &str| up.forward_auth("GET", HOST, "/orders", &[("x-api-key", key)]).status;
    let becomes = |key: &str, expectation: u16| {
        eventually(&format!("{expectation}"), || (status(key) == expectation).then_some(())).unwrap();
    };

    let mut mint = durward();
    mint.args(MINT).arg(&file).args(["--group", "gold", "--group", "eu", "--expires", "30d"]);
    let (code, first, stderr) = run(&mut mint);
    assert_eq!(code, 0, "{stderr}");
    let first = first.trim();
    assert!(!std::fs::read_to_string(&file).unwrap().contains(first), "the file contains the key itself");
    becomes(first, 200);
    let row = &list()[0];
    assert_eq!((&row["provider"], &row["name"]), (&"partners".into(), &"acme".into()));
    assert_eq!(row["groups"], serde_json::json!(["gold", "eu"]));
    assert!(row["created"].is_string() && row["expires"].is_string(), "{row}");
    assert_eq!((&row["lastUsed"], &row["formerUntil"]), (&Value::Null, &Value::Null));

    // during the overlap both keys are valid
    let second = keys(&on("rotate", &["--overlap", "1h"]), &file);
    becomes(&second, 200);
    assert_eq!(status(first), 200);
    let row = &list()[0];
    assert!(row["formerUntil"].is_string(), "{row}");
    assert_eq!(row["groups"], serde_json::json!(["gold", "eu"]), "the other annotations of the key stay");
    // another rotation revokes the first key; the second key expires
    let third = keys(&on("rotate", &["--overlap", "1s"]), &file);
    becomes(&third, 200);
    assert_eq!(status(first), 401);
    becomes(&second, 401);
    assert_eq!(status(&third), 200);
    let fourth = keys(&on("rotate", &["--overlap", "0s"]), &file);
    becomes(&fourth, 200);
    assert_eq!(status(&third), 401, "without overlap the old key is revoked at once");

    keys(&on("revoke", &[]), &file);
    becomes(&fourth, 401);
    assert_eq!(list(), serde_json::json!([]));
    let causes: Vec<_> =
        up.records(1).iter().filter_map(|record| record["cause"].as_str().map(ToOwned::to_owned)).collect();
    assert!(causes.iter().any(|cause| cause == "the API key has expired"), "{causes:?}");
}

#[test]
fn last_use_is_saved_at_shutdown() {
    let issuer = IssuerKey::rsa("k1");
    let mut up = UpProcess::with(&[("shop.yaml", &manifests(&[&issuer]))]);
    let file = up.manifests.join("acme.yaml");
    let key = keys(&MINT, &file);
    eventually("the key", || {
        (up.forward_auth("GET", HOST, "/orders", &[("x-api-key", key.as_str())]).status == 200).then_some(())
    })
    .unwrap();
    assert_eq!(up.interrupt().0, Some(0));
    let mut list = durward();
    list.args(["api-key", "list", "-p"]).arg(&up.manifests).arg("--state").arg(&up.state);
    let (code, stdout, stderr) = run(&mut list);
    assert_eq!(code, 0, "{stderr}");
    let today = chrono::Utc::now().format("%Y-").to_string();
    let line = stdout.lines().find(|line| line.contains("acme")).unwrap();
    assert_eq!(line.matches(&today).count(), 2, "creation and last use: {stdout}");
}

#[test]
fn invalid_key_commands_change_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("acme.yaml");
    let key = keys(&MINT, &file);
    let before = std::fs::read_to_string(&file).unwrap();
    let refused = |arguments: &[&str], file: &Path, why: &str| {
        let (code, stdout, stderr) = run(durward().args(arguments).arg(file));
        assert_eq!((code, stdout.as_str()), (2, ""), "{stderr}");
        assert!(stderr.contains(why), "{stderr}");
    };
    let of = ["api-key", "revoke", "--provider", "partners", "--name", "other", "--file"];
    refused(&of, &file, "there is no key `other`");
    let of = ["api-key", "rotate", "--provider", "../x", "--name", "acme", "--file"];
    refused(&of, &file, "lower-case");
    let two = directory.path().join("two.yaml");
    std::fs::write(&two, format!("{before}---\n{before}")).unwrap();
    refused(&on("revoke", &[]), &two, "must hold one Secret and nothing else");
    refused(&on("rotate", &["--overlap", "400d"]), &file, "from 0s to 90d");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), before);
    assert!(two.exists() && key.starts_with("dwk_acme_"));
}

#[test]
fn the_api_keys_document_runs() {
    let document = std::fs::read_to_string(repository("docs/api-keys.md")).unwrap();
    let commands = document.split("```bash\n").nth(1).unwrap().split("```").next().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let policies = directory.path().join("policies");
    std::fs::create_dir(&policies).unwrap();
    std::fs::copy(repository("examples/orders/partners.yaml"), policies.join("partners.yaml")).unwrap();
    let mut bash = std::process::Command::new("bash");
    bash.args(["-euc", commands])
        .current_dir(directory.path())
        .env("PATH", durward_tests::path_with_program())
        .env("DURWARD_STATE", directory.path());
    let (code, stdout, stderr) = run(&mut bash);
    assert_eq!(code, 0, "{stderr}");
    let lines: Vec<_> = stdout.lines().collect();
    assert!(lines[0].starts_with("dwk_acme_") && lines[3].starts_with("dwk_acme_") && lines[0] != lines[3], "{stdout}");
    assert!(lines[1].starts_with("PROVIDER") && lines[2].starts_with("partners  acme  gold"), "{stdout}");
    assert_eq!(lines[4], "key `acme` of provider `partners` is revoked");
    assert!(stderr.contains("the old key is valid until"), "{stderr}");
    assert!(!policies.join("key-acme.yaml").exists());
}
