//! Files and directories that only their owner may read: keys, factors, approvals.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use thiserror::Error;

/// A private file or directory can't be used.
#[derive(Debug, Error)]
pub enum PrivateFileError {
    /// It can't be read or written.
    #[error("can't use the state in `{path}`: {source}")]
    Io {
        /// File or directory.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// Others could read the keys.
    #[error("`{path}` can be read by others (mode {mode:o}); it holds keys: run `chmod {wanted:o} {path}`")]
    Exposed {
        /// File or directory.
        path: String,
        /// Its mode.
        mode: u32,
        /// The mode it should have.
        wanted: u32,
    },
}

/// Names the path in an I/O error.
pub fn io_error(path: &Path) -> impl Fn(io::Error) -> PrivateFileError {
    let path = path.display().to_string();
    move |source| PrivateFileError::Io { path: path.clone(), source }
}

/// Makes a directory that only its owner can list, or checks that it is one.
///
/// # Errors
/// When it can't be made, or others can list it.
pub fn create_directory(path: &Path) -> Result<(), PrivateFileError> {
    match DirBuilder::new().recursive(true).mode(0o700).create(path) {
        Ok(()) => check_mode(path, 0o700),
        Err(source) => Err(io_error(path)(source)),
    }
}

/// Refuses what others can read. A directory that others can list is as bad as a file that they can read.
///
/// # Errors
/// When others can read it, or its mode is unknown.
pub fn check_mode(path: &Path, wanted: u32) -> Result<(), PrivateFileError> {
    let mode = fs::metadata(path).map_err(io_error(path))?.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(PrivateFileError::Exposed { path: path.display().to_string(), mode, wanted });
    }
    Ok(())
}

/// Writes a file that only its owner can read.
///
/// # Errors
/// When it can't be written.
pub fn write_private(path: &Path, text: impl AsRef<[u8]>) -> Result<(), PrivateFileError> {
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path);
    let mut file = file.map_err(io_error(path))?;
    file.set_permissions(fs::Permissions::from_mode(0o600)).map_err(io_error(path))?;
    file.write_all(text.as_ref()).and_then(|()| file.sync_all()).map_err(io_error(path))
}
