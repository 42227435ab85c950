//! The corpus in `tests/corpus`: requests that every door has to decide alike.

use crate::repository;
use serde::Deserialize;
use serde::de::DeserializeOwned;

pub const POLICY: &str = include_str!("../corpus/policy.yaml");
pub const HOST: &str = "orders.shop.svc";

pub fn corpus<T: DeserializeOwned>(file: &str) -> Vec<T> {
    let text = std::fs::read_to_string(repository(&format!("tests/corpus/{file}"))).unwrap();
    serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// A request that every door reads alike.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RequestCase {
    #[serde(default = "get")]
    pub method: String,
    #[serde(default = "host")]
    pub host: String,
    pub path: String,
    pub reason: String,
    /// The framework that reads the request in another way.
    pub framework: Option<String>,
    /// The path after a proxy has normalized it.
    pub read_as: Option<String>,
}

/// The requests that every door reads alike: those that any parser could misread, and those of single frameworks.
pub fn request_cases() -> Vec<RequestCase> {
    let mut cases = corpus::<RequestCase>("requests.yaml");
    let frameworks = corpus::<RequestCase>("frameworks.yaml");
    assert!(frameworks.iter().all(|case| case.framework.is_some()), "each case names its framework");
    cases.extend(frameworks);
    cases
}

fn get() -> String {
    "GET".to_owned()
}

fn host() -> String {
    HOST.to_owned()
}

/// Headers that a caller adds to its request, and their allowed outcomes.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeaderCase {
    pub name: String,
    #[serde(default)]
    pub by: CallerKind,
    #[serde(default = "order")]
    pub path: String,
    headers: Vec<(String, String)>,
    pub outcome: HeaderOutcome,
}

fn order() -> String {
    "/orders/7".to_owned()
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CallerKind {
    #[default]
    Billing,
    Nobody,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HeaderOutcome {
    Ignored,
    Refused,
    Either,
    Passed,
}

impl HeaderCase {
    /// The headers, after the credential of the caller.
    pub fn headers(&self, token: &str) -> Vec<(String, Vec<u8>)> {
        let own = (self.by == CallerKind::Billing)
            .then(|| ("authorization".to_owned(), format!("Bearer {token}").into_bytes()));
        let bytes = |text: &str| text.chars().map(|char| u8::try_from(u32::from(char)).unwrap()).collect();
        own.into_iter().chain(self.headers.iter().map(|(name, value)| (name.clone(), bytes(value)))).collect()
    }

    /// The status without these headers.
    pub fn plain(&self) -> u16 {
        if self.by == CallerKind::Nobody && self.path != "/healthz" { 401 } else { 200 }
    }

    /// Whether `status` is an allowed outcome.
    pub fn allows(&self, status: u16) -> bool {
        // a server may close the connection over a request that it can't parse
        let refused = (400..500).contains(&status) || status == 0;
        match self.outcome {
            HeaderOutcome::Ignored | HeaderOutcome::Passed => status == self.plain(),
            HeaderOutcome::Refused => refused,
            HeaderOutcome::Either => refused || status == self.plain(),
        }
    }

    /// The first of the headers that reached the application and should not have.
    pub fn leaked_header(&self, seen: &serde_json::Value) -> Option<String> {
        let plain = |name: &str| name.to_ascii_lowercase().replace(|c: char| !c.is_ascii_alphanumeric(), "-");
        let all = seen.as_object().unwrap();
        let written = self.headers.iter().find(|(name, value)| {
            if self.outcome == HeaderOutcome::Passed {
                return false;
            }
            let same = all.iter().filter(|(other, _)| plain(other) == plain(name));
            same.flat_map(|(_, values)| values.as_array().unwrap()).any(|other| other == value.as_str())
        });
        written.map(|(name, value)| format!("{name}: {value}"))
    }
}
