//! `durward uninstall`, which the chart's pre-delete hook calls.

use crate::cli::cluster::{block_on, connect};
use crate::cli::outcome::{CommandOutcome, CommandResult};
use durward_controller::remove;
use durward_runtime::Failure;

#[derive(Debug, clap::Args)]
pub(crate) struct UninstallCommand {
    /// Namespace of the installation
    #[arg(long, value_name = "NAME", env = "POD_NAMESPACE")]
    namespace: String,
    /// Service of the installation
    #[arg(long, value_name = "NAME", default_value = "durward")]
    service: String,
}

impl UninstallCommand {
    pub(crate) fn run(self) -> CommandResult {
        let removed = block_on(self.remove())??;
        removed.iter().for_each(|name| println!("webhook configuration {name} removed"));
        if removed.is_empty() {
            println!("{} has no webhook configuration", self.service);
        }
        Ok(CommandOutcome::Success)
    }

    async fn remove(&self) -> Result<Vec<String>, Failure> {
        Ok(remove(connect().await?, &self.namespace, &self.service).await?)
    }
}
