//! A directory of manifests, loaded once or refreshed as it changes.

mod file;

use crate::files::{ManifestLoadError, display_name, manifest_files, read_text};
use crate::location::locate;
use crate::manifest;
use crate::manifest::{DocumentLocation, ManifestContents, ManifestDocument, ManifestProblem, ManifestResource};
use crate::progress::LoadProgress;
use durward_api::catalog::{AuthenticationResource, Catalog, CatalogChange, PolicyStatus};
use durward_api::compile::ClusterDomains;
use durward_api::field_error::FieldError;
use durward_api::resources::{AccessPolicy, IdentityProvider, Relationship, namespaced_name};
use durward_api::translation::{self, ObjectVersion};
use durward_core::namespaced_name::NamespacedName;
use file::ManifestFile;
use k8s_openapi::api::core::v1::{Namespace, Secret};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The resources in a directory, and the files that they come from.
#[derive(Debug)]
pub struct ManifestDirectory {
    root: PathBuf,
    files: BTreeMap<PathBuf, ManifestFile>,
    /// The policies, and the snapshot compiled from them.
    pub catalog: Catalog,
    policies: BTreeMap<NamespacedName, DocumentLocation>,
    relationships: BTreeMap<NamespacedName, DocumentLocation>,
}

/// Loads a directory.
///
/// # Errors
/// When the directory can't be listed. A file that can't be read is a problem of that file.
pub fn load(root: &Path, domains: &ClusterDomains) -> Result<ManifestDirectory, ManifestLoadError> {
    let mut directory = ManifestDirectory {
        root: root.to_owned(),
        files: BTreeMap::new(),
        catalog: Catalog::new(domains.clone()),
        policies: BTreeMap::new(),
        relationships: BTreeMap::new(),
    };
    directory.refresh(None)?;
    Ok(directory)
}

impl ManifestDirectory {
    /// Reads the directory again: all files, or the given and the new ones. Returns the policies whose status changed.
    ///
    /// # Errors
    /// When the directory can't be listed.
    pub fn refresh(
        &mut self,
        only: Option<&BTreeSet<PathBuf>>,
    ) -> Result<Vec<(NamespacedName, PolicyStatus)>, ManifestLoadError> {
        let present = manifest_files(&self.root)?;
        let removed: Vec<PathBuf> = self.files.keys().filter(|path| !present.contains(*path)).cloned().collect();
        let outdated: Vec<&PathBuf> = present
            .iter()
            .filter(|path| only.is_none_or(|only| only.contains(*path) || !self.files.contains_key(*path)))
            .collect();
        let mut progress = LoadProgress::on_stderr(outdated.len());
        let mut changes = Vec::new();
        let mut before = ManifestFile::default();
        for path in removed {
            before.absorb(self.files.remove(&path).unwrap_or_default());
        }
        for path in outdated {
            let contents = self.read(path, &mut progress);
            self.replace_file(path.clone(), contents, &mut before, &mut changes);
            progress.file();
        }
        self.withdraw_missing(before, &mut changes);
        progress.compiling();
        let statuses = self.catalog.apply(changes);
        progress.done();
        Ok(statuses)
    }

    fn read(&self, path: &Path, progress: &mut LoadProgress<impl Write>) -> ManifestContents {
        let name = display_name(&self.root, path);
        match read_text(path) {
            Ok(text) => manifest::read_with(&name, &text, || progress.resource()),
            Err(error) => {
                let problem = ManifestProblem {
                    file: name.into(),
                    line: 0,
                    column: 0,
                    field: None,
                    message: error.to_string(),
                    policy: None,
                };
                ManifestContents { problems: vec![problem], ..ManifestContents::default() }
            }
        }
    }

    /// Replaces what a file defines. The former resources go to `before`, unless parts of the file can't be read: then
    /// they stay in force.
    fn replace_file(
        &mut self,
        path: PathBuf,
        contents: ManifestContents,
        before: &mut ManifestFile,
        changes: &mut Vec<CatalogChange>,
    ) {
        let old = self.files.remove(&path).unwrap_or_default();
        let mut file = ManifestFile::default();
        // which resource such a problem concerns is unknown
        let unknown_part = contents.problems.iter().any(|problem| problem.policy.is_none());
        for ManifestDocument { resource, location } in contents.documents {
            self.add_resource(resource, location, &mut file, changes);
        }
        for problem in contents.problems {
            if let Some(key) = &problem.policy {
                file.policies.insert(key.clone());
                let error =
                    FieldError { field: problem.field.clone().unwrap_or_default(), message: problem.message.clone() };
                changes.extend(ObjectVersion::<AccessPolicy>::undecodable(key.clone(), error).into_changes());
            }
            file.problems.push(problem);
        }
        if unknown_part {
            file.keep(old);
        } else {
            before.absorb(old);
        }
        self.files.insert(path, file);
    }

