//! Where approvals are kept: the API server, or a folder of the state directory, one file for each.

use durward_kubernetes::requests::{PATIENCE, brief, patiently};

use durward_api::resources::{AccessPolicy, Approval, ApprovalState, ApprovalStatus};
use durward_runtime::Failure;
use durward_runtime::private_files::{create_directory, write_private};
use durward_runtime::random::random;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{OwnerReference, Time};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Client, Resource};
use serde_json::json;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// Largest file, in bytes: an object is some two kilobytes.
const MAX_FILE: u64 = 64 * 1024;

/// Where approvals are kept.
#[derive(Clone)]
pub enum Store {
    /// At the API server.
    Cluster(Client),
    /// On this host.
    Folder(Folder),
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").finish_non_exhaustive()
    }
}

/// What became of a decision that was to be written.
#[derive(Debug, PartialEq, Eq)]
pub enum Written {
    Done,
    /// The object is another one by now.
    Conflict,
}

impl Store {
    /// Asks for an approval; tells whether there was none yet.
    pub async fn create(&self, mut approval: Approval) -> Result<bool, Failure> {
        match self {
            Self::Folder(folder) => folder.create(approval),
            Self::Cluster(client) => {
                // it goes with the policy that asks for it
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
                match patiently(PATIENCE, api.create(&PostParams::default(), &approval)).await {
                    Ok(_) => {}
                    // another replica was quicker
                    Err(kube::Error::Api(status)) if status.code == 409 => return Ok(false),
                    Err(error) => return Err(brief(&error).into()),
                }
                // for people who list them; without it, it is pending all the same
                let status = Patch::Merge(json!({"status": {"state": ApprovalState::Pending}}));
                let written = patiently(PATIENCE, api.patch_status(&name, &PatchParams::default(), &status)).await;
                if let Err(error) = written {
                    tracing::debug!(error = %brief(&error), "the status of an Approval could not be written");
                }
                Ok(true)
            }
        }
    }

    /// Writes what was decided about `old`, unless that is another one by now.
    pub async fn settle(&self, old: &Approval, decided: &Approval) -> Result<Written, Failure> {
        match self {
            Self::Folder(folder) => folder.settle(old, decided),
            Self::Cluster(client) => {
                let name = decided.metadata.name.clone().unwrap_or_default();
                let (api, parameters) = (api(client, decided), PostParams::default());
                match patiently(PATIENCE, api.replace_status(&name, &parameters, decided)).await {
                    Ok(_) => Ok(Written::Done),
                    Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(Written::Conflict),
                    Err(error) => Err(brief(&error).into()),
                }
            }
        }
    }

    /// Removes one, if it is still this.
    pub async fn remove(&self, approval: &Approval) -> Result<(), Failure> {
        let meta = &approval.metadata;
        match self {
            Self::Folder(folder) => folder.remove(approval),
            Self::Cluster(client) => {
                let preconditions =
                    Preconditions { uid: meta.uid.clone(), resource_version: meta.resource_version.clone() };
                let parameters = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
                let name = meta.name.clone().unwrap_or_default();
                match patiently(PATIENCE, api(client, approval).delete(&name, &parameters)).await {
                    Ok(_) => Ok(()),
                    // it is gone or changed, and the watch says so
                    Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
                    Err(error) => Err(brief(&error).into()),
                }
            }
        }
    }
}

fn api(client: &Client, approval: &Approval) -> Api<Approval> {
    Api::namespaced(client.clone(), approval.metadata.namespace.as_deref().unwrap_or_default())
}

/// A folder of the state directory.
#[derive(Debug, Clone)]
pub struct Folder(PathBuf);

impl Folder {
    /// That of a state directory; made if it is not there.
    pub fn open(state: &Path) -> Result<Self, Failure> {
        let path = state.join("approvals");
        create_directory(&path)?;
        Ok(Self(path))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Everything that can be read.
    pub fn all(&self) -> Result<Vec<Approval>, Failure> {
        let mut all = Vec::new();
        for entry in fs::read_dir(&self.0)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "json") {
                // one that goes meanwhile, or is nothing, hides no other
                all.extend(read(&path).inspect_err(|error| tracing::debug!(?path, %error, "no approval")));
            }
        }
        Ok(all)
    }

    /// A namespace has no dot, so no two objects share a file.
    fn file(&self, approval: &Approval) -> PathBuf {
        let part = |text: &Option<String>| text.clone().unwrap_or_default();
        self.0.join(format!("{}.{}.json", part(&approval.metadata.namespace), part(&approval.metadata.name)))
    }

    fn create(&self, mut approval: Approval) -> Result<bool, Failure> {
        approval.metadata.uid = Some(hex::encode(random::<16>()?));
        approval.metadata.creation_timestamp = Some(Time(Timestamp::now()));
        approval.status = Some(ApprovalStatus::default());
        let (file, fresh) = (self.file(&approval), self.fresh()?);
        write_private(&fresh, &serde_json::to_string_pretty(&approval)?)?;
        // a hard link never replaces a file, so the first one stays
        let linked = fs::hard_link(&fresh, &file);
        fs::remove_file(&fresh)?;
        match linked {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn settle(&self, old: &Approval, decided: &Approval) -> Result<Written, Failure> {
        let (file, fresh, lock) = (self.file(decided), self.fresh()?, self.0.join("lock"));
        write_private(&lock, "")?;
        let lock = File::open(&lock)?;
        lock.lock()?;
        if read(&file).ok().as_ref() != Some(old) {
            return Ok(Written::Conflict);
        }
        write_private(&fresh, &serde_json::to_string_pretty(decided)?)?;
        fs::rename(&fresh, &file)?;
        Ok(Written::Done)
    }

    fn remove(&self, approval: &Approval) -> Result<(), Failure> {
        match fs::remove_file(self.file(approval)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }

    fn fresh(&self) -> Result<PathBuf, Failure> {
        Ok(self.0.join(format!("{}.new", hex::encode(random::<8>()?))))
    }
}

fn read(path: &Path) -> Result<Approval, Failure> {
    if fs::metadata(path)?.len() > MAX_FILE {
        return Err("it is too large".into());
    }
    Ok(serde_json::from_slice(&fs::read(path)?)?)
}
