//! `durward inspect`: what a certificate is, and whether it counts now.

use crate::cli::controller::{block_on, client};
use crate::cli::output::Format;
use crate::cli::{Failure, Verdict};
use chrono::{DateTime, Utc};
use durward_core::principal::PrincipalId;
use durward_identity::published_roots;
use durward_kubernetes::requests::brief;
use durward_pki::authority::certificates;
use durward_pki::serial::{CertificateHolder, CertificateSerial, UidTag};
use durward_pki::svid::{X509Svid, dns_names, parse, verify_client};
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
pub(crate) struct Inspect {
    /// PEM file with the certificate, and those that go with it; `-` reads standard input. Keys in it are passed over
    certificate: PathBuf,
    /// Roots to verify it by, in PEM, in place of those of the cluster; whether its pod lives is not looked at then
    #[arg(long, value_name = "FILE")]
    bundle: Option<PathBuf>,
    /// Output format
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Told {
    spiffe_id: String,
    dns_names: Vec<String>,
    serial: String,
    not_before: DateTime<Utc>,
    not_after: DateTime<Utc>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pod: Option<String>,
    counts: bool,
    reasons: Vec<String>,
}

impl Inspect {
    pub(crate) fn run(self) -> Result<Verdict, Failure> {
        let name = self.certificate.display();
        let text = match self.certificate.to_str() {
            Some("-") => {
                std::io::read_to_string(std::io::stdin()).map_err(|error| format!("standard input: {error}"))?
            }
            _ => fs::read_to_string(&self.certificate).map_err(|error| format!("{name}: {error}"))?,
        };
        let chain = certificates(&text).map_err(|_| format!("{name}: no certificate in PEM form found"))?;
        let leaf = chain.first().ok_or("no certificate")?;
        let svid = parse(leaf).map_err(|error| format!("{name}: {error}"))?;
        let told = match &self.bundle {
            Some(path) => {
                let roots = fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
                let roots = certificates(&roots).map_err(|_| format!("{}: no certificate found", path.display()))?;
                told(&chain, &svid, &roots)
            }
            None => block_on(ask(&chain, &svid))?,
        };
        let counts = told.counts;
        self.output.print(&told, text_of)?;
        Ok(if counts { Verdict::Yes } else { Verdict::No })
    }
}

/// What the certificate and the roots say.
fn told(chain: &[CertificateDer<'_>], svid: &X509Svid, roots: &[CertificateDer<'_>]) -> Told {
    let time = |seconds| DateTime::from_timestamp(seconds, 0).unwrap_or_default();
    let verified = verify_client(chain, roots, Utc::now().timestamp());
    let reasons: Vec<String> = verified.err().into_iter().map(|error| error.to_string()).collect();
    Told {
        spiffe_id: svid.id.clone(),
        dns_names: chain.first().map(dns_names).unwrap_or_default(),
        serial: hex::encode(&svid.serial),
        not_before: time(svid.not_before),
        not_after: time(svid.not_after),
        pod: None,
        counts: reasons.is_empty(),
        reasons,
    }
}

/// What the cluster adds: its roots, and whether pod and service account live.
async fn ask(chain: &[CertificateDer<'_>], svid: &X509Svid) -> Result<Told, Failure> {
    let client = client().await?;
    let roots = published_roots(&client).await?;
    let mut told = told(chain, svid, &roots);
    if let Some(holder) = CertificateSerial::holder(&svid.serial) {
        let Ok(PrincipalId::Workload { namespace, service_account, .. }) = svid.id.parse() else {
            return Err(format!("`{}` names no service account", svid.id).into());
        };
        match pod(&client, &namespace, holder).await? {
            Some(name) => told.pod = Some(format!("{namespace}/{name}")),
            None => told.reasons.push("the pod that it was issued for is gone".to_owned()),
        }
        let accounts: Api<ServiceAccount> = Api::namespaced(client, &namespace);
        let account = accounts.get_metadata_opt(&service_account).await.map_err(|error| brief(&error))?;
        let lives = |uid: &str| UidTag::from_uid(uid) == holder.service_account;
        if !account.is_some_and(|account| account.metadata.uid.as_deref().is_some_and(lives)) {
            told.reasons.push("the service account that it was issued for is gone".to_owned());
        }
    }
    told.counts = told.reasons.is_empty();
    Ok(told)
}

async fn pod(client: &Client, namespace: &str, holder: CertificateHolder) -> Result<Option<String>, Failure> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let pods = pods.list_metadata(&ListParams::default()).await;
    let pods = pods.map_err(|error| format!("can't list pods of namespace `{namespace}`: {}", brief(&error)))?;
    let its = |uid: Option<&str>| uid.is_some_and(|uid| UidTag::from_uid(uid) == holder.pod);
    Ok(pods.items.iter().find(|pod| its(pod.metadata.uid.as_deref())).map(ResourceExt::name_any))
}

fn text_of(told: &Told) -> String {
    let mut text = format!("{}\n", told.spiffe_id);
    let mut line = |label: &str, value: &str| text += &format!("  {label:<12}{value}\n");
    if !told.dns_names.is_empty() {
        line("DNS names", &told.dns_names.join(", "));
    }
    line("Serial", &told.serial);
    line("Valid", &format!("{} to {}", told.not_before, told.not_after));
    if let Some(pod) = &told.pod {
        line("Pod", pod);
    }
    if told.counts {
        line("Counts", "yes");
    }
    told.reasons.iter().for_each(|reason| line("Counts", &format!("no: {reason}")));
    text
}
