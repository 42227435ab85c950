//! `durward diff`: who gains and who loses what by a change of policies.

use crate::cli::approvals::AskedFor;
use crate::cli::cluster_domains::ClusterDomainArguments;
use crate::cli::output::Format;
use crate::cli::{Failure, Verdict};
use durward_core::compare::{Comparison, Effect, RightsChange, compare};
use durward_core::rights::AccessRight;
use durward_core::snapshot::Snapshot;
use durward_engine::audit::replay::{Difference, replay};
use durward_manifests::load::load;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

/// Recorded decisions that are listed one by one for people.
const LISTED: usize = 20;

#[derive(Debug, clap::Args)]
#[command(after_help = "Exit codes: 0 nobody gains or loses anything, 1 somebody does, 2 that can't be told.\n\n\
                        Examples:\n  git worktree add /tmp/main main && durward diff /tmp/main/policies policies\n  \
                        durward diff /tmp/main/policies policies --audit audit.log")]
pub(crate) struct Diff {
    /// Directory of manifests as they were
    #[arg(value_name = "OLD")]
    old: PathBuf,
    /// Directory of manifests as they are to be
    #[arg(value_name = "NEW")]
    new: PathBuf,
    #[command(flatten)]
    domains: ClusterDomainArguments,
    /// An audit log: list its decisions that would be other ones by the new manifests than by the old
    #[arg(long, value_name = "FILE")]
    audit: Option<PathBuf>,
    /// Output format
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    services: Vec<String>,
    changes: Vec<Told>,
    #[serde(skip_serializing_if = "Option::is_none")]
    audit: Option<Replayed>,
    /// What this comparison does not tell.
    not_told: Vec<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Told {
    service: String,
    effect: &'static str,
    who: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    old_operation: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    new_operation: Option<String>,
    requests: Vec<String>,
    before: Side,
    after: Side,
}

#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Side {
    can: &'static str,
    because: Vec<String>,
    unless: Vec<String>,
    risk: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_age: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    approval: Option<AskedFor>,
    ways: Vec<String>,
    audited: bool,
}

/// What a log says of the change.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Replayed {
    decisions: u64,
    changed: Vec<Decided>,
    unreadable: usize,
    /// Decisions that went by conditions on what is not recorded, which are not the same on both sides.
    untold: usize,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Decided {
    line: u64,
    id: String,
    old: String,
    new: String,
}

impl Diff {
    pub(crate) fn run(self) -> Result<Verdict, Failure> {
        let (old, new) = (self.snapshot(&self.old)?, self.snapshot(&self.new)?);
        let comparison = compare(&old, &new, &self.domains.trust_domain);
        let audit = self.audit.as_deref().map(|file| replayed(file, &old, &new)).transpose()?;
        let unknown = !comparison.too_large.is_empty();
        let report = report(comparison, audit, old.revision() != new.revision());
        self.output.print(&report, text)?;
        if unknown {
            return Err("some services have too many requests to be compared".into());
        }
        let decided = report.audit.as_ref().is_some_and(|audit| !audit.changed.is_empty());
        if !decided && report.audit.as_ref().is_some_and(|audit| audit.untold > 0) {
            return Err("what some recorded decisions would come to can't be told".into());
        }
        let same = report.changes.is_empty() && report.services.is_empty() && !decided;
        Ok(if same { Verdict::Yes } else { Verdict::No })
    }

    fn snapshot(&self, directory: &Path) -> Result<Snapshot, Failure> {
        let loaded = load(directory, &self.domains.to_domains())?;
        let problems = loaded.problems();
        if problems.is_empty() {
            return Ok(loaded.catalog.snapshot().clone());
        }
        problems.iter().for_each(|problem| eprintln!("{}: {problem}", directory.display()));
        Err(format!("not everything in {} can be used as it is written", directory.display()).into())
    }
}

/// Decides the log by both.
fn replayed(file: &Path, old: &Snapshot, new: &Snapshot) -> Result<Replayed, Failure> {
    let decide = |snapshot: &Snapshot| {
        let log = File::open(file).map_err(|error| format!("can't read the audit log {}: {error}", file.display()))?;
        Ok::<_, Failure>(replay(&mut BufReader::new(log), snapshot, &mut |_| ())?)
    };
    let (before, after) = (decide(old)?, decide(new)?);
    if after.replayed == 0 {
        return Err(format!("{} holds no decision", file.display()).into());
    }
    let untold = before.untold.into_iter().chain(after.untold);
    // where a replay is not told, it came out as recorded
    let by_line = |differences: Vec<Difference>| -> BTreeMap<u64, Difference> {
        differences.into_iter().map(|difference| (difference.line, difference)).collect()
    };
    let (before, after_differences) = (by_line(before.differences), by_line(after.differences));
    let untold: BTreeSet<u64> = untold.into_iter().map(|line| line.line).collect();
    let lines: BTreeSet<u64> = before.keys().chain(after_differences.keys()).copied().collect();
    let changed = lines.into_iter().filter(|line| !untold.contains(line)).filter_map(|line| {
        let (was, is) = (before.get(&line), after_differences.get(&line));
        let id = was.or(is)?.id.clone();
        let field = |of: Option<&Difference>, other: Option<&Difference>, name: &str| {
            let find = |difference: &Difference| difference.fields.iter().find(|(field, ..)| *field == name).cloned();
            of.and_then(find).map(|(_, _, now)| now).or_else(|| other.and_then(find).map(|(_, recorded, _)| recorded))
        };
        let told = |of, other| {
            let parts = ["verdict", "reason"].map(|name| field(of, other, name));
            parts.into_iter().flatten().collect::<Vec<_>>().join(" ")
        };
        let (old, new) = (told(was, is), told(is, was));
        (old != new).then_some(Decided { line, id, old, new })
    });
    Ok(Replayed {
        decisions: after.replayed,
        changed: changed.collect(),
        unreadable: after.unreadable.len(),
        untold: untold.len(),
    })
}

