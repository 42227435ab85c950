//! The step-up page in Chromium with its virtual authenticator, and passkeys of clients without a browser.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use durward_tests::browser::{Chromium, ENTER, TAB};
use durward_tests::passkey;
use durward_tests::passkey::{authenticator_response, challenge, exchange, post};
use durward_tests::step_up;
use durward_tests::step_up::AuthenticatorApp;
use durward_tests::tokens::{IssuerKey, claims, door, manifests};
use durward_tests::{UpProcess, eventually, request};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;

/// The orders policy, with refunds for support by a second factor of the last `max_age`.
fn start(key: &IssuerKey, max_age: &str) -> UpProcess {
    let refund = format!("scopes: [orders.refund], risk: High, stepUp: {{maxAge: {max_age}}}");
    let world = manifests(&[key])
        .replace("scopes: [orders.refund], risk: High", &refund)
        .replace("group: support}], scopes: [orders.write]", "group: support}], scopes: [orders.write, orders.refund]");
    UpProcess::with(&[("all.yaml", &world)])
}

fn page(up: &UpProcess) -> String {
    format!("http://localhost:{}/step-up", up.listen["tokens"].port())
}

/// Opens the page with a token.
fn open_page(browser: &Chromium, up: &UpProcess, token: &str) {
    browser.open(&format!("{}?audience=orders-api&operation=refund-order", page(up)));
    browser.fill("#subject_token", token);
    browser.click("main form button");
}

/// The token on the page.
fn access_token_on(browser: &Chromium) -> String {
    browser.wait_for("It is you");
    browser.text("textarea#token")
}

/// Asserts that the console has no error. Refused forms are expected.
fn assert_quiet(browser: &Chromium) {
    let messages: Vec<_> = browser.console().into_iter().filter(|line| !line.contains("(Bad Request)")).collect();
    assert_eq!(messages, Vec::<String>::new());
}

#[test]
fn the_page_works_by_keyboard() {
    let key = IssuerKey::rsa("one");
    let up = start(&key, "5m");
    let browser = Chromium::start();
    browser.authenticator(true);
    browser.open(&format!("{}?audience=orders-api", page(&up)));
    browser.press(TAB);
    browser.press(&key.token(&json!({})));
    browser.press(&format!("{TAB}{TAB}{ENTER}"));
    browser.wait_for("You have no second factor yet");
    browser.press(TAB);
    browser.press("blue key");
    browser.press(ENTER);
    browser.wait_for("Recovery codes");
    browser.press(TAB);
    browser.press(ENTER);
    access_token_on(&browser);
    browser.press(TAB);
    browser.press(&format!("{TAB}{ENTER}"));
    browser.wait_for("Passkeys and hardware keys");
    browser.wait_for("blue key");
    browser.press(TAB);
    browser.press(ENTER);
    browser.wait_for("Your key is removed.");
    assert_quiet(&browser);
}

#[test]
fn codes_need_no_javascript() {
    let key = IssuerKey::rsa("one");
    let up = start(&key, "5m");
    let browser = Chromium::without_javascript();
    let first = key.token(&json!({}));
    open_page(&browser, &up, &first);
    browser.wait_for("You have no second factor yet");
    assert!(!browser.shows("form[data-passkey]"), "without scripts there are no keys");
    browser.click("form[action='/step-up/totp'] button");
    let app = AuthenticatorApp::new(&browser.text("#secret"));
    browser.fill("#code", &app.code(-30));
    browser.click("form[action='/step-up/totp/confirm'] button");
    browser.wait_for("Recovery codes");
    open_page(&browser, &up, &first);
    browser.fill("#code", &app.code(0));
    browser.press(ENTER);
    let token = access_token_on(&browser);
    assert_eq!(claims(&token)["acr"], "urn:durward:assurance:multi-factor");
    assert_eq!(door(&up, "POST", "/orders/7/refund", &token).status, 200);
}

