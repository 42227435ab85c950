//! `durward inspect`: print a certificate, and check whether it is valid now.

use crate::cli::cluster::{block_on, connect};
use crate::cli::outcome::{CommandOutcome, CommandResult};
use crate::cli::output::OutputFormat;
use chrono::{DateTime, Utc};
use durward_core::principal::PrincipalId;
use durward_identity::published_roots;
use durward_kubernetes::requests::redacted;
use durward_pki::authority::certificates;
use durward_pki::serial::{CertificateHolder, CertificateSerial, UidTag};
use durward_pki::svid::{X509Svid, dns_names, parse, verify_client};
use durward_runtime::Failure;
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use kube::api::{Api, ListParams};
use kube::{Client, ResourceExt};
use rustls_pki_types::CertificateDer;
use serde::Serialize;
use std::fs;
use std::path::PathBuf;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  kubectl exec orders-0 -- cat /var/run/durward/credential-bundle.pem | kubectl durward inspect -\n  durward inspect svid.pem --bundle bundle.pem"
)]
pub(crate) struct InspectCommand {
    /// PEM file with the certificate and its chain; `-` is standard input. Keys in the file are ignored
    certificate: PathBuf,
    /// Roots that verify the certificate, in PEM, instead of those of the cluster; the existence of its pod is then not
    /// checked
    #[arg(long, value_name = "FILE")]
    bundle: Option<PathBuf>,
    /// Output format
    #[arg(long, short, value_enum, default_value_t)]
    output: OutputFormat,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct CertificateReport {
    spiffe_id: String,
    dns_names: Vec<String>,
    serial: String,
    not_before: DateTime<Utc>,
    not_after: DateTime<Utc>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pod: Option<String>,
    #[serde(rename = "counts")]
    valid: bool,
    reasons: Vec<String>,
}

impl InspectCommand {
    pub(crate) fn run(self) -> CommandResult {
        let name = self.certificate.display();
        let text = match self.certificate.to_str() {
            Some("-") => {
                std::io::read_to_string(std::io::stdin()).map_err(|error| format!("standard input: {error}"))?
            }
            _ => fs::read_to_string(&self.certificate).map_err(|error| format!("{name}: {error}"))?,
        };
        let chain = certificates(&text).map_err(|_| format!("{name} contains no certificate in PEM form"))?;
        let leaf = chain.first().ok_or_else(|| format!("{name} contains no certificate in PEM form"))?;
        let svid = parse(leaf).map_err(|error| format!("{name}: {error}"))?;
        let report = match &self.bundle {
            Some(path) => {
                let roots = fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
                let roots = certificates(&roots)
                    .map_err(|_| format!("{} contains no certificate in PEM form", path.display()))?;
                verify(&chain, &svid, &roots)
            }
            None => block_on(verify_in_cluster(&chain, &svid))??,
        };
        self.output.print(&report, text_of)?;
        Ok(CommandOutcome::from_success(report.valid))
    }
}

/// Verifies the certificate by roots.
fn verify(chain: &[CertificateDer<'_>], svid: &X509Svid, roots: &[CertificateDer<'_>]) -> CertificateReport {
    let time = |seconds| DateTime::from_timestamp(seconds, 0).unwrap_or_default();
    let verified = verify_client(chain, roots, Utc::now().timestamp());
    let reasons: Vec<String> = verified.err().into_iter().map(|error| error.to_string()).collect();
    CertificateReport {
        spiffe_id: svid.id.clone(),
        dns_names: chain.first().map(dns_names).unwrap_or_default(),
        serial: hex::encode(&svid.serial),
        not_before: time(svid.not_before),
        not_after: time(svid.not_after),
        pod: None,
        valid: reasons.is_empty(),
        reasons,
    }
}

/// Verifies the certificate by the roots of the cluster, and checks that its pod and service account exist.
async fn verify_in_cluster(chain: &[CertificateDer<'_>], svid: &X509Svid) -> Result<CertificateReport, Failure> {
    let client = connect().await?;
    let roots = published_roots(&client).await?;
    let mut report = verify(chain, svid, &roots);
    if let Some(holder) = CertificateSerial::holder(&svid.serial) {
        let Ok(PrincipalId::Workload { namespace, service_account, .. }) = svid.id.parse() else {
            return Err(format!("`{}` does not name a service account", svid.id).into());
        };
        match find_pod(&client, &namespace, holder).await? {
            Some(name) => report.pod = Some(format!("{namespace}/{name}")),
            None => report.reasons.push("the pod that it was issued for does not exist any more".to_owned()),
        }
        let accounts: Api<ServiceAccount> = Api::namespaced(client, &namespace);
        let account = accounts.get_metadata_opt(&service_account).await.map_err(|error| {
            format!("cannot read service account `{namespace}/{service_account}`: {}", redacted(&error))
        })?;
        let matches = |uid: &str| UidTag::from_uid(uid) == holder.service_account;
        if !account.is_some_and(|account| account.metadata.uid.as_deref().is_some_and(matches)) {
            report.reasons.push("the service account that it was issued for does not exist any more".to_owned());
        }
    }
    report.valid = report.reasons.is_empty();
    Ok(report)
}

async fn find_pod(client: &Client, namespace: &str, holder: CertificateHolder) -> Result<Option<String>, Failure> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let pods = pods.list_metadata(&ListParams::default()).await;
    let pods = pods.map_err(|error| format!("cannot list pods of namespace `{namespace}`: {}", redacted(&error)))?;
    let matches = |uid: &str| UidTag::from_uid(uid) == holder.pod;
    let pod = pods.items.iter().find(|pod| pod.metadata.uid.as_deref().is_some_and(matches));
    Ok(pod.map(ResourceExt::name_any))
}

fn text_of(report: &CertificateReport) -> String {
    let mut text = format!("{}\n", report.spiffe_id);
    let mut line = |label: &str, value: &str| text += &format!("  {label:<12}{value}\n");
    if !report.dns_names.is_empty() {
        line("DNS names", &report.dns_names.join(", "));
    }
    line("Serial", &report.serial);
    line("Valid", &format!("{} to {}", report.not_before, report.not_after));
    if let Some(pod) = &report.pod {
        line("Pod", pod);
    }
    if report.valid {
        line("Accepted", "yes");
    }
    report.reasons.iter().for_each(|reason| line("Accepted", &format!("no: {reason}")));
    text
}
