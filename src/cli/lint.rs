//! `durward lint`: what is allowed in policies and still seems wrong.

use crate::cli::cluster_domains::ClusterDomainArguments;
use crate::cli::output::Format;
use crate::cli::{Failure, Verdict};
use durward_api::lint::{LintCode, LintFinding, lint, lint_services, silence};
use durward_api::resources::AccessPolicy;
use durward_api::resources::namespaced_name;
use durward_core::namespaced_name::NamespacedName;
use durward_manifests::load::{load, manifests, name_in, read_text};
use durward_manifests::manifest;
use durward_manifests::manifest::{Place, Resource, documents};
use durward_manifests::place::locate;
use serde::Serialize;
use serde_json::{Value, json};
use std::fmt::Write;
use std::path::PathBuf;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Each code has a page in docs/lint. An annotation of the policy silences one, with a reason: `lint.durward.dev/DW004: …`\n\
                        everywhere in it, `lint.durward.dev/DW004.NAME: …` for one operation, grant or denial.\n\
                        Exit codes: 0 nothing seems wrong, 1 something does, 2 something can't be read.\n\n\
                        Example:\n  durward lint examples/orders"
)]
pub(crate) struct Lint {
    /// Directory of manifests
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    #[command(flatten)]
    domains: ClusterDomainArguments,
    /// File for the findings as SARIF 2.1.0
    #[arg(long, value_name = "FILE")]
    sarif: Option<PathBuf>,
    /// Output format
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
}

#[derive(Debug, Serialize)]
struct Report {
    findings: Vec<Told>,
    silenced: Vec<Told>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Told {
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

/// A policy and where it stands.
struct Written {
    key: NamespacedName,
    policy: AccessPolicy,
    place: Place,
    text: String,
}

impl Lint {
    pub(crate) fn run(self) -> Result<Verdict, Failure> {
        let loaded = load(&self.directory, &self.domains.to_domains())?;
        let problems = loaded.problems();
        if !problems.is_empty() {
            problems.iter().for_each(|problem| eprintln!("{problem}"));
            return Err("mend what can't be used as it is written first".into());
        }
        let written = self.written()?;
        if written.is_empty() {
            return Err(format!("there are no policies in {}", self.directory.display()).into());
        }
        let together = lint_services(loaded.catalog.snapshot(), &self.domains.trust_domain);
        let mut told: Vec<Told> = written.iter().flat_map(|one| one.findings(&written, &together)).collect();
        told.sort_by(|a, b| (&a.file, a.line, a.column, a.code).cmp(&(&b.file, b.line, b.column, b.code)));
        let (silenced, findings) = told.into_iter().partition(|told| told.reason.is_some());
        let report = Report { findings, silenced };
        if let Some(file) = &self.sarif {
            std::fs::write(file, serde_json::to_string_pretty(&sarif(&report))?)
                .map_err(|error| format!("can't write the report {}: {error}", file.display()))?;
        }
        self.output.print(&report, text)?;
        Ok(if report.findings.is_empty() { Verdict::Yes } else { Verdict::No })
    }

    fn written(&self) -> Result<Vec<Written>, Failure> {
        let mut written = Vec::new();
        for path in manifests(&self.directory)? {
            let name = name_in(&self.directory, &path);
            let text = read_text(&path).unwrap_or_default();
            let texts = documents(&text);
            for document in manifest::read(&name, &text).documents {
                let text = texts.iter().find(|(line, _)| *line == document.place.line).map(|(_, text)| *text);
                if let Resource::Policy(policy) = document.resource
                    && let Some(key) = namespaced_name(&policy.metadata)
                {
                    let text = text.unwrap_or_default().to_owned();
                    written.push(Written { key, policy: *policy, place: document.place, text });
                }
            }
        }
        Ok(written)
    }
}

impl Written {
    fn service(&self) -> (&str, String) {
        let default = || format!("{}.{}", self.key.name, self.key.namespace);
        (&self.key.namespace, self.policy.spec.service.audience.clone().unwrap_or_else(default))
    }

    fn findings(&self, all: &[Self], together: &[(NamespacedName, LintFinding)]) -> Vec<Told> {
        let others = all.iter().filter(|other| other.key != self.key && other.service() == self.service());
        let mut findings = lint(&self.policy, &others.map(|other| &other.policy).collect::<Vec<_>>());
        // a silence is judged with everything that it may silence
        findings.retain(|finding| finding.code != LintCode::Silence);
        let own = together.iter().filter(|(key, _)| *key == self.key).map(|(_, finding)| {
            let number = self.policy.spec.operations.iter().position(|operation| operation.name == finding.about);
            let field = number.map_or_else(|| finding.field.clone(), |number| format!("spec.operations[{number}]"));
            LintFinding { field, ..finding.clone() }
        });
        findings.extend(own);
        silence(&self.policy, &mut findings);
        findings.into_iter().map(|finding| self.told(finding)).collect()
    }

    fn told(&self, finding: LintFinding) -> Told {
        let (line, column) = locate(&self.text, &finding.field).unwrap_or((1, 1));
        Told {
            code: finding.code.as_str(),
            policy: self.key.to_string(),
            file: self.place.file.to_string(),
            line: self.place.line + line - 1,
            column,
            field: finding.field,
            about: finding.about,
            message: finding.message,
            reason: finding.silenced,
        }
    }
}

fn text(report: &Report) -> String {
    let mut text = String::new();
    for told in &report.findings {
        let Told { file, line, column, code, field, message, .. } = told;
        let _ = writeln!(text, "{file}:{line}:{column}: {code} {field}: {message}");
    }
    let _ = writeln!(text, "{} findings, {} silenced", report.findings.len(), report.silenced.len());
    text
}

/// The findings as CI systems annotate changes with them (SARIF 2.1.0).
fn sarif(report: &Report) -> Value {
    let rules = LintCode::ALL.map(|code| json!({"id": code.as_str(), "shortDescription": {"text": code.title()}}));
    let result = |told: &Told| {
        let mut result = json!({
            "ruleId": told.code,
            "level": "warning",
            "message": {"text": told.message},
            "locations": [{"physicalLocation": {
                "artifactLocation": {"uri": told.file},
                "region": {"startLine": told.line, "startColumn": told.column},
            }}],
        });
        if let (Some(reason), Some(object)) = (&told.reason, result.as_object_mut()) {
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