#[test]
fn errors_are_explained() {
    let key = IssuerKey::rsa("one");
    let up = start(&key, "5m");
    let browser = Chromium::start();
    let without_user = browser.authenticator(false);
    let first = key.token(&json!({}));
    open_page(&browser, &up, &first);
    browser.fill("#key-name", "laptop");
    browser.click("form[data-passkey=create] button");
    browser.wait_for("No key answered");
    assert_eq!(browser.accessibility_problems(), Vec::<String>::new(), "the error is readable");
    browser.unplug(&without_user);
    let bobs = browser.authenticator(true);
    browser.click("form[data-passkey=create] button");
    browser.wait_for("Your key is added.");

    // the key is registered already, and its name is taken
    browser.click("form[action='/step-up/token'] button");
    browser.click("form[action='/step-up/manage'] button");
    browser.fill("#key-name", "laptop");
    browser.click("form[data-passkey=create] button");
    browser.wait_for("among yours already");
    browser.unplug(&bobs);
    browser.authenticator(true);
    browser.click("form[data-passkey=create] button");
    browser.wait_for("Give the key a name that none of your keys has");

    // only the person's own keys are requested
    let bob = key.token(&json!({"sub": "bob"}));
    open_page(&browser, &up, &bob);
    browser.wait_for("You have no second factor yet");
    open_page(&browser, &up, &first);
    browser.click("form[data-passkey=get] button");
    browser.wait_for("No key answered");
    assert_quiet(&browser);
}

/// Each page in both color schemes, wide and narrow. Screenshots go to `target/tmp`.
#[test]
fn every_page_is_accessible() {
    let key = IssuerKey::rsa("one");
    let up = start(&key, "5m");
    let browser = Chromium::start();
    browser.authenticator(true);
    let first = key.token(&json!({}));
    let seen = |name: &str| {
        for (scheme, width) in [("light", 800), ("dark", 320)] {
            browser.emulate(scheme, width, 900);
            let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("step-up-{name}-{scheme}.png"));
            browser.screenshot(&path);
            let fits = browser.script("return document.documentElement.scrollWidth <= innerWidth");
            assert_eq!(fits, json!(true), "{name} is too wide at {width} pixels");
            assert_eq!(browser.accessibility_problems(), Vec::<String>::new(), "{name}, {scheme}");
        }
    };
    browser.open(&page(&up));
    seen("begin");
    open_page(&browser, &up, &first);
    browser.wait_for("You have no second factor yet");
    seen("first");
    browser.click("form[action='/step-up/totp'] button");
    let app = AuthenticatorApp::new(&browser.text("#secret"));
    seen("app");
    browser.fill("#code", &app.code(-30));
    browser.press(ENTER);
    browser.wait_for("Recovery codes");
    seen("codes");
    browser.click("form[action='/step-up/token'] button");
    access_token_on(&browser);
    seen("token");
    browser.click("form[action='/step-up/manage'] button");
    browser.fill("#key-name", "laptop");
    browser.click("form[data-passkey=create] button");
    browser.wait_for("Your key is added.");
    open_page(&browser, &up, &first);
    browser.click("form[data-passkey=get] button");
    access_token_on(&browser);
    browser.click("form[action='/step-up/manage'] button");
    browser.wait_for("Last used");
    seen("manage");
    open_page(&browser, &up, &first);
    browser.wait_for("Use a passkey");
    browser.fill("#code", "000000");
    browser.press(ENTER);
    browser.wait_for("That is not correct");
    seen("verify");
    browser.click("summary");
    seen("recovery");
    assert_quiet(&browser);
}

/// The accessibility check reports known problems of a bad page.
#[test]
fn the_accessibility_check_finds_barriers() {
    let browser = Chromium::start();
    let page = "<!doctype html><title></title><style>p { color: #999 } input { border: 1px solid #ddd } :focus { outline: none }</style>
        <main><h1>A page</h1><h3 id=a>Further down</h3><p id=a>Hardly to be read</p><input id=code><button style='padding: 0'></button></main>";
    browser.open(&format!("http://127.0.0.1:{}/", elsewhere(page.to_owned())));
    let barriers = browser.accessibility_problems();
    for one in [
        "text in <p#a> has contrast 2.85, not 4.5",
        "<input#code> has no label",
        "the border of <input#code> has contrast 1.36, not 3",
        "the focus on <input#code> is not seen",
        "the page has no language",
        "the page has no title",
        "headings skip a level: 1,3",
        "#a is there twice",
        "no accessible name: ",
    ] {
        assert!(barriers.iter().any(|barrier| barrier.contains(one)), "{one}: {barriers:#?}");
    }
}

