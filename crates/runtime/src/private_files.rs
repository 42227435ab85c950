//! Files and directories that only their owner may read: keys, factors, approvals.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use thiserror::Error;

/// Why a private file or directory can't be used.
#[derive(Debug, Error)]
pub enum PrivateFileError {
    /// It can't be read or written.
    #[error("`{path}` can't be read or written: {source}")]
    Io {
        /// The file or directory.
        path: String,
        /// The I/O error.
        source: io::Error,
    },
    /// Other users can read it.
    #[error("`{path}` can be read by others (mode {mode:o}); it holds keys: run `chmod {required:o} {path}`")]
    Exposed {
        /// The file or directory.
        path: String,
        /// Its mode.
        mode: u32,
        /// The mode that it must have.
        required: u32,
    },
}

/// Adds the path to an I/O error.
pub fn io_error(path: &Path) -> impl Fn(io::Error) -> PrivateFileError {
    let path = path.display().to_string();
    move |source| PrivateFileError::Io { path: path.clone(), source }
}

/// Creates a directory that only its owner can list, or checks the mode of an existing one. An empty one has nothing to
/// hide yet, so its mode is set.
///
/// # Errors
/// When it can't be created, or other users can list it.
pub fn create_directory(path: &Path) -> Result<(), PrivateFileError> {
    match DirBuilder::new().recursive(true).mode(0o700).create(path) {
        Ok(()) => {
            if check_mode(path, 0o700).is_err() && fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none())
            {
                // of the directory of another user, `check_mode` reports the mode
                let _ = fs::set_permissions(path, fs::Permissions::from_mode(0o700));
            }
            check_mode(path, 0o700)
        }
        Err(source) => Err(io_error(path)(source)),
    }
}

/// Checks that no other user can read a file or list a directory. `required` is the mode that the error asks for.
///
/// # Errors
/// When another user can, or the mode can't be read.
pub fn check_mode(path: &Path, required: u32) -> Result<(), PrivateFileError> {
    let mode = fs::metadata(path).map_err(io_error(path))?.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(PrivateFileError::Exposed { path: path.display().to_string(), mode, required });
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
