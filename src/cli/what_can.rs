//! `durward what-can`: list what a principal can call.

use crate::cli::matrix::PermissionMatrix;
use crate::cli::outcome::{CommandOutcome, CommandResult};
use crate::cli::output::OutputFormat;
use crate::cli::permissions::{ApprovalTerms, permission_word};
use crate::cli::policies::PolicySourceArguments;
use durward_core::principal::PrincipalId;
use durward_core::rights::{AccessRight, CallerSet, Permission};
use durward_core::snapshot::Snapshot;
use serde::Serialize;
use std::fmt::Write;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  durward what-can -p examples/orders spiffe://cluster.local/ns/billing/sa/billing\n  \
                        durward what-can -p examples/orders --matrix"
)]
pub(crate) struct WhatCanCommand {
    #[command(flatten)]
    policies: PolicySourceArguments,
    /// Group of the principal. Repeatable. Without --group, its groups are unknown
    #[arg(long, value_name = "GROUP", requires = "principal")]
    group: Vec<String>,
    /// Audience of the service [default: all services]
    #[arg(long, value_name = "AUDIENCE")]
    service: Option<String>,
    /// Print a matrix of principals and operations
    #[arg(long)]
    matrix: bool,
    /// Output format
    #[arg(long, short, value_enum, default_value_t)]
    output: OutputFormat,
    /// `spiffe://DOMAIN/ns/NAMESPACE/sa/ACCOUNT`, `user:PROVIDER/SUBJECT`, `key:PROVIDER/NAME` or `kube:USERNAME`
    /// [default with --matrix: all callers that a rule names]
    #[arg(value_name = "PRINCIPAL", required_unless_present = "matrix")]
    principal: Vec<PrincipalId>,
}

/// What a principal can call.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct PrincipalRights {
    principal: String,
    operations: Vec<OperationRight>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct OperationRight {
    service: String,
    policy: String,
    operation: String,
    can: &'static str,
    public: bool,
    risk: String,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    audited: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    approval: Option<ApprovalTerms>,
    because: Vec<String>,
    unless: Vec<String>,
    grants: Vec<String>,
}

impl WhatCanCommand {
    pub(crate) fn run(self) -> CommandResult {
        let snapshot = self.policies.snapshot()?;
        let callers = |id: &PrincipalId| {
            if self.group.is_empty() {
                CallerSet::Subject(durward_core::subject::SubjectMatcher::Principal(id.clone()))
            } else {
                CallerSet::Principal(id.clone(), self.group.iter().cloned().collect())
            }
        };
        let callers: Vec<CallerSet> = self.principal.iter().map(callers).collect();
        if self.matrix {
            let matrix =
                PermissionMatrix::new(&snapshot, self.policies.trust_domain(), callers, None, self.service.as_deref());
            self.output.print(&matrix, ToString::to_string)?;
            return self.policies.conclude(CommandOutcome::Success);
        }
        let rights: Vec<PrincipalRights> = callers.iter().map(|callers| self.rights(&snapshot, callers)).collect();
        let any = rights.iter().any(|rights| rights.operations.iter().any(|right| right.can != "no"));
        self.output.print(&rights, |rights| rights.iter().map(text).collect())?;
        self.policies.conclude(CommandOutcome::from_success(any))
    }

    fn rights(&self, snapshot: &Snapshot, callers: &CallerSet) -> PrincipalRights {
        let included = |right: &AccessRight| self.service.as_deref().is_none_or(|name| *right.audience == *name);
        let rights = snapshot.rights(callers, self.policies.trust_domain()).into_iter().filter(included);
        PrincipalRights { principal: callers.to_string(), operations: rights.map(OperationRight::from).collect() }
    }
}

impl From<AccessRight> for OperationRight {
    fn from(right: AccessRight) -> Self {
        let approval = if right.permission == Permission::Never { None } else { right.approval.as_deref() };
        Self {
            service: right.audience.to_string(),
            policy: right.policy.to_string(),
            operation: right.operation.to_string(),
            can: permission_word(right.permission),
            public: right.public,
            risk: format!("{:?}", right.risk),
            audited: right.audited,
            approval: approval.map(ApprovalTerms::from),
            because: right.because.into_iter().collect(),
            unless: right.unless.into_iter().collect(),
            grants: right.grants.iter().map(ToString::to_string).collect(),
        }
    }
}

fn text(rights: &PrincipalRights) -> String {
    let mut text = format!("{}\n", rights.principal);
    if rights.operations.is_empty() {
        text.push_str("  nothing: there is no service\n");
    }
    let width = rights.operations.iter().map(|right| right.operation.len()).max().unwrap_or(0);
    for right in &rights.operations {
        let audited = if right.audited { ", audit mode" } else { "" };
        let risk = if right.public { "public".to_owned() } else { format!("risk {}", right.risk) };
        let _ = writeln!(text, "  {:<3} {:<width$}  {} ({risk}{audited})", right.can, right.operation, right.service);
        right.approval.iter().for_each(|approval| text += &format!("        with {approval}\n"));
        right.because.iter().for_each(|reason| text += &format!("        {reason}\n"));
        right.unless.iter().for_each(|denial| text += &format!("        unless {denial}\n"));
    }
    text
}
