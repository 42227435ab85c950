//! Where records are kept: Secrets in a cluster, files in standalone. Each change is a compare-and-swap, so that of two
//! replicas that change the same record at once one begins again with what the other has made.

use durward_core::principal::PrincipalId;
use durward_kubernetes::requests::brief;
use durward_runtime::Failure;
use durward_runtime::private_files::{PrivateFileError, check_mode, create_directory, io_error, write_private};
use durward_runtime::random::random;
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
use tokio::time::sleep;
use zeroize::Zeroizing;

/// Label of the Secrets, by which an administrator finds them.
const LABEL: &str = "durward.dev/second-factors";
/// Annotation that names the person.
const PRINCIPAL: &str = "durward.dev/principal";
/// The one entry of a Secret.
const ENTRY: &str = "record.json";
/// Largest record, in bytes; a Secret can hold 1 MiB.
const MAX_RECORD: usize = 512 * 1024;
/// How often a change begins again. Each round is another's success, so this many replicas and requests can meet at once.
const ROUNDS: u32 = 16;
/// The longest pause before the second round; it grows with each.
const PAUSE: Duration = Duration::from_millis(10);

/// Keeps records by name.
#[derive(Debug, Clone)]
pub enum Store {
    /// In files of a directory that processes on one host share.
    Files(PathBuf),
    /// In Secrets, whose names begin with that of the installation's Service.
    Secrets(Box<Api<Secret>>, String),
}

/// A record can't be read or changed.
#[derive(Debug, Error)]
pub enum StoreError {
    /// Somebody else was quicker, again and again.
    #[error("too many change `{0}` at once")]
    Contended(String),
    /// What is there is no record.
    #[error("the record `{name}` can't be used: {why}")]
    Record { name: String, why: String },
    /// The API server refuses, or does not answer.
    #[error("the Secret `{name}` can't be used: {why}")]
    Secret { name: String, why: String },
    /// The files can't be used.
    #[error(transparent)]
    File(#[from] PrivateFileError),
}

type Text = Zeroizing<Vec<u8>>;

/// A record as it was read.
struct Stored {
    text: Text,
    /// The Secret that it was in, without the record.
    of: Option<ObjectMeta>,
}

impl Store {
    /// The record of this name.
    pub async fn read<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, StoreError> {
        self.load(name).await?.map(|stored| decode(name, &stored.text)).transpose()
    }

