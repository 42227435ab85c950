//! `durward controller`.

use crate::cli::audit::AuditLogArguments;
use crate::cli::cluster::{block_on, connect};
use crate::cli::cluster_domains::ClusterDomainArguments;
use crate::cli::outcome::{CommandOutcome, CommandResult};
use crate::cli::output::log_to_stderr;
use durward_controller::{ControllerAddresses, ControllerSettings, FailurePolicy, run};
use durward_core::authentication::AuthenticationMethod;
use durward_core::principal::is_dns_subdomain;
use durward_doors::admin::AdminSettings;
use durward_doors::api_server::ApiServerSettings;
use durward_engine::openfga::{OpenFga, OpenFgaSettings};
use durward_identity::CaSource;
use durward_pki::rotation::RotationSchedule;
use durward_runtime::Failure;
use durward_runtime::duration::parse_duration;
use durward_runtime::limits::ConnectionSettings;
use durward_runtime::peers::{PeerName, TrustedPeers};
use durward_step_up::StepUpArguments;
use std::time::Duration;
use thiserror::Error;

/// Shortest lifetime of the listeners' certificate. Tests rotate it this often.
const MIN_CERTIFICATE_LIFETIME: Duration = Duration::from_secs(10);

#[derive(Debug, clap::Args)]
pub(crate) struct ControllerCommand {
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
    addresses: ControllerAddresses,
    #[command(flatten)]
    connections: ConnectionSettings,
    #[command(flatten)]
    administration: AdminSettings,
    #[command(flatten)]
    audit: AuditLogArguments,
    /// Trust forwarded-request headers from this peer (IP, CIDR or SPIFFE ID). Repeatable
    #[arg(long, value_name = "PEER")]
    trusted_proxy: Vec<PeerName>,
    /// Trust client certificates in `x-forwarded-client-cert` from this peer (IP, CIDR or SPIFFE ID). Repeatable
    #[arg(long, value_name = "PEER")]
    client_certificates_from: Vec<PeerName>,
    /// Let this enforcement point (IP, CIDR or SPIFFE ID) ask about any principal over AuthZEN. Repeatable
    #[arg(long, value_name = "PEER")]
    enforcement_point: Vec<PeerName>,
    #[command(flatten)]
    openfga: OpenFgaSettings,
    /// Also read API keys from labelled Secrets in this namespace. Repeatable
    #[arg(long, value_name = "NAME")]
    api_key_namespace: Vec<String>,
    /// What the API server does with governed operations while no replica responds
    #[arg(long, value_enum, default_value_t)]
    operations_failure_policy: FailurePolicy,
    /// Image of the agents injected into pods with label `durward.dev/inject: agent`
    #[arg(long, value_name = "IMAGE", default_value = concat!("durward.dev/durward:", env!("CARGO_PKG_VERSION")))]
    agent_image: String,
    /// What the API server does with pods that request an identity while no replica responds
    #[arg(long, value_enum, default_value_t)]
    injection_failure_policy: FailurePolicy,
    /// Authentication method that token reviews of the API server accept: `workload`, or the name of an
    /// IdentityProvider. Repeatable
    #[arg(long, value_name = "METHOD", value_parser = parse_authentication_method)]
    token_review: Vec<AuthenticationMethod>,
    /// Let the authorization webhook allow what policies allow, whatever RBAC says; without this it only denies
    #[arg(long)]
    authorization_allows: bool,
    /// Origin of the CA in Secret SERVICE-ca: created by Durward, or provided by another tool such as cert-manager
    #[arg(long, value_enum, default_value_t)]
    ca: CaSource,
    /// Age at which Durward replaces its CA, such as `4320h`. A provided CA is replaced by its provider
    #[arg(long, value_name = "DURATION", default_value = "4320h", value_parser = parse_duration)]
    ca_rotate_after: Duration,
    /// Time between publishing the root of the next CA and signing by it; nodes need minutes to bring the root to pods
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = parse_duration)]
    ca_spread: Duration,
    /// Time for which the root of the previous CA stays trusted; longer than the lifetime of any certificate
    #[arg(long, value_name = "DURATION", default_value = "25h", value_parser = parse_duration)]
    ca_overlap: Duration,
    /// `iss` of tokens: an https URL of the token listener [default: that of the Service]
    #[arg(long, value_name = "URL")]
    issuer: Option<url::Url>,
    #[command(flatten)]
    step_up: StepUpArguments,
    /// Lifetime of the certificate of doors and webhooks, such as `24h`; it is renewed at half of that
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = parse_certificate_lifetime)]
    certificate_lifetime: Duration,
    /// Name of the cert-manager Certificate in this namespace, and of its Secret, for the webhooks; cert-manager's
    /// injector then writes their `caBundle` [default: Durward signs the certificate and writes `caBundle`]
    #[arg(long, value_name = "NAME")]
    webhook_certificate: Option<String>,
    #[command(flatten)]
    api_server: ApiServerSettings,
}

impl ControllerCommand {
    pub(crate) fn run(self) -> CommandResult {
        log_to_stderr();
        let settings = self.settings()?;
        block_on(async { run(connect().await?, settings).await })??;
        Ok(CommandOutcome::Success)
    }

    fn settings(self) -> Result<ControllerSettings, Failure> {
        let issuer = match self.issuer {
            Some(url) => url.as_str().trim_end_matches('/').to_owned(),
            None => format!("https://{}.{}.svc:{}", self.service, self.namespace, self.addresses.tokens.port()),
        };
        Ok(ControllerSettings {
            namespace: self.namespace,
            pod: self.pod_name,
            service: self.service,
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
            openfga: OpenFga::new(self.openfga)?,
            api_key_namespaces: self.api_key_namespace,
            failure_policy: self.operations_failure_policy,
            agent_image: self.agent_image,
            injection_failure_policy: self.injection_failure_policy,
            token_review_methods: self.token_review,
            authorization_allows: self.authorization_allows,
            ca: self.ca,
            rotation: RotationSchedule {
                rotate_after: self.ca_rotate_after,
                spread: self.ca_spread,
                overlap: self.ca_overlap,
            },
            step_up: self.step_up.into_settings(&issuer)?,
            issuer,
            certificate_lifetime: self.certificate_lifetime,
            webhook_certificate: self.webhook_certificate,
            api_server: self.api_server,
        })
    }
}

/// A value of a flag that the controller does not accept.
#[derive(Debug, Error)]
enum ControllerArgumentError {
    #[error("`{0}` is neither `workload` nor the name of an IdentityProvider")]
    AuthenticationMethod(String),
    #[error("`{0}` is not a time of at least {MIN_CERTIFICATE_LIFETIME:?}, such as `24h`")]
    CertificateLifetime(String),
}

fn parse_authentication_method(text: &str) -> Result<AuthenticationMethod, ControllerArgumentError> {
    match text {
        "workload" => Ok(AuthenticationMethod::Workload),
        name if is_dns_subdomain(name) => Ok(AuthenticationMethod::Provider(name.into())),
        other => Err(ControllerArgumentError::AuthenticationMethod(other.to_owned())),
    }
}

fn parse_certificate_lifetime(text: &str) -> Result<Duration, ControllerArgumentError> {
    let parsed = parse_duration(text).ok().filter(|duration| *duration >= MIN_CERTIFICATE_LIFETIME);
    parsed.ok_or_else(|| ControllerArgumentError::CertificateLifetime(text.to_owned()))
}
