//! Applies the changes of a watched directory to the engine.

use super::DirectoryWatch;
use crate::load::{ManifestDirectory, Reading};
use crate::manifest::ManifestProblem;
use durward_api::catalog::CatalogChange;
use durward_api::resources::IdentityProvider;
use durward_engine::EngineContext;
use durward_runtime::readiness::Readiness;
use k8s_openapi::api::core::v1::Secret;
use std::collections::BTreeSet;
use std::sync::Arc;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// A loaded directory, its watch, and the engine that decides by it.
#[derive(Debug)]
pub struct DirectoryFollower {
    pub directory: ManifestDirectory,
    pub watch: DirectoryWatch,
    pub context: EngineContext,
    /// Gets the state of the manifests.
    pub readiness: Arc<Readiness>,
    /// Changes when all files are to be read again.
    pub reload: watch::Receiver<u64>,
}

impl DirectoryFollower {
    /// Puts the loaded directory in force, and prints its problems.
    pub fn apply_loaded(&self) {
        let providers =
            self.context.authenticator.replace_providers(&self.directory.providers(), &self.directory.secrets());
        providers.iter().for_each(|(provider, problem)| eprintln!("provider {provider}: {problem}"));
        self.directory.print_problems();
        self.context.engine.replace_snapshot(self.directory.snapshot());
        self.report();
    }

    /// Applies changes of the directory and of `approvals` to the engine, until `shutdown`.
    ///
    /// # Errors
    /// When a task that reads the directory panics.
    pub async fn run(
        mut self,
        mut approvals: UnboundedReceiver<Vec<CatalogChange>>,
        shutdown: CancellationToken,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let mut applied = AppliedManifests {
            authentication: (self.directory.providers(), self.directory.secrets()),
            problems: self.directory.problems().into_iter().collect(),
            notices: self.directory.notices().into_iter().collect(),
        };
        loop {
            let reading = tokio::select! {
                () = self.watch.changed() => Reading::Changed,
                Ok(()) = self.reload.changed() => {
                    tracing::info!(directory = %self.directory.root().display(), "reading all manifests again");
                    Reading::All
                }
                Some(changes) = approvals.recv() => {
                    self.directory.catalog.apply(changes);
                    applied.update(&self);
                    continue;
                }
                () = shutdown.cancelled() => return Ok(()),
            };
            let mut directory = self.directory;
            let (directory, refreshed) = tokio::task::spawn_blocking(move || {
                let refreshed = directory.refresh(reading);
                (directory, refreshed)
            })
            .await?;
            self.directory = directory;
            match refreshed {
                Ok(_) => applied.update(&self),
                Err(error) => eprintln!("{error}; the loaded manifests stay in force"),
            }
        }
    }

    /// Reports the state of the manifests to the metrics and to the admin listener.
    fn report(&self) {
        let health = self.directory.health();
        self.context.metrics.policies_rejected(self.directory.catalog.rejected_count());
        self.context.metrics.manifests(health.problems.len(), health.all_closed);
        self.readiness.set_manifest_health(health);
    }
}

/// What the engine has applied, and which problems and notices were printed.
struct AppliedManifests {
    authentication: (Vec<IdentityProvider>, Vec<Secret>),
    problems: BTreeSet<ManifestProblem>,
    notices: BTreeSet<String>,
}

impl AppliedManifests {
    /// Applies the directory to the engine, and prints new problems and notices.
    fn update(&mut self, follower: &DirectoryFollower) {
        let DirectoryFollower { directory, context, .. } = follower;
        let authentication = (directory.providers(), directory.secrets());
        if authentication != self.authentication {
            let problems = context.authenticator.replace_providers(&authentication.0, &authentication.1);
            problems.iter().for_each(|(provider, problem)| eprintln!("provider {provider}: {problem}"));
            self.authentication = authentication;
        }
        let before = context.engine.snapshot().revision();
        let snapshot = directory.snapshot();
        if snapshot.revision() != before {
            eprintln!("in force: revision {}", snapshot.revision());
            context.engine.replace_snapshot(snapshot);
        }
        let problems: BTreeSet<ManifestProblem> = directory.problems().into_iter().collect();
        problems.difference(&self.problems).for_each(|problem| eprintln!("{problem}"));
        let notices: BTreeSet<String> = directory.notices().into_iter().collect();
        notices.difference(&self.notices).for_each(|notice| eprintln!("{notice}"));
        self.notices = notices;
        if problems.is_empty() && !self.problems.is_empty() {
            eprintln!("all manifests are valid again");
        }
        self.problems = problems;
        follower.report();
    }
}
