//! `durward who-can`: list who can call an operation.

use crate::cli::matrix::PermissionMatrix;
use crate::cli::outcome::{CommandOutcome, CommandResult};
use crate::cli::output::OutputFormat;
use crate::cli::permissions::ApprovalTerms;
use crate::cli::policies::PolicySourceArguments;
use durward_core::scope::Scope;
use durward_core::who_can;
use serde::Serialize;
use std::fmt::Write;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  durward who-can -p examples/orders refund-order\n  kubectl durward who-can refund-order --service orders-api"
)]
pub(crate) struct WhoCanCommand {
    #[command(flatten)]
    policies: PolicySourceArguments,
    /// Audience of the service [default: all services with such an operation]
    #[arg(long, value_name = "AUDIENCE")]
    service: Option<String>,
    /// Output format
    #[arg(long, short, value_enum, default_value_t)]
    output: OutputFormat,
    /// Print a matrix of all callers that a rule names and all operations, or OPERATION
    #[arg(long)]
    matrix: bool,
    /// Name of the operation
    #[arg(required_unless_present = "matrix")]
    operation: Option<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct OperationAccess {
    service: String,
    policy: String,
    operation: String,
    public: bool,
    risk: String,
    required: Vec<Scope>,
    #[serde(skip_serializing_if = "Option::is_none")]
    approval: Option<ApprovalTerms>,
    #[serde(rename = "who")]
    holders: Vec<AccessHolder>,
    denials: Vec<RuleDetails>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct AccessHolder {
    subject: String,
    can: bool,
    missing: Vec<Scope>,
    grants: Vec<RuleDetails>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct RuleDetails {
    rule: String,
    details: Vec<String>,
}

impl WhoCanCommand {
    pub(crate) fn run(self) -> CommandResult {
        let snapshot = self.policies.snapshot()?;
        let audience = self.service.as_deref();
        if self.matrix {
            let matrix = PermissionMatrix::new(
                &snapshot,
                self.policies.trust_domain(),
                Vec::new(),
                self.operation.as_deref(),
                audience,
            );
            self.output.print(&matrix, ToString::to_string)?;
            return self.policies.conclude(CommandOutcome::Success);
        }
        let operation = self.operation.unwrap_or_default();
        let found = snapshot.who_can(&operation, audience);
        if found.is_empty() {
            return Err(format!("no service declares an operation `{operation}`").into());
        }
        let operations: Vec<OperationAccess> = found.into_iter().map(operation_access).collect();
        let any =
            operations.iter().any(|operation| operation.public || operation.holders.iter().any(|holder| holder.can));
        self.output.print(&operations, |operations| operations.iter().map(text).collect())?;
        self.policies.conclude(CommandOutcome::from_success(any))
    }
}

fn operation_access(found: who_can::OperationHolders) -> OperationAccess {
    let rules = |rules: Vec<(std::sync::Arc<str>, Vec<String>)>| {
        rules.into_iter().map(|(rule, details)| RuleDetails { rule: rule.to_string(), details }).collect()
    };
    OperationAccess {
        service: found.audience.to_string(),
        policy: found.policy.to_string(),
        operation: found.operation.to_string(),
        public: found.public,
        risk: format!("{:?}", found.risk),
        required: found.required,
        approval: found.approval.as_deref().map(ApprovalTerms::from),
        holders: found
            .holders
            .into_iter()
            .map(|holder| AccessHolder {
                subject: holder.subject,
                can: holder.missing.is_empty(),
                missing: holder.missing,
                grants: rules(holder.grants),
            })
            .collect(),
        denials: rules(found.denials),
    }
}

fn text(access: &OperationAccess) -> String {
    let scopes = |scopes: &[Scope]| scopes.iter().map(Scope::as_str).collect::<Vec<_>>().join(" ");
    let mut text =
        format!("{} of {} (policy {}), risk {}", access.operation, access.service, access.policy, access.risk);
    if access.public {
        return text + "\n  all callers: the operation is public\n";
    }
    let approval = access.approval.as_ref().map(|approval| format!(", and {approval}")).unwrap_or_default();
    let _ = writeln!(text, ", needs {}{approval}", scopes(&access.required));
    if access.holders.is_empty() {
        text.push_str("  no callers\n");
    }
    for holder in &access.holders {
        let lacks = if holder.can { String::new() } else { format!(", lacks {}", scopes(&holder.missing)) };
        let _ = writeln!(text, "  {} {}{lacks}", if holder.can { "yes" } else { "no " }, holder.subject);
        for grant in &holder.grants {
            let details = grant.details.iter().map(|detail| format!(", {detail}")).collect::<String>();
            let _ = writeln!(text, "        by {}{details}", grant.rule);
        }
    }
    for denial in &access.denials {
        let _ = writeln!(text, "  unless {} applies ({})", denial.rule, denial.details.join(", "));
    }
    text
}
