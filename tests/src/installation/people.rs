//! People with tokens of a test issuer, and their requests by curl.

use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use durward_pki::token::{SigningAlgorithm, TokenKey, jwks};
use serde_json::{Value, json};

/// The issuer of the IdentityProvider `people`.
pub struct People {
    key: TokenKey,
}

impl People {
    pub fn generate() -> Self {
        Self { key: TokenKey::generate(SigningAlgorithm::Es256).expect("a key") }
    }

    pub fn provider(&self) -> String {
        let keys: Value = serde_json::from_str(&jwks([self.key.jwk()])).expect("JSON");
        json!({
            "apiVersion": "durward.dev/v1alpha1", "kind": "IdentityProvider", "metadata": {"name": "people"},
            "spec": {"jwt": {"issuer": "https://id.example", "jwks": keys, "assurance": {"multiFactor": ["mfa"]}}},
        })
        .to_string()
    }

    /// A token without a second factor.
    pub fn token(&self, subject: &str, audience: &str) -> String {
        self.sign(subject, audience, &[])
    }

    /// A token of a member of `oncall` with a fresh second factor.
    pub fn oncall(&self, subject: &str, audience: &str) -> String {
        let at = now() - 5;
        self.sign(
            subject,
            audience,
            &[("groups", json!(["oncall"])), ("amr", json!(["mfa"])), ("auth_time", json!(at))],
        )
    }

    fn sign(&self, subject: &str, audience: &str, more: &[(&str, Value)]) -> String {
        let now = now();
        let mut claims =
            json!({"iss": "https://id.example", "sub": subject, "aud": audience, "iat": now, "exp": now + 600});
        for (name, value) in more {
            claims[*name] = value.clone();
        }
        self.key.sign(&claims, "JWT").expect("signed")
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_secs()
}

/// Status and body of a request over TLS. With `--include` the body begins with the head.
pub fn curl(arguments: &[&str]) -> (String, String) {
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--insecure", "--max-time", "10", "--write-out", "\n%{http_code}"]);
    let output = curl.args(arguments).output().expect("curl runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (body, status) = text.rsplit_once('\n').unwrap_or(("", &text));
    (status.to_owned(), body.to_owned())
}

/// A visit of the step-up page at `https://auth.example.com`.
pub struct StepUpVisit {
    cookie: String,
    pub page: String,
}

impl StepUpVisit {
    /// Opens the page with a first token, as an app does.
    pub fn begin(address: &str, audience: &str, token: &str) -> Self {
        let mut visit = Self { cookie: String::new(), page: String::new() };
        assert_eq!(visit.post(address, "/step-up", &[("subject_token", token), ("audience", audience)]), "200");
        let cookie = visit.page.lines().find_map(|line| line.strip_prefix("set-cookie: ")).expect("a cookie");
        visit.cookie = cookie.split(';').next().unwrap_or_default().to_owned();
        visit
    }

    /// Posts the form of the page whose action is `path` to a replica.
    pub fn submit(&mut self, address: &str, path: &str, fields: &[(&str, &str)]) -> String {
        assert!(self.page.contains(&format!("action=\"{path}\"")), "no form goes to {path}: {}", self.page);
        let visit = self.between("name=\"visit\" value=\"", "\"");
        self.post(address, path, &[&[("visit", visit.as_str())], fields].concat())
    }

    /// The text between two others on the page.
    pub fn between(&self, before: &str, after: &str) -> String {
        let rest = self.page.split_once(before).and_then(|(_, rest)| rest.split_once(after));
        rest.unwrap_or_else(|| panic!("no {before}: {}", self.page)).0.to_owned()
    }

    fn post(&mut self, address: &str, path: &str, fields: &[(&str, &str)]) -> String {
        let cookie = format!("Cookie: {}", self.cookie);
        let url = format!("https://{address}:8145{path}");
        let fields: Vec<_> = fields.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let mut arguments =
            vec!["--include", "--http1.1", "--header", "Origin: https://auth.example.com", "--header", &cookie];
        fields.iter().for_each(|field| arguments.extend(["--data-urlencode", field.as_str()]));
        arguments.push(&url);
        let (status, page) = curl(&arguments);
        self.page = page;
        status
    }
}

/// Decides an approval with a person's token at the token listener of a replica.
pub fn decide(address: &str, approval: &str, token: &str, verdict: &str) -> (String, String) {
    let bearer = format!("Authorization: Bearer {token}");
    let body = json!({"decision": verdict}).to_string();
    let url = format!("https://{address}:8145/approvals/{approval}");
    curl(&["--header", "Content-Type: application/json", "--header", &bearer, "--data", &body, &url])
}
