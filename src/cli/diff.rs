//! `durward diff`: compare two versions of policies.

use crate::cli::cluster_domains::ClusterDomainArguments;
use crate::cli::outcome::{CommandOutcome, CommandResult};
use crate::cli::output::OutputFormat;
use crate::cli::permissions::{ApprovalTerms, permission_word};
use durward_core::compare::{Comparison, Effect, RightsChange, compare};
use durward_core::rights::AccessRight;
use durward_core::snapshot::Snapshot;
use durward_engine::audit::replay::{DecisionDifference, replay};
use durward_manifests::load::load;
use durward_runtime::Failure;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

/// Most changed decisions that the text output lists.
const MAX_LISTED: usize = 20;

#[derive(Debug, clap::Args)]
#[command(after_help = "Exit codes: 0 no access changes, 1 access changes, 2 the comparison is incomplete.\n\n\
                        Examples:\n  git worktree add /tmp/main main && durward diff /tmp/main/policies policies\n  \
                        durward diff /tmp/main/policies policies --audit audit.log")]
pub(crate) struct DiffCommand {
    /// Directory of the old manifests
    #[arg(value_name = "OLD")]
    old: PathBuf,
    /// Directory of the new manifests
    #[arg(value_name = "NEW")]
    new: PathBuf,
    #[command(flatten)]
    domains: ClusterDomainArguments,
    /// Audit log: list its decisions that differ between the old and the new manifests
    #[arg(long, value_name = "FILE")]
    audit: Option<PathBuf>,
    /// Output format
    #[arg(long, short, value_enum, default_value_t)]
    output: OutputFormat,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct DiffReport {
    services: Vec<String>,
    changes: Vec<RightsDifference>,
    #[serde(skip_serializing_if = "Option::is_none")]
    audit: Option<ReplayComparison>,
    /// Limits of this comparison.
    #[serde(rename = "notTold")]
    not_compared: Vec<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct RightsDifference {
    service: String,
    effect: &'static str,
    who: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    old_operation: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    new_operation: Option<String>,
    requests: Vec<String>,
    before: RightsSide,
    after: RightsSide,
}

#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct RightsSide {
    can: &'static str,
    because: Vec<String>,
    unless: Vec<String>,
    risk: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_age: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    approval: Option<ApprovalTerms>,
    /// Accepted authentication methods.
    #[serde(rename = "ways")]
    authentication_methods: Vec<String>,
    audited: bool,
}

/// The decisions of an audit log, by both versions.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ReplayComparison {
    decisions: u64,
    changed: Vec<ChangedDecision>,
    unreadable: usize,
    /// Decisions whose conditions read unrecorded data and differ between the versions.
    #[serde(rename = "untold")]
    undecidable: usize,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ChangedDecision {
    line: u64,
    id: String,
    old: String,
    new: String,
}

impl DiffCommand {
    pub(crate) fn run(self) -> CommandResult {
        let old = self.snapshot(&self.old)?;
        let new = self.snapshot(&self.new)?;
        let comparison = compare(&old, &new, &self.domains.trust_domain);
        let audit = self.audit.as_deref().map(|file| compare_replays(file, &old, &new)).transpose()?;
        let incomplete = !comparison.too_large.is_empty();
        let report = report(comparison, audit, old.revision() != new.revision());
        self.output.print(&report, text)?;
        if incomplete {
            return Err("some services have too many requests to compare".into());
        }
        let decisions_differ = report.audit.as_ref().is_some_and(|audit| !audit.changed.is_empty());
        if !decisions_differ && report.audit.as_ref().is_some_and(|audit| audit.undecidable > 0) {
            return Err("some recorded decisions can't be decided again".into());
        }
        let same = report.changes.is_empty() && report.services.is_empty() && !decisions_differ;
        Ok(CommandOutcome::from_success(same))
    }

