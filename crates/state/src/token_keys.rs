//! Keys that sign tokens, in a folder of the state directory. They follow one another as in a cluster.

use crate::state::StateError;
use chrono::{DateTime, Utc};
use durward_authn::Authenticator;
use durward_identity::{PERIOD, Ring, TOKEN_KEYS, TokenKeys};
use durward_runtime::Failure;
use durward_runtime::private_files::{check_mode, create_directory, io_error, write_private};
use durward_runtime::supervisor::Parts;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

/// The folder.
#[derive(Debug, Clone)]
pub struct KeyFolder(PathBuf);

impl KeyFolder {
    /// That of a state directory.
    pub fn new(state: &Path) -> Self {
        Self(state.join("token-keys"))
    }

    /// The keys, once those that are due are made and those that are over are removed. Of several processes one at a time
    /// does so.
    pub fn renew(&self, now: DateTime<Utc>) -> Result<Ring, StateError> {
        let unusable = |message: String| StateError::TokenKey { path: self.0.display().to_string(), message };
        create_directory(&self.0)?;
        let lock = self.0.join("lock");
        write_private(&lock, "")?;
        let lock = File::open(&lock).map_err(io_error(&lock))?;
        lock.lock().map_err(io_error(&self.0))?;
        let files = self.files()?;
        let named = files.iter().map(|(name, pem)| (name.as_str(), pem.as_bytes()));
        let mut ring = Ring::read(named).map_err(|error| unusable(error.to_string()))?;
        if ring.renew(&TOKEN_KEYS, now).map_err(|error| unusable(error.to_string()))? {
            let kept: BTreeMap<String, Zeroizing<String>> = ring.files().collect();
            for (name, pem) in kept.iter().filter(|(name, _)| !files.contains_key(*name)) {
                // whole or not at all
                let (path, fresh) = (self.0.join(name), self.0.join(format!("{name}.new")));
                write_private(&fresh, pem.as_bytes())?;
                fs::rename(&fresh, &path).map_err(io_error(&path))?;
            }
            for name in files.keys().collect::<BTreeSet<_>>().difference(&kept.keys().collect()) {
                let path = self.0.join(name);
                fs::remove_file(&path).map_err(io_error(&path))?;
            }
        }
        Ok(ring)
    }

    fn files(&self) -> Result<BTreeMap<String, Zeroizing<String>>, StateError> {
        let mut files = BTreeMap::new();
        for entry in fs::read_dir(&self.0).map_err(io_error(&self.0))? {
            let path = entry.map_err(io_error(&self.0))?.path();
            if path.extension().is_some_and(|extension| extension == "pem") {
                check_mode(&path, 0o600)?;
                let pem = fs::read_to_string(&path).map(Zeroizing::new).map_err(io_error(&path))?;
                files.insert(path.file_name().unwrap_or_default().to_string_lossy().into_owned(), pem);
            }
        }
        Ok(files)
    }

    /// Adds the parts that renew the keys, and let tokens be verified by those that there are.
    pub fn keep(self, keys: TokenKeys, authenticator: Arc<Authenticator>, parts: &mut Parts) {
        let followed = keys.clone();
        parts.add(|stop| self.follow(followed, stop));
        parts.add(|stop| keys.verified_by(authenticator, stop));
    }

    /// Brings every change of the folder to `keys`, and renews them, until `shutdown`.
    async fn follow(self, keys: TokenKeys, shutdown: CancellationToken) -> Result<(), Failure> {
        loop {
            tokio::select! {
                () = sleep(PERIOD) => {}
                () = shutdown.cancelled() => return Ok(()),
            }
            let folder = self.clone();
            match tokio::task::spawn_blocking(move || folder.renew(Utc::now())).await? {
                Ok(ring) if ring.jwks() != keys.current().jwks() => keys.replace(ring),
                Ok(_) => {}
                Err(error) => tracing::error!(%error, "the token keys stay what they were"),
            }
        }
    }
}
