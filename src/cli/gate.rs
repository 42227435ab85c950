//! `durward gate`.

use crate::cli::audit::AuditLog;
use crate::cli::cluster_domains::ClusterDomainArguments;
use crate::cli::controller::block_on;
use crate::cli::{Failure, Verdict};
use durward_engine::openfga;
use durward_engine::openfga::OpenFga;
use durward_gate::{Certificate, Limits, Listen, Local, Remote, Settings, Source, run};
use durward_protocol::upstream::Upstream;
use durward_state::state::StateDirectory;
use std::path::PathBuf;
use std::time::Duration;
use url::Url;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  durward gate --policies examples/orders --service-account shop/orders --upstream http://127.0.0.1:8000"
)]
pub(crate) struct Gate {
    /// The application: http://127.0.0.1:PORT, or h2c://127.0.0.1:PORT if it speaks HTTP/2 alone
    #[arg(long, value_name = "URL", env = "DURWARD_UPSTREAM")]
    upstream: Upstream,
    #[command(flatten)]
    listen: Listen,
    /// Directory of manifests
    #[arg(long, value_name = "DIR", required_unless_present = "controller", conflicts_with = "controller")]
    policies: Option<PathBuf>,
    /// Workload that the gate is, as NAMESPACE/NAME; the CA of the state directory issues its certificate
    #[arg(long, value_name = "NAMESPACE/NAME", value_parser = super::mint::service_account, required_unless_present_any = ["certificate", "controller"])]
    service_account: Option<(String, String)>,
    /// Key and certificate chain of the gate in one PEM file; read anew when it changes
    #[arg(long, value_name = "FILE", conflicts_with = "service_account", requires = "roots")]
    certificate: Option<PathBuf>,
    /// Roots by which others are verified, in PEM; read anew when it changes
    #[arg(long, value_name = "FILE", requires = "certificate")]
    roots: Option<PathBuf>,
    /// Keys by which tokens of workloads are verified, a JWKS; without it they do not count
    #[arg(long, value_name = "FILE", requires = "certificate")]
    jwks: Option<PathBuf>,
    /// Where people reach the step-up page: the token listener of `durward up`, as browsers see it; the controller tells its own
    #[arg(long, value_name = "URL", conflicts_with = "controller")]
    step_up_url: Option<Url>,
    /// In a cluster, in place of --policies: token listener of the controller, which gives policies and certificate
    #[arg(long, value_name = "URL", env = "DURWARD_CONTROLLER", conflicts_with_all = ["service_account", "certificate"])]
    controller: Option<Url>,
    /// Service-account token of this pod, of audience `durward`; read anew each time
    #[arg(long, value_name = "FILE", default_value = "/var/run/secrets/durward/token")]
    token_file: PathBuf,
    /// Roots by which the controller is verified, in PEM; read anew each time
    #[arg(long, value_name = "FILE", default_value = "/var/run/secrets/durward/trust-bundle.pem")]
    ca_file: PathBuf,
    /// For how long policies count after the controller was last heard of; then everything is refused
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = durward_runtime::duration::duration)]
    max_snapshot_age: Duration,
    #[command(flatten)]
    state: StateDirectory,
    #[command(flatten)]
    domains: ClusterDomainArguments,
    #[command(flatten)]
    limits: Limits,
    /// Let callers use TLS 1.2 too
    #[arg(long)]
    tls12: bool,
    #[command(flatten)]
    openfga: openfga::Settings,
    #[command(flatten)]
    audit: AuditLog,
    /// Print where it listens as one line of JSON
    #[arg(long)]
    json: bool,
}

impl Gate {
    pub(crate) fn run(self) -> Result<Verdict, Failure> {
        super::output::log_to_stderr();
        let json = self.json;
        let settings = self.settings()?;
        let ready = |listen: &Listen| {
            if json {
                eprintln!("{}", serde_json::to_string(listen).unwrap_or_default());
            } else {
                tracing::info!(callers = %listen.listen, outbound = ?listen.outbound, admin = %listen.admin, "listening");
            }
        };
        block_on(run(settings, ready)).map(|()| Verdict::Yes)
    }

    fn settings(self) -> Result<Settings, Failure> {
        let source = match (self.controller, self.policies, self.service_account, self.certificate.zip(self.roots)) {
            (Some(controller), ..) => Source::Remote(Remote {
                controller,
                token: self.token_file,
                roots: self.ca_file,
                max_age: self.max_snapshot_age,
            }),
            (None, Some(manifests), _, Some((bundle, roots))) => Source::Local(Local {
                manifests,
                certificate: Certificate::Files { bundle, roots, jwks: self.jwks },
                step_up: self.step_up_url,
            }),
            (None, Some(manifests), Some(account), None) => Source::Local(Local {
                manifests,
                certificate: Certificate::State { state: self.state.resolve()?, account },
                step_up: self.step_up_url,
            }),
            _ => return Err("name --service-account, or --certificate and --roots, or --controller".into()),
        };
        Ok(Settings {
            listen: self.listen,
            upstream: self.upstream,
            source,
            domain: self.domains.into(),
            limits: self.limits,
            tls12: self.tls12,
            openfga: OpenFga::new(self.openfga)?,
            on_loss: self.audit.audit_on_loss,
            audit: self.audit.into(),
        })
    }
}
