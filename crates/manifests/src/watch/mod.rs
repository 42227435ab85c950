//! Watches a directory. A thread waits for events of the file system and lists the directory after them; it reports a
//! change when the listing differs. It lists every 30 seconds too, as a net under events that get lost.
//!
//! ```text
//! events ──▶ is it a name of the listing? ──▶ wait until they cease ──▶ list ──▶ does it differ? ──▶ `changed`
//! ```

mod follow;

pub use follow::DirectoryFollower;

use crate::tree::DirectoryTree;
use notify::event::ModifyKind;
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, PoisonError, RwLock, Weak};
use std::thread;
use std::time::Duration;
use thiserror::Error;
use tokio::sync::Notify;

/// Wait for further changes after each one: editors and `git` write several files at once.
const QUIET_TIME: Duration = Duration::from_millis(20);
/// Most waits in one batch, so that a steady stream of changes does not delay the first without end.
const MAX_WAITS: usize = 50;
/// Interval between listings without an event. Some file systems report no events, and a full queue loses them.
const LISTING_INTERVAL: Duration = Duration::from_secs(30);
/// Listings until all their directories are watched; a new directory may get others while it is listed.
const MAX_LISTINGS: usize = 8;

/// The directory can't be watched.
#[derive(Debug, Error)]
pub enum DirectoryWatchError {
    /// The system gives no watcher.
    #[error("can't watch `{path}` for changes: {source}; raise fs.inotify.max_user_instances")]
    Watcher {
        /// The directory.
        path: String,
        /// The cause.
        source: notify::Error,
    },
    /// The thread can't be started.
    #[error("can't watch `{path}` for changes: {source}")]
    Thread {
        /// The directory.
        path: String,
        /// The cause.
        source: io::Error,
    },
}

/// A watch of a directory and its subdirectories, of the targets of symlinks in it, and of the path that leads to it.
#[derive(Debug)]
pub struct DirectoryWatch {
    changed: Arc<Notify>,
    /// Wakes the thread, which ends when `changed` is gone.
    wake: SyncSender<()>,
}

impl DirectoryWatch {
    /// Starts a watch. Start it before the directory is first loaded, so that no change is missed.
    ///
    /// # Errors
    /// When the system can't watch files.
    pub fn start(root: &Path) -> Result<Self, DirectoryWatchError> {
        let display_path = || root.display().to_string();
        let (wake, wakes) = sync_channel(1);
        let scope = Arc::new(RwLock::new(WatchScope::default()));
        let (event_scope, event_wake) = (Arc::clone(&scope), wake.clone());
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // after an error of the watcher anything may have changed
            let ignored = event.is_ok_and(|event| !is_relevant(&event_scope, &event));
            if !ignored {
                // a full channel wakes the thread as well
                let _ = event_wake.try_send(());
            }
        })
        .map_err(|source| DirectoryWatchError::Watcher { path: display_path(), source })?;
        let changed = Arc::new(Notify::new());
        let mut listings =
            WatchedListings { root: root.to_owned(), watcher, scope, watched: BTreeMap::new(), listed: None };
        listings.listed = listings.list();
        let reports = Arc::downgrade(&changed);
        thread::Builder::new()
            .name("watch".to_owned())
            .spawn(move || listings.run(&wakes, &reports))
            .map_err(|source| DirectoryWatchError::Thread { path: display_path(), source })?;
        Ok(Self { changed, wake })
    }

    /// Waits until the listing of the directory differs from the one before.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }
}

impl Drop for DirectoryWatch {
    fn drop(&mut self) {
        self.changed = Arc::default();
        let _ = self.wake.try_send(());
    }
}

/// The paths whose events matter.
#[derive(Debug, Default)]
struct WatchScope {
    directories: BTreeSet<PathBuf>,
    names: BTreeSet<PathBuf>,
}

