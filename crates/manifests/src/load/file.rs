//! The resources that one file defines.

use crate::manifest::ManifestProblem;
use durward_api::catalog::AuthenticationResource;
use durward_api::resources::IdentityProvider;
use durward_core::namespaced_name::NamespacedName;
use k8s_openapi::api::core::v1::Secret;
use std::collections::BTreeSet;

/// A file as it was last read.
#[derive(Debug, Default)]
pub(super) struct ManifestFile {
    pub policies: BTreeSet<NamespacedName>,
    pub relationships: BTreeSet<NamespacedName>,
    pub namespaces: BTreeSet<String>,
    pub authentication: BTreeSet<AuthenticationResource>,
    pub providers: Vec<IdentityProvider>,
    pub secrets: Vec<Secret>,
    pub problems: Vec<ManifestProblem>,
}

impl ManifestFile {
    /// Adds the names of the resources of another file.
    pub(super) fn absorb(&mut self, other: Self) {
        self.policies.extend(other.policies);
        self.relationships.extend(other.relationships);
        self.namespaces.extend(other.namespaces);
        self.authentication.extend(other.authentication);
    }

    /// Keeps the resources of the file's former version, except those that have a newer version.
    pub(super) fn keep(&mut self, old: Self) {
        let newer: BTreeSet<_> = self.providers.iter().map(|provider| provider.metadata.name.clone()).collect();
        self.providers.extend(old.providers.into_iter().filter(|provider| !newer.contains(&provider.metadata.name)));
        let newer: BTreeSet<_> = self.secrets.iter().map(|secret| secret.metadata.name.clone()).collect();
        self.secrets.extend(old.secrets.into_iter().filter(|secret| !newer.contains(&secret.metadata.name)));
        self.policies.extend(old.policies);
        self.relationships.extend(old.relationships);
        self.namespaces.extend(old.namespaces);
        self.authentication.extend(old.authentication);
    }
}
