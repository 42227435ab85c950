//! Expiry by a clock that the test sets: second factors, throttling, approvals.

use durward_tests::browser::Chromium;
use durward_tests::clock::Clock;
use durward_tests::passkey;
use durward_tests::passkey::exchange_from;
use durward_tests::step_up;
use durward_tests::tokens::{IssuerKey, claims, door, manifests, now};
use durward_tests::{HttpReply, UpProcess, eventually};
use serde_json::{Value, json};

/// A `durward up` with this clock, where support may refund with a second factor of the last five minutes.
fn start(clock: &Clock, key: &IssuerKey) -> UpProcess {
    let world = manifests(&[key])
        .replace("group: support}], scopes: [orders.write]", "group: support}], scopes: [orders.write, orders.refund]");
    UpProcess::start_with(&[("all.yaml", &world)], &[], |command| clock.give(command))
}

/// A first token that outlives the test.
fn token(key: &IssuerKey) -> String {
    key.token(&json!({"exp": now() + 24 * 3600}))
}

/// Asserts the challenge and returns the link for a browser.
fn challenged(reply: &HttpReply) -> String {
    assert_eq!(reply.status, 401, "{reply:?}");
    let challenge_header = reply.header("www-authenticate").unwrap();
    for part in ["insufficient_user_authentication", "urn:durward:assurance:multi-factor", r#"max_age="300""#] {
        assert!(challenge_header.contains(part), "{challenge_header}");
    }
    let link = reply.header("link").unwrap();
    link.trim_start_matches('<').split('>').next().unwrap().to_owned()
}

/// Opens the link of a challenge, uses the passkey, and returns the new token.
fn present_passkey(browser: &Chromium, link: &str, first: &str) -> String {
    browser.open(link);
    browser.fill("#subject_token", first);
    browser.click("main form button");
    browser.click("form[data-passkey=get] button");
    browser.wait_for("It is you");
    browser.text("textarea#token")
}

/// Operation or factor, outcome, and assurance of each record.
fn audited_steps(records: &[Value]) -> Vec<(String, String, String)> {
    let text = |value: &Value| value.as_str().map(ToOwned::to_owned);
    let steps = records.iter().map(|record| {
        let what = text(&record["operation"]).or(text(&record["factor"])).or(text(&record["kind"])).unwrap_or_default();
        let outcome = text(&record["verdict"]).or(text(&record["outcome"])).unwrap_or_default();
        let who = &record["principal"];
        let assurance = match (who["id"].as_str(), record["verdict"].is_string()) {
            (Some(id), true) => {
                assert_eq!(id, "user:corporate/alice");
                text(&who["stepUp"]["assurance"]).filter(|_| what == "refund-order").or(text(&who["assurance"]))
            }
            (None, true) => text(&"no caller".into()),
            (_, false) => {
                assert_eq!(who, "user:corporate/alice", "{record}");
                None
            }
        };
        (what, outcome, assurance.unwrap_or_default())
    });
    steps.collect()
}

