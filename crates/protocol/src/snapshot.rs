//! The snapshot stream: lines of JSON with the policies and data by which a gate decides.

use durward_api::resources::{AccessPolicy, Approval, IdentityProvider, LastGoodTuples, Relationship};
use durward_core::labels::Labels;
use durward_pki::serial::UidTag;
use durward_pki::token::Jwk;
use k8s_openapi::api::core::v1::Secret;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;
use url::Url;

/// Path of the stream.
pub const SNAPSHOT_PATH: &str = "/snapshot";
/// Path under which gates request approvals.
pub const APPROVALS_PATH: &str = "/snapshot/approvals";
/// Path under which gates report the use of API keys.
pub const KEY_USES_PATH: &str = "/snapshot/key-uses";
/// Limit for key uses in one report. Each takes at most 350 bytes, with the longest names of provider and key.
pub const MAX_KEY_USES: usize = 10;

/// Interval of heartbeats, by which a gate knows that the controller is still there.
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(5);

/// Annotations of a Namespace, those on which policies depend.
pub type NamespaceAnnotations = BTreeMap<String, String>;

/// One line of the stream.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum SnapshotLine<P, R> {
    /// The resources from now on, which replace all earlier ones.
    Resources(Box<SnapshotResources<P, R>>),
    /// UIDs of deleted pods and service accounts, whose credentials are no longer valid.
    #[serde(rename = "gone")]
    Revoked(Vec<UidTag>),
    /// Nothing changed.
    #[serde(rename = "beat")]
    Heartbeat,
}

/// Everything by which a gate decides.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SnapshotResources<P, R> {
    /// Policies of the services that the pod implements.
    pub policies: Vec<P>,
    /// Relationships of these services.
    pub relationships: Vec<R>,
    /// Relationships that were in force, and that the controller can't read any more.
    #[serde(default, rename = "lostRelationships")]
    pub unknown_relationships: Vec<UnknownRelationship>,
    /// Identity providers that the policies accept.
    pub providers: Vec<IdentityProvider>,
    /// Hashes of the API keys of these providers.
    pub secrets: Vec<Secret>,
    /// Annotations by Namespace.
    pub namespaces: BTreeMap<String, NamespaceAnnotations>,
    /// Labels by Namespace, those that rules use.
    #[serde(default)]
    pub namespace_labels: BTreeMap<String, Labels>,
    /// Issuer of the cluster's service-account tokens, and its key set.
    pub service_accounts: Option<(String, String)>,
    /// Signed approvals for these policies.
    #[serde(default)]
    pub approvals: Vec<Approval>,
    /// Keys by which the gate verifies the approvals.
    #[serde(default)]
    pub approval_keys: Vec<Jwk>,
    /// Page on which users present the second factor that a challenge requires.
    #[serde(default)]
    pub step_up: Option<Url>,
}

/// A line as a gate receives it.
pub type ReceivedSnapshotLine = SnapshotLine<AccessPolicy, Relationship>;

/// A Relationship that can't be read any more: namespace, name, and what its status records of the last valid version.
pub type UnknownRelationship = (String, String, LastGoodTuples);

/// Use of an API key at a gate: provider, name of the key, and time in seconds since 1970.
pub type KeyUse = (String, String, i64);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_keep_their_names_in_json() {
        let json = |line: &SnapshotLine<(), ()>| serde_json::to_string(line).expect("a line is JSON");
        assert_eq!(json(&SnapshotLine::Heartbeat), r#""beat""#);
        assert_eq!(json(&SnapshotLine::Revoked(Vec::new())), r#"{"gone":[]}"#);
    }
}
