//! The keys that sign tokens, in a folder of the state directory. They rotate as in a cluster.

use crate::error::StateError;
use chrono::{DateTime, Utc};
use durward_authn::Authenticator;
use durward_identity::{TOKEN_KEY_CHECK_INTERVAL, TOKEN_KEY_SCHEDULE, TokenKeyRing, TokenKeys};
use durward_runtime::Failure;
use durward_runtime::private_files::{check_mode, create_directory, io_error, write_private};
use durward_runtime::supervisor::Supervisor;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

/// The folder of token keys in a state directory.
#[derive(Debug, Clone)]
pub struct TokenKeyFolder(PathBuf);

impl TokenKeyFolder {
    pub fn new(state: &Path) -> Self {
        Self(state.join("token-keys"))
    }

    /// Generates the keys that are due, removes the expired ones and returns the rest. A lock file excludes other
    /// processes meanwhile.
    ///
    /// # Errors
    /// When the folder or a key in it can't be used.
    pub fn renew(&self, now: DateTime<Utc>) -> Result<TokenKeyRing, StateError> {
        let display_path = || self.0.display().to_string();
        create_directory(&self.0)?;
        let lock_file = self.0.join("lock");
        write_private(&lock_file, "")?;
        let lock = File::open(&lock_file).map_err(io_error(&lock_file))?;
        lock.lock().map_err(io_error(&self.0))?;
        let files = self.read_files()?;
        let contents = files.iter().map(|(name, pem)| (name.as_str(), pem.as_bytes()));
        let mut ring = TokenKeyRing::from_files(contents)
            .map_err(|source| StateError::KeyFile { path: display_path(), source })?;
        let changed = ring
            .renew(&TOKEN_KEY_SCHEDULE, now)
            .map_err(|source| StateError::KeyGeneration { path: display_path(), source })?;
        if changed {
            self.write_changes(&files, &ring.files().collect())?;
        }
        Ok(ring)
    }

    /// Writes the files that are new in `wanted`, and removes those that are missing in it.
    fn write_changes(
        &self,
        present: &BTreeMap<String, Zeroizing<String>>,
        wanted: &BTreeMap<String, Zeroizing<String>>,
    ) -> Result<(), StateError> {
        for (name, pem) in wanted.iter().filter(|(name, _)| !present.contains_key(*name)) {
            let path = self.0.join(name);
            // renaming a complete file leaves no partial one after a crash
            let new_file = self.0.join(format!("{name}.new"));
            write_private(&new_file, pem.as_bytes())?;
            fs::rename(&new_file, &path).map_err(io_error(&path))?;
        }
        for name in present.keys().filter(|name| !wanted.contains_key(*name)) {
            let path = self.0.join(name);
            fs::remove_file(&path).map_err(io_error(&path))?;
        }
        Ok(())
    }

    fn read_files(&self) -> Result<BTreeMap<String, Zeroizing<String>>, StateError> {
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

    /// Starts the tasks that renew the keys, and that let the authenticator verify tokens with the current ones.
    pub fn start_renewal(self, keys: TokenKeys, authenticator: Arc<Authenticator>, supervisor: &mut Supervisor) {
        let renewed = keys.clone();
        supervisor.spawn(|stop| self.renew_periodically(renewed, stop));
        supervisor.spawn(|stop| keys.sync_authenticator(authenticator, stop));
    }

    /// Renews the keys and publishes changes of the folder in `keys`, until `shutdown`.
    async fn renew_periodically(self, keys: TokenKeys, shutdown: CancellationToken) -> Result<(), Failure> {
        loop {
            tokio::select! {
                () = sleep(TOKEN_KEY_CHECK_INTERVAL) => {}
                () = shutdown.cancelled() => return Ok(()),
            }
            let folder = self.clone();
            match tokio::task::spawn_blocking(move || folder.renew(Utc::now())).await? {
                Ok(ring) if ring.jwks() != keys.current().jwks() => keys.replace(ring),
                Ok(_) => {}
                Err(error) => tracing::error!(%error, "renewing the token keys failed; keeping the previous ones"),
            }
        }
    }
}
