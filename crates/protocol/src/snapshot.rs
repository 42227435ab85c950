//! The snapshot stream: lines of JSON by which the controller tells a gate what to decide by.

use durward_api::resources::{AccessPolicy, Approval, IdentityProvider, LastGoodTuples, Relationship};
use durward_core::labels::Labels;
use durward_pki::serial::UidTag;
use durward_pki::token::Jwk;
use k8s_openapi::api::core::v1::Secret;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;
use url::Url;

/// Where gates follow it.
pub const PATH: &str = "/snapshot";
/// Where they ask for approvals.
pub const APPROVALS_PATH: &str = "/snapshot/approvals";
/// Where they tell which API keys were used.
pub const USES_PATH: &str = "/snapshot/key-uses";
/// Uses that are told at once: each is at most 350 bytes, by the longest names of providers and keys.
pub const USES: usize = 10;

/// How often something is said, so that a gate knows that it is not forgotten.
pub const BEAT: Duration = Duration::from_secs(5);

/// Annotations of Namespaces on which policies depend.
pub type Annotations = BTreeMap<String, String>;

/// One line.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Line<P, R> {
    /// What to decide by from now on, in place of everything before.
    Resources(Box<Told<P, R>>),
    /// What was issued for these counts no more.
    Gone(Vec<UidTag>),
    /// Nothing changed.
    Beat,
}

/// What a gate decides by.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Told<P, R> {
    pub policies: Vec<P>,
    pub relationships: Vec<R>,
    /// Relationships of which it is known only that they were in force.
    #[serde(default)]
    pub lost_relationships: Vec<Lost>,
    /// Those that the policies accept.
    pub providers: Vec<IdentityProvider>,
    /// Hashes of API keys, of these providers alone.
    pub secrets: Vec<Secret>,
    pub namespaces: BTreeMap<String, Annotations>,
    /// Labels of all Namespaces, as far as rules ask for them.
    #[serde(default)]
    pub namespace_labels: BTreeMap<String, Labels>,
    /// Issuer of the cluster's service-account tokens, and its keys.
    pub service_accounts: Option<(String, String)>,
    /// What people let happen by these policies, each as it was signed.
    #[serde(default)]
    pub approvals: Vec<Approval>,
    /// Keys by which the gate verifies that.
    #[serde(default)]
    pub approval_keys: Vec<Jwk>,
    /// Where people show the second factor that a challenge asks for.
    #[serde(default)]
    pub step_up: Option<Url>,
}

/// As a gate reads it.
pub type Heard = Line<AccessPolicy, Relationship>;

/// A Relationship by namespace and name, and what is remembered of it.
pub type Lost = (String, String, LastGoodTuples);

/// An API key that was used at a gate: provider, name, and when, in seconds since 1970.
pub type Used = (String, String, i64);
