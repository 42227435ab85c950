//! The store of approvals: the API server, or a folder of the state directory with one file for each.

use crate::error::ApprovalStoreError;
use durward_api::resources::{AccessPolicy, Approval, ApprovalState, ApprovalStatus};
use durward_kubernetes::requests::{REQUEST_TIMEOUT, with_timeout};
use durward_runtime::private_files::{create_directory, io_error, write_private};
use durward_runtime::random::random_bytes;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{OwnerReference, Time};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Client, Resource};
use serde_json::json;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// Largest file, in bytes. An object takes about two kilobytes.
const MAX_FILE: u64 = 64 * 1024;

/// The place that approvals are stored in.
#[derive(Clone)]
pub enum ApprovalStore {
    /// The API server.
    Cluster(Client),
    /// A folder on this host.
    Folder(ApprovalFolder),
}

impl std::fmt::Debug for ApprovalStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ApprovalStore").finish_non_exhaustive()
    }
}

/// The outcome of writing a decision.
#[derive(Debug, PartialEq, Eq)]
pub enum DecisionWrite {
    Done,
    /// The object has changed or is gone.
    Conflict,
}

impl ApprovalStore {
    /// Creates an approval without a decision. Returns whether there was none yet.
    ///
    /// # Errors
    /// When the store can't be used.
    pub async fn create(&self, approval: Approval) -> Result<bool, ApprovalStoreError> {
        match self {
            Self::Folder(folder) => folder.create(approval),
            Self::Cluster(client) => create_in_cluster(client, approval).await,
        }
    }

    /// Replaces `old` by `decided`, unless `old` has changed.
    ///
    /// # Errors
    /// When the store can't be used.
    pub async fn record_decision(
        &self,
        old: &Approval,
        decided: &Approval,
    ) -> Result<DecisionWrite, ApprovalStoreError> {
        match self {
            Self::Folder(folder) => folder.record_decision(old, decided),
            Self::Cluster(client) => {
                let name = decided.metadata.name.clone().unwrap_or_default();
                let api = api(client, decided);
                let parameters = PostParams::default();
                match with_timeout(REQUEST_TIMEOUT, api.replace_status(&name, &parameters, decided)).await {
                    Ok(_) => Ok(DecisionWrite::Done),
                    Err(error) if matches!(error.status(), Some(404 | 409)) => Ok(DecisionWrite::Conflict),
                    Err(error) => Err(error.into()),
                }
            }
        }
    }

    /// Removes an approval, unless it has changed.
    ///
    /// # Errors
    /// When the store can't be used.
    pub async fn remove(&self, approval: &Approval) -> Result<(), ApprovalStoreError> {
        let meta = &approval.metadata;
        match self {
            Self::Folder(folder) => folder.remove(approval),
            Self::Cluster(client) => {
                let preconditions =
                    Preconditions { uid: meta.uid.clone(), resource_version: meta.resource_version.clone() };
                let parameters = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
                let name = meta.name.clone().unwrap_or_default();
                match with_timeout(REQUEST_TIMEOUT, api(client, approval).delete(&name, &parameters)).await {
                    Ok(_) => Ok(()),
                    // it is gone or has changed, and the watch reports that
                    Err(error) if matches!(error.status(), Some(404 | 409)) => Ok(()),
                    Err(error) => Err(error.into()),
                }
            }
        }
    }
}

async fn create_in_cluster(client: &Client, mut approval: Approval) -> Result<bool, ApprovalStoreError> {
    // the garbage collector deletes the approval with its policy
    let owner = (!approval.spec.policy_uid.is_empty()).then(|| OwnerReference {
        api_version: AccessPolicy::api_version(&()).into_owned(),
        kind: AccessPolicy::kind(&()).into_owned(),
        name: approval.spec.policy.clone(),
        uid: approval.spec.policy_uid.clone(),
        ..OwnerReference::default()
    });
    approval.metadata.owner_references = owner.map(|owner| vec![owner]);
    let api = api(client, &approval);
    let name = approval.metadata.name.clone().unwrap_or_default();
    match with_timeout(REQUEST_TIMEOUT, api.create(&PostParams::default(), &approval)).await {
        Ok(_) => {}
        // another replica created it first
        Err(error) if error.status() == Some(409) => return Ok(false),
        Err(error) => return Err(error.into()),
    }
    // the status is for people who list approvals: an approval without one is pending too
    let status = Patch::Merge(json!({"status": {"state": ApprovalState::Pending}}));
    let written = with_timeout(REQUEST_TIMEOUT, api.patch_status(&name, &PatchParams::default(), &status)).await;
    if let Err(error) = written {
        tracing::debug!(%error, "writing the status of an Approval failed; it is pending without one");
    }
    Ok(true)
}