    fn add_resource(
        &mut self,
        resource: ManifestResource,
        location: DocumentLocation,
        file: &mut ManifestFile,
        changes: &mut Vec<CatalogChange>,
    ) {
        match resource {
            ManifestResource::Policy(policy) => self.add_policy(*policy, location, file, changes),
            ManifestResource::Provider(provider) => add_provider(*provider, file, changes),
            ManifestResource::ApiKeys(secret) => add_api_keys(*secret, file, changes),
            ManifestResource::Namespace(namespace) => add_namespace(*namespace, file, changes),
            ManifestResource::Relationship(relationship) => {
                self.add_relationship(*relationship, location, file, changes);
            }
        }
    }

    fn add_policy(
        &mut self,
        policy: AccessPolicy,
        location: DocumentLocation,
        file: &mut ManifestFile,
        changes: &mut Vec<CatalogChange>,
    ) {
        let Some(key) = self.catalog.interned_name(&policy.metadata) else {
            file.problems.push(name_problem(&location, "a policy needs a name".to_owned()));
            return;
        };
        let elsewhere = |other: &&DocumentLocation| other.file != location.file || file.policies.contains(&key);
        let other = self.policies.get(&key).filter(elsewhere).filter(|other| self.is_present(other));
        if let Some(other) = other {
            file.problems.push(duplicate_problem(&location, "policy", &key, other));
            return;
        }
        self.policies.insert(key.clone(), location);
        file.policies.insert(key);
        let versions = ObjectVersion::from_resource(policy).into_iter();
        changes.extend(versions.flat_map(ObjectVersion::into_changes).map(|change| self.catalog.compact(change)));
    }

    fn add_relationship(
        &mut self,
        relationship: Relationship,
        location: DocumentLocation,
        file: &mut ManifestFile,
        changes: &mut Vec<CatalogChange>,
    ) {
        let Some(key) = namespaced_name(&relationship.metadata) else {
            file.problems.push(name_problem(&location, "a relationship needs a name".to_owned()));
            return;
        };
        let elsewhere = |other: &&DocumentLocation| other.file != location.file || file.relationships.contains(&key);
        let other = self.relationships.get(&key).filter(elsewhere).filter(|other| self.is_present(other));
        if let Some(other) = other {
            file.problems.push(duplicate_problem(&location, "relationship", &key, other));
            return;
        }
        self.relationships.insert(key.clone(), location);
        file.relationships.insert(key);
        let versions = ObjectVersion::from_resource(relationship).into_iter();
        changes.extend(versions.flat_map(ObjectVersion::into_changes));
    }

    /// Whether the file of a location still exists. If it does, the resource in it has precedence.
    fn is_present(&self, location: &DocumentLocation) -> bool {
        self.root.join(&*location.file).exists()
    }

    /// Whether a file defines a resource. The file at its location almost always does, so it is checked first.
    fn is_defined(&self, location: Option<&DocumentLocation>, defines: impl Fn(&ManifestFile) -> bool) -> bool {
        let file = location.and_then(|location| self.files.get(&self.root.join(&*location.file)));
        file.is_some_and(&defines) || self.files.values().any(defines)
    }

    /// Withdraws the resources in `before` that no file defines any more.
    fn withdraw_missing(&mut self, before: ManifestFile, changes: &mut Vec<CatalogChange>) {
        for key in before.policies {
            if !self.is_defined(self.policies.get(&key), |file| file.policies.contains(&key)) {
                changes.extend(translation::deleted::<AccessPolicy>(key));
            }
        }
        for key in before.relationships {
            if !self.is_defined(self.relationships.get(&key), |file| file.relationships.contains(&key)) {
                changes.extend(translation::deleted::<Relationship>(key));
            }
        }
        for name in before.namespaces {
            if !self.is_defined(None, |file| file.namespaces.contains(&name)) {
                changes.extend(translation::namespace_deleted(&name));
            }
        }
        for resource in before.authentication {
            if !self.is_defined(None, |file| file.authentication.contains(&resource)) {
                changes.extend(match resource {
                    AuthenticationResource::IdentityProvider(name) => translation::deleted::<IdentityProvider>(name),
                    AuthenticationResource::Secret(name) => translation::api_keys_deleted(name),
                });
            }
        }
        for change in changes.iter() {
            match change {
                CatalogChange::PolicyDeleted(key) => drop(self.policies.remove(key)),
                CatalogChange::RelationshipDeleted(key) => drop(self.relationships.remove(key)),
                _ => {}
            }
        }
    }

