//! The newest version of a file, before it is accepted.

use super::file::{ManifestFile, ManifestKey};
use crate::location::locate;
use crate::manifest::{
    BrokenDocument, DocumentLocation, ManifestContents, ManifestDocument, ManifestProblem, ManifestResource, documents,
};
use durward_api::catalog::{AuthenticationResource, Catalog, CatalogChange};
use durward_api::field_error::FieldError;
use durward_api::resources::{AccessPolicy, IdentityProvider, Relationship, namespaced_name};
use durward_api::translation::{self, ObjectVersion};
use durward_core::digest::Digest;
use durward_core::namespaced_name::NamespacedName;
use durward_core::service::ServiceKey;
use k8s_openapi::api::core::v1::{Namespace, Secret};
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The valid resources of a file, and its broken documents.
#[derive(Debug, Default)]
pub(super) struct FileCandidate {
    pub file: ManifestFile,
    pub changes: Vec<CatalogChange>,
    pub locations: BTreeMap<ManifestKey, DocumentLocation>,
    /// The services of the valid policies.
    pub services: BTreeMap<NamespacedName, ServiceKey>,
    pub broken: Vec<BrokenDocument>,
}

impl FileCandidate {
    /// A file that can't be read at all.
    pub(super) fn unreadable(file: &str, message: String) -> Self {
        let mut candidate = Self::default();
        let location = DocumentLocation { file: file.into(), line: 0, item: None };
        candidate.add_problem(&location, FieldError { field: String::new(), message }, "");
        candidate
    }

    /// The candidate for what a file contains.
    pub(super) fn new(contents: ManifestContents, text: &str, catalog: &mut Catalog) -> Self {
        let mut candidate = Self { broken: contents.broken, ..Self::default() };
        candidate.file.problems = contents.problems;
        for broken in &candidate.broken {
            let policy = broken.policy.clone().map(ManifestKey::Policy);
            let relationship = broken.relationship.clone().map(ManifestKey::Relationship);
            candidate.file.pending.extend(policy.into_iter().chain(relationship));
        }
        let texts: BTreeMap<usize, &str> = documents(text).into_iter().collect();
        for ManifestDocument { resource, location } in contents.documents {
            let text = texts.get(&location.line).copied().unwrap_or_default();
            candidate.add(resource, &location, text, catalog);
        }
        candidate
    }

    fn add(&mut self, resource: ManifestResource, location: &DocumentLocation, text: &str, catalog: &mut Catalog) {
        match resource {
            ManifestResource::Policy(policy) => self.add_policy(&policy, location, text, catalog),
            ManifestResource::Relationship(relationship) => {
                self.add_relationship(*relationship, location, text, catalog);
            }
            ManifestResource::Provider(provider) => self.add_provider(*provider, location, text),
            ManifestResource::ApiKeys(secret) => self.add_api_keys(*secret, location, text),
            ManifestResource::Namespace(namespace) => self.add_namespace(&namespace, location, text),
        }
    }

    fn add_policy(&mut self, policy: &AccessPolicy, location: &DocumentLocation, text: &str, catalog: &mut Catalog) {
        let stated = policy.spec.service.audience.clone();
        let service = namespaced_name(&policy.metadata).map(|key| ServiceKey {
            audience: stated.unwrap_or_else(|| format!("{}.{}", key.name, key.namespace)).into(),
            namespace: key.namespace,
        });
        match catalog.compile(policy) {
            Some(CatalogChange::PolicyCompiled(key, created, Ok(compiled))) => {
                if self.define(ManifestKey::Policy(key.clone()), None, location, text, service.clone()) {
                    self.services.extend(service.map(|service| (key.clone(), service)));
                    self.changes.push(CatalogChange::PolicyCompiled(key, created, Ok(compiled)));
                }
            }
            Some(CatalogChange::PolicyCompiled(key, _, Err(errors))) => {
                self.file.pending.insert(ManifestKey::Policy(key.clone()));
                let first = errors.first().cloned();
                for error in errors {
                    self.file.problems.push(problem(location, error, text, Some(key.clone())));
                }
                // the namespace and, without an audience, the name say which service it is
                let invalid = |field: &str| first.as_ref().is_some_and(|error| error.field == field);
                let named = !invalid("metadata.namespace")
                    && (policy.spec.service.audience.is_some() || !invalid("metadata.name"));
                self.broken.push(BrokenDocument {
                    location: location.clone(),
                    policy: Some(key),
                    relationship: None,
                    service: service.filter(|_| named),
                    error: first.unwrap_or_else(|| name_error("the policy is invalid")),
                });
            }
            _ => self.add_problem(location, name_error("a policy needs a name"), text),
        }
    }

