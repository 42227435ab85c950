//! `durward approvals`, `approve` and `deny`: what waits for somebody, and deciding it.

use crate::cli::controller::{block_on, client};
use crate::cli::output::{Format, columns, say};
use crate::cli::{Failure, Verdict};
use durward_api::resources::Approval;
use durward_approvals::Folder;
use durward_core::approval::ApprovalRequirement;
use durward_doors::approvals::{PATH, Verdict as Decision};
use durward_kubernetes::requests::brief;
use durward_manifests::load::read_text;
use durward_state::state::StateDirectory;
use kube::Api;
use kube::api::ListParams;
use serde::Serialize;
use serde_json::{Value, json};
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;
use url::Url;

/// How long the token listener may take.
const PATIENCE: Duration = Duration::from_secs(15);

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  kubectl durward approvals\n  durward approvals --state /var/lib/durward -o json")]
pub(crate) struct Approvals {
    /// Those of one namespace alone
    #[arg(long, short, value_name = "NAME")]
    namespace: Option<String>,
    #[command(flatten)]
    state: StateDirectory,
    /// Output format
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
}

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  durward approve shop/purge-orders-4f0c… --token-file token --url https://durward.durward-system.svc:8145"
)]
pub(crate) struct Decide {
    /// The approval, as `approval_required` and `durward approvals` name it
    #[arg(value_name = "NAMESPACE/NAME", value_parser = super::mint::service_account)]
    approval: (String, String),
    /// File with your token for the service, which tells of a fresh second factor
    #[arg(long, value_name = "FILE")]
    token_file: PathBuf,
    /// The token listener
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8182", env = "DURWARD_TOKENS")]
    url: Url,
    /// Roots of its certificate, in PEM [default: those of this host]
    #[arg(long, value_name = "FILE")]
    roots: Option<PathBuf>,
}

/// The approval that an operation asks for, as commands tell it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct AskedFor {
    /// Any of these may approve.
    by: Vec<String>,
    /// For how long that counts.
    seconds: i64,
}

impl AskedFor {
    pub(crate) fn of(approvers: &ApprovalRequirement) -> Self {
        Self {
            by: approvers.approvers.iter().map(ToString::to_string).collect(),
            seconds: approvers.valid_for.num_seconds(),
        }
    }
}

impl fmt::Display for AskedFor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an approval by {}, for ", self.by.join(" or "))?;
        if self.seconds % 60 == 0 { write!(f, "{} min", self.seconds / 60) } else { write!(f, "{} s", self.seconds) }
    }
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    approval: String,
    principal: String,
    operation: String,
    state: &'static str,
    by: Option<String>,
    expires: Option<String>,
}

impl Approvals {
    pub(crate) fn run(self) -> Result<Verdict, Failure> {
        let all = match &self.state.path {
            Some(state) => Folder::open(state)?.all()?,
            None => block_on(async {
                let client = client().await?;
                let api: Api<Approval> = match &self.namespace {
                    Some(namespace) => Api::namespaced(client, namespace),
                    None => Api::all(client),
                };
                let listed = api.list(&ListParams::default()).await;
                Ok(listed.map_err(|error| format!("approvals can't be listed: {}", brief(&error)))?.items)
            })?,
        };
        let here = |row: &Row| {
            let of = row.approval.split_once('/').map(|(namespace, _)| namespace);
            self.namespace.as_deref().is_none_or(|namespace| of == Some(namespace))
        };
        let mut rows: Vec<Row> = all.into_iter().map(row).filter(here).collect();
        rows.sort_unstable();
        self.output.print(&rows, |rows| table(rows))?;
        Ok(Verdict::Yes)
    }
}

fn row(approval: Approval) -> Row {
    let (meta, status) = (approval.metadata, approval.status.unwrap_or_default());
    Row {
        approval: format!("{}/{}", meta.namespace.unwrap_or_default(), meta.name.unwrap_or_default()),
        principal: approval.spec.principal,
        operation: approval.spec.operation,
        state: status.state.as_str(),
        by: status.by,
        expires: status.expires_at,
    }
}

fn table(rows: &[Row]) -> String {
    let head = ["APPROVAL", "PRINCIPAL", "OPERATION", "STATE", "BY", "EXPIRES"].map(str::to_owned);
    let or = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    let lines = rows.iter().map(|row| {
        let Row { approval, principal, operation, state, by, expires } = row;
        [approval.clone(), principal.clone(), operation.clone(), (*state).to_owned(), or(by), or(expires)]
    });
    columns(&[head].into_iter().chain(lines).collect::<Vec<_>>())
}

impl Decide {
    pub(crate) fn run(self, decision: Decision) -> Result<Verdict, Failure> {
        let token = read_text(&self.token_file).map_err(|why| format!("{} {why}", self.token_file.display()))?;
        let (namespace, name) = &self.approval;
        let mut url = self.url.clone();
        url.path_segments_mut().map_err(|()| "--url is no URL of a listener")?.pop_if_empty().extend([
            PATH.trim_start_matches('/'),
            namespace,
            name,
        ]);
        let mut client = reqwest::Client::builder().timeout(PATIENCE).redirect(reqwest::redirect::Policy::none());
        if let Some(roots) = &self.roots {
            let pem = std::fs::read(roots).map_err(|error| format!("can't read {}: {error}", roots.display()))?;
            client = client.tls_certs_only(reqwest::Certificate::from_pem_bundle(&pem)?);
        }
        let (status, told): (u16, Value) = block_on(async {
            let request = client.build()?.post(url).bearer_auth(token.trim()).json(&json!({"decision": decision}));
            let answer = request.send().await?;
            Ok((answer.status().as_u16(), answer.json().await.unwrap_or_default()))
        })?;
        let text = |field: &str| told.get(field).and_then(Value::as_str).unwrap_or("-").to_owned();
        match (status, told.get("error").and_then(Value::as_str)) {
            (200, _) => {
                let [state, operation, principal, until] = ["state", "operation", "principal", "expiresAt"].map(text);
                say(&format!("{state}: {operation} for {principal}, until {until}\n"))?;
                Ok(Verdict::Yes)
            }
            (401, Some("insufficient_user_authentication")) => {
                Err("the token tells of no second factor of the last five minutes; use it anew".into())
            }
            (401, _) => Err("the token is not accepted, or there is no such approval".into()),
            (403, _) => {
                eprintln!("the policy names others to decide this");
                Ok(Verdict::No)
            }
            (409, _) => {
                eprintln!("it was decided before");
                Ok(Verdict::No)
            }
            (status, error) => Err(format!("the token listener answers {status} {}", error.unwrap_or_default()).into()),
        }
    }
}
