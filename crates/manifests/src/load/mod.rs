//! A directory of manifests, loaded once or refreshed as it changes.

mod candidate;
mod file;
mod report;

use crate::files::{ManifestLoadError, display_name, read_text};
use crate::manifest;
use crate::manifest::{BrokenDocument, DocumentLocation};
use crate::progress::LoadProgress;
use crate::tree::DirectoryTree;
use candidate::FileCandidate;
use durward_api::catalog::{AuthenticationResource, Catalog, CatalogChange, PolicyStatus, RejectionReason};
use durward_api::compile::ClusterDomains;
use durward_api::resources::{AccessPolicy, IdentityProvider, LastGood, LastGoodTuples, Relationship, namespaced_name};
use durward_api::translation::ObjectVersion;
use durward_core::namespaced_name::NamespacedName;
use durward_core::service::ServiceKey;
use durward_core::snapshot::Snapshot;
use file::{FileEffect, ManifestFile, ManifestKey};
use k8s_openapi::api::core::v1::Secret;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// The resources in a directory, and the files that they come from.
///
/// A file of which any document can't be accepted keeps all that it held. At the start there is nothing to keep: the
/// service that such a document names is closed, or everything if it names none.
#[derive(Debug)]
pub struct ManifestDirectory {
    root: PathBuf,
    /// The listing that the files were last read by; `None` before the first time.
    listed: Option<DirectoryTree>,
    files: BTreeMap<PathBuf, ManifestFile>,
    /// The policies, and the snapshot compiled from them.
    pub catalog: Catalog,
    locations: BTreeMap<ManifestKey, DocumentLocation>,
}

/// Some manifests are invalid, and the process must not start with them.
#[derive(Debug, Error)]
#[error("some manifests in `{path}` are invalid; fix them, or start without --strict")]
pub struct InvalidManifests {
    path: String,
}

/// Which files are read again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    /// All of them.
    All,
    /// Those that differ from the last listing.
    Changed,
}

/// Loads a directory.
///
/// # Errors
/// When the directory can't be listed. A file that can't be read is a problem of that file.
pub fn load(root: &Path, domains: &ClusterDomains) -> Result<ManifestDirectory, ManifestLoadError> {
    let mut directory = ManifestDirectory {
        root: root.to_owned(),
        listed: None,
        files: BTreeMap::new(),
        catalog: Catalog::new(domains.clone()),
        locations: BTreeMap::new(),
    };
    directory.refresh(Reading::All)?;
    Ok(directory)
}

/// What a refresh changes.
#[derive(Default)]
struct Refresh {
    changes: Vec<CatalogChange>,
    /// What removed and changed files held before.
    before: ManifestFile,
    /// The former versions of the files that are read.
    former: BTreeMap<PathBuf, ManifestFile>,
    /// Whether the directory is read for the first time.
    first: bool,
    services: BTreeMap<NamespacedName, ServiceKey>,
}

impl ManifestDirectory {
    /// Reads the directory again. Returns the policies whose status changed.
    ///
    /// # Errors
    /// When the directory can't be listed.
    pub fn refresh(&mut self, reading: Reading) -> Result<Vec<(NamespacedName, PolicyStatus)>, ManifestLoadError> {
        let tree = DirectoryTree::list(&self.root)?;
        let outdated = match (reading, &self.listed) {
            (Reading::Changed, Some(listed)) => tree.outdated_since(listed),
            _ => tree.files.keys().cloned().collect(),
        };
        let removed: Vec<PathBuf> = self.files.keys().filter(|path| !tree.files.contains_key(*path)).cloned().collect();
        let mut refresh = Refresh { first: self.listed.is_none(), ..Refresh::default() };
        self.listed = Some(tree);
        for path in removed {
            refresh.before.absorb(self.files.remove(&path).unwrap_or_default());
        }
        let mut progress = LoadProgress::on_stderr(outdated.len());
        let candidates = self.candidates(outdated, &mut progress);
        // the former versions give their resources up first, so that one can move to another file
        for (path, candidate) in &candidates {
            if candidate.broken.is_empty()
                && let Some(former) = self.files.remove(path)
            {
                refresh.former.insert(path.clone(), former);
            }
        }
        for (path, candidate) in candidates {
            self.put_file(path, candidate, &mut refresh);
        }
        self.withdraw_missing(&mut refresh);
        progress.compiling();
        let mut statuses = self.catalog.apply(refresh.changes);
        if refresh.first {
            statuses.extend(self.close_rejected(&refresh.services));
        }
        progress.done();
        Ok(statuses)
    }

