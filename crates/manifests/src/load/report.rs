//! What a directory of manifests reports: its problems, and what follows from them.

use super::ManifestDirectory;
use super::candidate::problem;
use super::file::ManifestKey;
use crate::files::{display_name, read_text};
use crate::manifest;
use crate::manifest::{DocumentLocation, ManifestProblem};
use durward_api::field_error::FieldError;
use durward_core::namespaced_name::NamespacedName;
use durward_runtime::readiness::ManifestHealth;
use std::collections::BTreeSet;

impl ManifestDirectory {
    /// All problems with their locations, in the order of the files.
    #[must_use]
    pub fn problems(&self) -> Vec<ManifestProblem> {
        let mut problems: Vec<ManifestProblem> =
            self.files.values().flat_map(|file| file.problems.iter().cloned()).collect();
        let undecodable: BTreeSet<NamespacedName> =
            problems.iter().filter_map(|problem| problem.policy.clone()).collect();
        for (key, status) in self.catalog.policy_statuses() {
            let Some(rejection) = status.rejected else { continue };
            let Some(location) = self.locations.get(&ManifestKey::Policy(key.clone())) else { continue };
            if !undecodable.contains(key) {
                problems.extend(self.locate_errors(location, rejection.errors, Some(key)));
            }
        }
        let broken: BTreeSet<&ManifestKey> = self.files.values().flat_map(|file| &file.pending).collect();
        for key in self.catalog.relationships() {
            let resource = ManifestKey::Relationship(key.clone());
            let Some(location) = self.locations.get(&resource).filter(|_| !broken.contains(&resource)) else {
                continue;
            };
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
        let text = read_text(&self.path_of(&location.file)).unwrap_or_default();
        let documents = manifest::documents(&text).into_iter();
        let text =
            documents.filter(|(line, _)| *line == location.line).map(|(_, text)| text).next().unwrap_or_default();
        errors.into_iter().map(|error| problem(location, error, text, policy.cloned())).collect()
    }

    /// What follows from the problems, and the entries that are not read.
    #[must_use]
    pub fn notices(&self) -> Vec<String> {
        let mut notices = Vec::new();
        for (path, file) in &self.files {
            let name = display_name(&self.root, path);
            if file.effect.closes_all {
                notices.push(format!(
                    "{name}: everything is closed until this file is fixed, because a part of it names no service"
                ));
            }
            for service in &file.effect.closed {
                notices.push(format!(
                    "{name}: the service {} of namespace {} is closed until this file is fixed",
                    service.audience, service.namespace
                ));
            }
            if file.effect.kept && !file.problems.is_empty() {
                notices.push(format!("{name}: not accepted; what the file held before stays in force"));
            }
        }
        let skipped = self.listed.iter().flat_map(|listed| &listed.skipped);
        notices.extend(skipped.map(|(path, reason)| format!("{}: {reason}", display_name(&self.root, path))));
        notices
    }

    /// The state of the manifests, for the admin listener.
    #[must_use]
    pub fn health(&self) -> ManifestHealth {
        ManifestHealth {
            problems: self.problems().iter().map(ToString::to_string).collect(),
            notices: self.notices(),
            all_closed: self.closes_all(),
        }
    }

    /// Prints the problems and what follows from them to standard error.
    pub fn print_problems(&self) {
        self.problems().iter().for_each(|problem| eprintln!("{problem}"));
        self.notices().iter().for_each(|notice| eprintln!("{notice}"));
    }
}
