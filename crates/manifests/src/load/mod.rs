//! A directory of manifests, loaded once or followed as it changes.

use crate::manifest;
use crate::manifest::{Contents, Document, Place, Problem, Resource};
use crate::place::locate;
use crate::progress::Progress;
use durward_api::catalog::{AuthenticationResource, Catalog, CatalogChange, PolicyStatus};
use durward_api::compile::ClusterDomains;
use durward_api::field_error::FieldError;
use durward_api::resources::{AccessPolicy, IdentityProvider, Relationship, namespaced_name};
use durward_api::translation::{self, ObjectVersion};
use durward_core::namespaced_name::NamespacedName;
use k8s_openapi::api::core::v1::Secret;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use thiserror::Error;

/// Largest manifest file, in bytes; 100,000 policies take about half of it.
const MAX_FILE: u64 = 256 * 1024 * 1024;
/// Deepest directory that is looked into.
const MAX_DEPTH: usize = 16;

/// The directory can't be read at all.
#[derive(Debug, Error)]
#[error("can't read the manifests in `{path}`: {source}")]
pub struct LoadError {
    path: String,
    source: io::Error,
}

/// All that is known from a directory.
#[derive(Debug)]
pub struct Directory {
    root: PathBuf,
    files: BTreeMap<PathBuf, Known>,
    /// Policies and the snapshot that follows from them.
    pub catalog: Catalog,
    owners: BTreeMap<NamespacedName, Place>,
    /// Where each Relationship stands.
    relationships: BTreeMap<NamespacedName, Place>,
}

/// A file as it was last read.
#[derive(Debug, Default)]
struct Known {
    policies: BTreeSet<NamespacedName>,
    relationships: BTreeSet<NamespacedName>,
    namespaces: BTreeSet<String>,
    authentication: BTreeSet<AuthenticationResource>,
    providers: Vec<IdentityProvider>,
    secrets: Vec<Secret>,
    problems: Vec<Problem>,
}

/// Loads a directory.
///
/// # Errors
/// When the directory can't be listed. A file that can't be read is a problem of that file.
pub fn load(root: &Path, domains: &ClusterDomains) -> Result<Directory, LoadError> {
    let mut directory = Directory {
        root: root.to_owned(),
        files: BTreeMap::new(),
        catalog: Catalog::new(domains.clone()),
        owners: BTreeMap::new(),
        relationships: BTreeMap::new(),
    };
    directory.refresh(None)?;
    Ok(directory)
}

impl Directory {
    /// Reads the directory again: all of it, or the given files. Returns the policies whose fate changed.
    ///
    /// # Errors
    /// When the directory can't be listed.
    pub fn refresh(
        &mut self,
        only: Option<&BTreeSet<PathBuf>>,
    ) -> Result<Vec<(NamespacedName, PolicyStatus)>, LoadError> {
        let present = manifests(&self.root)?;
        let gone: Vec<PathBuf> = self.files.keys().filter(|path| !present.contains(*path)).cloned().collect();
        let read: Vec<&PathBuf> = present
            .iter()
            .filter(|path| only.is_none_or(|only| only.contains(*path) || !self.files.contains_key(*path)))
            .collect();
        let mut progress = Progress::on_stderr(read.len());
        let mut changes = Vec::new();
        let mut before = Known::default();
        for path in gone {
            before.absorb(self.files.remove(&path).unwrap_or_default());
        }
        for path in read {
            let contents = self.read(path, &mut progress);
            self.take_in(path.clone(), contents, &mut before, &mut changes);
            progress.file();
        }
        self.withdraw(before, &mut changes);
        progress.compiling();
        let fates = self.catalog.apply(changes);
        progress.done();
        Ok(fates)
    }

    fn read(&self, path: &Path, progress: &mut Progress<impl io::Write>) -> Contents {
        let name = name_in(&self.root, path);
        match read_text(path) {
            Ok(text) => manifest::read_with(&name, &text, || progress.resource()),
            Err(message) => {
                let problem = Problem { file: name.into(), line: 0, column: 0, field: None, message, policy: None };
                Contents { problems: vec![problem], ..Contents::default() }
            }
        }
    }

