//! Following a directory as it changes.

use crate::load::Directory;
use crate::manifest::Problem;
use durward_api::catalog::CatalogChange;
use durward_api::resources::IdentityProvider;
use durward_engine::Engine;
use k8s_openapi::api::core::v1::Secret;
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use std::collections::BTreeSet;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// How long to wait for more changes after one: editors and `git` write several files at once.
const QUIET: Duration = Duration::from_millis(20);
/// Changes that are waited for at most, so that a stream of them does not put off the first.
const MOST: usize = 10_000;

/// A directory that is watched.
#[derive(Debug)]
pub struct Watch {
    /// Ends when it is dropped.
    _watcher: RecommendedWatcher,
    events: UnboundedReceiver<Option<notify::Event>>,
}

impl Watch {
    /// Watches from now on: begun before the directory is first loaded, it misses no change.
    pub fn begin(root: &Path) -> notify::Result<Self> {
        let (sender, events) = unbounded_channel();
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // the receiver only goes away when everything ends
            let _ = sender.send(event.ok());
        })?;
        watcher.watch(root, RecursiveMode::Recursive)?;
        Ok(Self { _watcher: watcher, events })
    }

    /// Waits for the next change, and for those that come with it.
    pub async fn changed(&mut self) {
        loop {
            match gather(&mut self.events).await {
                // reading the files is none
                Changed::Files(files) if files.is_empty() => {}
                Changed::Files(_) | Changed::Everything => return,
            }
        }
    }
}

/// Applies changes of the directory, and of `approvals`, until `shutdown`.
pub async fn follow(
    mut watch: Watch,
    mut directory: Directory,
    engine: Arc<Engine>,
    mut approvals: UnboundedReceiver<Vec<CatalogChange>>,
    shutdown: CancellationToken,
) -> Result<(), Box<dyn Error + Send + Sync>> {
    let mut told: BTreeSet<Problem> = directory.problems().into_iter().collect();
    let mut known = (directory.providers(), directory.secrets());
    loop {
        let only = tokio::select! {
            changed = gather(&mut watch.events) => match changed {
                Changed::Everything => None,
                Changed::Files(files) => Some(files),
            },
            Some(changes) = approvals.recv() => {
                directory.catalog.apply(changes);
                apply(&directory, &engine, &mut known, &mut told);
                continue;
            }
            () = shutdown.cancelled() => return Ok(()),
        };
        let (read, refreshed) = tokio::task::spawn_blocking(move || {
            let refreshed = directory.refresh(only.as_ref());
            (directory, refreshed)
        })
        .await?;
        directory = read;
        match refreshed {
            Ok(_) => apply(&directory, &engine, &mut known, &mut told),
            Err(error) => eprintln!("{error}; what was loaded stays in force"),
        }
    }
}

/// Outside providers, and the Secrets with API keys.
type Providers = (Vec<IdentityProvider>, Vec<Secret>);

fn apply(directory: &Directory, engine: &Engine, known: &mut Providers, told: &mut BTreeSet<Problem>) {
    let providers = (directory.providers(), directory.secrets());
    if providers != *known {
        let problems = engine.authenticator().replace_providers(&providers.0, &providers.1);
        problems.iter().for_each(|(provider, problem)| eprintln!("provider {provider}: {problem}"));
        *known = providers;
    }
    let before = engine.snapshot().revision();
    let snapshot = directory.catalog.snapshot();
    if snapshot.revision() != before {
        engine.replace_snapshot(snapshot.clone());
        eprintln!("in force: revision {}", snapshot.revision());
    }
    let problems: BTreeSet<Problem> = directory.problems().into_iter().collect();
    problems.difference(told).for_each(|problem| eprintln!("{problem}"));
    if problems.is_empty() && !told.is_empty() {
        eprintln!("every manifest is good again");
    }
    engine.metrics().policies_rejected(directory.catalog.rejected_count());
    *told = problems;
}

#[derive(Debug)]
enum Changed {
    Files(BTreeSet<PathBuf>),
    Everything,
}

/// The changes that come together.
async fn gather(events: &mut UnboundedReceiver<Option<notify::Event>>) -> Changed {
    let mut changed = Changed::Files(BTreeSet::new());
    let Some(first) = events.recv().await else { return std::future::pending().await };
    changed.add(first);
    for _ in 0..MOST {
        match timeout(QUIET, events.recv()).await {
            Ok(Some(event)) => changed.add(event),
            Ok(None) | Err(_) => break,
        }
    }
    changed
}

impl Changed {
    /// An event that can't be told, or that concerns a directory, means everything.
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