/// Whether an event can change the listing.
fn is_relevant(scope: &RwLock<WatchScope>, event: &notify::Event) -> bool {
    if matches!(event.kind, EventKind::Access(_)) {
        return false;
    }
    let content = matches!(event.kind, EventKind::Modify(ModifyKind::Data(_) | ModifyKind::Metadata(_)));
    let scope = scope.read().unwrap_or_else(PoisonError::into_inner);
    let matters = |path: &PathBuf| {
        scope.names.contains(path)
            || scope.directories.contains(path)
            // other files, such as an audit log, are written without end
            || path.parent().is_some_and(|parent| scope.directories.contains(parent))
                && (!content || DirectoryTree::is_manifest_name(path))
    };
    event.need_rescan() || event.paths.is_empty() || event.paths.iter().any(matters)
}

/// The state of the thread.
struct WatchedListings {
    root: PathBuf,
    watcher: RecommendedWatcher,
    scope: Arc<RwLock<WatchScope>>,
    /// Device and inode of each watched directory, if it exists.
    watched: BTreeMap<PathBuf, Option<(u64, u64)>>,
    /// The last listing; `None` if the directory can't be listed.
    listed: Option<DirectoryTree>,
}

impl WatchedListings {
    fn run(mut self, wakes: &Receiver<()>, reports: &Weak<Notify>) {
        loop {
            match wakes.recv_timeout(LISTING_INTERVAL) {
                Ok(()) => wait_for_quiet(wakes),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            let Some(report) = reports.upgrade() else { return };
            let listed = self.list();
            let differs = match (&listed, &self.listed) {
                (Some(new), Some(old)) => new.differs_from(old),
                (None, None) => false,
                _ => true,
            };
            self.listed = listed;
            if differs {
                report.notify_one();
            }
        }
    }

    /// Lists the directory, and watches what the listing depends on.
    fn list(&mut self) -> Option<DirectoryTree> {
        let mut listed = None;
        for _ in 0..MAX_LISTINGS {
            let tree = DirectoryTree::list(&self.root);
            let names = tree.as_ref().map_or_else(|_| DirectoryTree::names_of(&self.root), |tree| tree.names.clone());
            listed = tree.ok();
            let directories = listed.as_ref().map(|tree| tree.directories.clone()).unwrap_or_default();
            if !self.watch(directories, names) {
                break;
            }
        }
        listed
    }

    /// Watches exactly these directories, and those of the names. Returns whether one of them is new.
    fn watch(&mut self, directories: BTreeMap<PathBuf, (u64, u64)>, names: BTreeSet<PathBuf>) -> bool {
        let mut wanted: BTreeMap<PathBuf, Option<(u64, u64)>> = BTreeMap::new();
        for parent in names.iter().filter_map(|name| name.parent()) {
            wanted.insert(parent.to_owned(), DirectoryTree::identity(parent));
        }
        let scope = WatchScope { directories: directories.keys().cloned().collect(), names };
        *self.scope.write().unwrap_or_else(PoisonError::into_inner) = scope;
        wanted.extend(directories.into_iter().map(|(path, identity)| (path, Some(identity))));
        if wanted == self.watched {
            return false;
        }
        let same = |path: &PathBuf, one: &BTreeMap<_, _>, other: &BTreeMap<PathBuf, Option<(u64, u64)>>| {
            one.get(path) == other.get(path)
        };
        for path in self.watched.keys().filter(|path| !same(path, &self.watched, &wanted)) {
            // the watch of a removed directory has ended by itself
            let _ = self.watcher.unwatch(path);
        }
        for path in wanted.keys().filter(|path| !same(path, &self.watched, &wanted)) {
            if let Err(error) = self.watcher.watch(path, RecursiveMode::NonRecursive) {
                let path = path.display();
                tracing::warn!(%path, %error, "watching a directory failed; listing it every 30 seconds instead");
            }
        }
        self.watched = wanted;
        true
    }
}

/// Waits until no event comes for a while.
fn wait_for_quiet(wakes: &Receiver<()>) {
    for _ in 0..MAX_WAITS {
        if wakes.recv_timeout(QUIET_TIME).is_err() {
            return;
        }
    }
}