    /// The path of the directory.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// All providers, by name. If two have one name, the first file has precedence.
    #[must_use]
    pub fn providers(&self) -> Vec<IdentityProvider> {
        let mut names = BTreeSet::new();
        let all = self.files.values().flat_map(|file| &file.providers);
        all.filter(|provider| names.insert(provider.metadata.name.clone())).cloned().collect()
    }

    /// All Secrets with API keys.
    #[must_use]
    pub fn secrets(&self) -> Vec<Secret> {
        self.files.values().flat_map(|file| file.secrets.iter().cloned()).collect()
    }

    /// All problems with their locations, in the order of the files.
    #[must_use]
    pub fn problems(&self) -> Vec<ManifestProblem> {
        let mut problems: Vec<ManifestProblem> =
            self.files.values().flat_map(|file| file.problems.iter().cloned()).collect();
        let undecodable: BTreeSet<NamespacedName> =
            problems.iter().filter_map(|problem| problem.policy.clone()).collect();
        for (key, status) in self.catalog.policy_statuses() {
            let Some(rejection) = status.rejected else { continue };
            let Some(location) = self.policies.get(key) else { continue };
            if !undecodable.contains(key) {
                problems.extend(self.locate_errors(location, rejection.errors, Some(key)));
            }
        }
        for (key, location) in &self.relationships {
            let rejection = self.catalog.relationship_status(key).and_then(|status| status.rejected);
            if let Some(rejection) = rejection {
                problems.extend(self.locate_errors(location, rejection.errors, None));
            }
        }
        problems.sort_unstable();
        problems
    }

    /// The errors of a document, each with its line and column.
    fn locate_errors(
        &self,
        location: &DocumentLocation,
        errors: Vec<FieldError>,
        policy: Option<&NamespacedName>,
    ) -> Vec<ManifestProblem> {
        let text = read_text(&self.root.join(&*location.file)).unwrap_or_default();
        let documents = manifest::documents(&text).into_iter();
        let document = documents.filter(|(line, _)| *line == location.line).map(|(_, text)| text).next();
        let problem = |error: FieldError| {
            let (line, column) = document.and_then(|document| locate(document, &error.field)).unwrap_or((1, 1));
            ManifestProblem {
                file: Arc::clone(&location.file),
                line: location.line + line - 1,
                column,
                field: Some(error.field),
                message: error.message,
                policy: policy.cloned(),
            }
        };
        errors.into_iter().map(problem).collect()
    }

    /// Prints the problems to standard error.
    pub fn print_problems(&self) {
        self.problems().iter().for_each(|problem| eprintln!("{problem}"));
    }
}

fn add_provider(provider: IdentityProvider, file: &mut ManifestFile, changes: &mut Vec<CatalogChange>) {
    let name = provider.metadata.name.as_deref().unwrap_or_default();
    file.authentication.insert(AuthenticationResource::IdentityProvider(name.into()));
    file.providers.push(provider.clone());
    changes.extend(ObjectVersion::from_resource(provider).into_iter().flat_map(ObjectVersion::into_changes));
}

fn add_api_keys(secret: Secret, file: &mut ManifestFile, changes: &mut Vec<CatalogChange>) {
    file.authentication.extend(namespaced_name(&secret.metadata).map(AuthenticationResource::Secret));
    changes.extend(translation::api_keys(&secret));
    file.secrets.push(secret);
}

fn add_namespace(namespace: Namespace, file: &mut ManifestFile, changes: &mut Vec<CatalogChange>) {
    changes.extend(translation::namespace(&namespace.metadata));
    file.namespaces.insert(namespace.metadata.name.unwrap_or_default());
}

fn name_problem(location: &DocumentLocation, message: String) -> ManifestProblem {
    ManifestProblem {
        file: Arc::clone(&location.file),
        line: location.line,
        column: 1,
        field: Some("metadata.name".to_owned()),
        message,
        policy: None,
    }
}

fn duplicate_problem(
    location: &DocumentLocation,
    kind: &str,
    key: &NamespacedName,
    other: &DocumentLocation,
) -> ManifestProblem {
    let message = format!("{kind} {key} is also defined in {} line {}; this one is ignored", other.file, other.line);
    name_problem(location, message)
}

#[cfg(test)]
mod tests;
