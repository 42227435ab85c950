//! `durward up`.

use crate::cli::audit::AuditLogArguments;
use crate::cli::cluster_domains::ClusterDomainArguments;
use crate::cli::outcome::{CommandOutcome, CommandResult};
use crate::cli::output::log_to_stderr;
use durward_authn::{KeySource, ServiceAccountIssuer};
use durward_core::snapshot::Snapshot;
use durward_doors::admin::AdminSettings;
use durward_engine::openfga::{OpenFga, OpenFgaSettings};
use durward_manifests::load::ManifestDirectory;
use durward_runtime::Failure;
use durward_runtime::limits::ConnectionSettings;
use durward_runtime::peers::{PeerName, TrustedPeers};
use durward_standalone::{StandaloneAddresses, StandaloneSettings, up};
use durward_state::StateDirectory;
use durward_step_up::StepUpArguments;
use std::path::PathBuf;

#[derive(Debug, clap::Args)]
pub(crate) struct UpCommand {
    /// Directory of manifests
    #[arg(value_name = "DIR")]
    manifests: PathBuf,
    /// Refuse to start if a manifest is invalid, instead of closing the services that it may concern
    #[arg(long)]
    strict: bool,
    #[command(flatten)]
    state: StateDirectory,
    #[command(flatten)]
    domains: ClusterDomainArguments,
    #[command(flatten)]
    addresses: StandaloneAddresses,
    #[command(flatten)]
    connections: ConnectionSettings,
    #[command(flatten)]
    administration: AdminSettings,
    #[command(flatten)]
    audit: AuditLogArguments,
    /// Trust forwarded-request headers from this peer (IP, CIDR or SPIFFE ID). Repeatable
    #[arg(long, value_name = "PEER", default_values = ["127.0.0.0/8", "::1"])]
    trusted_proxy: Vec<PeerName>,
    /// Trust client certificates in `x-forwarded-client-cert` from this peer (IP, CIDR or SPIFFE ID). Repeatable
    #[arg(long, value_name = "PEER")]
    client_certificates_from: Vec<PeerName>,
    /// Let this enforcement point (IP, CIDR or SPIFFE ID) ask about any principal over AuthZEN. Repeatable
    #[arg(long, value_name = "PEER", default_values = ["127.0.0.0/8", "::1"])]
    enforcement_point: Vec<PeerName>,
    #[command(flatten)]
    openfga: OpenFgaSettings,
    /// `iss` of tokens: the public URL of the token listener [default: its address]
    #[arg(long, value_name = "URL")]
    issuer: Option<url::Url>,
    #[command(flatten)]
    step_up: StepUpArguments,
    /// Issuer of Kubernetes service-account tokens
    #[arg(long, value_name = "URL")]
    service_account_issuer: Option<String>,
    /// Keys of that issuer, as a JWKS [default: discovered through the issuer]
    #[arg(long, value_name = "FILE|URL", requires = "service_account_issuer")]
    service_account_jwks: Option<String>,
    /// Print the listen addresses as one line of JSON
    #[arg(long)]
    json: bool,
}

impl UpCommand {
    pub(crate) fn run(self) -> CommandResult {
        log_to_stderr();
        let json = self.json;
        let manifests = self.manifests.clone();
        let settings = self.settings()?;
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let ended = runtime.block_on(up(settings, |addresses, directory| {
            if json {
                eprintln!("{}", serde_json::to_string(addresses).unwrap_or_default());
            } else {
                eprint!("{}", banner(addresses, directory, &manifests.display().to_string()));
            }
        }));
        ended?;
        Ok(CommandOutcome::Success)
    }

    fn settings(self) -> Result<StandaloneSettings, Failure> {
        let service_accounts = match (self.service_account_issuer, self.service_account_jwks) {
            (None, _) => None,
            (Some(issuer), jwks) => {
                let keys = match jwks {
                    None => KeySource::Issuer(KeySource::url(&issuer)?),
                    Some(url) if url.contains("://") => KeySource::Url(KeySource::url(&url)?),
                    Some(file) => KeySource::Inline(
                        std::fs::read_to_string(&file)
                            .map_err(|error| format!("cannot read the keys in {file}: {error}"))?,
                    ),
                };
                Some(ServiceAccountIssuer { issuer, keys })
            }
        };
        Ok(StandaloneSettings {
            manifests: self.manifests,
            strict: self.strict,
            state: self.state.resolve()?,
            domains: self.domains.into(),
            addresses: self.addresses,
            connections: self.connections,
            admin: self.administration,
            trust: TrustedPeers {
                proxies: self.trusted_proxy,
                client_certificates: self.client_certificates_from,
                enforcement_points: self.enforcement_point,
            },
            on_loss: self.audit.audit_on_loss,
            audit: self.audit.into(),
            issuer: self.issuer.map(|url| url.as_str().trim_end_matches('/').to_owned()),
            step_up: self.step_up,
            service_accounts,
            openfga: OpenFga::new(self.openfga)?,
        })
    }
}

fn banner(addresses: &StandaloneAddresses, directory: &ManifestDirectory, manifests: &str) -> String {
    let snapshot = directory.snapshot();
    let services = snapshot.services().count();
    let operations: usize = snapshot.services().map(|service| service.operations()).sum();
    format!(
        r#"durward {version}: {services} services with {operations} operations in force, revision {revision}

  forward auth and AuthZEN   http://{http}   https://{https}
  ext_authz (gRPC)           {grpc}          {grpcs} (TLS)
  tokens: exchange, step-up  http://{tokens}   https://{tokens_tls}
  admin                      http://{admin}

{attempts}
Decisions are recorded below. Press Ctrl-C to stop.
"#,
        version = env!("CARGO_PKG_VERSION"),
        revision = snapshot.revision(),
        http = addresses.http,
        https = addresses.https,
        grpc = addresses.grpc,
        grpcs = addresses.grpcs,
        tokens = addresses.tokens,
        tokens_tls = addresses.tokens_tls,
        admin = addresses.admin,
        attempts = attempts(&snapshot, addresses, manifests),
    )
}

/// Commands to try: those of the example, or those of the first service of other manifests.
fn attempts(snapshot: &Snapshot, addresses: &StandaloneAddresses, manifests: &str) -> String {
    let http = addresses.http;
    let example = snapshot.services().any(|service| {
        service.key().audience.as_ref() == "orders-api"
            && service.hosts().iter().any(|host| host.as_str() == "orders.example.com")
    });
    let services = snapshot.services().filter_map(|service| Some((service, service.hosts().iter().next()?)));
    let first = services.min_by_key(|(service, _)| service.key().clone());
    let [mint, curl, check] = match first {
        _ if example => [
            "billing/billing --audience orders-api".to_owned(),
            "/orders\" -H \"Host: orders.example.com".to_owned(),
            "--as spiffe://cluster.local/ns/billing/sa/billing POST http://orders.example.com/orders/42/refund"
                .to_owned(),
        ],
        Some((service, host)) => [
            format!("{}/default --audience {}", service.key().namespace, service.key().audience),
            format!("/\" -H \"Host: {host}"),
            format!("GET http://{host}/"),
        ],
        None => return String::new(),
    };
    format!(
        r#"Try, in another terminal:

  TOKEN=$(durward mint jwt --service-account {mint})
  curl -i -H "Authorization: Bearer $TOKEN" -H "X-Original-Method: GET" -H "X-Original-URI: {curl}" http://{http}/forward-auth
  durward check -p {manifests} {check}
"#
    )
}
