//! The manifest files of a directory: which they are, how they are named in messages, and their text.

pub use crate::tree::ManifestLoadError;

use crate::tree::DirectoryTree;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Largest manifest file, in bytes. 100,000 policies take about half of it.
const MAX_FILE: u64 = 256 * 1024 * 1024;

/// A manifest file can't be read. The message follows the name of the file.
#[derive(Debug, Error)]
pub enum ManifestFileError {
    /// The file can't be opened or read.
    #[error("can't be read: {0}")]
    Io(#[from] io::Error),
    /// The file is larger than any manifest may be.
    #[error("can't be read: it is larger than {} MiB; split it", MAX_FILE >> 20)]
    TooLarge,
    /// The file is not text.
    #[error("is not UTF-8 from byte {valid_up_to} on")]
    NotUtf8 {
        /// Index of the first invalid byte.
        valid_up_to: usize,
    },
}

/// The manifest files in a directory and its subdirectories, without hidden ones. A single file is its own directory.
///
/// # Errors
/// When a directory can't be listed.
pub fn manifest_files(root: &Path) -> Result<BTreeSet<PathBuf>, ManifestLoadError> {
    Ok(DirectoryTree::list(root)?.files.into_keys().collect())
}

/// The name of a file in messages: its path in the directory, or the path as given if it is its own directory.
pub fn display_name(root: &Path, path: &Path) -> String {
    let inside = path.strip_prefix(root).ok().filter(|inside| !inside.as_os_str().is_empty());
    inside.unwrap_or(path).display().to_string()
}

/// The text of a manifest file.
///
/// # Errors
/// When the file can't be read, is too large or is not UTF-8.
pub fn read_text(path: &Path) -> Result<String, ManifestFileError> {
    let file = File::open(path)?;
    if file.metadata()?.len() > MAX_FILE {
        return Err(ManifestFileError::TooLarge);
    }
    let mut bytes = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    String::from_utf8(bytes)
        .map_err(|error| ManifestFileError::NotUtf8 { valid_up_to: error.utf8_error().valid_up_to() })
}