    /// Takes in what a file holds now. What can't be read stays as it was; what is no longer there goes to `before`.
    fn take_in(&mut self, path: PathBuf, contents: Contents, before: &mut Known, changes: &mut Vec<CatalogChange>) {
        let old = self.files.remove(&path).unwrap_or_default();
        let mut known = Known::default();
        let unreadable_whole = contents.problems.iter().any(|problem| problem.policy.is_none());
        for Document { resource, place } in contents.documents {
            self.document(resource, place, &mut known, changes);
        }
        for problem in contents.problems {
            if let Some(key) = &problem.policy {
                known.policies.insert(key.clone());
                let error =
                    FieldError { field: problem.field.clone().unwrap_or_default(), message: problem.message.clone() };
                changes.extend(ObjectVersion::<AccessPolicy>::undecodable(key.clone(), error).into_changes());
            }
            known.problems.push(problem);
        }
        if unreadable_whole {
            // nobody can tell what the unreadable part was about, so nothing that was good is lost
            known.keep(old);
        } else {
            before.absorb(old);
        }
        self.files.insert(path, known);
    }

    fn document(&mut self, resource: Resource, place: Place, known: &mut Known, changes: &mut Vec<CatalogChange>) {
        let problem = |message: String, field: &str| Problem {
            file: Arc::clone(&place.file),
            line: place.line,
            column: 1,
            field: Some(field.to_owned()),
            message,
            policy: None,
        };
        match resource {
            Resource::Policy(policy) => match self.catalog.interned_name(&policy.metadata) {
                Some(key) => {
                    match self
                        .owners
                        .get(&key)
                        .filter(|other| other.file != place.file || known.policies.contains(&key))
                    {
                        Some(other) if self.is_present(other) => {
                            let message = format!(
                                "policy {key} stands in {} line {} too; this one is ignored",
                                other.file, other.line
                            );
                            known.problems.push(problem(message, "metadata.name"));
                        }
                        _ => {
                            self.owners.insert(key.clone(), place);
                            known.policies.insert(key);
                            changes.extend(
                                ObjectVersion::from_resource(*policy)
                                    .into_iter()
                                    .flat_map(ObjectVersion::into_changes)
                                    .map(|change| self.catalog.compact(change)),
                            );
                        }
                    }
                }
                None => known.problems.push(problem("a policy needs a name".to_owned(), "metadata.name")),
            },
            Resource::Provider(provider) => {
                let name = provider.metadata.name.as_deref().unwrap_or_default();
                known.authentication.insert(AuthenticationResource::IdentityProvider(name.into()));
                known.providers.push((*provider).clone());
                changes
                    .extend(ObjectVersion::from_resource(*provider).into_iter().flat_map(ObjectVersion::into_changes));
            }
            Resource::ApiKeys(secret) => {
                known.authentication.extend(namespaced_name(&secret.metadata).map(AuthenticationResource::Secret));
                changes.extend(translation::api_keys(&secret));
                known.secrets.push(*secret);
            }
            Resource::Namespace(namespace) => {
                changes.extend(translation::namespace(&namespace.metadata));
                known.namespaces.insert(namespace.metadata.name.unwrap_or_default());
            }
            Resource::Relationship(relationship) => match namespaced_name(&relationship.metadata) {
                Some(key) => {
                    let elsewhere = |other: &&Place| other.file != place.file || known.relationships.contains(&key);
                    match self.relationships.get(&key).filter(elsewhere).filter(|other| self.is_present(other)) {
                        Some(other) => {
                            let message = format!(
                                "relationship {key} stands in {} line {} too; this one is ignored",
                                other.file, other.line
                            );
                            known.problems.push(problem(message, "metadata.name"));
                        }
                        None => {
                            self.relationships.insert(key.clone(), place);
                            known.relationships.insert(key);
                            changes.extend(
                                ObjectVersion::from_resource(*relationship)
                                    .into_iter()
                                    .flat_map(ObjectVersion::into_changes),
                            );
                        }
                    }
                }
                None => known.problems.push(problem("a relationship needs a name".to_owned(), "metadata.name")),
            },
        }
    }

