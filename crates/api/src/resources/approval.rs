use super::schema;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Requests permission for one principal to perform one operation for a limited time. Durward creates it when the
/// operation is called; a person decides with `durward approve` or `durward deny`.
#[derive(CustomResource, Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "durward.dev",
    version = "v1alpha1",
    kind = "Approval",
    plural = "approvals",
    shortname = "apr",
    category = "durward",
    namespaced,
    status = "ApprovalStatus",
    derive = "PartialEq",
    doc = "Requests permission for one principal to perform one operation for a limited time. Durward creates it when the operation is called; a person decides with `durward approve` or `durward deny`.",
    printcolumn = r#"{"name":"Principal","type":"string","jsonPath":".spec.principal"}"#,
    printcolumn = r#"{"name":"Operation","type":"string","jsonPath":".spec.operation"}"#,
    printcolumn = r#"{"name":"State","type":"string","jsonPath":".status.state"}"#,
    printcolumn = r#"{"name":"By","type":"string","jsonPath":".status.by"}"#,
    printcolumn = r#"{"name":"Expires","type":"string","jsonPath":".status.expiresAt"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "self == oldSelf", "message": "the spec of an Approval can't be changed; another call creates another Approval"},
]))]
pub struct ApprovalSpec {
    /// The AccessPolicy that requires the approval, in this namespace.
    #[schemars(schema_with = "schema::object_name")]
    pub policy: String,
    /// `metadata.uid` of the AccessPolicy at the time of the request.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 64))]
    pub policy_uid: String,
    /// The operation.
    #[schemars(schema_with = "schema::name")]
    pub operation: String,
    /// The principal that may perform the operation once it is approved.
    #[schemars(schema_with = "schema::principal")]
    pub principal: String,
}

/// The decision. It is valid only with Durward's own signature.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ApprovalStatus {
    /// State of the decision. Default `Pending`.
    #[serde(default)]
    pub state: ApprovalState,
    /// The person who decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub by: Option<String>,
    /// Time of the decision, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub decided_at: Option<String>,
    /// End of the validity, RFC 3339. Until then, the approval is valid, or the same request is not created again after
    /// a denial.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub expires_at: Option<String>,
    /// Signature over the content of this object (JWS, RFC 7515), by a key that only Durward has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 4096))]
    pub signature: Option<String>,
}

/// State of the decision.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ApprovalState {
    /// There is no decision yet.
    #[default]
    Pending,
    /// The operation is allowed.
    Approved,
    /// The operation is denied.
    Denied,
}

impl ApprovalState {
    /// The name in objects and records.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Approved => "Approved",
            Self::Denied => "Denied",
        }
    }
}
