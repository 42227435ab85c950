//! `durward gate`.

use crate::cli::audit::AuditLog;
use crate::cli::controller::block_on;
use crate::cli::{Failure, Verdict};
use crate::gate::{Certificate, Limits, Listen, Local, Settings, Source, Upstream, run};
use crate::standalone::load::Domain;
use crate::standalone::state::StateDirectory;
use std::path::PathBuf;

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
    #[arg(long, value_name = "DIR")]
    policies: PathBuf,
    /// Workload that the gate is, as NAMESPACE/NAME; the CA of the state directory issues its certificate
    #[arg(long, value_name = "NAMESPACE/NAME", value_parser = super::mint::service_account, required_unless_present = "certificate")]
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
    #[command(flatten)]
    state: StateDirectory,
    #[command(flatten)]
    domain: Domain,
    #[command(flatten)]
    limits: Limits,
    /// Let callers use TLS 1.2 too
    #[arg(long)]
    tls12: bool,
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
        let certificate = match (self.service_account, self.certificate, self.roots) {
            (_, Some(bundle), Some(roots)) => Certificate::Files { bundle, roots, jwks: self.jwks },
            (Some(account), _, _) => Certificate::State { state: self.state.resolve()?, account },
            _ => return Err("name --service-account, or --certificate and --roots".into()),
        };
        Ok(Settings {
            listen: self.listen,
            upstream: self.upstream,
            source: Source::Local(Local { manifests: self.policies, certificate }),
            domain: self.domain,
            limits: self.limits,
            tls12: self.tls12,
            on_loss: self.audit.audit_on_loss,
            audit: self.audit.into(),
        })
    }
}
