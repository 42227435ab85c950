//! Opens a directory of manifests for a process that follows it.

use crate::files::ManifestLoadError;
use crate::load::{InvalidManifests, ManifestDirectory, load};
use crate::watch::{DirectoryWatch, DirectoryWatchError};
use durward_api::compile::ClusterDomains;
use std::path::Path;
use thiserror::Error;

/// Why a process can't start with a directory.
#[derive(Debug, Error)]
pub enum OpenManifestsError {
    /// It can't be listed.
    #[error(transparent)]
    Load(#[from] ManifestLoadError),
    /// It can't be watched.
    #[error(transparent)]
    Watch(#[from] DirectoryWatchError),
    /// It has mistakes, and the process accepts none.
    #[error(transparent)]
    Invalid(#[from] InvalidManifests),
}

/// Loads a directory and watches it. With `strict`, a directory with mistakes is refused, and they are printed.
///
/// # Errors
/// When the directory can't be listed or watched, or is refused.
pub fn open(
    root: &Path,
    domains: &ClusterDomains,
    strict: bool,
) -> Result<(ManifestDirectory, DirectoryWatch), OpenManifestsError> {
    // the watch starts first, so that no change is missed
    let watch = DirectoryWatch::start(root);
    let directory = load(root, domains)?;
    // reported after an error of the loader, which explains a missing directory better
    let watch = watch?;
    if strict {
        directory.refuse_problems()?;
    }
    Ok((directory, watch))
}
