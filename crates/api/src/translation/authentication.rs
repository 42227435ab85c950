//! Objects that authentication depends on: `IdentityProvider`s and Secrets with API keys.

use crate::catalog::{AuthenticationResource, CatalogChange};
use crate::resources::{IdentityProviderSpec, namespaced_name};
use durward_core::digest::Digest;
use durward_core::namespaced_name::NamespacedName;
use k8s_openapi::api::core::v1::Secret;
use serde::Serialize;
use std::sync::Arc;

/// The changes for a provider: its content, and the header in which it reads API keys.
///
/// The two belong together. Without the header, the catalog would accept conditions that read API keys.
pub(super) fn provider_changes(name: Arc<str>, spec: &IdentityProviderSpec) -> Vec<CatalogChange> {
    vec![
        CatalogChange::Authentication(AuthenticationResource::IdentityProvider(Arc::clone(&name)), digest(spec)),
        CatalogChange::KeyHeader(name, spec.key_header()),
    ]
}

/// The changes for a provider that was deleted or can't be decoded.
pub(super) fn provider_deleted(name: Arc<str>) -> Vec<CatalogChange> {
    vec![
        CatalogChange::Authentication(AuthenticationResource::IdentityProvider(Arc::clone(&name)), None),
        CatalogChange::KeyHeader(name, None),
    ]
}

/// The changes for a Secret with API keys.
#[must_use]
pub fn api_keys(secret: &Secret) -> Vec<CatalogChange> {
    let Some(name) = namespaced_name(&secret.metadata) else { return Vec::new() };
    // only a manifest has `stringData`; the API server merges it into `data`
    let digest = match &secret.string_data {
        None => digest(&secret.data),
        Some(texts) => digest(&(&secret.data, texts)),
    };
    vec![CatalogChange::Authentication(AuthenticationResource::Secret(name), digest)]
}

/// The changes for a Secret with API keys that was deleted.
#[must_use]
pub fn api_keys_deleted(name: NamespacedName) -> Vec<CatalogChange> {
    vec![CatalogChange::Authentication(AuthenticationResource::Secret(name), None)]
}

fn digest(content: &impl Serialize) -> Option<Digest> {
    serde_json::to_vec(content).ok().map(|bytes| Digest::of([bytes.as_slice()]))
}
