//! `durward controller`, and what the chart's hooks and tests call.

use crate::cli::audit::AuditLog;
use crate::cli::cluster_domains::ClusterDomainArguments;
use crate::cli::{Failure, Verdict};
use durward_controller::{FailurePolicy, Listen, Settings, remove, run};
use durward_core::authentication::AuthenticationMethod;
use durward_core::principal::is_dns_subdomain;
use durward_doors::admin::Administration;
use durward_engine::openfga;
use durward_engine::openfga::OpenFga;
use durward_identity::CaSource;
use durward_kubernetes::kubeconfig;
use durward_pki::rotation::RotationSchedule;
use durward_runtime::duration::duration;
use durward_runtime::trust::{PeerName, Trust};
use durward_step_up::Arguments;
use kube::Client;
use std::time::Duration;

/// Shortest lifetime of the listeners' certificate: clocks may differ by a minute.
const SHORTEST: Duration = Duration::from_secs(10);

#[derive(Debug, clap::Args)]
pub(crate) struct Controller {
    /// Namespace of this installation
    #[arg(long, value_name = "NAME", env = "POD_NAMESPACE")]
    namespace: String,
    /// Name of this pod
    #[arg(long, value_name = "NAME", env = "POD_NAME")]
    pod_name: String,
    /// Service in front of all replicas
    #[arg(long, value_name = "NAME", default_value = "durward")]
    service: String,
    #[command(flatten)]
    domains: ClusterDomainArguments,
    #[command(flatten)]
    listen: Listen,
    #[command(flatten)]
    administration: Administration,
    #[command(flatten)]
    audit: AuditLog,
    /// A proxy that is believed which request it forwards: address, network or SPIFFE ID; may be repeated
    #[arg(long, value_name = "PEER")]
    trusted_proxy: Vec<PeerName>,
    /// A proxy that is believed which certificate its client showed (`x-forwarded-client-cert`); may be repeated
    #[arg(long, value_name = "PEER")]
    client_certificates_from: Vec<PeerName>,
    /// An enforcement point that may ask about anybody over AuthZEN; may be repeated
    #[arg(long, value_name = "PEER")]
    enforcement_point: Vec<PeerName>,
    #[command(flatten)]
    openfga: openfga::Settings,
    /// A namespace whose labelled Secrets hold API keys, beside this installation's own; may be repeated
    #[arg(long, value_name = "NAME")]
    api_key_namespace: Vec<String>,
    /// What the API server does with governed operations while nobody answers
    #[arg(long, value_enum, default_value_t)]
    operations_failure_policy: FailurePolicy,
    /// Image of the agents that are put beside pods labelled `durward.dev/inject: agent`
    #[arg(long, value_name = "IMAGE", default_value = concat!("durward.dev/durward:", env!("CARGO_PKG_VERSION")))]
    agent_image: String,
    /// What the API server does with pods that ask for an identity while nobody answers
    #[arg(long, value_enum, default_value_t)]
    injection_failure_policy: FailurePolicy,
    /// A way in that counts at the API server itself, where it reviews tokens here: `workload`, or the name of an
    /// IdentityProvider; may be repeated
    #[arg(long, value_name = "WAY", value_parser = way)]
    token_review: Vec<AuthenticationMethod>,
    /// Let the authorization webhook allow what policies allow, whatever RBAC says; without this it only denies
    #[arg(long)]
    authorization_allows: bool,
    /// Whether the CA in Secret SERVICE-ca is made by Durward, or put there by somebody else, such as cert-manager
    #[arg(long, value_enum, default_value_t)]
    ca: CaSource,
    /// Age at which the CA is replaced, such as `4320h`; one that somebody else provides is replaced when they do
    #[arg(long, value_name = "DURATION", default_value = "4320h", value_parser = duration)]
    ca_rotate_after: Duration,
    /// How long the root of the next CA is published before it signs: nodes need minutes to bring it to pods
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = duration)]
    ca_spread: Duration,
    /// How long the root of the last CA still counts; longer than any certificate lives
    #[arg(long, value_name = "DURATION", default_value = "25h", value_parser = duration)]
    ca_overlap: Duration,
    /// `iss` of tokens: an https URL that leads to the token listener [default: that of the Service]
    #[arg(long, value_name = "URL")]
    issuer: Option<url::Url>,
    #[command(flatten)]
    step_up: Arguments,
    /// Lifetime of the certificate of doors and webhooks, such as `24h`; it is renewed at half of it
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = lifetime)]
    certificate_lifetime: Duration,
    /// Certificate of cert-manager in this namespace, and Secret that it fills, for the webhooks; its injector writes their
    /// `caBundle` then [default: Durward signs the certificate, and writes it]
    #[arg(long, value_name = "NAME")]
    webhook_certificate: Option<String>,
}

