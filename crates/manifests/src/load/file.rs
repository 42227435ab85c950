//! The resources that one file defines.

use crate::manifest::ManifestProblem;
use durward_api::catalog::{AuthenticationResource, CatalogChange};
use durward_api::resources::{AccessPolicy, IdentityProvider, Relationship};
use durward_api::translation;
use durward_core::digest::Digest;
use durward_core::namespaced_name::NamespacedName;
use durward_core::service::ServiceKey;
use k8s_openapi::api::core::v1::Secret;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// The name of a resource in a manifest.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum ManifestKey {
    Policy(NamespacedName),
    Relationship(NamespacedName),
    Namespace(String),
    Authentication(AuthenticationResource),
}

impl fmt::Display for ManifestKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Policy(key) => write!(f, "policy {key}"),
            Self::Relationship(key) => write!(f, "relationship {key}"),
            Self::Namespace(name) => write!(f, "Namespace {name}"),
            Self::Authentication(resource) => write!(f, "{resource}"),
        }
    }
}

impl ManifestKey {
    /// The changes for a resource that no file defines any more.
    pub(super) fn deleted(&self) -> Vec<CatalogChange> {
        match self {
            Self::Policy(key) => translation::deleted::<AccessPolicy>(key.clone()),
            Self::Relationship(key) => translation::deleted::<Relationship>(key.clone()),
            Self::Namespace(name) => translation::namespace_deleted(name),
            Self::Authentication(AuthenticationResource::IdentityProvider(name)) => {
                translation::deleted::<IdentityProvider>(name.clone())
            }
            Self::Authentication(AuthenticationResource::Secret(name)) => translation::api_keys_deleted(name.clone()),
        }
    }
}

/// A file as it is in force.
#[derive(Debug, Default)]
pub(super) struct ManifestFile {
    /// The resources, and the digests of those that may be defined twice if they are equal.
    pub resources: BTreeMap<ManifestKey, Option<Digest>>,
    pub providers: Vec<IdentityProvider>,
    pub secrets: Vec<Secret>,
    /// The mistakes in the newest version of the file.
    pub problems: Vec<ManifestProblem>,
    /// What the newest version defines, if it is not accepted. It is not withdrawn when another file gives it up.
    pub pending: BTreeSet<ManifestKey>,
    pub effect: FileEffect,
}

/// What follows from the mistakes in a file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct FileEffect {
    /// What the file held before stays in force.
    pub kept: bool,
    /// The file was broken at the start, so these services are closed.
    pub closed: BTreeSet<ServiceKey>,
    /// The file was broken at the start and its services are unknown, so everything is closed.
    pub closes_all: bool,
}

impl ManifestFile {
    /// Whether the file defines a resource, in the version in force or in the newest one.
    pub(super) fn defines(&self, key: &ManifestKey) -> bool {
        self.resources.contains_key(key) || self.pending.contains(key)
    }

    /// Adds what another file held.
    pub(super) fn absorb(&mut self, other: Self) {
        self.resources.extend(other.resources);
        self.providers.extend(other.providers);
        self.secrets.extend(other.secrets);
        self.effect.closed.extend(other.effect.closed);
        self.effect.closes_all |= other.effect.closes_all;
    }
}