/// Any key is enough, and each can be removed.
#[test]
fn a_person_can_have_several_keys() {
    let key = IssuerKey::rsa("one");
    let up = start(&key, "5m");
    let browser = Chromium::start();
    let first = key.token(&json!({}));
    open_page(&browser, &up, &first);
    let add = |name: &str| {
        browser.fill("#key-name", name);
        browser.click("form[data-passkey=create] button");
        browser.wait_for("Your key is added.");
        browser.click("form[action='/step-up/token'] button");
        access_token_on(&browser);
        browser.click("form[action='/step-up/manage'] button");
        browser.wait_for(name);
    };
    let laptop = browser.authenticator(true);
    add("laptop");
    browser.unplug(&laptop);
    browser.authenticator(true);
    add("blue key");

    open_page(&browser, &up, &first);
    browser.click("form[data-passkey=get] button");
    let token = access_token_on(&browser);
    assert_eq!(door(&up, "POST", "/orders/7/refund", &token).status, 200);
    browser.click("form[action='/step-up/manage'] button");
    browser.wait_for("blue key");
    browser.click("button[aria-label='Remove laptop']");
    browser.wait_for("Your key is removed.");
    let left = browser.text("ul.keys");
    assert!(left.contains("blue key") && !left.contains("laptop"), "{left}");
    open_page(&browser, &up, &first);
    browser.click("form[data-passkey=get] button");
    access_token_on(&browser);
    assert_quiet(&browser);
}

/// A page of another origin.
fn elsewhere(html: String) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let html = html.clone();
            // browsers open spare connections
            std::thread::spawn(move || {
                let _ = stream.read(&mut [0; 8192]);
                let head = "HTTP/1.1 200 OK\r\ncontent-type: text/html; charset=utf-8\r\nconnection: close\r\n";
                let _ = write!(stream, "{head}content-length: {}\r\n\r\n{html}", html.len());
            });
        }
    });
    port
}

/// Pages on another host and on another port of our host. They know a form of a visit with every right, and the browser
/// has its cookie.
#[test]
fn other_sites_cannot_use_the_session() {
    let key = IssuerKey::rsa("one");
    let up = start(&key, "5m");
    let browser = Chromium::start();
    let first = key.token(&json!({}));
    open_page(&browser, &up, &first);
    browser.click("form[action='/step-up/totp'] button");
    let app = AuthenticatorApp::new(&browser.text("#secret"));
    browser.fill("#code", &app.code(-30));
    browser.press(ENTER);
    browser.wait_for("Recovery codes");
    let visit = browser.script("return document.querySelector('input[name=visit]').value");
    let own = page(&up);
    let visit = visit.as_str().unwrap();

    let form = format!(
        "<form method=post action='{own}/totp/remove'><input name=visit value='{visit}'></form><script>document.forms[0].submit()</script>"
    );
    let frame = format!("<iframe src='{own}?audience=orders-api'></iframe>");
    let fetch = format!(
        "<p id=result>sending</p><script>fetch('{own}/totp/remove', {{method: 'POST', credentials: 'include', body: new URLSearchParams({{visit: '{visit}'}})}})
        .then(() => result.textContent = 'it was sent', () => result.textContent = 'it was blocked')</script>"
    );
    let [form, frame, fetch] = [form, frame, fetch].map(elsewhere);
    for host in ["127.0.0.1", "localhost"] {
        let open = |port: u16| browser.open(&format!("http://{host}:{port}/"));
        open(form);
        browser.wait_for("This form was not sent from this page");
        open(fetch);
        browser.wait_for("it was blocked");
        browser.console();
        open(frame);
        let blocked = || browser.console().iter().any(|line| line.contains("frame-ancestors")).then_some(());
        eventually(&format!("no frame at {host}"), blocked).unwrap();
    }
    let code = app.code(0);
    assert_eq!(passkey::exchange_from(&up, "", &first, &[("otp", &code)]).status, 200, "nothing was removed");
    // the same form works from our own page
    browser.open(&own);
    let send = "const form = document.forms[0]; form.action += '/totp/remove'; form.noValidate = true;
        const visit = document.createElement('input'); visit.name = 'visit'; visit.value = arguments[0]; form.append(visit); form.submit()";
    browser.script_with(send, visit);
    browser.wait_for("Your authenticator app is removed.");
}

