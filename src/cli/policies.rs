//! Where the policies come from that a command is about: a directory, or a cluster.

use crate::cli::Failure;
use crate::cli::cluster_domains::ClusterDomainArguments;
use crate::cli::controller::block_on;
use durward_controller::live;
use durward_core::snapshot::Snapshot;
use durward_kubernetes::kubeconfig;
use durward_manifests::load::load;
use kube::Client;
use std::path::PathBuf;

#[derive(Debug, clap::Args)]
pub(crate) struct Policies {
    /// Directory of manifests; without it the cluster of the kubeconfig is asked
    #[arg(long, short, value_name = "DIR")]
    policies: Option<PathBuf>,
    /// Context of the kubeconfig
    #[arg(long, value_name = "NAME", conflicts_with = "policies")]
    context: Option<String>,
    /// The kubeconfig [default: as kubectl finds it]
    #[arg(long, value_name = "FILE", conflicts_with = "policies")]
    kubeconfig: Option<PathBuf>,
    #[command(flatten)]
    domains: ClusterDomainArguments,
}

impl Policies {
    /// The trust domain of the cluster's own workloads.
    pub(crate) fn trust_domain(&self) -> &str {
        &self.domains.trust_domain
    }

    /// Reads them. What is wrong with them goes to standard error.
    pub(crate) fn snapshot(&self) -> Result<Snapshot, Failure> {
        let Some(directory) = &self.policies else {
            let (catalog, problems) =
                block_on(async { live::read(self.client().await?, self.domains.to_domains()).await })?;
            problems.iter().for_each(|problem| eprintln!("{problem}"));
            return Ok(catalog.snapshot().clone());
        };
        let loaded = load(directory, &self.domains.to_domains())?;
        loaded.warn();
        Ok(loaded.catalog.snapshot().clone())
    }

    async fn client(&self) -> Result<Client, Failure> {
        let hint = |error: &dyn std::fmt::Display| -> Failure {
            format!(
                "the cluster can't be asked: {error}; name a directory of manifests with --policies, or a kubeconfig"
            )
            .into()
        };
        let config = kubeconfig::config(self.kubeconfig.as_deref(), self.context.as_deref()).await;
        Client::try_from(config.map_err(|error| hint(&error))?).map_err(|error| hint(&error))
    }
}