impl Controller {
    pub(crate) fn run(self) -> Result<Verdict, Failure> {
        super::output::log_to_stderr();
        let issuer = match self.issuer {
            Some(url) => url.as_str().trim_end_matches('/').to_owned(),
            None => format!("https://{}.{}.svc:{}", self.service, self.namespace, self.listen.tokens.port()),
        };
        let settings = Settings {
            namespace: self.namespace,
            pod: self.pod_name,
            service: self.service,
            names: self.domains.into(),
            listen: self.listen,
            admin: self.administration,
            trust: Trust {
                proxies: self.trusted_proxy,
                client_certificates: self.client_certificates_from,
                enforcement_points: self.enforcement_point,
            },
            on_loss: self.audit.audit_on_loss,
            audit: self.audit.into(),
            openfga: OpenFga::new(self.openfga)?,
            api_key_namespaces: self.api_key_namespace,
            failure_policy: self.operations_failure_policy,
            agent_image: self.agent_image,
            injection_failure_policy: self.injection_failure_policy,
            token_review: self.token_review,
            authorization_allows: self.authorization_allows,
            ca: self.ca,
            rotation: RotationSchedule {
                rotate_after: self.ca_rotate_after,
                spread: self.ca_spread,
                overlap: self.ca_overlap,
            },
            step_up: self.step_up.settings(&issuer)?,
            issuer,
            certificate_lifetime: self.certificate_lifetime,
            webhook_certificate: self.webhook_certificate,
        };
        block_on(async { run(client().await?, settings).await }).map(|()| Verdict::Yes)
    }
}

#[derive(Debug, clap::Args)]
pub(crate) struct Uninstall {
    /// Namespace of the installation
    #[arg(long, value_name = "NAME", env = "POD_NAMESPACE")]
    namespace: String,
    /// Service of the installation
    #[arg(long, value_name = "NAME", default_value = "durward")]
    service: String,
}

impl Uninstall {
    pub(crate) fn run(self) -> Result<Verdict, Failure> {
        let removed = block_on(async { remove(client().await?, &self.namespace, &self.service).await })?;
        removed.iter().for_each(|name| println!("webhook configuration {name} removed"));
        if removed.is_empty() {
            println!("there was no webhook configuration of {}", self.service);
        }
        Ok(Verdict::Yes)
    }
}

#[derive(Debug, clap::Args)]
pub(crate) struct Health {
    /// Address of the admin listener
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8181")]
    admin: url::Url,
}

impl Health {
    pub(crate) fn run(self) -> Result<Verdict, Failure> {
        let url = self.admin.join("/readyz")?;
        // as kubelet does: whether it is ready is no secret, and whoever asks here does nothing by the answer
        let answer = block_on(async {
            let client = reqwest::Client::builder()
                .tls_danger_accept_invalid_certs(true)
                .timeout(Duration::from_secs(5))
                .no_proxy()
                .build()?;
            Ok(client.get(url).send().await?)
        })?;
        let ready = answer.status().is_success();
        println!("{}", if ready { "ready" } else { "not ready" });
        Ok(if ready { Verdict::Yes } else { Verdict::No })
    }
}

pub(crate) async fn client() -> Result<Client, Failure> {
    let failed = |error: &dyn std::fmt::Display| -> Failure {
        format!("the API server can't be reached: {error}; run it in a pod, or set KUBECONFIG").into()
    };
    let config = kubeconfig::config(None, None).await.map_err(|error| failed(&error))?;
    Client::try_from(config).map_err(|error| failed(&error))
}

pub(crate) fn block_on<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    // kube and reqwest take the crypto of the process
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(work)
}

fn way(text: &str) -> Result<AuthenticationMethod, String> {
    match text {
        "workload" => Ok(AuthenticationMethod::Workload),
        name if is_dns_subdomain(name) => Ok(AuthenticationMethod::Provider(name.into())),
        other => Err(format!("`{other}` is neither `workload` nor the name of an IdentityProvider")),
    }
}

fn lifetime(text: &str) -> Result<Duration, String> {
    let parsed = duration(text).ok().filter(|duration| *duration >= SHORTEST);
    parsed.ok_or_else(|| format!("`{text}` is no time of at least {SHORTEST:?}, such as `24h`"))
}
