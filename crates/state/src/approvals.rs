//! Approvals of an engine that stands alone: a folder of its state directory that is followed as it changes.

use durward_api::catalog::CatalogChange;
use durward_approvals::{Book, Clerk, Folder, Known, QUEUE, Seal, Store};
use durward_engine::Engine;
use durward_manifests::watch::Watch;
use durward_runtime::Failure;
use durward_runtime::supervisor::Parts;
use std::path::Path;
use std::sync::Arc;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

/// The folder as it is followed.
#[derive(Debug)]
pub struct Approvals {
    folder: Folder,
    watch: Watch,
    book: Book,
    known: watch::Sender<Known>,
}

impl Approvals {
    /// Reads the folder of a state directory; returns what it means for decisions.
    pub fn open(state: &Path, seal: Seal) -> Result<(Self, Vec<CatalogChange>), Failure> {
        let folder = Folder::open(state)?;
        let watch = Watch::begin(folder.path())?;
        let mut book = Book::new(seal);
        let changes = book.replace(folder.all()?);
        let known = watch::Sender::new(book.known().clone());
        Ok((Self { folder, watch, book, known }, changes))
    }

    /// Adds the parts that ask for what callers lack, and follow the folder. What that means for decisions goes to
    /// `changes`. One process of those that share a folder `clears` what is over.
    pub fn begin(
        self,
        engine: &Arc<Engine>,
        seal: Seal,
        clears: bool,
        changes: mpsc::UnboundedSender<Vec<CatalogChange>>,
        parts: &mut Parts,
    ) {
        let (wanted, lacking) = mpsc::channel(QUEUE);
        engine.ask_for_approvals(wanted);
        let (_, leading) = watch::channel(clears);
        let (store, known) = (Store::Folder(self.folder.clone()), self.known.subscribe());
        let clerk = Clerk { store, seal, known, engine: Arc::clone(engine), leading };
        parts.add(|stop| clerk.run(lacking, stop));
        parts.add(|stop| self.follow(changes, stop));
    }

    /// Where approvals are kept.
    pub fn store(&self) -> Store {
        Store::Folder(self.folder.clone())
    }

    /// The approvals that exist, as they change.
    pub fn known(&self) -> watch::Receiver<Known> {
        self.known.subscribe()
    }

    async fn follow(
        mut self,
        changes: mpsc::UnboundedSender<Vec<CatalogChange>>,
        shutdown: CancellationToken,
    ) -> Result<(), Failure> {
        loop {
            tokio::select! {
                () = self.watch.changed() => {}
                () = shutdown.cancelled() => return Ok(()),
            }
            match self.folder.all() {
                Ok(all) => {
                    let changed = self.book.replace(all);
                    self.known.send_replace(self.book.known().clone());
                    // the receiver only goes away when everything ends
                    let _ = changes.send(changed);
                }
                Err(error) => tracing::warn!(%error, "approvals can't be read; those that are known stay"),
            }
        }
    }
}