#[test]
fn changing_keys_needs_a_fresh_factor_of_their_owner() {
    let key = IssuerKey::rsa("one");
    let up = start(&key, "5m");
    let first = key.token(&json!({}));
    let mut visit = step_up::FormBrowser::open(&up, &first, &[]);
    let sealed = visit.visit();
    let own = visit.origin.clone();
    for path in ["get", "create", "add", "remove"] {
        visit.origin = "http://evil.example".to_owned();
        let reply = visit.send(&format!("/step-up/passkeys/{path}"), &[("visit", &sealed)]);
        assert_eq!(reply.status, 403, "{path}: {reply:?}");
        visit.origin = own.clone();
        let reply = visit.send(&format!("/step-up/passkeys/{path}"), &[("visit", "another")]);
        assert_eq!(reply.status, 403, "{path}: {reply:?}");
    }
    let options = visit.send("/step-up/passkeys/create", &[("visit", &sealed)]).body.clone();
    let made = authenticator_response("create", &up, &options, 0, &[]);
    let added = visit.send("/step-up/passkeys/add", &[("visit", &sealed), ("name", "<b>robot"), ("passkey", &made)]);
    assert_eq!(added.status, 200, "{added:?}");

    // the first token alone can no longer change anything
    let mut later = step_up::FormBrowser::open(&up, &first, &[]);
    let sealed = later.visit();
    let id = URL_SAFE_NO_PAD.encode((0..32).collect::<Vec<u8>>());
    for (path, name) in [("create", ""), ("add", "other"), ("remove", "")] {
        let fields = [("visit", sealed.as_str()), ("name", name), ("passkey", &made), ("key", &id)];
        let reply = later.send(&format!("/step-up/passkeys/{path}"), &fields);
        assert_eq!(reply.status, 403, "{path}: {reply:?}");
    }
    let large = "x".repeat(9 * 1024);
    assert_eq!(exchange(&up, &first, &large).status, 400);
    let options = challenge(&up, &first);
    assert_eq!(exchange(&up, &first, &authenticator_response("get", &up, &options, 1, &[])).status, 200);

    let sealed = visit.visit();
    let listed = visit.send("/step-up/manage", &[("visit", &sealed)]);
    assert!(listed.body.contains("&lt;b&gt;robot") && listed.body.contains("Last used"), "{listed:?}");
    let sealed = visit.visit();
    let removed = visit.send("/step-up/passkeys/remove", &[("visit", &sealed), ("key", &id)]);
    assert!(removed.status == 200 && removed.body.contains("Your key is removed."), "{removed:?}");
    let none = post(&up, "/step-up/passkeys/challenge", &[("subject_token", &first), ("audience", "orders-api")]);
    assert_eq!(none.status, 400, "{none:?}");
}

