//! `durward health`: readiness of a running instance.

use crate::cli::cluster::block_on;
use crate::cli::outcome::{CommandOutcome, CommandResult};
use std::time::Duration;
use url::Url;

const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Debug, clap::Args)]
pub(crate) struct HealthCommand {
    /// Address of the admin listener
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8181")]
    admin: Url,
}

impl HealthCommand {
    pub(crate) fn run(self) -> CommandResult {
        let ready = block_on(is_ready(self.admin.join("/readyz")?))??;
        println!("{}", if ready { "ready" } else { "not ready" });
        Ok(CommandOutcome::from_success(ready))
    }
}

async fn is_ready(url: Url) -> Result<bool, reqwest::Error> {
    // like kubelet, without verifying the certificate: readiness is no secret, and nothing is done because of it
    let client =
        reqwest::Client::builder().tls_danger_accept_invalid_certs(true).timeout(REQUEST_TIMEOUT).no_proxy().build()?;
    Ok(client.get(url).send().await?.status().is_success())
}
