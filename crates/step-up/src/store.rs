//! The store of records: Secrets in a cluster, files without one. Each change is a compare-and-swap: if two replicas
//! change a record at once, one of them starts over from the other's result.

use durward_core::principal::PrincipalId;
use durward_kubernetes::requests::RequestError;
use durward_runtime::private_files::{PrivateFileError, check_mode, create_directory, io_error, write_private};
use durward_runtime::random::random_bytes;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, ObjectMeta, PostParams};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use thiserror::Error;
use tokio::task::JoinError;
use tokio::time::sleep;
use zeroize::Zeroizing;

/// Label of the Secrets, for administrators who look for them.
const LABEL: &str = "durward.dev/second-factors";
/// Annotation with the name of the person.
const PRINCIPAL: &str = "durward.dev/principal";
/// Key of the record in the data of a Secret.
const ENTRY: &str = "record.json";
/// Largest record, in bytes. A Secret can hold 1 MiB.
const MAX_RECORD: usize = 512 * 1024;
/// Attempts at a change. An attempt fails only because another change succeeds, so this many can run at once.
const ATTEMPTS: u32 = 16;
/// Longest pause before the second attempt. It grows with each attempt.
const RETRY_PAUSE: Duration = Duration::from_millis(10);

/// Stores records by name.
#[derive(Debug, Clone)]
pub enum FactorStore {
    /// Files in a directory that processes on one host share.
    Files(PathBuf),
    /// Secrets, with the name of the installation's Service as the prefix of their names.
    Secrets(Box<Api<Secret>>, String),
}