    /// Whether the file of a place still has it: two files may swap a policy between them.
    fn is_present(&self, place: &Place) -> bool {
        self.root.join(&*place.file).exists()
    }

    /// Withdraws what no file holds any more.
    fn withdraw(&mut self, before: Known, changes: &mut Vec<CatalogChange>) {
        let holds = |check: &dyn Fn(&Known) -> bool| self.files.values().any(check);
        for key in &before.policies {
            // its owner holds it almost always; every other file is asked only for the few that are gone or moved
            let owner = self.owners.get(key).and_then(|place| self.files.get(&self.root.join(&*place.file)));
            if !owner.is_some_and(|known| known.policies.contains(key)) && !holds(&|known| known.policies.contains(key))
            {
                changes.extend(translation::deleted::<AccessPolicy>(key.clone()));
            }
        }
        for key in &before.relationships {
            let place = self.relationships.get(key);
            let owner = place.and_then(|place| self.files.get(&self.root.join(&*place.file)));
            if !owner.is_some_and(|known| known.relationships.contains(key))
                && !holds(&|known| known.relationships.contains(key))
            {
                changes.extend(translation::deleted::<Relationship>(key.clone()));
            }
        }
        for name in &before.namespaces {
            if !holds(&|known| known.namespaces.contains(name)) {
                changes.extend(translation::namespace_deleted(name));
            }
        }
        for name in &before.authentication {
            if !holds(&|known| known.authentication.contains(name)) {
                changes.extend(match name {
                    AuthenticationResource::IdentityProvider(name) => {
                        translation::deleted::<IdentityProvider>(Arc::clone(name))
                    }
                    AuthenticationResource::Secret(name) => translation::api_keys_deleted(name.clone()),
                });
            }
        }
        for change in changes.iter() {
            match change {
                CatalogChange::PolicyDeleted(key) => drop(self.owners.remove(key)),
                CatalogChange::RelationshipDeleted(key) => drop(self.relationships.remove(key)),
                _ => {}
            }
        }
    }

    /// The directory.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// All providers, by name; of two with one name the one in the first file.
    #[must_use]
    pub fn providers(&self) -> Vec<IdentityProvider> {
        let mut seen = BTreeSet::new();
        let all = self.files.values().flat_map(|known| &known.providers);
        all.filter(|provider| seen.insert(provider.metadata.name.clone())).cloned().collect()
    }

    /// All Secrets with API keys.
    #[must_use]
    pub fn secrets(&self) -> Vec<Secret> {
        self.files.values().flat_map(|known| known.secrets.iter().cloned()).collect()
    }

    /// Everything that can't be used as it is written, with its place, in the order of the files.
    #[must_use]
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems: Vec<Problem> = self.files.values().flat_map(|known| known.problems.iter().cloned()).collect();
        let unreadable: BTreeSet<NamespacedName> =
            problems.iter().filter_map(|problem| problem.policy.clone()).collect();
        for (key, fate) in self.catalog.policy_statuses() {
            let Some(rejection) = fate.rejected.filter(|_| !unreadable.contains(key)) else { continue };
            let Some(place) = self.owners.get(key) else { continue };
            problems.extend(self.placed(place, rejection.errors, Some(key)));
        }
        for (key, place) in &self.relationships {
            let Some(rejection) = self.catalog.relationship_status(key).and_then(|fate| fate.rejected) else {
                continue;
            };
            problems.extend(self.placed(place, rejection.errors, None));
        }
        problems.sort_unstable();
        problems
    }

    /// Mistakes in a document, each with its line.
    fn placed(&self, place: &Place, errors: Vec<FieldError>, policy: Option<&NamespacedName>) -> Vec<Problem> {
        let text = read_text(&self.root.join(&*place.file)).unwrap_or_default();
        let document =
            manifest::documents(&text).into_iter().find(|(line, _)| *line == place.line).map(|(_, text)| text);
        let problem = |error: FieldError| {
            let (line, column) = document.and_then(|document| locate(document, &error.field)).unwrap_or((1, 1));
            Problem {
                file: Arc::clone(&place.file),
                line: place.line + line - 1,
                column,
                field: Some(error.field),
                message: error.message,
                policy: policy.cloned(),
            }
        };
        errors.into_iter().map(problem).collect()
    }

    /// Prints the problems to standard error.
    pub fn warn(&self) {
        self.problems().iter().for_each(|problem| eprintln!("{problem}"));
    }
}