fn api(client: &Client, approval: &Approval) -> Api<Approval> {
    Api::namespaced(client.clone(), approval.metadata.namespace.as_deref().unwrap_or_default())
}

/// The folder of approvals in a state directory.
#[derive(Debug, Clone)]
pub struct ApprovalFolder(PathBuf);

impl ApprovalFolder {
    /// Opens the folder of a state directory, and creates it if necessary.
    ///
    /// # Errors
    /// When the folder can't be created, or others can read it.
    pub fn open(state: &Path) -> Result<Self, ApprovalStoreError> {
        let path = state.join("approvals");
        create_directory(&path)?;
        Ok(Self(path))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// All approvals. Files that can't be read are left out.
    ///
    /// # Errors
    /// When the folder can't be listed.
    pub fn list(&self) -> Result<Vec<Approval>, ApprovalStoreError> {
        let mut all = Vec::new();
        for entry in fs::read_dir(&self.0).map_err(io_error(&self.0))? {
            let path = entry.map_err(io_error(&self.0))?.path();
            if path.extension().is_some_and(|extension| extension == "json") {
                // a file that is malformed, or removed meanwhile, does not hide the others
                all.extend(read(&path).inspect_err(|error| tracing::debug!(%error, "ignoring a file of approvals")));
            }
        }
        Ok(all)
    }

    /// The file of an approval. A namespace holds no dot, so no two objects share a file.
    fn file(&self, approval: &Approval) -> PathBuf {
        let part = |text: &Option<String>| text.clone().unwrap_or_default();
        self.0.join(format!("{}.{}.json", part(&approval.metadata.namespace), part(&approval.metadata.name)))
    }

    fn create(&self, mut approval: Approval) -> Result<bool, ApprovalStoreError> {
        approval.metadata.uid = Some(hex::encode(random_bytes::<16>()?));
        approval.metadata.creation_timestamp = Some(Time(Timestamp::now()));
        approval.status = Some(ApprovalStatus::default());
        let file = self.file(&approval);
        let new_file = self.write_new_file(&approval)?;
        // a hard link never replaces a file, so the first writer wins
        let linked = fs::hard_link(&new_file, &file);
        fs::remove_file(&new_file).map_err(io_error(&new_file))?;
        match linked {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(io_error(&file)(error).into()),
        }
    }

    fn record_decision(&self, old: &Approval, decided: &Approval) -> Result<DecisionWrite, ApprovalStoreError> {
        let file = self.file(decided);
        let lock_file = self.0.join("lock");
        write_private(&lock_file, "")?;
        let lock = File::open(&lock_file).map_err(io_error(&lock_file))?;
        lock.lock().map_err(io_error(&lock_file))?;
        if read(&file).ok().as_ref() != Some(old) {
            return Ok(DecisionWrite::Conflict);
        }
        let new_file = self.write_new_file(decided)?;
        fs::rename(&new_file, &file).map_err(io_error(&file))?;
        Ok(DecisionWrite::Done)
    }

    fn remove(&self, approval: &Approval) -> Result<(), ApprovalStoreError> {
        let file = self.file(approval);
        match fs::remove_file(&file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error(&file)(error).into()),
            _ => Ok(()),
        }
    }

    /// Writes an approval to a file with a random name, which becomes its own file as a whole.
    fn write_new_file(&self, approval: &Approval) -> Result<PathBuf, ApprovalStoreError> {
        let new_file = self.0.join(format!("{}.new", hex::encode(random_bytes::<8>()?)));
        let text = serde_json::to_string_pretty(approval).map_err(ApprovalStoreError::Encode)?;
        write_private(&new_file, &text)?;
        Ok(new_file)
    }
}

fn read(path: &Path) -> Result<Approval, ApprovalStoreError> {
    if fs::metadata(path).map_err(io_error(path))?.len() > MAX_FILE {
        return Err(ApprovalStoreError::TooLarge { path: path.display().to_string() });
    }
    let text = fs::read(path).map_err(io_error(path))?;
    serde_json::from_slice(&text)
        .map_err(|source| ApprovalStoreError::Malformed { path: path.display().to_string(), source })
}
