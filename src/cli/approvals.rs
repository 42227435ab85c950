//! `durward approvals`, `approve` and `deny`: list approvals, and decide them.

use crate::cli::arguments::NamespacedArgument;
use crate::cli::cluster::{block_on, connect};
use crate::cli::outcome::{CommandOutcome, CommandResult};
use crate::cli::output::{OutputFormat, print_text, table};
use durward_api::resources::Approval;
use durward_approvals::ApprovalFolder;
use durward_core::visible::visible;
use durward_doors::approvals::{ApprovalVerdict, PATH};
use durward_kubernetes::requests::redacted;
use durward_manifests::files::read_text;
use durward_runtime::Failure;
use durward_state::StateDirectory;
use kube::Api;
use kube::api::ListParams;
use serde::Serialize;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::Duration;
use thiserror::Error;
use url::Url;

/// Longest time for a request to the token listener.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  kubectl durward approvals\n  durward approvals --state /var/lib/durward -o json")]
pub(crate) struct ApprovalsCommand {
    /// List only the approvals of this namespace
    #[arg(long, short, value_name = "NAME")]
    namespace: Option<String>,
    #[command(flatten)]
    state: StateDirectory,
    /// Output format
    #[arg(long, short, value_enum, default_value_t)]
    output: OutputFormat,
}

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  durward approve shop/purge-orders-4f0c… --token-file token --url https://durward.durward-system.svc:8145"
)]
pub(crate) struct DecideApprovalCommand {
    /// Name of the approval, as in `approval_required` and in the list of `durward approvals`
    #[arg(value_name = "NAMESPACE/NAME")]
    approval: NamespacedArgument,
    /// File with your token for the service, which must prove a recent second factor
    #[arg(long, value_name = "FILE")]
    token_file: PathBuf,
    /// URL of the token listener
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8182", env = "DURWARD_TOKENS")]
    url: Url,
    /// Roots that verify the token listener, in PEM [default: those of this host]
    #[arg(long, value_name = "FILE")]
    roots: Option<PathBuf>,
}

/// An approval as the list prints it.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
struct ApprovalRow {
    approval: String,
    principal: String,
    operation: String,
    state: &'static str,
    by: Option<String>,
    expires: Option<String>,
}

impl ApprovalsCommand {
    pub(crate) fn run(self) -> CommandResult {
        let approvals = match &self.state.path {
            Some(state) => ApprovalFolder::open(state)?.list()?,
            None => block_on(self.read_cluster())??,
        };
        let mut rows: Vec<ApprovalRow> =
            approvals.into_iter().filter(|approval| self.includes(approval)).map(ApprovalRow::new).collect();
        rows.sort_unstable();
        self.output.print(&rows, |rows| text(rows))?;
        Ok(CommandOutcome::Success)
    }

    fn includes(&self, approval: &Approval) -> bool {
        self.namespace.is_none() || self.namespace == approval.metadata.namespace
    }

    async fn read_cluster(&self) -> Result<Vec<Approval>, Failure> {
        let client = connect().await?;
        let api: Api<Approval> = match &self.namespace {
            Some(namespace) => Api::namespaced(client, namespace),
            None => Api::all(client),
        };
        let listed = api.list(&ListParams::default()).await;
        Ok(listed.map_err(|error| format!("cannot list approvals: {}", redacted(&error)))?.items)
    }
}

impl ApprovalRow {
    fn new(approval: Approval) -> Self {
        let metadata = approval.metadata;
        let status = approval.status.unwrap_or_default();
        Self {
            approval: format!("{}/{}", metadata.namespace.unwrap_or_default(), metadata.name.unwrap_or_default()),
            principal: approval.spec.principal,
            operation: approval.spec.operation,
            state: status.state.as_str(),
            by: status.by,
            expires: status.expires_at,
        }
    }
}

fn text(rows: &[ApprovalRow]) -> String {
    let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    let cells = rows.iter().map(|row| {
        let ApprovalRow { approval, principal, operation, state, by, expires } = row;
        [approval.clone(), principal.clone(), operation.clone(), (*state).to_owned(), or_dash(by), or_dash(expires)]
    });
    table(["APPROVAL", "PRINCIPAL", "OPERATION", "STATE", "BY", "EXPIRES"], cells)
}

/// The token listener did not take the decision.
#[derive(Debug, Error)]
enum DecisionError {
    #[error("{} {reason}", .path.display())]
    Token { path: PathBuf, reason: String },
    #[error("`{0}` can't be the URL of a token listener; correct --url")]
    Url(Url),
    #[error("cannot read {}: {source}", .path.display())]
    Roots { path: PathBuf, source: std::io::Error },
    #[error("the request to the token listener failed: {0}")]
    Request(#[from] reqwest::Error),
    #[error("the token proves no second factor of the last five minutes; authenticate again, then use a new token")]
    SecondFactor,
    #[error("the token is not accepted, or there is no such approval")]
    Refused,
    #[error("the token listener returned {status} {error}")]
    Status { status: u16, error: String },
}

impl DecideApprovalCommand {
    pub(crate) fn run(self, verdict: ApprovalVerdict) -> CommandResult {
        let (status, body) = block_on(self.send(verdict))??;
        let text = |field: &str| body.get(field).and_then(Value::as_str).unwrap_or("-").to_owned();
        match (status, body.get("error").and_then(Value::as_str)) {
            (200, _) => {
                let [state, operation, principal, until] = ["state", "operation", "principal", "expiresAt"].map(text);
                print_text(&visible(&format!("{state}: {operation} for {principal}, until {until}\n")))?;
                Ok(CommandOutcome::Success)
            }
            (401, Some("insufficient_user_authentication")) => Err(DecisionError::SecondFactor.into()),
            (401, _) => Err(DecisionError::Refused.into()),
            (403, _) => {
                eprintln!("the policy does not name you as an approver of this operation");
                Ok(CommandOutcome::Negative)
            }
            (409, _) => {
                eprintln!("the approval is already decided");
                Ok(CommandOutcome::Negative)
            }
            (status, error) => {
                Err(DecisionError::Status { status, error: error.unwrap_or_default().to_owned() }.into())
            }
        }
    }

    /// Sends the decision; returns the status and the body of the response.
    async fn send(&self, verdict: ApprovalVerdict) -> Result<(u16, Value), DecisionError> {
        let token = read_text(&self.token_file)
            .map_err(|error| DecisionError::Token { path: self.token_file.clone(), reason: error.to_string() })?;
        let mut client =
            reqwest::Client::builder().timeout(REQUEST_TIMEOUT).redirect(reqwest::redirect::Policy::none());
        if let Some(roots) = &self.roots {
            let pem = std::fs::read(roots).map_err(|source| DecisionError::Roots { path: roots.clone(), source })?;
            client = client.tls_certs_only(reqwest::Certificate::from_pem_bundle(&pem)?);
        }
        let request = client.build()?.post(self.approval_url()?);
        let response = request.bearer_auth(token.trim()).json(&json!({"decision": verdict})).send().await?;
        Ok((response.status().as_u16(), response.json().await.unwrap_or_default()))
    }

    fn approval_url(&self) -> Result<Url, DecisionError> {
        let mut url = self.url.clone();
        let segments = [PATH.trim_start_matches('/'), &self.approval.namespace, &self.approval.name];
        url.path_segments_mut().map_err(|()| DecisionError::Url(self.url.clone()))?.pop_if_empty().extend(segments);
        Ok(url)
    }
}