impl Known {
    /// Adds what another file held.
    fn absorb(&mut self, other: Self) {
        self.policies.extend(other.policies);
        self.relationships.extend(other.relationships);
        self.namespaces.extend(other.namespaces);
        self.authentication.extend(other.authentication);
    }

    /// Keeps what a file held before, where it does not hold something newer.
    fn keep(&mut self, old: Self) {
        self.policies.extend(old.policies);
        self.relationships.extend(old.relationships);
        self.namespaces.extend(old.namespaces);
        let newer: BTreeSet<_> = self.providers.iter().map(|provider| provider.metadata.name.clone()).collect();
        self.providers.extend(old.providers.into_iter().filter(|provider| !newer.contains(&provider.metadata.name)));
        let newer: BTreeSet<_> = self.secrets.iter().map(|secret| secret.metadata.name.clone()).collect();
        self.secrets.extend(old.secrets.into_iter().filter(|secret| !newer.contains(&secret.metadata.name)));
        self.authentication.extend(old.authentication);
    }
}

/// The files of a directory that manifests are read from.
///
/// # Errors
/// When the directory can't be listed.
pub fn manifests(root: &Path) -> Result<BTreeSet<PathBuf>, LoadError> {
    list(root).map_err(|(path, source)| LoadError { path: path.display().to_string(), source })
}

/// What problems call a file of [`manifests`]: its path in the directory, or as it was given where it stands alone.
pub fn name_in(root: &Path, path: &Path) -> String {
    let inside = path.strip_prefix(root).ok().filter(|inside| !inside.as_os_str().is_empty());
    inside.unwrap_or(path).display().to_string()
}

/// The text of a manifest, if it is one and not too large.
pub fn read_text(path: &Path) -> Result<String, String> {
    let read = || -> io::Result<Vec<u8>> {
        let file = File::open(path)?;
        if file.metadata()?.len() > MAX_FILE {
            return Err(io::Error::other(format!("it is larger than {} MiB; split it", MAX_FILE >> 20)));
        }
        let mut bytes = Vec::new();
        file.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().map_err(|error| format!("can't be read: {error}"))?;
    String::from_utf8(bytes).map_err(|error| format!("is not UTF-8 from byte {} on", error.utf8_error().valid_up_to()))
}

/// The manifests below a directory; hidden ones are left out. A single file is its own directory.
fn list(root: &Path) -> Result<BTreeSet<PathBuf>, (PathBuf, io::Error)> {
    if root.is_file() {
        return Ok(BTreeSet::from([root.to_owned()]));
    }
    let mut found = BTreeSet::new();
    let mut directories = vec![(root.to_owned(), 0)];
    while let Some((directory, depth)) = directories.pop() {
        let entries = fs::read_dir(&directory).map_err(|error| (directory.clone(), error))?;
        for entry in entries {
            let path = entry.map_err(|error| (directory.clone(), error))?.path();
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            if name.starts_with('.') {
                continue;
            }
            if path.is_dir() {
                if depth < MAX_DEPTH && !path.is_symlink() {
                    directories.push((path, depth + 1));
                }
            } else if matches!(path.extension().and_then(|extension| extension.to_str()), Some("yaml" | "yml")) {
                found.insert(path);
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests;
