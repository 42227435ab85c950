//! The fields that conditions can read.

use super::value_type::ValueType::{self, Map, Text, TextMap, Texts, Time};
use std::collections::BTreeSet;
use std::sync::Arc;

/// The fields of `kubernetes`.
pub(super) const KUBERNETES: &[&str] = &["object", "oldObject"];
/// The fields of `resource`.
pub(super) const RESOURCE: &[&str] = &["type", "id", "properties"];
/// The fields of `principal`.
pub(super) const PRINCIPAL: &[&str] = &[
    "id",
    "provider",
    "trustDomain",
    "namespace",
    "serviceAccount",
    "subject",
    "groups",
    "attributes",
    "scopes",
    "assurance",
    "authenticatedAt",
];
/// The fields of `request`.
pub(super) const REQUEST: &[&str] =
    &["method", "path", "host", "operation", "captures", "headers", "time", "sourceAddress"];
/// The field of `request` that contains the headers which the policy lists.
pub(super) const HEADERS: &str = "headers";

/// The field of `principal` that contains mapped claims.
pub(super) const ATTRIBUTES: &str = "attributes";

/// The attributes that a condition reads.
#[derive(Default)]
pub(super) struct ReadAttributes {
    /// Whether it reads the map as a whole, or by a name that is computed.
    pub(super) all: bool,
    /// Attributes by their literal names.
    pub(super) names: BTreeSet<Box<str>>,
}

/// The fields that a condition reads. Other fields are not computed for it.
#[derive(Default)]
pub(super) struct ReadFields {
    pub(super) principal: BTreeSet<&'static str>,
    pub(super) attributes: ReadAttributes,
    pub(super) request: BTreeSet<&'static str>,
    pub(super) headers: BTreeSet<Arc<str>>,
    pub(super) kubernetes: BTreeSet<&'static str>,
    pub(super) resource: BTreeSet<&'static str>,
}

/// The type of each field of `principal`, `request`, `kubernetes` and `resource`.
pub(super) fn field(root: &str, field: &str) -> ValueType {
    match (root, field) {
        ("principal", "groups" | "scopes") => Texts,
        ("principal", "attributes") | ("kubernetes", _) | ("resource", "properties") => Map,
        ("principal", "authenticatedAt") | ("request", "time") => Time,
        ("request", "captures" | "headers") => TextMap,
        _ => Text,
    }
}
