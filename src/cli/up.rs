//! `durward up`.

use crate::cli::audit::AuditLog;
use crate::cli::cluster_domains::ClusterDomainArguments;
use crate::cli::{Failure, Verdict};
use durward_authn::{KeySource, ServiceAccountIssuer};
use durward_doors::admin::Administration;
use durward_engine::openfga;
use durward_engine::openfga::OpenFga;
use durward_manifests::load::Directory;
use durward_runtime::trust::{PeerName, Trust};
use durward_standalone::up::{Listen, Settings, up};
use durward_state::state::StateDirectory;
use durward_step_up::Arguments;
use std::path::PathBuf;

#[derive(Debug, clap::Args)]
pub(crate) struct Up {
    /// Directory of manifests
    #[arg(value_name = "DIR")]
    manifests: PathBuf,
    #[command(flatten)]
    state: StateDirectory,
    #[command(flatten)]
    domains: ClusterDomainArguments,
    #[command(flatten)]
    listen: Listen,
    #[command(flatten)]
    administration: Administration,
    #[command(flatten)]
    audit: AuditLog,
    /// A proxy that is believed which request it forwards: address, network or SPIFFE ID; may be repeated
    #[arg(long, value_name = "PEER", default_values = ["127.0.0.0/8", "::1"])]
    trusted_proxy: Vec<PeerName>,
    /// A proxy that is believed which certificate its client showed (`x-forwarded-client-cert`); may be repeated
    #[arg(long, value_name = "PEER")]
    client_certificates_from: Vec<PeerName>,
    /// An enforcement point that may ask about anybody over AuthZEN; may be repeated
    #[arg(long, value_name = "PEER", default_values = ["127.0.0.0/8", "::1"])]
    enforcement_point: Vec<PeerName>,
    #[command(flatten)]
    openfga: openfga::Settings,
    /// `iss` of tokens: the URL under which others reach the token listener [default: its address]
    #[arg(long, value_name = "URL")]
    issuer: Option<url::Url>,
    #[command(flatten)]
    step_up: Arguments,
    /// Issuer of Kubernetes service-account tokens
    #[arg(long, value_name = "URL")]
    service_account_issuer: Option<String>,
    /// Keys of that issuer: a JWKS file or URL; found through the issuer if left out
    #[arg(long, value_name = "FILE|URL", requires = "service_account_issuer")]
    service_account_jwks: Option<String>,
    /// Print where it listens as one line of JSON
    #[arg(long)]
    json: bool,
}

impl Up {
    pub(crate) fn run(self) -> Result<Verdict, Failure> {
        super::output::log_to_stderr();
        let (json, manifests) = (self.json, self.manifests.clone());
        let settings = self.settings()?;
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let ended = runtime.block_on(up(settings, |listen, directory| {
            if json {
                eprintln!("{}", serde_json::to_string(listen).unwrap_or_default());
            } else {
                eprint!("{}", banner(listen, directory, &manifests.display().to_string()));
            }
        }));
        ended.map(|()| Verdict::Yes)
    }

    fn settings(self) -> Result<Settings, Failure> {
        let service_accounts = match (self.service_account_issuer, self.service_account_jwks) {
            (None, _) => None,
            (Some(issuer), jwks) => {
                let keys = match jwks {
                    None => KeySource::Issuer(KeySource::url(&issuer)?),
                    Some(url) if url.contains("://") => KeySource::Url(KeySource::url(&url)?),
                    Some(file) => KeySource::Inline(
                        std::fs::read_to_string(&file)
                            .map_err(|error| format!("can't read the keys in {file}: {error}"))?,
                    ),
                };
                Some(ServiceAccountIssuer { issuer, keys })
            }
        };
        Ok(Settings {
            manifests: self.manifests,
            state: self.state.resolve()?,
            domain: self.domains.into(),
            listen: self.listen,
            admin: self.administration,
            trust: Trust {
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

fn banner(listen: &Listen, directory: &Directory, manifests: &str) -> String {
    let snapshot = directory.catalog.snapshot();
    let (services, operations) = snapshot
        .services()
        .fold((0, 0), |(services, operations), service| (services + 1, operations + service.operations()));
    format!(
        r#"durward {version}: {services} services with {operations} operations in force, revision {revision}

  forward auth and AuthZEN   http://{http}   https://{https}
  ext_authz (gRPC)           {grpc}          {grpcs} (TLS)
  tokens: exchange, step-up  http://{tokens}   https://{tokens_tls}
  admin                      http://{admin}

Try, in another terminal:

  TOKEN=$(durward mint jwt --service-account billing/billing --audience orders-api)
  curl -i -H "Authorization: Bearer $TOKEN" -H "X-Original-Method: GET" -H "X-Original-URI: /orders" -H "Host: orders.example.com" http://{http}/forward-auth
  durward check -p {manifests} --as spiffe://cluster.local/ns/billing/sa/billing POST http://orders.example.com/orders/42/refund

Decisions are recorded below. Ctrl-C ends it.
"#,
        version = env!("CARGO_PKG_VERSION"),
        revision = snapshot.revision(),
        http = listen.http,
        https = listen.https,
        grpc = listen.grpc,
        grpcs = listen.grpcs,
        tokens = listen.tokens,
        tokens_tls = listen.tokens_tls,
        admin = listen.admin,
    )
}
