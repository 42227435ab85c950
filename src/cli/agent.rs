//! `durward agent`.

use crate::cli::cluster::block_on;
use crate::cli::outcome::{CommandOutcome, CommandResult};
use crate::cli::output::log_to_stderr;
use durward_agent::{AgentSettings, run};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  durward agent --controller https://durward.durward-system.svc:8145 --ca-file /etc/durward/trust-bundle.pem"
)]
pub(crate) struct AgentCommand {
    /// Unix socket of the Workload API and of SDS
    #[arg(long, value_name = "FILE", env = "DURWARD_SOCKET", default_value = "/var/run/durward/agent.sock")]
    socket: PathBuf,
    /// Also listen on this loopback address, for gRPC libraries without Unix sockets (such as those of Python and Java):
    /// SPIFFE_ENDPOINT_SOCKET=tcp://127.0.0.1:8147
    #[arg(long, value_name = "ADDRESS", env = "DURWARD_TCP", value_parser = durward_runtime::address::parse_address)]
    tcp: Option<SocketAddr>,
    /// URL of the controller's token listener
    #[arg(long, value_name = "URL", env = "DURWARD_CONTROLLER")]
    controller: url::Url,
    /// Service-account token of this pod, for audience `durward`; read again for each request
    #[arg(long, value_name = "FILE", env = "DURWARD_TOKEN_FILE", default_value = "/var/run/secrets/durward/token")]
    token_file: PathBuf,
    /// Roots that verify the controller, in PEM; read again for each request
    #[arg(
        long,
        value_name = "FILE",
        env = "DURWARD_CA_FILE",
        default_value = "/var/run/secrets/durward/trust-bundle.pem"
    )]
    ca_file: PathBuf,
    /// Lifetime of certificates, from `5m` to the lifetime in the policy [default: that of the policy]
    #[arg(long, value_name = "DURATION", env = "DURWARD_TTL", value_parser = durward_runtime::duration::parse_duration)]
    ttl: Option<Duration>,
    /// Hint that distinguishes this identity from others (SPIFFE Workload API, section 5.2.1)
    #[arg(long, value_name = "TEXT", env = "DURWARD_HINT", default_value = "")]
    hint: String,
    /// Listen address of the readiness probe
    #[arg(long, value_name = "ADDRESS", env = "DURWARD_HEALTH", default_value = "0.0.0.0:8146", value_parser = durward_runtime::address::parse_address)]
    health: SocketAddr,
}

impl AgentCommand {
    pub(crate) fn run(self) -> CommandResult {
        log_to_stderr();
        let settings = AgentSettings {
            socket: self.socket,
            tcp: self.tcp,
            controller: self.controller,
            token: self.token_file,
            roots: self.ca_file,
            ttl_seconds: self.ttl.map(|ttl| u32::try_from(ttl.as_secs()).unwrap_or(u32::MAX)),
            hint: self.hint,
            health: self.health,
        };
        block_on(run(settings))??;
        Ok(CommandOutcome::Success)
    }
}