#[test]
fn clients_without_a_browser_can_use_passkeys() {
    let key = IssuerKey::rsa("one");
    let mut up = start(&key, "5m");
    let first = key.token(&json!({}));
    let none = post(&up, "/step-up/passkeys/challenge", &[("subject_token", &first), ("audience", "orders-api")]);
    assert_eq!(none.status, 400, "{none:?}");
    let unauthenticated =
        post(&up, "/step-up/passkeys/challenge", &[("subject_token", "x"), ("audience", "orders-api")]);
    assert_eq!(unauthenticated.status, 401, "{unauthenticated:?}");

    let mut visit = step_up::FormBrowser::open(&up, &first, &[]);
    let sealed = visit.visit();
    let options = visit.send("/step-up/passkeys/create", &[("visit", &sealed)]).body.clone();
    let made = authenticator_response("create", &up, &options, 0, &["unverified"]);
    let unverified = visit.send("/step-up/passkeys/add", &[("visit", &sealed), ("name", "robot"), ("passkey", &made)]);
    assert_eq!(unverified.status, 400, "{unverified:?}");
    let options = visit.send("/step-up/passkeys/create", &[("visit", &sealed)]).body.clone();
    let made = authenticator_response("create", &up, &options, 0, &[]);
    let added = visit.send("/step-up/passkeys/add", &[("visit", &sealed), ("name", "robot"), ("passkey", &made)]);
    assert!(added.status == 200 && added.body.contains("Recovery codes"), "{added:?}");

    // another replica accepts the answer to a challenge
    let options = challenge(&up, &first);
    up.interrupt();
    up.restart();
    let answer = authenticator_response("get", &up, &options, 5, &[]);
    let reply = exchange(&up, &first, &answer);
    assert_eq!(reply.status, 200, "{reply:?}");
    let body: Value = serde_json::from_str(&reply.body).unwrap();
    let token = body["access_token"].as_str().unwrap();
    assert_eq!(claims(token)["acr"], "urn:durward:assurance:phishing-resistant");
    let refunded = door(&up, "POST", "/orders/7/refund", token);
    assert_eq!((refunded.status, refunded.header("x-durward-assurance")), (200, Some("PhishingResistant")));

    // refused: a second use, no user verification, another challenge, a decreasing counter
    let refused = |answer: &str| {
        let reply = exchange(&up, &first, answer);
        assert_eq!((reply.status, reply.body.as_str()), (400, r#"{"error":"invalid_grant"}"#));
    };
    refused(&answer);
    let options = challenge(&up, &first);
    refused(&authenticator_response("get", &up, &options, 6, &["unverified"]));
    let earlier = challenge(&up, &first);
    let _later = challenge(&up, &first);
    refused(&authenticator_response("get", &up, &earlier, 7, &[]));
    let options = challenge(&up, &first);
    refused(&authenticator_response("get", &up, &options, 4, &[]));
    refused("{}");
    let of_counter = |record: &Value| {
        record["reason"].as_str().is_some_and(|reason| reason.contains("the counter of a key has gone back"))
    };
    up.record("the counter", of_counter);

    // of two concurrent responses one is accepted
    let options = challenge(&up, &first);
    let answer = authenticator_response("get", &up, &options, 9, &[]);
    let statuses = std::thread::scope(|scope| {
        let both = [0, 1].map(|_| scope.spawn(|| exchange(&up, &first, &answer).status));
        let mut both = both.map(|one| one.join().unwrap());
        both.sort_unstable();
        both
    });
    assert_eq!(statuses, [200, 400]);
}

/// A stolen first token can request challenges too. The rate is limited, and the person's own challenge stays valid.
#[test]
fn passkey_challenges_are_throttled_by_address() {
    let key = IssuerKey::rsa("one");
    let up = start(&key, "5m");
    let first = key.token(&json!({}));
    let mut visit = step_up::FormBrowser::open(&up, &first, &[]);
    let sealed = visit.visit();
    let options = visit.send("/step-up/passkeys/create", &[("visit", &sealed)]).body.clone();
    let made = authenticator_response("create", &up, &options, 0, &[]);
    let added = visit.send("/step-up/passkeys/add", &[("visit", &sealed), ("name", "robot"), ("passkey", &made)]);
    assert_eq!(added.status, 200, "{added:?}");

    let fields = [("subject_token", first.as_str()), ("audience", "orders-api")];
    let ask = |from: &str| {
        let body = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
        let headers =
            [("Host", "durward"), ("X-Forwarded-For", from), ("Content-Type", "application/x-www-form-urlencoded")];
        request(up.listen["tokens"], "POST", "/step-up/passkeys/challenge", &headers, &body)
    };
    // a used challenge does not invalidate others
    for counter in 1..=3 {
        let options = ask("192.0.2.7").body;
        assert_eq!(exchange(&up, &first, &authenticator_response("get", &up, &options, counter, &[])).status, 200);
    }
    let replies: Vec<_> = (0..23).map(|_| ask("203.0.113.9")).collect();
    let statuses: Vec<_> = replies.iter().map(|reply| reply.status).collect();
    assert_eq!(statuses, [vec![200; 21], vec![429; 2]].concat());
    let paused = replies.last().unwrap();
    assert!(
        paused.header("retry-after").is_some() && paused.body.contains("Too many failed or repeated attempts"),
        "{paused:?}"
    );
    // the person, at another address, is not affected
    let options = ask("192.0.2.7");
    assert_eq!(options.status, 200, "{options:?}");
    assert_eq!(ask("203.0.113.9").status, 429);
    assert_eq!(exchange(&up, &first, &authenticator_response("get", &up, &options.body, 4, &[])).status, 200);
    let messages = |record: &&Value| record["outcome"] == "paused" && record["factor"] == "passkey";
    eventually("a record of each", || (up.records(1).iter().filter(messages).count() == 3).then_some(())).unwrap();
}