    /// Changes a record, which begins as `initial`; `change` may be asked several times, and what it told last counts.
    pub async fn change<T: Serialize + DeserializeOwned, R>(
        &self,
        name: &str,
        about: Option<&PrincipalId>,
        initial: impl Fn() -> T,
        change: impl Fn(&mut T) -> R,
    ) -> Result<R, StoreError> {
        for round in 0..ROUNDS {
            if round > 0 {
                let [chance] = random::<1>().unwrap_or_default();
                sleep(PAUSE.mul_f64(f64::from(round) * f64::from(chance) / 255.0)).await;
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
            let told = change(&mut value);
            let after = encode(name, &value)?;
            if after == before || self.swap(name, about, stored, after).await? {
                return Ok(told);
            }
        }
        Err(StoreError::Contended(name.to_owned()))
    }

    async fn load(&self, name: &str) -> Result<Option<Stored>, StoreError> {
        match self {
            Self::Files(folder) => {
                let path = folder.join(name).with_extension("json");
                let text = blocking(move || read_file(&path)).await?;
                Ok(text.map(|text| Stored { text, of: None }))
            }
            Self::Secrets(secrets, prefix) => {
                let name = format!("{prefix}-{name}");
                let secret = secrets.get_opt(&name).await;
                let secret = secret.map_err(|error| StoreError::Secret { name: name.clone(), why: brief(&error) })?;
                let Some(mut secret) = secret else { return Ok(None) };
                let text = secret.data.as_mut().and_then(|data| data.remove(ENTRY));
                let text = text.ok_or_else(|| StoreError::Secret { name, why: format!("it has no `{ENTRY}`") })?;
                Ok(Some(Stored { text: Zeroizing::new(text.0), of: Some(secret.metadata) }))
            }
        }
    }

    /// Puts a record in the place of the one that was read; tells whether that was still there.
    async fn swap(
        &self,
        name: &str,
        about: Option<&PrincipalId>,
        stored: Option<Stored>,
        text: Text,
    ) -> Result<bool, StoreError> {
        match self {
            Self::Files(folder) => {
                let (folder, name) = (folder.clone(), name.to_owned());
                blocking(move || swap_file(&folder, &name, stored.map(|stored| stored.text), &text)).await
            }
            Self::Secrets(secrets, prefix) => {
                let name = format!("{prefix}-{name}");
                let there = stored.is_some();
                let mut metadata = stored.and_then(|stored| stored.of).unwrap_or_default();
                metadata.name = Some(name.clone());
                metadata.managed_fields = None;
                metadata.labels.get_or_insert_default().insert(LABEL.to_owned(), "true".to_owned());
                if let Some(id) = about {
                    metadata.annotations.get_or_insert_default().insert(PRINCIPAL.to_owned(), id.to_string());
                }
                let data = Some([(ENTRY.to_owned(), ByteString(text.to_vec()))].into());
                let secret = Secret { metadata, data, ..Secret::default() };
                let params = PostParams::default();
                // the resource version makes sure that nobody else was quicker
                let written = match there {
                    true => secrets.replace(&name, &params, &secret).await,
                    false => secrets.create(&params, &secret).await,
                };
                match written {
                    Ok(_) => Ok(true),
                    // changed, made or removed by somebody else since
                    Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(false),
                    Err(error) => Err(StoreError::Secret { name, why: brief(&error) }),
                }
            }
        }
    }
}

fn encode(name: &str, value: &impl Serialize) -> Result<Text, StoreError> {
    let record = |why: String| StoreError::Record { name: name.to_owned(), why };
    let text = serde_json::to_vec(value).map(Zeroizing::new).map_err(|error| record(error.to_string()))?;
    if text.len() > MAX_RECORD { Err(record("it would be too large".to_owned())) } else { Ok(text) }
}

fn decode<T: DeserializeOwned>(name: &str, text: &[u8]) -> Result<T, StoreError> {
    // what is wrong could quote a secret
    let why = |error: serde_json::Error| format!("line {}, column {} is not as expected", error.line(), error.column());
    serde_json::from_slice(text).map_err(|error| StoreError::Record { name: name.to_owned(), why: why(error) })
}

/// The file's text, if it is there.
fn read_file(path: &Path) -> Result<Option<Text>, StoreError> {
    match fs::read(path) {
        Ok(text) => {
            check_mode(path, 0o600)?;
            Ok(Some(Zeroizing::new(text)))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io_error(path)(error).into()),
    }
}

/// Replaces a file as a whole, if it is still what it was; of several processes one at a time does so.
fn swap_file(folder: &Path, name: &str, was: Option<Text>, text: &[u8]) -> Result<bool, StoreError> {
    create_directory(folder)?;
    let lock = folder.join("lock");
    let held = File::options().create(true).append(true).open(&lock).map_err(io_error(&lock))?;
    held.lock().map_err(io_error(&lock))?;
    let path = folder.join(name).with_extension("json");
    if read_file(&path)? != was {
        return Ok(false);
    }
    let fresh = path.with_extension("new");
    write_private(&fresh, text)?;
    fs::rename(&fresh, &path).map_err(io_error(&path))?;
    Ok(true)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    let failed = |error: tokio::task::JoinError| {
        let why: Failure = error.into();
        StoreError::Record { name: "of a second factor".to_owned(), why: why.to_string() }
    };
    tokio::task::spawn_blocking(work).await.map_err(failed)?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn no_change_is_lost_however_many_come_at_once() {
        let folder = tempfile::tempdir().expect("a directory");
        let store = Store::Files(folder.path().join("second-factors"));
        let one = |store: Store| async move {
            let add = |number: &mut u32| {
                *number += 1;
                *number
            };
            store.change("counter", None, || 0_u32, add).await.expect("changed")
        };
        let told = futures::future::join_all((0..8).map(|_| tokio::spawn(one(store.clone())))).await;
        let mut told: Vec<_> = told.into_iter().map(|told| told.expect("no panic")).collect();
        told.sort_unstable();
        assert_eq!(told, (1..=8).collect::<Vec<_>>(), "each change began with the one before");
        assert_eq!(store.read::<u32>("counter").await.expect("read"), Some(8));
        assert_eq!(store.read::<u32>("other").await.expect("read"), None);
    }

    #[tokio::test]
    async fn what_others_can_read_or_nobody_can_is_refused() {
        let folder = tempfile::tempdir().expect("a directory");
        let store = Store::Files(folder.path().to_owned());
        let path = folder.path().join("x.json");
        write_private(&path, b"{").expect("written");
        assert!(store.read::<u32>("x").await.is_err());
        fs::write(folder.path().join("y.json"), "1").expect("written");
        let error = store.read::<u32>("y").await.expect_err("exposed");
        assert!(error.to_string().contains("chmod 600"), "{error}");
    }
}