    fn snapshot(&self, directory: &Path) -> Result<Snapshot, Failure> {
        let loaded = load(directory, &self.domains.to_domains())?;
        let problems = loaded.problems();
        if problems.is_empty() {
            return Ok(loaded.snapshot());
        }
        problems.iter().for_each(|problem| eprintln!("{}: {problem}", directory.display()));
        Err(format!("some manifests in {} are invalid; fix them first", directory.display()).into())
    }
}

/// Replays an audit log by both versions.
fn compare_replays(file: &Path, old: &Snapshot, new: &Snapshot) -> Result<ReplayComparison, Failure> {
    let decide = |snapshot: &Snapshot| {
        let log = File::open(file).map_err(|error| format!("cannot read the audit log {}: {error}", file.display()))?;
        Ok::<_, Failure>(replay(&mut BufReader::new(log), snapshot, &mut |_| ())?)
    };
    let before = decide(old)?;
    let after = decide(new)?;
    if after.replayed == 0 {
        return Err(format!("{} contains no decision", file.display()).into());
    }
    let undecidable = before.undecidable.into_iter().chain(after.undecidable);
    // a record without a difference was decided as it is recorded
    let by_line = |differences: Vec<DecisionDifference>| -> BTreeMap<u64, DecisionDifference> {
        differences.into_iter().map(|difference| (difference.line, difference)).collect()
    };
    let before_differences = by_line(before.differences);
    let after_differences = by_line(after.differences);
    let undecidable: BTreeSet<u64> = undecidable.into_iter().map(|line| line.line).collect();
    let lines: BTreeSet<u64> = before_differences.keys().chain(after_differences.keys()).copied().collect();
    let changed = lines.into_iter().filter(|line| !undecidable.contains(line)).filter_map(|line| {
        let was = before_differences.get(&line);
        let is = after_differences.get(&line);
        let id = was.or(is)?.id.clone();
        let field = |of: Option<&DecisionDifference>, other: Option<&DecisionDifference>, name: &str| {
            let find =
                |difference: &DecisionDifference| difference.fields.iter().find(|(field, ..)| *field == name).cloned();
            of.and_then(find).map(|(_, _, now)| now).or_else(|| other.and_then(find).map(|(_, recorded, _)| recorded))
        };
        let decision = |of, other| {
            let parts = ["verdict", "reason"].map(|name| field(of, other, name));
            parts.into_iter().flatten().collect::<Vec<_>>().join(" ")
        };
        let old = decision(was, is);
        let new = decision(is, was);
        (old != new).then_some(ChangedDecision { line, id, old, new })
    });
    Ok(ReplayComparison {
        decisions: after.replayed,
        changed: changed.collect(),
        unreadable: after.unreadable.len(),
        undecidable: undecidable.len(),
    })
}

fn report(comparison: Comparison, audit: Option<ReplayComparison>, differs: bool) -> DiffReport {
    let mut not_compared = Vec::new();
    if comparison.changes.iter().any(|change| change.effect == Effect::Conditions) {
        not_compared
            .push("whether changed conditions, denials or risks allow more or less: read both sides".to_owned());
    }
    if comparison.changes.is_empty() && differs {
        not_compared.push(
            "other differences, such as relationships, providers and their keys, certificates of pods, names of rules"
                .to_owned(),
        );
    }
    for service in &comparison.too_large {
        not_compared.push(format!("{}, which has too many requests to compare", service.audience));
    }
    DiffReport {
        services: comparison.services.into_iter().map(|(key, what)| format!("{} {what}", key.audience)).collect(),
        changes: comparison.changes.into_iter().map(rights_difference).collect(),
        audit,
        not_compared,
    }
}

fn rights_difference(change: RightsChange) -> RightsDifference {
    let effect = match change.effect {
        Effect::Gains => "gains",
        Effect::Widened => "widened",
        Effect::Conditions => "otherwise",
        Effect::Narrowed => "narrowed",
        Effect::Loses => "loses",
    };
    RightsDifference {
        service: change.service.audience.to_string(),
        effect,
        who: change.callers.to_string(),
        old_operation: change.old.map(|name| name.to_string()),
        new_operation: change.new.map(|name| name.to_string()),
        requests: change.requests.into_iter().filter(|request| !request.starts_with("operation ")).collect(),
        before: side(change.before),
        after: side(change.after),
    }
}

fn side(right: AccessRight) -> RightsSide {
    RightsSide {
        can: permission_word(right.permission),
        because: right.because.into_iter().collect(),
        unless: right.unless.into_iter().collect(),
        risk: if right.public { "public".to_owned() } else { format!("{:?}", right.risk) },
        max_age: right.max_age.map(|age| age.num_seconds()),
        approval: right.approval.as_deref().map(ApprovalTerms::from),
        authentication_methods: right.authentication_methods.iter().map(ToString::to_string).collect(),
        audited: right.audited,
    }
}

fn text(report: &DiffReport) -> String {
    let mut text = String::new();
    report.services.iter().for_each(|service| text += &format!("service {service}\n"));
    let mut service = "";
    for change in &report.changes {
        if change.service != service {
            service = &change.service;
            let _ = writeln!(text, "{service}");
        }
        let mark = match change.effect {
            "gains" | "widened" => '+',
            "loses" | "narrowed" => '-',
            _ => '~',
        };
        let operation = match (&change.old_operation, &change.new_operation) {
            (Some(old), Some(new)) if old != new => format!("{new} (was {old})"),
            (_, Some(new)) => new.clone(),
            (Some(old), None) => format!("{old} (removed)"),
            (None, None) => "-".to_owned(),
        };
        let _ = writeln!(text, "  {mark} {:<9} {}: {operation}", change.effect, change.who);
        let requests: Vec<&str> = change.requests.iter().map(String::as_str).collect();
        if !requests.is_empty() {
            let _ = writeln!(text, "              {}", requests.join(", "));
        }
        for (label, side) in [("was", &change.before), ("is", &change.after)] {
            let audited = if side.audited { ", audit mode" } else { "" };
            let age = side.max_age.map(|age| format!(", second factor of {age} s")).unwrap_or_default();
            let methods = if change.before.authentication_methods == change.after.authentication_methods {
                String::new()
            } else {
                format!(", by {}", side.authentication_methods.join(" or "))
            };
            let _ = writeln!(text, "        {label:<3} {} (risk {}{age}{methods}{audited})", side.can, side.risk);
            side.approval.iter().for_each(|approval| text += &format!("              with {approval}\n"));
            side.because.iter().for_each(|why| text += &format!("              {why}\n"));
            side.unless.iter().for_each(|why| text += &format!("              unless {why}\n"));
        }
    }
    if report.changes.is_empty() {
        text.push_str("no access changes\n");
    }
    if let Some(audit) = &report.audit {
        let _ = writeln!(text, "of {} recorded decisions, {} differ", audit.decisions, audit.changed.len());
        if audit.undecidable > 0 {
            let _ = writeln!(text, "{} can't be compared: their conditions read unrecorded data", audit.undecidable);
        }
        for decided in audit.changed.iter().take(MAX_LISTED) {
            let _ = writeln!(text, "  line {}, {}: {} → {}", decided.line, decided.id, decided.old, decided.new);
        }
        if audit.changed.len() > MAX_LISTED {
            let _ = writeln!(text, "  and {} more; -o json has all", audit.changed.len() - MAX_LISTED);
        }
    }
    report.not_compared.iter().for_each(|limit| text += &format!("not compared: {limit}\n"));
    text
}
