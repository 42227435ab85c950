//! Watches a directory, and applies its changes to the engine.

use crate::load::ManifestDirectory;
use crate::manifest::ManifestProblem;
use durward_api::catalog::CatalogChange;
use durward_api::resources::IdentityProvider;
use durward_engine::EngineContext;
use k8s_openapi::api::core::v1::Secret;
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;
use thiserror::Error;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// Wait for further changes after each one: editors and `git` write several files at once.
const QUIET_TIME: Duration = Duration::from_millis(20);
/// Most changes in one batch, so that a steady stream of them does not delay the first without end.
const MAX_BATCH: usize = 10_000;

/// The directory can't be watched.
#[derive(Debug, Error)]
#[error("can't watch `{path}` for changes: {source}")]
pub struct DirectoryWatchError {
    path: String,
    source: notify::Error,
}

/// A watch of a directory and its subdirectories.
#[derive(Debug)]
pub struct DirectoryWatch {
    /// The watch ends when this is dropped.
    _watcher: RecommendedWatcher,
    events: UnboundedReceiver<Option<notify::Event>>,
}

impl DirectoryWatch {
    /// Starts a watch. Start it before the directory is first loaded, so that no change is missed.
    ///
    /// # Errors
    /// When the system can't watch the directory.
    pub fn start(root: &Path) -> Result<Self, DirectoryWatchError> {
        Self::start_watcher(root).map_err(|source| DirectoryWatchError { path: root.display().to_string(), source })
    }

    fn start_watcher(root: &Path) -> notify::Result<Self> {
        let (sender, events) = unbounded_channel();
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // the receiver is dropped only when the process ends
            let _ = sender.send(event.ok());
        })?;
        watcher.watch(root, RecursiveMode::Recursive)?;
        Ok(Self { _watcher: watcher, events })
    }

    /// Waits for the next batch of changes.
    pub async fn changed(&mut self) {
        loop {
            match next_batch(&mut self.events).await {
                // files were read, not changed
                DirectoryChange::Files(files) if files.is_empty() => {}
                DirectoryChange::Files(_) | DirectoryChange::Everything => return,
            }
        }
    }
}

/// Applies changes of the directory and of `approvals` to the engine, until `shutdown`.
///
/// # Errors
/// When a task that reads the directory panics.
pub async fn follow(
    mut watch: DirectoryWatch,
    mut directory: ManifestDirectory,
    context: EngineContext,
    mut approvals: UnboundedReceiver<Vec<CatalogChange>>,
    shutdown: CancellationToken,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let mut applied = AppliedManifests {
        authentication: (directory.providers(), directory.secrets()),
        problems: directory.problems().into_iter().collect(),
    };
    loop {
        let only = tokio::select! {
            change = next_batch(&mut watch.events) => match change {
                DirectoryChange::Everything => None,
                DirectoryChange::Files(files) => Some(files),
            },
            Some(changes) = approvals.recv() => {
                directory.catalog.apply(changes);
                applied.update(&directory, &context);
                continue;
            }
            () = shutdown.cancelled() => return Ok(()),
        };
        let refresh = move || {
            let refreshed = directory.refresh(only.as_ref());
            (directory, refreshed)
        };
        let (refreshed_directory, refreshed) = tokio::task::spawn_blocking(refresh).await?;
        directory = refreshed_directory;
        match refreshed {
            Ok(_) => applied.update(&directory, &context),
            Err(error) => eprintln!("{error}; the loaded manifests stay in force"),
        }
    }
}

/// What the engine has applied, and which problems were printed.
struct AppliedManifests {
    authentication: (Vec<IdentityProvider>, Vec<Secret>),
    problems: BTreeSet<ManifestProblem>,
}

impl AppliedManifests {
    /// Applies the directory to the engine, and prints new problems.
    fn update(&mut self, directory: &ManifestDirectory, context: &EngineContext) {
        let authentication = (directory.providers(), directory.secrets());
        if authentication != self.authentication {
            let problems = context.authenticator.replace_providers(&authentication.0, &authentication.1);
            problems.iter().for_each(|(provider, problem)| eprintln!("provider {provider}: {problem}"));
            self.authentication = authentication;
        }
        let before = context.engine.snapshot().revision();
        let snapshot = directory.catalog.snapshot();
        if snapshot.revision() != before {
            context.engine.replace_snapshot(snapshot.clone());
            eprintln!("in force: revision {}", snapshot.revision());
        }
        let problems: BTreeSet<ManifestProblem> = directory.problems().into_iter().collect();
        problems.difference(&self.problems).for_each(|problem| eprintln!("{problem}"));
        if problems.is_empty() && !self.problems.is_empty() {
            eprintln!("all manifests are valid again");
        }
        context.metrics.policies_rejected(directory.catalog.rejected_count());
        self.problems = problems;
    }
}

/// A batch of changes.
#[derive(Debug)]
enum DirectoryChange {
    Files(BTreeSet<PathBuf>),
    Everything,
}

/// Waits for a change, and for those that follow it without a quiet time.
async fn next_batch(events: &mut UnboundedReceiver<Option<notify::Event>>) -> DirectoryChange {
    let mut batch = DirectoryChange::Files(BTreeSet::new());
    let Some(first) = events.recv().await else { return std::future::pending().await };
    batch.add(first);
    for _ in 0..MAX_BATCH {
        match timeout(QUIET_TIME, events.recv()).await {
            Ok(Some(event)) => batch.add(event),
            Ok(None) | Err(_) => break,
        }
    }
    batch
}

impl DirectoryChange {
    /// Adds an event. An error of the watcher, or an event of a directory, makes everything outdated.
    fn add(&mut self, event: Option<notify::Event>) {
        match (event, &mut *self) {
            (Some(event), Self::Files(_)) if matches!(event.kind, EventKind::Access(_)) => {}
            (Some(event), Self::Files(files))
                if !event.need_rescan() && event.paths.iter().all(|path| path.extension().is_some()) =>
            {
                files.extend(event.paths);
            }
            _ => *self = Self::Everything,
        }
    }
}
