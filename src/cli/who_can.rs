//! `durward who-can`: everybody whom policies let do an operation.

use crate::cli::approvals::AskedFor;
use crate::cli::matrix::Matrix;
use crate::cli::output::Format;
use crate::cli::policies::Policies;
use crate::cli::{Failure, Verdict};
use durward_core::scope::Scope;
use durward_core::who_can;
use serde::Serialize;
use std::fmt::Write;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  durward who-can -p examples/orders refund-order\n  kubectl durward who-can refund-order --service orders-api"
)]
pub(crate) struct WhoCan {
    #[command(flatten)]
    policies: Policies,
    /// Audience of the service; every service that has such an operation if left out
    #[arg(long, value_name = "AUDIENCE")]
    service: Option<String>,
    /// Output format
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
    /// Show everybody whom a rule names by all operations, or by this one
    #[arg(long)]
    matrix: bool,
    /// Name of the operation
    #[arg(required_unless_present = "matrix")]
    operation: Option<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Told {
    service: String,
    policy: String,
    operation: String,
    public: bool,
    risk: String,
    required: Vec<Scope>,
    #[serde(skip_serializing_if = "Option::is_none")]
    approval: Option<AskedFor>,
    who: Vec<Holder>,
    denials: Vec<Rule>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Holder {
    subject: String,
    can: bool,
    missing: Vec<Scope>,
    grants: Vec<Rule>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    rule: String,
    details: Vec<String>,
}

impl WhoCan {
    pub(crate) fn run(self) -> Result<Verdict, Failure> {
        let (snapshot, audience) = (self.policies.snapshot()?, self.service.as_deref());
        if self.matrix {
            let matrix =
                Matrix::new(&snapshot, self.policies.trust_domain(), Vec::new(), self.operation.as_deref(), audience);
            self.output.print(&matrix, ToString::to_string)?;
            return Ok(Verdict::Yes);
        }
        let operation = self.operation.unwrap_or_default();
        let found = snapshot.who_can(&operation, audience);
        if found.is_empty() {
            return Err(format!("no service declares an operation `{operation}`").into());
        }
        let told: Vec<Told> = found.into_iter().map(told).collect();
        let anyone = told.iter().any(|told| told.public || told.who.iter().any(|holder| holder.can));
        self.output.print(&told, |told| told.iter().map(text).collect())?;
        Ok(if anyone { Verdict::Yes } else { Verdict::No })
    }
}

fn told(found: who_can::OperationHolders) -> Told {
    let rules = |rules: Vec<(std::sync::Arc<str>, Vec<String>)>| {
        rules.into_iter().map(|(rule, details)| Rule { rule: rule.to_string(), details }).collect()
    };
    Told {
        service: found.audience.to_string(),
        policy: found.policy.to_string(),
        operation: found.operation.to_string(),
        public: found.public,
        risk: format!("{:?}", found.risk),
        required: found.required,
        approval: found.approval.as_deref().map(AskedFor::of),
        who: found
            .holders
            .into_iter()
            .map(|holder| Holder {
                subject: holder.subject,
                can: holder.missing.is_empty(),
                missing: holder.missing,
                grants: rules(holder.grants),
            })
            .collect(),
        denials: rules(found.denials),
    }
}

fn text(told: &Told) -> String {
    let scopes = |scopes: &[Scope]| scopes.iter().map(Scope::as_str).collect::<Vec<_>>().join(" ");
    let mut text = format!("{} of {} (policy {}), risk {}", told.operation, told.service, told.policy, told.risk);
    if told.public {
        return text + "\n  everybody: it is public\n";
    }
    let asked = told.approval.as_ref().map(|asked| format!(", and {asked}")).unwrap_or_default();
    let _ = writeln!(text, ", needs {}{asked}", scopes(&told.required));
    if told.who.is_empty() {
        text.push_str("  nobody\n");
    }
    for holder in &told.who {
        let lacks = if holder.can { String::new() } else { format!(", lacks {}", scopes(&holder.missing)) };
        let _ = writeln!(text, "  {} {}{lacks}", if holder.can { "yes" } else { "no " }, holder.subject);
        for grant in &holder.grants {
            let asks = grant.details.iter().map(|detail| format!(", {detail}")).collect::<String>();
            let _ = writeln!(text, "        by {}{asks}", grant.rule);
        }
    }
    for denial in &told.denials {
        let _ = writeln!(text, "  unless {} applies ({})", denial.rule, denial.details.join(", "));
    }
    text
}
