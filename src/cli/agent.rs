//! `durward agent`.

use crate::cli::controller::block_on;
use crate::cli::{Failure, Verdict};
use durward_agent::{Settings, run};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  durward agent --controller https://durward.durward-system.svc:8145 --ca-file /etc/durward/trust-bundle.pem"
)]
pub(crate) struct Agent {
    /// Socket of the Workload API and of SDS
    #[arg(long, value_name = "FILE", env = "DURWARD_SOCKET", default_value = "/var/run/durward/agent.sock")]
    socket: PathBuf,
    /// Also listen on this loopback address, for gRPC libraries (of Python and Java, for instance) that can't use a socket:
    /// SPIFFE_ENDPOINT_SOCKET=tcp://127.0.0.1:8147
    #[arg(long, value_name = "ADDRESS", env = "DURWARD_TCP")]
    tcp: Option<SocketAddr>,
    /// Token listener of the controller
    #[arg(long, value_name = "URL", env = "DURWARD_CONTROLLER")]
    controller: url::Url,
    /// Service-account token of this pod, of audience `durward`; read anew each time
    #[arg(long, value_name = "FILE", env = "DURWARD_TOKEN_FILE", default_value = "/var/run/secrets/durward/token")]
    token_file: PathBuf,
    /// Roots by which the controller is verified, in PEM; read anew each time
    #[arg(
        long,
        value_name = "FILE",
        env = "DURWARD_CA_FILE",
        default_value = "/var/run/secrets/durward/trust-bundle.pem"
    )]
    ca_file: PathBuf,
    /// Lifetime of certificates, from `5m` up to what the policy says, which it is if left out
    #[arg(long, value_name = "DURATION", env = "DURWARD_TTL", value_parser = durward_runtime::duration::duration)]
    ttl: Option<Duration>,
    /// Hint that tells this identity from others (SPIFFE Workload API, section 5.2.1)
    #[arg(long, value_name = "TEXT", env = "DURWARD_HINT", default_value = "")]
    hint: String,
    /// Where it tells whether it is ready
    #[arg(long, value_name = "ADDRESS", env = "DURWARD_HEALTH", default_value = "0.0.0.0:8146")]
    health: SocketAddr,
}

impl Agent {
    pub(crate) fn run(self) -> Result<Verdict, Failure> {
        super::output::log_to_stderr();
        let settings = Settings {
            socket: self.socket,
            tcp: self.tcp,
            controller: self.controller,
            token: self.token_file,
            roots: self.ca_file,
            ttl_seconds: self.ttl.map(|ttl| u32::try_from(ttl.as_secs()).unwrap_or(u32::MAX)),
            hint: self.hint,
            health: self.health,
        };
        block_on(run(settings)).map(|()| Verdict::Yes)
    }
}
