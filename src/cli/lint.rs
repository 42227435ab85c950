//! `durward lint`: report likely mistakes in valid policies.

use crate::cli::cluster_domains::ClusterDomainArguments;
use crate::cli::outcome::{CommandOutcome, CommandResult};
use crate::cli::output::OutputFormat;
use durward_api::lint::{LintCode, LintFinding, lint, lint_services, silence};
use durward_api::resources::AccessPolicy;
use durward_api::resources::namespaced_name;
use durward_core::namespaced_name::NamespacedName;
use durward_manifests::files::{ManifestLoadError, display_name, manifest_files, read_text};
use durward_manifests::load::load;
use durward_manifests::location::locate;
use durward_manifests::manifest;
use durward_manifests::manifest::{DocumentLocation, ManifestResource, documents};
use serde::Serialize;
use serde_json::{Value, json};
use std::fmt::Write;
use std::path::PathBuf;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Each code has a page in docs/lint. An annotation of the policy silences a code, and its value is the reason:\n\
                        `lint.durward.dev/DW004: …` in the whole policy, `lint.durward.dev/DW004.NAME: …` for one operation, grant or denial.\n\
                        Exit codes: 0 no findings, 1 findings, 2 a manifest can't be read or is invalid.\n\n\
                        Example:\n  durward lint examples/orders"
)]
pub(crate) struct LintCommand {
    /// Directory of manifests
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    #[command(flatten)]
    domains: ClusterDomainArguments,
    /// Also write the findings to this file, as SARIF 2.1.0
    #[arg(long, value_name = "FILE")]
    sarif: Option<PathBuf>,
    /// Output format
    #[arg(long, short, value_enum, default_value_t)]
    output: OutputFormat,
}

#[derive(Debug, Serialize)]
struct LintReport {
    findings: Vec<LocatedFinding>,
    silenced: Vec<LocatedFinding>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct LocatedFinding {
    code: &'static str,
    policy: String,
    file: String,
    line: usize,
    column: usize,
    field: String,
    about: String,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

/// A policy, its text and its location.
struct PolicyDocument {
    key: NamespacedName,
    policy: AccessPolicy,
    location: DocumentLocation,
    text: String,
}

impl LintCommand {
    pub(crate) fn run(self) -> CommandResult {
        let loaded = load(&self.directory, &self.domains.to_domains())?;
        let problems = loaded.problems();
        if !problems.is_empty() {
            problems.iter().for_each(|problem| eprintln!("{problem}"));
            return Err("some manifests are invalid; fix them first".into());
        }
        let policies = self.read_policies()?;
        if policies.is_empty() {
            return Err(format!("there are no policies in {}", self.directory.display()).into());
        }
        let of_services = lint_services(loaded.catalog.snapshot(), &self.domains.trust_domain);
        let mut findings: Vec<LocatedFinding> =
            policies.iter().flat_map(|policy| policy.findings(&policies, &of_services)).collect();
        findings.sort_by(|a, b| (&a.file, a.line, a.column, a.code).cmp(&(&b.file, b.line, b.column, b.code)));
        let (silenced, findings) = findings.into_iter().partition(|finding| finding.reason.is_some());
        let report = LintReport { findings, silenced };
        if let Some(file) = &self.sarif {
            std::fs::write(file, serde_json::to_string_pretty(&sarif(&report))?)
                .map_err(|error| format!("cannot write the report {}: {error}", file.display()))?;
        }
        self.output.print(&report, text)?;
        Ok(CommandOutcome::from_success(report.findings.is_empty()))
    }

    fn read_policies(&self) -> Result<Vec<PolicyDocument>, ManifestLoadError> {
        let mut policies = Vec::new();
        for path in manifest_files(&self.directory)? {
            let name = display_name(&self.directory, &path);
            let text = read_text(&path).unwrap_or_default();
            let texts = documents(&text);
            for document in manifest::read(&name, &text).documents {
                let text = texts.iter().find(|(line, _)| *line == document.location.line).map(|(_, text)| *text);
                if let ManifestResource::Policy(policy) = document.resource
                    && let Some(key) = namespaced_name(&policy.metadata)
                {
                    let text = text.unwrap_or_default().to_owned();
                    policies.push(PolicyDocument { key, policy: *policy, location: document.location, text });
                }
            }
        }
        Ok(policies)
    }
}

impl PolicyDocument {
    fn service(&self) -> (&str, String) {
        let default = || format!("{}.{}", self.key.name, self.key.namespace);
        (&self.key.namespace, self.policy.spec.service.audience.clone().unwrap_or_else(default))
    }

    fn findings(&self, all: &[Self], of_services: &[(NamespacedName, LintFinding)]) -> Vec<LocatedFinding> {
        let others = all.iter().filter(|other| other.key != self.key && other.service() == self.service());
        let mut findings = lint(&self.policy, &others.map(|other| &other.policy).collect::<Vec<_>>());
        // `silence` below reports these again, after it has seen all findings
        findings.retain(|finding| finding.code != LintCode::Silence);
        let own = of_services.iter().filter(|(key, _)| *key == self.key).map(|(_, finding)| {
            let number = self.policy.spec.operations.iter().position(|operation| operation.name == finding.about);
            let field = number.map_or_else(|| finding.field.clone(), |number| format!("spec.operations[{number}]"));
            LintFinding { field, ..finding.clone() }
        });
        findings.extend(own);
        silence(&self.policy, &mut findings);
        findings.into_iter().map(|finding| self.located(finding)).collect()
    }

    fn located(&self, finding: LintFinding) -> LocatedFinding {
        let (line, column) = locate(&self.text, &finding.field).unwrap_or((1, 1));
        LocatedFinding {
            code: finding.code.as_str(),
            policy: self.key.to_string(),
            file: self.location.file.to_string(),
            line: self.location.line + line - 1,
            column,
            field: finding.field,
            about: finding.about,
            message: finding.message,
            reason: finding.silenced,
        }
    }
}

fn text(report: &LintReport) -> String {
    let mut text = String::new();
    for finding in &report.findings {
        let LocatedFinding { file, line, column, code, field, message, .. } = finding;
        let _ = writeln!(text, "{file}:{line}:{column}: {code} {field}: {message}");
    }
    let _ = writeln!(text, "{} findings, {} silenced", report.findings.len(), report.silenced.len());
    text
}

/// The findings as SARIF 2.1.0, which CI systems show beside a change.
fn sarif(report: &LintReport) -> Value {
    let rules = LintCode::ALL.map(|code| json!({"id": code.as_str(), "shortDescription": {"text": code.title()}}));
    let result = |finding: &LocatedFinding| {
        let mut result = json!({
            "ruleId": finding.code,
            "level": "warning",
            "message": {"text": finding.message},
            "locations": [{"physicalLocation": {
                "artifactLocation": {"uri": finding.file},
                "region": {"startLine": finding.line, "startColumn": finding.column},
            }}],
        });
        if let (Some(reason), Some(object)) = (&finding.reason, result.as_object_mut()) {
            let suppressions = json!([{"kind": "inSource", "justification": reason}]);
            object.insert("suppressions".to_owned(), suppressions);
        }
        result
    };
    let results: Vec<Value> = report.findings.iter().chain(&report.silenced).map(result).collect();
    json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{"tool": {"driver": {"name": "durward lint", "version": env!("CARGO_PKG_VERSION"), "rules": rules}}, "results": results}],
    })
}