/// From a corporate token to a refund, for five minutes, with its audit records.
#[test]
fn a_refund_needs_a_passkey_again_after_five_minutes() {
    let clock = Clock::with_system_time();
    let key = IssuerKey::rsa("one");
    let up = start(&clock, &key);
    let first = token(&key);
    assert_eq!(door(&up, "GET", "/orders/7", &first).status, 200);
    let link = challenged(&door(&up, "POST", "/orders/7/refund", &first));

    let browser = Chromium::start();
    browser.authenticator(true);
    browser.open(&link);
    browser.fill("#subject_token", &first);
    browser.click("main form button");
    browser.wait_for("You have no second factor yet");
    browser.fill("#key-name", "laptop");
    browser.click("form[data-passkey=create] button");
    browser.wait_for("Recovery codes");
    browser.click("form[action='/step-up/token'] button");
    browser.wait_for("It is you");

    // another visit with the registered key
    let access_token = present_passkey(&browser, &link, &first);
    let output = claims(&access_token);
    assert_eq!((&output["sub"], &output["aud"]), (&json!("user:corporate/alice"), &json!("orders-api")));
    assert_eq!(output["acr"], "urn:durward:assurance:phishing-resistant");
    assert_eq!(output["amr"], json!(["hwk", "mfa", "user"]));
    let proved = output["auth_time"].as_i64().unwrap();
    let until = output["exp"].as_i64().unwrap();
    assert!(until - proved <= 300, "{output}");
    let refunded = door(&up, "POST", "/orders/7/refund", &access_token);
    assert_eq!((refunded.status, refunded.header("x-durward-assurance")), (200, Some("PhishingResistant")));
    let elsewhere = door(&up, "GET", "/orders/7", &access_token);
    assert_eq!((elsewhere.status, elsewhere.header("x-durward-assurance")), (200, Some("Bearer")));

    // valid after four and a half minutes, invalid after five
    clock.advance(270 - (now() - proved));
    assert_eq!(door(&up, "POST", "/orders/7/refund", &access_token).status, 200);
    clock.advance(35);
    challenged(&door(&up, "POST", "/orders/7/refund", &access_token));
    // then the token expires too, and the first token leads to the page again
    clock.advance(30);
    let over = door(&up, "GET", "/orders/7", &access_token);
    assert_eq!((over.status, over.body.as_str()), (401, r#"{"error":"invalid_token"}"#));
    let link = challenged(&door(&up, "POST", "/orders/7/refund", &first));
    let again = present_passkey(&browser, &link, &first);
    assert_eq!(door(&up, "POST", "/orders/7/refund", &again).status, 200);
    assert_eq!(browser.console(), Vec::<String>::new(), "the console has no error");

    let expected = [
        ("list-orders", "allow", "Bearer"),
        ("refund-order", "deny", "Bearer"),
        ("passkey", "enrolled", ""),
        ("token", "issued", ""),
        ("hardware-key", "proved", ""),
        ("token", "issued", ""),
        ("refund-order", "allow", "PhishingResistant"),
        ("list-orders", "allow", "Bearer"),
        ("refund-order", "allow", "PhishingResistant"),
        ("refund-order", "deny", "PhishingResistant"),
        ("list-orders", "deny", "no caller"),
        ("refund-order", "deny", "Bearer"),
        ("hardware-key", "proved", ""),
        ("token", "issued", ""),
        ("refund-order", "allow", "PhishingResistant"),
    ];
    let records = up.records(expected.len());
    let steps = audited_steps(&records);
    let steps: Vec<_> =
        steps.iter().map(|(what, outcome, by)| (what.as_str(), outcome.as_str(), by.as_str())).collect();
    assert_eq!(steps, expected);
    assert!(records.iter().all(|record| !record.to_string().contains("eyJ")), "no token is in the log");
}

/// A stolen first token can block codes from any address, for an hour at most each time. Recovery codes and keys still
/// work.
#[test]
fn throttling_grows_to_an_hour_and_keeps_other_factors_valid() {
    let clock = Clock::with_system_time();
    let key = IssuerKey::rsa("one");
    let up = start(&clock, &key);
    let first = token(&key);
    let mut visit = step_up::FormBrowser::open(&up, &first, &[]);
    let (app, codes) = visit.enrol();
    passkey::add(&up, &mut visit);
    let mut addresses = (1..).map(|number| format!("198.51.{}.{}", number / 250, number % 250 + 1));
    let mut from_anywhere = |factor: (&str, &str)| exchange_from(&up, &addresses.next().unwrap(), &first, &[factor]);
    let wait = |reply: &HttpReply| reply.header("retry-after").unwrap().parse::<i64>().unwrap();
    // never a valid code
    let wrong = ("otp", "00000x");
    assert_eq!([0; 3].map(|_| from_anywhere(wrong).status), [400; 3]);
    for pause in [30, 60, 120, 240, 480, 960, 1920, 3600, 3600] {
        // attempts during a pause are ignored and do not extend it
        let waits: Vec<i64> = (0..4).map(|_| wait(&from_anywhere(wrong))).collect();
        assert!(waits.iter().all(|wait| (pause / 2..=pause).contains(wait)), "{pause}: {waits:?}");
        let right = app.code(clock.ahead());
        assert_eq!(from_anywhere(("otp", &right)).status, 429, "a pause refuses correct codes too");
        clock.advance(pause);
        assert_eq!(from_anywhere(wrong).status, 400, "after {pause} s");
    }
    // a recovery code or a key works in the longest pause, and ends it
    assert_eq!(from_anywhere(wrong).status, 429);
    assert_eq!(from_anywhere(("recovery_code", &codes[0])).status, 200);
    assert_eq!([0; 3].map(|_| from_anywhere(wrong).status), [400; 3]);
    assert_eq!(from_anywhere(wrong).status, 429);
    let options = passkey::challenge(&up, &first);
    let answer = passkey::authenticator_response("get", &up, &options, 1, &[]);
    assert_eq!(from_anywhere(("passkey", &answer)).status, 200);
    assert_eq!(from_anywhere(("otp", &app.code(clock.ahead()))).status, 200);
}

/// A code of the previous time step is valid until a later one was used.
#[test]
fn a_code_is_refused_after_a_later_one() {
    let clock = Clock::with_system_time();
    let key = IssuerKey::rsa("one");
    let up = start(&clock, &key);
    let first = token(&key);
    let (app, _) = step_up::FormBrowser::open(&up, &first, &[]).enrol();
    clock.advance(120);
    eventually("most of a step is left", || (now() % 30 < 12).then_some(())).unwrap();
    let [before, of_now, after] = [90, 120, 150].map(|seconds| app.code(seconds));
    let exchange_status = |code: &str| exchange_from(&up, "", &first, &[("otp", code)]).status;
    assert_eq!([&after, &of_now, &before, &after].map(|code| exchange_status(code)), [200, 400, 400, 400]);
    clock.advance(60);
    assert_eq!(exchange_status(&app.code(120)), 400, "two steps late");
    clock.advance(60);
    assert_eq!(exchange_status(&app.code(240)), 200);
}

/// An approval is valid until it expires; the log records the expiry, and the next call requests another.
#[test]
fn an_expired_approval_is_requested_again() {
    let clock = Clock::with_system_time();
    let key = IssuerKey::rsa("one");
    let provider = format!(
        "---\napiVersion: durward.dev/v1alpha1\nkind: IdentityProvider\nmetadata: {{name: corporate}}\nspec: {{jwt: {{issuer: \"https://id.example\", jwks: {}, assurance: {{multiFactor: [mfa]}}}}}}\n",
        json!({"keys": [&key.jwk]})
    );
    let document = std::fs::read_to_string(durward_tests::repository("docs/approvals.md")).unwrap();
    let policy = document.split("```yaml\n").nth(1).unwrap().split("```").next().unwrap();
    let up =
        UpProcess::start_with(&[("all.yaml", &(policy.to_owned() + &provider))], &[], |command| clock.give(command));
    let ask = || {
        let evaluation_request = json!({
            "subject": {"type": "workload", "id": "spiffe://cluster.local/ns/ops/sa/cleaner", "properties": {"assurance": "ProofOfPossession"}},
            "action": {"name": "purge"}, "resource": {"type": "orders.shop", "id": "1"}, "context": {"explain": true},
        });
        up.authzen("/access/v1/evaluation", &evaluation_request).1
    };
    let becomes = |allowed: bool| {
        eventually(&format!("allowed: {allowed}"), || (ask()["decision"] == allowed).then_some(())).unwrap();
    };
    let name = ask()["context"]["approval"].as_str().unwrap().to_owned();
    let file = up.state.join("approvals").join(name.replace('/', ".") + ".json");
    let uid = || {
        let object: Value = serde_json::from_str(&std::fs::read_to_string(&file).ok()?).ok()?;
        Some((object["metadata"]["uid"].clone(), object["status"]["state"].clone()))
    };
    let (first, _) = eventually("the object", uid).unwrap();
    let claims = json!({"sub": "olga", "aud": "orders.shop", "groups": ["oncall"], "amr": ["mfa"], "auth_time": now()});
    let bearer = format!("Bearer {}", key.token(&claims));
    let headers = [("Host", "durward"), ("Content-Type", "application/json"), ("Authorization", bearer.as_str())];
    let approve = || {
        let path = format!("/approvals/{name}");
        durward_tests::request(up.listen["tokens"], "POST", &path, &headers, r#"{"decision":"approve"}"#).status
    };
    eventually("the decision", || (approve() == 200).then_some(())).unwrap();
    becomes(true);

    clock.advance(29 * 60);
    assert_eq!(ask()["decision"], true, "the approval is still valid");
    clock.advance(60);
    assert_eq!(ask()["context"]["reason"], "ApprovalRequired");
    let over = up.record("its end", |record| record["event"] == "approval" && record["outcome"] == "expired");
    assert_eq!((&over["by"], &over["operation"]), (&json!("user:corporate/olga"), &json!("purge")));
    let fresh = || {
        ask();
        uid().filter(|(uid, state)| *uid != first && state == "Pending")
    };
    eventually("another object for the next call", fresh).unwrap();
    assert_eq!(ask()["decision"], false);
}
