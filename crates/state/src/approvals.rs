//! Approvals without a cluster: a folder of the state directory that is watched for changes.

use durward_api::catalog::CatalogChange;
use durward_approvals::{
    ApprovalFolder, ApprovalIndex, ApprovalObjects, ApprovalRequester, ApprovalSeal, ApprovalStore, ApprovalStoreError,
    REQUEST_QUEUE,
};
use durward_engine::Engine;
use durward_manifests::watch::{DirectoryWatch, DirectoryWatchError};
use durward_runtime::Failure;
use durward_runtime::supervisor::Supervisor;
use std::path::Path;
use std::sync::Arc;
use thiserror::Error;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

/// The folder of approvals can't be used.
#[derive(Debug, Error)]
pub enum LocalApprovalsError {
    /// The folder can't be created or read.
    #[error(transparent)]
    Store(#[from] ApprovalStoreError),
    /// The folder can't be watched.
    #[error(transparent)]
    Watch(#[from] DirectoryWatchError),
}

/// The approvals in a state directory, and the watch of their folder.
#[derive(Debug)]
pub struct LocalApprovals {
    folder: ApprovalFolder,
    watch: DirectoryWatch,
    index: ApprovalIndex,
    objects: watch::Sender<ApprovalObjects>,
}

impl LocalApprovals {
    /// Reads the folder of a state directory. Also returns the catalog changes that the approvals cause.
    ///
    /// # Errors
    /// When the folder can't be read or watched.
    pub fn open(state: &Path, seal: ApprovalSeal) -> Result<(Self, Vec<CatalogChange>), LocalApprovalsError> {
        let folder = ApprovalFolder::open(state)?;
        let watch = DirectoryWatch::start(folder.path())?;
        let mut index = ApprovalIndex::new(seal);
        let changes = index.replace(folder.list()?);
        let objects = watch::Sender::new(index.objects().clone());
        Ok((Self { folder, watch, index, objects }, changes))
    }

    /// Starts the tasks that request the approvals that callers lack, and that follow the folder and send the catalog
    /// changes. Of the processes that share a folder, one `removes_expired` approvals.
    pub fn start(
        self,
        engine: &Arc<Engine>,
        seal: ApprovalSeal,
        removes_expired: bool,
        changes: mpsc::UnboundedSender<Vec<CatalogChange>>,
        supervisor: &mut Supervisor,
    ) {
        let (sender, requests) = mpsc::channel(REQUEST_QUEUE);
        engine.send_approval_requests_to(sender);
        let (_, leading) = watch::channel(removes_expired);
        let requester = ApprovalRequester {
            store: self.store(),
            seal,
            objects: self.objects(),
            engine: Arc::clone(engine),
            leading,
        };
        supervisor.spawn(|stop| requester.run(requests, stop));
        supervisor.spawn(|stop| self.follow(changes, stop));
    }

    /// The store of the approvals.
    pub fn store(&self) -> ApprovalStore {
        ApprovalStore::Folder(self.folder.clone())
    }

    /// The approvals that exist, and their changes.
    pub fn objects(&self) -> watch::Receiver<ApprovalObjects> {
        self.objects.subscribe()
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
            match self.folder.list() {
                Ok(all) => {
                    let changed = self.index.replace(all);
                    self.objects.send_replace(self.index.objects().clone());
                    // the receiver is dropped only when the process ends
                    let _ = changes.send(changed);
                }
                Err(error) => tracing::warn!(%error, "reading the approvals failed; keeping the previous ones"),
            }
        }
    }
}
