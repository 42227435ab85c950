//! `durward what-can`: everything that policies let somebody do.

use crate::cli::approvals::AskedFor;
use crate::cli::matrix::Matrix;
use crate::cli::output::Format;
use crate::cli::policies::Policies;
use crate::cli::{Failure, Verdict};
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
pub(crate) struct WhatCan {
    #[command(flatten)]
    policies: Policies,
    /// A group that the principal is in; may be repeated. Without any, its groups count as unknown
    #[arg(long, value_name = "GROUP", requires = "principal")]
    group: Vec<String>,
    /// Audience of the service; every service if left out
    #[arg(long, value_name = "AUDIENCE")]
    service: Option<String>,
    /// Show principals by operations
    #[arg(long)]
    matrix: bool,
    /// Output format
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
    /// `spiffe://DOMAIN/ns/NAMESPACE/sa/ACCOUNT`, `user:PROVIDER/SUBJECT`, `key:PROVIDER/NAME` or `kube:USERNAME`; with
    /// --matrix everybody whom a rule names if left out
    #[arg(value_name = "PRINCIPAL", required_unless_present = "matrix")]
    principal: Vec<PrincipalId>,
}

/// What somebody may do.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Told {
    principal: String,
    operations: Vec<Row>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    service: String,
    policy: String,
    operation: String,
    can: &'static str,
    public: bool,
    risk: String,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    audited: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    approval: Option<AskedFor>,
    because: Vec<String>,
    unless: Vec<String>,
    grants: Vec<String>,
}

impl WhatCan {
    pub(crate) fn run(self) -> Result<Verdict, Failure> {
        let snapshot = self.policies.snapshot()?;
        let whom = |id: &PrincipalId| {
            if self.group.is_empty() {
                CallerSet::Subject(durward_core::subject::SubjectMatcher::Principal(id.clone()))
            } else {
                CallerSet::Principal(id.clone(), self.group.iter().cloned().collect())
            }
        };
        let who: Vec<CallerSet> = self.principal.iter().map(whom).collect();
        if self.matrix {
            let matrix = Matrix::new(&snapshot, self.policies.trust_domain(), who, None, self.service.as_deref());
            self.output.print(&matrix, ToString::to_string)?;
            return Ok(Verdict::Yes);
        }
        let told: Vec<Told> = who.iter().map(|who| self.told(&snapshot, who)).collect();
        let anything = told.iter().any(|told| told.operations.iter().any(|row| row.can != "no"));
        self.output.print(&told, |told| told.iter().map(text).collect())?;
        Ok(if anything { Verdict::Yes } else { Verdict::No })
    }

    fn told(&self, snapshot: &Snapshot, who: &CallerSet) -> Told {
        let wanted = |right: &AccessRight| self.service.as_deref().is_none_or(|wanted| *right.audience == *wanted);
        let operations =
            snapshot.rights(who, self.policies.trust_domain()).into_iter().filter(wanted).map(row).collect();
        Told { principal: who.to_string(), operations }
    }
}

/// The word for it.
pub(crate) const fn word(can: Permission) -> &'static str {
    match can {
        Permission::Always => "yes",
        Permission::Conditional => "if",
        Permission::Never => "no",
    }
}

fn row(right: AccessRight) -> Row {
    Row {
        service: right.audience.to_string(),
        policy: right.policy.to_string(),
        operation: right.operation.to_string(),
        can: word(right.permission),
        public: right.public,
        risk: format!("{:?}", right.risk),
        audited: right.audited,
        approval: right.approval.as_deref().filter(|_| right.permission != Permission::Never).map(AskedFor::of),
        because: right.because.into_iter().collect(),
        unless: right.unless.into_iter().collect(),
        grants: right.grants.iter().map(ToString::to_string).collect(),
    }
}

fn text(told: &Told) -> String {
    let mut text = format!("{}\n", told.principal);
    if told.operations.is_empty() {
        text.push_str("  nothing: no service is there\n");
    }
    let width = told.operations.iter().map(|row| row.operation.len()).max().unwrap_or(0);
    for row in &told.operations {
        let audited = if row.audited { ", only audited" } else { "" };
        let risk = if row.public { "public".to_owned() } else { format!("risk {}", row.risk) };
        let _ = writeln!(text, "  {:<3} {:<width$}  {} ({risk}{audited})", row.can, row.operation, row.service);
        row.approval.iter().for_each(|asked| text += &format!("        with {asked}\n"));
        row.because.iter().for_each(|why| text += &format!("        {why}\n"));
        row.unless.iter().for_each(|why| text += &format!("        unless {why}\n"));
    }
    text
}
