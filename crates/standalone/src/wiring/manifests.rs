//! The directory of manifests and the folder of approvals, which together make the catalog.

use durward_api::compile::ClusterDomains;
use durward_approvals::ApprovalSeal;
use durward_manifests::load::ManifestDirectory;
use durward_manifests::open::open;
use durward_manifests::watch::DirectoryWatch;
use durward_runtime::Failure;
use durward_state::LocalApprovals;
use std::path::Path;

/// The loaded manifests and approvals, and the watches that report their changes.
pub(super) struct WatchedManifests {
    pub directory: ManifestDirectory,
    pub watch: DirectoryWatch,
    pub approvals: LocalApprovals,
}

impl WatchedManifests {
    /// Loads the manifests, and applies the approvals of the state directory to them.
    pub fn load(
        manifests: &Path,
        domains: &ClusterDomains,
        strict: bool,
        state: &Path,
        seal: &ApprovalSeal,
    ) -> Result<Self, Failure> {
        let (mut directory, watch) = open(manifests, domains, strict)?;
        let (approvals, changes) = LocalApprovals::open(state, seal.clone())?;
        directory.catalog.apply(changes);
        Ok(Self { directory, watch, approvals })
    }
}