/// A record can't be read or changed.
#[derive(Debug, Error)]
pub enum FactorStoreError {
    /// Other changes of the record succeeded first, at every attempt.
    #[error("too many change `{0}` at once")]
    Contended(String),
    /// The stored text is not a valid record.
    #[error("the record `{name}` can't be used: {why}")]
    Record { name: String, why: String },
    /// The API server rejects the request, or does not respond.
    #[error("the Secret `{name}` can't be used: {source}")]
    Secret { name: String, source: RequestError },
    /// The Secret holds no record.
    #[error("the Secret `{name}` can't be used: it has no `{ENTRY}`")]
    EmptySecret { name: String },
    /// The file can't be used.
    #[error(transparent)]
    File(#[from] PrivateFileError),
    /// The thread that uses the file ended early.
    #[error("the file of a second factor can't be used: {0}")]
    Task(#[from] JoinError),
}

/// A record in JSON.
type RecordText = Zeroizing<Vec<u8>>;

/// A record as it was read.
struct StoredRecord {
    text: RecordText,
    /// Metadata of its Secret, with the resource version that a change is conditional on.
    metadata: Option<ObjectMeta>,
}

impl FactorStore {
    /// Reads a record.
    pub async fn read<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, FactorStoreError> {
        self.load(name).await?.map(|stored| decode(name, &stored.text)).transpose()
    }

    /// Changes a record, which starts as `initial`. `change` may run several times; its last result is returned.
    pub async fn change<T: Serialize + DeserializeOwned, R>(
        &self,
        name: &str,
        person: Option<&PrincipalId>,
        initial: impl Fn() -> T,
        change: impl Fn(&mut T) -> R,
    ) -> Result<R, FactorStoreError> {
        for attempt in 0..ATTEMPTS {
            if attempt > 0 {
                let [jitter] = random_bytes::<1>().unwrap_or_default();
                sleep(RETRY_PAUSE.mul_f64(f64::from(attempt) * f64::from(jitter) / 255.0)).await;
            }
            let stored = self.load(name).await?;
            let (mut value, before) = match &stored {
                Some(stored) => (decode(name, &stored.text)?, stored.text.clone()),
                None => {
                    let value = initial();
                    let text = encode(name, &value)?;
                    (value, text)
                }
            };
            let result = change(&mut value);
            let after = encode(name, &value)?;
            if after == before || self.swap(name, person, stored, after).await? {
                return Ok(result);
            }
        }
        Err(FactorStoreError::Contended(name.to_owned()))
    }

    async fn load(&self, name: &str) -> Result<Option<StoredRecord>, FactorStoreError> {
        match self {
            Self::Files(folder) => {
                let path = folder.join(name).with_extension("json");
                let text = blocking(move || read_file(&path)).await?;
                Ok(text.map(|text| StoredRecord { text, metadata: None }))
            }
            Self::Secrets(secrets, prefix) => {
                let name = format!("{prefix}-{name}");
                let secret = match secrets.get_opt(&name).await {
                    Ok(secret) => secret,
                    Err(error) => return Err(FactorStoreError::Secret { name, source: error.into() }),
                };
                let Some(mut secret) = secret else { return Ok(None) };
                let text = secret.data.as_mut().and_then(|data| data.remove(ENTRY));
                let text = text.ok_or(FactorStoreError::EmptySecret { name })?;
                Ok(Some(StoredRecord { text: Zeroizing::new(text.0), metadata: Some(secret.metadata) }))
            }
        }
    }

    /// Replaces the record that was read. Returns whether it was unchanged, and so is replaced.
    async fn swap(
        &self,
        name: &str,
        person: Option<&PrincipalId>,
        stored: Option<StoredRecord>,
        text: RecordText,
    ) -> Result<bool, FactorStoreError> {
        match self {
            Self::Files(folder) => {
                let folder = folder.clone();
                let name = name.to_owned();
                blocking(move || swap_file(&folder, &name, stored.map(|stored| stored.text), &text)).await
            }
            Self::Secrets(secrets, prefix) => {
                let name = format!("{prefix}-{name}");
                let exists = stored.is_some();
                let mut metadata = stored.and_then(|stored| stored.metadata).unwrap_or_default();
                metadata.name = Some(name.clone());
                metadata.managed_fields = None;
                metadata.labels.get_or_insert_default().insert(LABEL.to_owned(), "true".to_owned());
                if let Some(id) = person {
                    metadata.annotations.get_or_insert_default().insert(PRINCIPAL.to_owned(), id.to_string());
                }
                let data = Some([(ENTRY.to_owned(), ByteString(text.to_vec()))].into());
                let secret = Secret { metadata, data, ..Secret::default() };
                let params = PostParams::default();
                // the resource version makes the API server reject a change of an outdated record
                let written = match exists {
                    true => secrets.replace(&name, &params, &secret).await,
                    false => secrets.create(&params, &secret).await,
                };
                match written {
                    Ok(_) => Ok(true),
                    // it was changed, created or deleted since it was read
                    Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(false),
                    Err(error) => Err(FactorStoreError::Secret { name, source: error.into() }),
                }
            }
        }
    }
}

fn encode(name: &str, value: &impl Serialize) -> Result<RecordText, FactorStoreError> {
    let record = |why: String| FactorStoreError::Record { name: name.to_owned(), why };
    let text = serde_json::to_vec(value).map(Zeroizing::new).map_err(|error| record(error.to_string()))?;
    if text.len() > MAX_RECORD { Err(record("it would be too large".to_owned())) } else { Ok(text) }
}

fn decode<T: DeserializeOwned>(name: &str, text: &[u8]) -> Result<T, FactorStoreError> {
    // serde's own message could quote a secret
    let why = |error: serde_json::Error| format!("line {}, column {} is not as expected", error.line(), error.column());
    serde_json::from_slice(text).map_err(|error| FactorStoreError::Record { name: name.to_owned(), why: why(error) })
}

/// The text of a file, if it exists.
fn read_file(path: &Path) -> Result<Option<RecordText>, FactorStoreError> {
    match fs::read(path) {
        Ok(text) => {
            check_mode(path, 0o600)?;
            Ok(Some(Zeroizing::new(text)))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io_error(path)(error).into()),
    }
}

/// Replaces a file atomically, if its text is still `expected`. A lock file excludes other processes meanwhile.
fn swap_file(folder: &Path, name: &str, expected: Option<RecordText>, text: &[u8]) -> Result<bool, FactorStoreError> {
    create_directory(folder)?;
    let lock = folder.join("lock");
    let held = File::options().create(true).append(true).open(&lock).map_err(io_error(&lock))?;
    held.lock().map_err(io_error(&lock))?;
    let path = folder.join(name).with_extension("json");
    if read_file(&path)? != expected {
        return Ok(false);
    }
    let new_file = path.with_extension("new");
    write_private(&new_file, text)?;
    fs::rename(&new_file, &path).map_err(io_error(&path))?;
    Ok(true)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, FactorStoreError> + Send + 'static,
) -> Result<T, FactorStoreError> {
    tokio::task::spawn_blocking(work).await?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn concurrent_changes_are_all_applied() {
        let folder = tempfile::tempdir().expect("a directory");
        let store = FactorStore::Files(folder.path().join("second-factors"));
        let increment = |store: FactorStore| async move {
            let add = |number: &mut u32| {
                *number += 1;
                *number
            };
            store.change("counter", None, || 0_u32, add).await.expect("changed")
        };
        let tasks = (0..8).map(|_| tokio::spawn(increment(store.clone())));
        let results = futures::future::join_all(tasks).await;
        let mut results: Vec<_> = results.into_iter().map(|result| result.expect("no panic")).collect();
        results.sort_unstable();
        assert_eq!(results, (1..=8).collect::<Vec<_>>(), "each change starts from the one before");
        assert_eq!(store.read::<u32>("counter").await.expect("read"), Some(8));
        assert_eq!(store.read::<u32>("other").await.expect("read"), None);
    }

    #[tokio::test]
    async fn broken_and_exposed_files_are_rejected() {
        let folder = tempfile::tempdir().expect("a directory");
        let store = FactorStore::Files(folder.path().to_owned());
        let path = folder.path().join("x.json");
        write_private(&path, b"{").expect("written");
        assert!(store.read::<u32>("x").await.is_err());
        fs::write(folder.path().join("y.json"), "1").expect("written");
        let error = store.read::<u32>("y").await.expect_err("exposed");
        assert!(error.to_string().contains("chmod 600"), "{error}");
    }
}