    fn candidates(
        &mut self,
        outdated: BTreeSet<PathBuf>,
        progress: &mut LoadProgress<impl Write>,
    ) -> Vec<(PathBuf, FileCandidate)> {
        let mut candidates = Vec::with_capacity(outdated.len());
        for path in outdated {
            let name = display_name(&self.root, &path);
            let candidate = match read_text(&path) {
                Ok(text) => {
                    let contents = manifest::read_with(&name, &text, || progress.resource());
                    FileCandidate::new(contents, &text, &mut self.catalog)
                }
                Err(error) => FileCandidate::unreadable(&name, error.to_string()),
            };
            progress.file();
            candidates.push((path, candidate));
        }
        candidates
    }

    /// Replaces what a file defines, or keeps the former version.
    fn put_file(&mut self, path: PathBuf, mut candidate: FileCandidate, refresh: &mut Refresh) {
        self.remove_duplicates(&path, &mut candidate);
        let former = refresh.former.remove(&path).or_else(|| self.files.remove(&path));
        if let Some(former) = former {
            if candidate.broken.is_empty() {
                refresh.before.absorb(former);
            } else {
                return self.keep_file(path, former, candidate, refresh);
            }
        }
        let FileCandidate { mut file, changes, locations, services, broken } = candidate;
        for document in &broken {
            self.add_broken(document, &mut file, refresh);
        }
        refresh.changes.extend(changes);
        if refresh.first {
            refresh.services.extend(services);
        } else if !broken.is_empty() {
            // after a rename, what the removed file held belongs to this one
            self.adopt(&mut file, &mut refresh.before);
        }
        self.locations.extend(locations);
        self.files.insert(path, file);
    }

    /// Keeps the former version of a file, and records the mistakes of the newest one.
    fn keep_file(&mut self, path: PathBuf, former: ManifestFile, candidate: FileCandidate, refresh: &mut Refresh) {
        let FileCandidate { file, broken, .. } = candidate;
        for document in broken {
            let held = |key: &ManifestKey| former.resources.contains_key(key);
            if let Some(key) = document.policy.filter(|key| held(&ManifestKey::Policy(key.clone()))) {
                refresh.changes.extend(ObjectVersion::<AccessPolicy>::undecodable(key, document.error).into_changes());
            } else if let Some(key) = document.relationship.filter(|key| held(&ManifestKey::Relationship(key.clone())))
            {
                refresh.changes.extend(ObjectVersion::<Relationship>::undecodable(key, document.error).into_changes());
            }
        }
        let mut pending = file.pending;
        pending.extend(file.resources.into_keys());
        let effect = FileEffect { kept: true, ..former.effect };
        self.files.insert(path, ManifestFile { problems: file.problems, pending, effect, ..former });
    }

    /// Records a broken document of a file that held nothing before. At the start it closes its service.
    fn add_broken(&self, document: &BrokenDocument, file: &mut ManifestFile, refresh: &mut Refresh) {
        let elsewhere = |key: &ManifestKey| self.files.values().any(|file| file.resources.contains_key(key));
        let free = |key: &ManifestKey| !file.resources.contains_key(key) && !elsewhere(key);
        if let Some(key) = document.relationship.clone().filter(|key| free(&ManifestKey::Relationship(key.clone()))) {
            let mut version = ObjectVersion::<Relationship>::undecodable(key.clone(), document.error.clone());
            if let (true, Some(service)) = (refresh.first, &document.service) {
                let service = service.audience.to_string();
                version = version.with_last_good(LastGoodTuples { generation: None, service });
            }
            refresh.changes.extend(version.into_changes());
            file.resources.insert(ManifestKey::Relationship(key), None);
            file.effect.closes_all |= refresh.first && document.service.is_none();
            return;
        }
        let named = document.policy.clone().filter(|key| free(&ManifestKey::Policy(key.clone())));
        if !refresh.first && named.is_none() {
            return;
        }
        let location = &document.location;
        let key = named.or_else(|| {
            // a name that no policy has
            let item = location.item.map(|item| format!("[{item}]")).unwrap_or_default();
            let namespace = document.service.as_ref()?.namespace.clone();
            Some(NamespacedName::new(namespace, format!("{}:{}{item}", location.file, location.line)))
        });
        if let Some(key) = key {
            refresh
                .changes
                .extend(ObjectVersion::<AccessPolicy>::undecodable(key.clone(), document.error.clone()).into_changes());
            if let (true, Some(service)) = (refresh.first, &document.service) {
                refresh.changes.push(closing(&key, service));
                file.effect.closed.insert(service.clone());
            }
            file.resources.insert(ManifestKey::Policy(key), None);
        }
        file.effect.closes_all |= refresh.first && document.service.is_none();
    }

