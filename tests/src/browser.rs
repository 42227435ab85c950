//! A real Chromium, driven by WebDriver (W3C) with its extension for virtual authenticators (WebAuthn, section 11).

use crate::eventually;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use tokio::runtime::Runtime;

/// The JSON name of an element reference (WebDriver, section 11).
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";
/// Code points of keys without text (section 15.4.2).
pub const TAB: &str = "\u{e004}";
pub const ENTER: &str = "\u{e007}";

/// A browser window with a profile of its own; closed when dropped.
pub struct Chromium {
    driver: Child,
    runtime: Runtime,
    client: Client<HttpConnector, Full<Bytes>>,
    base: String,
    session: String,
}

impl Chromium {
    /// Starts with an empty profile.
    pub fn start() -> Self {
        Self::with(json!({}))
    }

    /// Starts with JavaScript disabled.
    pub fn without_javascript() -> Self {
        Self::with(json!({"profile.managed_default_content_settings.javascript": 2}))
    }

    fn with(preferences: Value) -> Self {
        let mut command = Command::new("chromedriver");
        let mut driver = command
            .arg("--port=0")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("chromedriver ({error}): run `make test-deps`"));
        let mut lines = BufReader::new(driver.stdout.take().unwrap()).lines().map_while(Result::ok);
        let port = lines
            .find_map(|line| line.rsplit_once("successfully on port ")?.1.trim_end_matches('.').parse::<u16>().ok());
        let base = format!("http://127.0.0.1:{}", port.unwrap());
        std::thread::spawn(move || lines.for_each(drop));
        let client = Client::builder(TokioExecutor::new()).build_http();
        let mut browser = Self { driver, runtime: Runtime::new().unwrap(), client, base, session: String::new() };
        let arguments = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--lang=en"];
        let capabilities = json!({"capabilities": {"alwaysMatch": {
            "goog:chromeOptions": {"args": arguments, "prefs": preferences},
            "goog:loggingPrefs": {"browser": "ALL"},
        }}});
        let made = browser.send("POST", "/session", &capabilities);
        browser.session = made["sessionId"].as_str().unwrap().to_owned();
        browser
    }

    fn send(&self, method: &str, path: &str, body: &Value) -> Value {
        self.try_send(method, path, body).unwrap_or_else(|error| panic!("{method} {path}: {error}"))
    }

    fn try_send(&self, method: &str, path: &str, body: &Value) -> Result<Value, String> {
        let text = if method == "POST" { body.to_string() } else { String::new() };
        let request = Request::builder().method(method).uri(format!("{}{path}", self.base));
        let request = request.header("Content-Type", "application/json").body(Full::from(text)).unwrap();
        let (status, text) = self.runtime.block_on(async {
            let (head, body) = self.client.request(request).await.map_err(|error| error.to_string())?.into_parts();
            let body = body.collect().await.map_err(|error| error.to_string())?;
            Ok::<_, String>((head.status, body.to_bytes()))
        })?;
        let mut answer: Value = serde_json::from_slice(&text).map_err(|error| error.to_string())?;
        if status.is_success() { Ok(answer["value"].take()) } else { Err(answer.to_string()) }
    }

    fn command(&self, method: &str, path: &str, body: &Value) -> Value {
        self.send(method, &format!("/session/{}{path}", self.session), body)
    }

    /// Opens a page and waits until it has loaded.
    pub fn open(&self, url: &str) {
        self.command("POST", "/url", &json!({"url": url}));
    }

    /// The URL of the page.
    pub fn url(&self) -> String {
        self.command("GET", "/url", &Value::Null).as_str().unwrap().to_owned()
    }

    fn element(&self, css: &str) -> String {
        let path = format!("/session/{}/element", self.session);
        let find = || self.try_send("POST", &path, &json!({"using": "css selector", "value": css})).ok();
        let found = eventually(css, find).unwrap_or_else(|what| panic!("{what}; the page is\n{}", self.source()));
        found[ELEMENT].as_str().unwrap().to_owned()
    }

    /// Whether the page has an element that matches the selector.
    pub fn shows(&self, css: &str) -> bool {
        let all = self.command("POST", "/elements", &json!({"using": "css selector", "value": css}));
        all.as_array().unwrap().iter().any(|element| {
            let id = element[ELEMENT].as_str().unwrap();
            self.command("GET", &format!("/element/{id}/displayed"), &Value::Null) == json!(true)
        })
    }

    /// Clicks an element.
    pub fn click(&self, css: &str) {
        let element = self.element(css);
        self.command("POST", &format!("/element/{element}/click"), &json!({}));
    }

    /// Types into an element.
    pub fn fill(&self, css: &str, text: &str) {
        let element = self.element(css);
        self.command("POST", &format!("/element/{element}/value"), &json!({"text": text}));
    }

    /// Types into the focused element.
    pub fn press(&self, keys: &str) {
        let element = self.command("GET", "/element/active", &Value::Null);
        let element = element[ELEMENT].as_str().unwrap();
        self.command("POST", &format!("/element/{element}/value"), &json!({"text": keys}));
    }

    /// The visible text of an element.
    pub fn text(&self, css: &str) -> String {
        let element = self.element(css);
        self.command("GET", &format!("/element/{element}/text"), &Value::Null).as_str().unwrap().to_owned()
    }

    /// Waits until the page shows a text.
    pub fn wait_for(&self, text: &str) {
        let path = format!("/session/{}/element", self.session);
        let visible = || {
            // the page may navigate away meanwhile
            let body = self.try_send("POST", &path, &json!({"using": "css selector", "value": "body"})).ok()?;
            let path = format!("{path}/{}/text", body[ELEMENT].as_str()?);
            self.try_send("GET", &path, &Value::Null).ok()?.as_str()?.contains(text).then_some(())
        };
        eventually(text, visible).unwrap_or_else(|what| panic!("{what}; the page is\n{}", self.source()));
    }

    fn source(&self) -> String {
        self.command("GET", "/source", &Value::Null).as_str().unwrap_or_default().to_owned()
    }

    /// Adds an authenticator whose user consents to every request. With `verified` user verification succeeds.
    pub fn authenticator(&self, verified: bool) -> String {
        let authenticator = json!({
            "protocol": "ctap2",
            "transport": "internal",
            "hasResidentKey": true,
            "hasUserVerification": verified,
            "isUserVerified": verified,
            "isUserConsenting": true,
        });
        self.command("POST", "/webauthn/authenticator", &authenticator).as_str().unwrap().to_owned()
    }

    /// Removes an authenticator.
    pub fn unplug(&self, authenticator: &str) {
        self.command("DELETE", &format!("/webauthn/authenticator/{authenticator}"), &Value::Null);
    }

    /// Runs a script and returns its result.
    pub fn script(&self, text: &str) -> Value {
        self.script_with(text, "")
    }

    /// Runs a script with an argument.
    pub fn script_with(&self, text: &str, argument: &str) -> Value {
        self.command("POST", "/execute/sync", &json!({"script": text, "args": [argument]}))
    }

    /// The console messages since the last call, policy violations included.
    pub fn console(&self) -> Vec<String> {
        let lines = self.command("POST", "/se/log", &json!({"type": "browser"}));
        lines.as_array().unwrap().iter().map(|line| line["message"].to_string()).collect()
    }

    /// Sets the preferred color scheme, `light` or `dark`, and the size of the window.
    pub fn emulate(&self, scheme: &str, width: u32, height: u32) {
        let feature = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        self.devtools("Emulation.setEmulatedMedia", feature);
        let size = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false});
        self.devtools("Emulation.setDeviceMetricsOverride", size);
    }

    fn devtools(&self, command: &str, parameters: Value) -> Value {
        self.command("POST", "/goog/cdp/execute", &json!({"cmd": command, "params": parameters}))
    }

    /// Accessibility problems of the page: from its computed styles and from its accessibility tree.
    pub fn accessibility_problems(&self) -> Vec<String> {
        let computed = self.script(include_str!("accessible.js"));
        let tree = self.devtools("Accessibility.getFullAXTree", json!({}));
        let focusable = tree["nodes"].as_array().unwrap().iter().filter(|node| {
            let mut properties = node["properties"].as_array().into_iter().flatten();
            node["role"]["value"] != "RootWebArea" && properties.any(|one| one["name"] == "focusable")
        });
        let nameless = focusable.filter(|node| node["name"]["value"].as_str().is_none_or(str::is_empty));
        let nameless = nameless.map(|node| format!("no accessible name: {}", node["role"]["value"]));
        let computed = computed.as_array().unwrap().iter().map(|line| line.as_str().unwrap().to_owned());
        computed.chain(nameless).collect()
    }

    /// Saves a screenshot as PNG.
    pub fn screenshot(&self, to: &Path) {
        let image = self.command("GET", "/screenshot", &Value::Null);
        std::fs::write(to, STANDARD.decode(image.as_str().unwrap()).unwrap()).unwrap();
    }
}

impl Drop for Chromium {
    fn drop(&mut self) {
        if !self.session.is_empty() {
            let _ = self.try_send("DELETE", &format!("/session/{}", self.session), &Value::Null);
        }
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}
