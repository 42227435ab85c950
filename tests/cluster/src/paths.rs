//! Folders: a cache for programs and images, a state folder for clusters.

use std::env;
use std::path::{Path, PathBuf};

use crate::error::{ClusterError, ClusterResult};

/// The repository's root.
pub fn repository() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.ancestors().nth(2).unwrap_or(manifest).to_owned()
}

/// Built binaries and images: `$DURWARD_CLUSTER_CACHE`, else `durward/cluster` in the user's cache folder.
pub fn cache() -> ClusterResult<PathBuf> {
    user_dir("DURWARD_CLUSTER_CACHE", "XDG_CACHE_HOME", ".cache", "durward/cluster")
}

/// Clusters, one folder each: `$DURWARD_CLUSTER_DIR`, else `durward-cluster` in the user's state folder. The folder
/// `durward` there belongs to `durward up`, which refuses a folder that other users can read.
pub fn state() -> ClusterResult<PathBuf> {
    user_dir("DURWARD_CLUSTER_DIR", "XDG_STATE_HOME", ".local/state", "durward-cluster")
}

fn user_dir(own: &str, xdg: &str, home: &str, name: &str) -> ClusterResult<PathBuf> {
    let non_empty = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let path = non_empty(own)
        .or_else(|| non_empty(xdg).map(|dir| dir.join(name)))
        .or_else(|| non_empty("HOME").map(|dir| dir.join(home).join(name)))
        .ok_or_else(|| {
            ClusterError::refused(format!("neither {own} nor HOME is set"), format!("set {own} to a folder"))
        })?;
    std::path::absolute(&path).map_err(|source| ClusterError::Io { action: "resolve", path, source })
}
