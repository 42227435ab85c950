//! Namespaces: what their policies may claim, and the labels that selectors match.

use crate::catalog::CatalogChange;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

/// The changes for the metadata of a Namespace.
#[must_use]
pub fn namespace(metadata: &ObjectMeta) -> Vec<CatalogChange> {
    let Some(name) = metadata.name.as_ref().filter(|name| !name.is_empty()) else { return Vec::new() };
    let labels = metadata.labels.clone().unwrap_or_default();
    let annotations = metadata.annotations.clone().unwrap_or_default();
    vec![
        CatalogChange::NamespaceLabels(name.clone(), Some(labels)),
        CatalogChange::NamespaceAnnotations(name.clone(), Some(annotations)),
    ]
}

/// The changes for a Namespace that was deleted.
#[must_use]
pub fn namespace_deleted(name: &str) -> Vec<CatalogChange> {
    vec![
        CatalogChange::NamespaceLabels(name.to_owned(), None),
        CatalogChange::NamespaceAnnotations(name.to_owned(), None),
    ]
}