fn report(comparison: Comparison, audit: Option<Replayed>, differs: bool) -> Report {
    let mut not_told = Vec::new();
    if comparison.changes.iter().any(|change| change.effect == Effect::Conditions) {
        not_told.push("whether other conditions, denials or risks give more or less: read both sides".to_owned());
    }
    if comparison.changes.is_empty() && differs {
        not_told.push(
            "the resources differ in what is not compared: relationships, providers and their keys, certificates of pods, names of rules"
                .to_owned(),
        );
    }
    for service in &comparison.too_large {
        not_told.push(format!("{} has too many requests to be compared", service.audience));
    }
    Report {
        services: comparison.services.into_iter().map(|(key, what)| format!("{} {what}", key.audience)).collect(),
        changes: comparison.changes.into_iter().map(told).collect(),
        audit,
        not_told,
    }
}

fn told(change: RightsChange) -> Told {
    let effect = match change.effect {
        Effect::Gains => "gains",
        Effect::Widened => "widened",
        Effect::Conditions => "otherwise",
        Effect::Narrowed => "narrowed",
        Effect::Loses => "loses",
    };
    Told {
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

fn side(right: AccessRight) -> Side {
    Side {
        can: crate::cli::what_can::word(right.permission),
        because: right.because.into_iter().collect(),
        unless: right.unless.into_iter().collect(),
        risk: if right.public { "public".to_owned() } else { format!("{:?}", right.risk) },
        max_age: right.max_age.map(|age| age.num_seconds()),
        approval: right.approval.as_deref().map(AskedFor::of),
        ways: right.authentication_methods.iter().map(ToString::to_string).collect(),
        audited: right.audited,
    }
}

fn text(report: &Report) -> String {
    let mut text = String::new();
    report.services.iter().for_each(|service| text += &format!("service {service}\n"));
    let mut service = "";
    for told in &report.changes {
        if told.service != service {
            service = &told.service;
            let _ = writeln!(text, "{service}");
        }
        let mark = match told.effect {
            "gains" | "widened" => '+',
            "loses" | "narrowed" => '-',
            _ => '~',
        };
        let operation = match (&told.old_operation, &told.new_operation) {
            (Some(old), Some(new)) if old != new => format!("{new} (was {old})"),
            (_, Some(new)) => new.clone(),
            (Some(old), None) => format!("{old} (is no operation any more)"),
            (None, None) => "-".to_owned(),
        };
        let _ = writeln!(text, "  {mark} {:<9} {}: {operation}", told.effect, told.who);
        let requests: Vec<&str> = told.requests.iter().map(String::as_str).collect();
        if !requests.is_empty() {
            let _ = writeln!(text, "              {}", requests.join(", "));
        }
        for (what, side) in [("was", &told.before), ("is", &told.after)] {
            let audited = if side.audited { ", only audited" } else { "" };
            let age = side.max_age.map(|age| format!(", second factor of {age} s")).unwrap_or_default();
            let ways = if told.before.ways == told.after.ways {
                String::new()
            } else {
                format!(", by {}", side.ways.join(" or "))
            };
            let _ = writeln!(text, "        {what:<3} {} (risk {}{age}{ways}{audited})", side.can, side.risk);
            side.approval.iter().for_each(|asked| text += &format!("              with {asked}\n"));
            side.because.iter().for_each(|why| text += &format!("              {why}\n"));
            side.unless.iter().for_each(|why| text += &format!("              unless {why}\n"));
        }
    }
    if report.changes.is_empty() {
        text.push_str("nobody gains or loses anything\n");
    }
    if let Some(audit) = &report.audit {
        let _ = writeln!(text, "of {} recorded decisions {} would be other ones", audit.decisions, audit.changed.len());
        if audit.untold > 0 {
            let _ = writeln!(text, "of {} it can't be told: their conditions read what is not recorded", audit.untold);
        }
        for decided in audit.changed.iter().take(LISTED) {
            let _ = writeln!(text, "  line {}, {}: {} → {}", decided.line, decided.id, decided.old, decided.new);
        }
        if audit.changed.len() > LISTED {
            let _ = writeln!(text, "  and {} more; -o json has all", audit.changed.len() - LISTED);
        }
    }
    report.not_told.iter().for_each(|what| text += &format!("not told: {what}\n"));
    text
}