    fn add_relationship(
        &mut self,
        relationship: Relationship,
        location: &DocumentLocation,
        text: &str,
        catalog: &Catalog,
    ) {
        let Some(key) = namespaced_name(&relationship.metadata) else {
            return self.add_problem(location, name_error("a relationship needs a name"), text);
        };
        let service =
            ServiceKey { namespace: Arc::clone(&key.namespace), audience: relationship.spec.service.as_str().into() };
        if let Err(errors) = catalog.review_relationship(&relationship) {
            self.file.pending.insert(ManifestKey::Relationship(key.clone()));
            let first = errors.first().cloned().unwrap_or_else(|| name_error("the relationship is invalid"));
            self.file.problems.extend(errors.into_iter().map(|error| problem(location, error, text, None)));
            self.broken.push(BrokenDocument {
                location: location.clone(),
                policy: None,
                relationship: Some(key),
                service: Some(service),
                error: first,
            });
        } else if self.define(ManifestKey::Relationship(key), None, location, text, Some(service)) {
            self.changes
                .extend(ObjectVersion::from_resource(relationship).into_iter().flat_map(ObjectVersion::into_changes));
        }
    }

    fn add_provider(&mut self, provider: IdentityProvider, location: &DocumentLocation, text: &str) {
        let Some(name) = provider.metadata.name.as_deref().filter(|name| !name.is_empty()) else {
            return self.add_problem(location, name_error("an IdentityProvider needs a name"), text);
        };
        let key = ManifestKey::Authentication(AuthenticationResource::IdentityProvider(name.into()));
        if self.define(key, digest(&provider.spec), location, text, None) {
            self.file.providers.push(provider.clone());
            self.changes
                .extend(ObjectVersion::from_resource(provider).into_iter().flat_map(ObjectVersion::into_changes));
        }
    }

    fn add_api_keys(&mut self, secret: Secret, location: &DocumentLocation, text: &str) {
        let Some(name) = namespaced_name(&secret.metadata) else {
            return self.add_problem(location, name_error("a Secret needs a name"), text);
        };
        let key = ManifestKey::Authentication(AuthenticationResource::Secret(name));
        if self.define(key, digest(&secret), location, text, None) {
            self.changes.extend(translation::api_keys(&secret));
            self.file.secrets.push(secret);
        }
    }

    fn add_namespace(&mut self, namespace: &Namespace, location: &DocumentLocation, text: &str) {
        let Some(name) = namespace.metadata.name.clone().filter(|name| !name.is_empty()) else {
            return self.add_problem(location, name_error("a Namespace needs a name"), text);
        };
        let metadata = &namespace.metadata;
        let content = digest(&(&metadata.annotations, &metadata.labels));
        if self.define(ManifestKey::Namespace(name), content, location, text, None) {
            self.changes.extend(translation::namespace(metadata));
        }
    }