    /// Moves what removed files held, and no other file defines, to a file.
    fn adopt(&self, file: &mut ManifestFile, before: &mut ManifestFile) {
        let mut taken = std::mem::take(before);
        taken.resources.retain(|key, _| !file.defines(key) && !self.is_defined(key));
        let defines = |key: &ManifestKey| taken.resources.contains_key(key);
        taken.providers.retain(|provider| defines(&provider_key(provider)));
        taken.secrets.retain(|secret| secret_key(secret).is_some_and(|key| defines(&key)));
        file.effect.kept = !taken.resources.is_empty();
        file.absorb(taken);
    }

    /// Removes resources from a candidate that other files define with another content.
    fn remove_duplicates(&self, path: &Path, candidate: &mut FileCandidate) {
        let mut duplicates = Vec::new();
        for (key, content) in &candidate.file.resources {
            let Some(location) = self.locations.get(key) else { continue };
            let other_path = self.path_of(&location.file);
            let other = self.files.get(&other_path).filter(|_| other_path != path);
            if let Some(other_content) = other.and_then(|other| other.resources.get(key))
                && (content.is_none() || content != other_content)
            {
                duplicates.push((key.clone(), location.clone()));
            }
        }
        if duplicates.is_empty() {
            return;
        }
        let text = read_text(path).unwrap_or_default();
        let texts: BTreeMap<usize, &str> = manifest::documents(&text).into_iter().collect();
        for (key, other) in duplicates {
            let line = candidate.locations.get(&key).map(|location| location.line);
            let text = line.and_then(|line| texts.get(&line)).copied().unwrap_or_default();
            candidate.remove_duplicate(&key, &other, text);
        }
    }

    /// Closes the services of policies that are rejected at the start: the versions of them that were in force before
    /// are unknown, and with them what they denied.
    fn close_rejected(
        &mut self,
        services: &BTreeMap<NamespacedName, ServiceKey>,
    ) -> Vec<(NamespacedName, PolicyStatus)> {
        let rejected: Vec<CatalogChange> = self
            .catalog
            .policy_statuses()
            .filter(|(_, status)| !status.in_force)
            .filter(|(_, status)| {
                status.rejected.as_ref().is_some_and(|rejection| rejection.reason != RejectionReason::ServiceClosed)
            })
            .filter_map(|(key, _)| Some(closing(key, services.get(key)?)))
            .collect();
        self.catalog.apply(rejected)
    }

    fn path_of(&self, file: &str) -> PathBuf {
        // a single file is its own directory
        let inside = self.root.join(file);
        if self.files.contains_key(&inside) { inside } else { PathBuf::from(file) }
    }

    /// Whether a file defines a resource. The file at its location almost always does, so it is checked first.
    fn is_defined(&self, key: &ManifestKey) -> bool {
        let file = self.locations.get(key).and_then(|location| self.files.get(&self.path_of(&location.file)));
        file.is_some_and(|file| file.defines(key)) || self.files.values().any(|file| file.defines(key))
    }

    /// Withdraws what no file defines any more.
    fn withdraw_missing(&mut self, refresh: &mut Refresh) {
        for key in std::mem::take(&mut refresh.before).resources.into_keys() {
            if !self.is_defined(&key) {
                refresh.changes.extend(key.deleted());
                self.locations.remove(&key);
            }
        }
    }

    /// Refuses a directory with problems, and prints them.
    ///
    /// # Errors
    /// When there are any.
    pub(crate) fn refuse_problems(&self) -> Result<(), InvalidManifests> {
        if self.problems().is_empty() {
            return Ok(());
        }
        self.print_problems();
        Err(InvalidManifests { path: self.root.display().to_string() })
    }

    /// The path of the directory.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The snapshot to decide by: that of the catalog, or one without services if everything is closed.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        if self.closes_all() { Snapshot::default() } else { self.catalog.snapshot().clone() }
    }

    fn closes_all(&self) -> bool {
        self.files.values().any(|file| file.effect.closes_all)
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
        let mut names = BTreeSet::new();
        let all = self.files.values().flat_map(|file| &file.secrets);
        all.filter(|secret| names.insert(secret_key(secret))).cloned().collect()
    }
}

fn provider_key(provider: &IdentityProvider) -> ManifestKey {
    let name = provider.metadata.name.as_deref().unwrap_or_default();
    ManifestKey::Authentication(AuthenticationResource::IdentityProvider(name.into()))
}

fn secret_key(secret: &Secret) -> Option<ManifestKey> {
    namespaced_name(&secret.metadata).map(AuthenticationResource::Secret).map(ManifestKey::Authentication)
}

/// The change that closes a service, in the name of a policy of which no version is in force.
fn closing(key: &NamespacedName, service: &ServiceKey) -> CatalogChange {
    let good = LastGood { audience: service.audience.to_string(), ..LastGood::default() };
    CatalogChange::PolicyLastGood(key.clone(), i64::MAX, Box::new(good))
}

#[cfg(test)]
mod tests;
