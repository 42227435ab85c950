//! `durward gate`.

use crate::cli::arguments::NamespacedArgument;
use crate::cli::audit::AuditLogArguments;
use crate::cli::cluster::block_on;
use crate::cli::cluster_domains::ClusterDomainArguments;
use crate::cli::outcome::{CommandOutcome, CommandResult};
use crate::cli::output::log_to_stderr;
use durward_engine::openfga::{OpenFga, OpenFgaSettings};
use durward_gate::{
    CertificateFiles, ClusterGate, GateAddresses, GateCertificate, GateLimits, GateSettings, GateSource, LocalGate, run,
};
use durward_protocol::upstream::Upstream;
use durward_runtime::Failure;
use durward_runtime::limits::ConnectionSettings;
use durward_state::StateDirectory;
use std::path::PathBuf;
use std::time::Duration;
use url::Url;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  durward gate --policies examples/orders --service-account shop/orders --upstream http://127.0.0.1:8000"
)]
pub(crate) struct GateCommand {
    /// URL of the application: http://127.0.0.1:PORT, or h2c://127.0.0.1:PORT if it speaks only HTTP/2
    #[arg(long, value_name = "URL", env = "DURWARD_UPSTREAM")]
    upstream: Upstream,
    #[command(flatten)]
    listen: GateAddresses,
    /// Directory of manifests
    #[arg(long, value_name = "DIR", required_unless_present = "controller", conflicts_with = "controller")]
    policies: Option<PathBuf>,
    /// Refuse to start if a manifest is invalid, instead of closing the services that it may concern
    #[arg(long, requires = "policies")]
    strict: bool,
    /// Service account of the gate; the CA of the state directory issues its certificate
    #[arg(long, value_name = "NAMESPACE/NAME", required_unless_present_any = ["certificate", "controller"])]
    service_account: Option<NamespacedArgument>,
    /// Key and certificate chain of the gate in one PEM file; read again when it changes
    #[arg(long, value_name = "FILE", conflicts_with = "service_account", requires = "roots")]
    certificate: Option<PathBuf>,
    /// Roots that verify callers, in PEM; read again when the file changes
    #[arg(long, value_name = "FILE", requires = "certificate")]
    roots: Option<PathBuf>,
    /// Keys that verify tokens of workloads, as a JWKS; without it such tokens are refused
    #[arg(long, value_name = "FILE", requires = "certificate")]
    jwks: Option<PathBuf>,
    /// URL of the step-up page: the token listener of `durward up`, as browsers reach it. With --controller, the
    /// controller sends it
    #[arg(long, value_name = "URL", conflicts_with = "controller")]
    step_up_url: Option<Url>,
    /// URL of the controller's token listener, which provides policies and certificate in a cluster, instead of --policies
    #[arg(long, value_name = "URL", env = "DURWARD_CONTROLLER", conflicts_with_all = ["service_account", "certificate"])]
    controller: Option<Url>,
    /// Service-account token of this pod, for audience `durward`; read again for each request
    #[arg(long, value_name = "FILE", default_value = "/var/run/secrets/durward/token")]
    token_file: PathBuf,
    /// Roots that verify the controller, in PEM; read again for each request
    #[arg(long, value_name = "FILE", default_value = "/var/run/secrets/durward/trust-bundle.pem")]
    ca_file: PathBuf,
    /// Validity of policies after the last contact with the controller; then the gate refuses all requests
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = durward_runtime::duration::parse_duration)]
    max_snapshot_age: Duration,
    #[command(flatten)]
    state: StateDirectory,
    #[command(flatten)]
    domains: ClusterDomainArguments,
    #[command(flatten)]
    limits: GateLimits,
    #[command(flatten)]
    connections: ConnectionSettings,
    /// Also accept TLS 1.2 from callers
    #[arg(long)]
    tls12: bool,
    #[command(flatten)]
    openfga: OpenFgaSettings,
    #[command(flatten)]
    audit: AuditLogArguments,
    /// Print the listen addresses as one line of JSON
    #[arg(long)]
    json: bool,
}

impl GateCommand {
    pub(crate) fn run(self) -> CommandResult {
        log_to_stderr();
        let json = self.json;
        let settings = self.settings()?;
        let ready = |listen: &GateAddresses| {
            if json {
                eprintln!("{}", serde_json::to_string(listen).unwrap_or_default());
            } else {
                tracing::info!(callers = %listen.listen, outbound = ?listen.outbound, admin = %listen.admin, "listening");
            }
        };
        block_on(run(settings, ready))??;
        Ok(CommandOutcome::Success)
    }

    fn settings(self) -> Result<GateSettings, Failure> {
        let source = match (self.controller, self.policies, self.service_account, self.certificate.zip(self.roots)) {
            (Some(controller), ..) => GateSource::Cluster(ClusterGate {
                controller,
                token: self.token_file,
                roots: self.ca_file,
                max_age: self.max_snapshot_age,
            }),
            (None, Some(manifests), _, Some((bundle, roots))) => GateSource::Local(LocalGate {
                manifests,
                strict: self.strict,
                certificate: GateCertificate::Files(CertificateFiles { bundle, roots, jwks: self.jwks }),
                step_up: self.step_up_url,
            }),
            (None, Some(manifests), Some(account), None) => GateSource::Local(LocalGate {
                manifests,
                strict: self.strict,
                certificate: GateCertificate::State {
                    state: self.state.resolve()?,
                    account: (account.namespace, account.name),
                },
                step_up: self.step_up_url,
            }),
            _ => return Err("name --service-account, or --certificate and --roots, or --controller".into()),
        };
        Ok(GateSettings {
            listen: self.listen,
            upstream: self.upstream,
            source,
            domain: self.domains.into(),
            limits: self.limits,
            connections: self.connections,
            tls12: self.tls12,
            openfga: OpenFga::new(self.openfga)?,
            on_loss: self.audit.audit_on_loss,
            audit: self.audit.into(),
        })
    }
}
