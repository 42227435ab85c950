//! The policies that a command reads: those of a directory, or of a cluster.

use crate::cli::cluster::{ConnectError, block_on, connect_with};
use crate::cli::cluster_domains::ClusterDomainArguments;
use crate::cli::outcome::{CommandOutcome, CommandResult};
use durward_api::catalog::Catalog;
use durward_controller::cluster_read;
use durward_controller::cluster_read::ClusterReadError;
use durward_core::snapshot::Snapshot;
use durward_manifests::files::ManifestLoadError;
use durward_manifests::load::load;
use std::cell::Cell;
use std::path::PathBuf;
use thiserror::Error;

/// The policies can't be read.
#[derive(Debug, Error)]
pub(crate) enum PolicySourceError {
    #[error(transparent)]
    Manifests(#[from] ManifestLoadError),
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error(transparent)]
    Cluster(#[from] ClusterReadError),
    #[error("some manifests are invalid, so a running process may decide otherwise; fix them first")]
    Invalid,
    #[error("cannot start the runtime: {0}")]
    Runtime(#[from] std::io::Error),
}

/// The arguments that select policies.
#[derive(Debug, clap::Args)]
pub(crate) struct PolicySourceArguments {
    /// Directory of manifests [default: the cluster of the kubeconfig]
    #[arg(long, short, value_name = "DIR")]
    policies: Option<PathBuf>,
    /// Context of the kubeconfig
    #[arg(long, value_name = "NAME", conflicts_with = "policies")]
    context: Option<String>,
    /// File of the kubeconfig [default: that of kubectl]
    #[arg(long, value_name = "FILE", conflicts_with = "policies")]
    kubeconfig: Option<PathBuf>,
    #[command(flatten)]
    domains: ClusterDomainArguments,
    /// Whether a manifest that was read is invalid.
    #[arg(skip)]
    invalid: Cell<bool>,
}

impl PolicySourceArguments {
    /// The trust domain of the cluster's own workloads.
    pub(crate) fn trust_domain(&self) -> &str {
        &self.domains.trust_domain
    }

    /// Reads the policies. Reports problems of single policies on standard error.
    pub(crate) fn snapshot(&self) -> Result<Snapshot, PolicySourceError> {
        let Some(directory) = &self.policies else {
            let (catalog, problems) = block_on(self.read_cluster())??;
            problems.iter().for_each(|problem| eprintln!("{problem}"));
            return Ok(catalog.snapshot().clone());
        };
        let loaded = load(directory, &self.domains.to_domains())?;
        loaded.print_problems();
        self.invalid.set(!loaded.problems().is_empty());
        Ok(loaded.snapshot())
    }

    /// The outcome of a command that used the policies. It is unknown if a manifest is invalid: the doors may know the
    /// last valid version of it.
    pub(crate) fn conclude(&self, outcome: CommandOutcome) -> CommandResult {
        if self.invalid.get() { Err(PolicySourceError::Invalid.into()) } else { Ok(outcome) }
    }

    async fn read_cluster(&self) -> Result<(Catalog, Vec<String>), PolicySourceError> {
        let advice = "name a directory of manifests with --policies, or a kubeconfig";
        let client = connect_with(self.kubeconfig.as_deref(), self.context.as_deref(), advice).await?;
        Ok(cluster_read::read(client, self.domains.to_domains()).await?)
    }
}
