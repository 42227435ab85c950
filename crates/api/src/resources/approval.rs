use super::schema;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Somebody asks that one principal may do one operation for a while. Made by Durward when the operation is called; decided
/// by a person with `durward approve` or `durward deny`.
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
    doc = "Somebody asks that one principal may do one operation for a while. Made by Durward when the operation is called; decided by a person with `durward approve` or `durward deny`.",
    printcolumn = r#"{"name":"Principal","type":"string","jsonPath":".spec.principal"}"#,
    printcolumn = r#"{"name":"Operation","type":"string","jsonPath":".spec.operation"}"#,
    printcolumn = r#"{"name":"State","type":"string","jsonPath":".status.state"}"#,
    printcolumn = r#"{"name":"By","type":"string","jsonPath":".status.by"}"#,
    printcolumn = r#"{"name":"Expires","type":"string","jsonPath":".status.expiresAt"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "self == oldSelf", "message": "what is to be approved can't be changed; it is asked for anew by another call"},
]))]
pub struct ApprovalSpec {
    /// The AccessPolicy that asks for it, in this namespace.
    #[schemars(schema_with = "schema::object_name")]
    pub policy: String,
    /// `metadata.uid` of that AccessPolicy, as it was then.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 64))]
    pub policy_uid: String,
    /// The operation.
    #[schemars(schema_with = "schema::name")]
    pub operation: String,
    /// Who is to do it.
    #[schemars(schema_with = "schema::principal")]
    pub principal: String,
}

/// What was decided. It counts only with Durward's own signature.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ApprovalStatus {
    /// Whether it was decided, and how. `Pending` unless said.
    #[serde(default)]
    pub state: ApprovalState,
    /// The person who decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub by: Option<String>,
    /// When, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub decided_at: Option<String>,
    /// Until when it holds, RFC 3339: an approval counts so long, a refusal keeps the same from being asked for again so long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub expires_at: Option<String>,
    /// Signature over all that this object says (JWS, RFC 7515), by a key that only Durward has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 4096))]
    pub signature: Option<String>,
}

/// Whether it was decided, and how.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ApprovalState {
    /// Nobody has decided yet.
    #[default]
    Pending,
    /// It may be done.
    Approved,
    /// It may not be done.
    Denied,
}

impl ApprovalState {
    /// The name as objects and records write it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Approved => "Approved",
            Self::Denied => "Denied",
        }
    }
}