    /// Adds a resource, unless the file defines it twice.
    fn define(
        &mut self,
        key: ManifestKey,
        content: Option<Digest>,
        location: &DocumentLocation,
        text: &str,
        service: Option<ServiceKey>,
    ) -> bool {
        if let (Some(other), Some(first)) = (self.file.resources.get(&key), self.locations.get(&key)) {
            if content.is_none() || *other != content {
                let error = duplicate(&key, first);
                self.file.problems.push(problem(location, error.clone(), text, None));
                self.broken.push(BrokenDocument {
                    location: location.clone(),
                    policy: None,
                    relationship: None,
                    service,
                    error,
                });
            }
            return false;
        }
        self.locations.insert(key.clone(), location.clone());
        self.file.resources.insert(key, content);
        true
    }

    fn add_problem(&mut self, location: &DocumentLocation, error: FieldError, text: &str) {
        self.file.problems.push(problem(location, error.clone(), text, None));
        self.broken.push(BrokenDocument {
            location: location.clone(),
            policy: None,
            relationship: None,
            service: None,
            error,
        });
    }

    /// Removes a resource that another file defines, and makes it a broken document.
    pub(super) fn remove_duplicate(&mut self, key: &ManifestKey, other: &DocumentLocation, text: &str) {
        self.file.resources.remove(key);
        let Some(location) = self.locations.remove(key) else { return };
        self.changes.retain(|change| !concerns(change, key));
        let mut service = None;
        match key {
            ManifestKey::Policy(name) => service = self.services.remove(name),
            ManifestKey::Authentication(AuthenticationResource::IdentityProvider(name)) => {
                self.file.providers.retain(|provider| provider.metadata.name.as_deref() != Some(name));
            }
            ManifestKey::Authentication(AuthenticationResource::Secret(name)) => {
                self.file.secrets.retain(|secret| namespaced_name(&secret.metadata).as_ref() != Some(name));
            }
            ManifestKey::Relationship(_) | ManifestKey::Namespace(_) => {}
        }
        let error = duplicate(key, other);
        self.file.problems.push(problem(&location, error.clone(), text, None));
        self.broken.push(BrokenDocument { location, policy: None, relationship: None, service, error });
    }
}

/// Whether a change is one of a resource.
fn concerns(change: &CatalogChange, key: &ManifestKey) -> bool {
    match (change, key) {
        (CatalogChange::PolicyCompiled(name, ..), ManifestKey::Policy(key)) => name == key,
        (CatalogChange::RelationshipApplied(resource), ManifestKey::Relationship(key)) => {
            namespaced_name(&resource.metadata).as_ref() == Some(key)
        }
        (
            CatalogChange::NamespaceAnnotations(name, _) | CatalogChange::NamespaceLabels(name, _),
            ManifestKey::Namespace(key),
        ) => name == key,
        (CatalogChange::Authentication(resource, _), ManifestKey::Authentication(key)) => resource == key,
        (
            CatalogChange::KeyHeader(name, _),
            ManifestKey::Authentication(AuthenticationResource::IdentityProvider(key)),
        ) => name == key,
        _ => false,
    }
}

fn digest(content: &impl Serialize) -> Option<Digest> {
    serde_json::to_vec(content).ok().map(|bytes| Digest::of([bytes.as_slice()]))
}

fn name_error(message: &str) -> FieldError {
    FieldError { field: "metadata.name".to_owned(), message: message.to_owned() }
}

fn duplicate(key: &ManifestKey, other: &DocumentLocation) -> FieldError {
    let message = format!("{key} is also defined in {} line {}; remove one of them", other.file, other.line);
    name_error(&message)
}

/// The problem for an error in a document with this text.
pub(super) fn problem(
    location: &DocumentLocation,
    error: FieldError,
    text: &str,
    policy: Option<NamespacedName>,
) -> ManifestProblem {
    let (line, column) = locate(text, &location.path_in_document(&error.field)).unwrap_or((1, 1));
    ManifestProblem {
        file: Arc::clone(&location.file),
        line: if location.line == 0 { 0 } else { location.line + line - 1 },
        column: if location.line == 0 { 0 } else { column },
        field: (!error.field.is_empty()).then_some(error.field),
        message: error.message,
        policy,
    }
}
