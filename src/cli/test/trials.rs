//! Trying cases, and what of the policies they reach.

use super::cases::{Expected, Trial, Verdict};
use chrono::{DateTime, Utc};
use durward_core::decision::Decision;
use durward_core::principal::Principal;
use durward_core::relations::RelationTuple;
use durward_core::request::Request;
use durward_core::snapshot::Snapshot;
use serde::Serialize;
use std::collections::BTreeSet;

/// What came of all cases.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Report {
    pub(super) passed: usize,
    pub(super) failed: usize,
    pub(super) cases: Vec<Tried>,
    pub(super) coverage: Coverage,
}

/// What came of one.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Tried {
    pub(super) suite: String,
    pub(super) name: String,
    pub(super) file: String,
    pub(super) line: usize,
    /// What is not as expected; nothing for a case that passes.
    pub(super) differences: Vec<String>,
    /// What was decided.
    pub(super) decided: String,
}

/// What of the policies some case reaches.
#[derive(Debug, Default, Serialize)]
pub(super) struct Coverage {
    /// Operations that some case is.
    pub(super) operations: Covered,
    /// Grants that carry some case.
    pub(super) grants: Covered,
    /// Denials that deny some case.
    pub(super) denials: Covered,
}

#[derive(Debug, Default, Serialize)]
pub(super) struct Covered {
    pub(super) reached: usize,
    pub(super) missed: Vec<String>,
}

impl Covered {
    fn of(all: impl Iterator<Item = String>, reached: &BTreeSet<String>) -> Self {
        let mut covered = Self::default();
        for one in all.collect::<BTreeSet<_>>() {
            if reached.contains(&one) {
                covered.reached += 1;
            } else {
                covered.missed.push(one);
            }
        }
        covered
    }

    pub(super) fn all(&self) -> usize {
        self.reached + self.missed.len()
    }
}

impl Coverage {
    /// Of a hundred operations, grants and denials, how many are reached.
    pub(super) fn percent(&self) -> usize {
        let parts = [&self.operations, &self.grants, &self.denials];
        let (reached, all) =
            parts.iter().fold((0, 0), |(reached, all), part| (reached + part.reached, all + part.all()));
        (reached * 100).checked_div(all).unwrap_or(100)
    }
}

/// Tries every case; those that state no time are decided at `now`.
pub(super) fn attempt(snapshot: &Snapshot, trials: &[Trial], now: DateTime<Utc>) -> Report {
    let (mut operations, mut rules) = (BTreeSet::new(), BTreeSet::new());
    let mut cases = Vec::new();
    for trial in trials {
        // a case whose request makes no sense was refused when it was read
        let evidence = trial.asked.evidence();
        let Ok(request) = trial.asked.request(&evidence) else { continue };
        let principal = trial.identity.clone().map(Principal::assumed);
        let told = told(snapshot, &request, &trial.tuples);
        let decision = told.as_ref().unwrap_or(snapshot).decide(principal.as_ref(), &request, trial.at.unwrap_or(now));
        if let (Some(policy), Some(operation)) = (&decision.policy, &decision.operation) {
            operations.insert(format!("{policy}/{operation}"));
        }
        rules.extend(decision.rules.iter().map(ToString::to_string));
        cases.push(Tried {
            suite: trial.suite.clone(),
            name: trial.name.clone(),
            file: trial.file.to_string(),
            line: trial.line,
            differences: differences(&trial.expected, &decision),
            decided: describe(&decision),
        });
    }
    let declared = snapshot.services().flat_map(|service| service.declared_operations());
    let all = declared.map(|(policy, operation)| format!("{policy}/{operation}"));
    let of = |part: &'static str| {
        let all = snapshot.services().flat_map(|service| service.rules().cloned().collect::<Vec<_>>());
        all.map(|rule| rule.to_string()).filter(move |rule| rule.contains(part))
    };
    let coverage = Coverage {
        operations: Covered::of(all, &operations),
        grants: Covered::of(of("/grants/"), &rules),
        denials: Covered::of(of("/denials/"), &rules),
    };
    let failed = cases.iter().filter(|case| !case.differences.is_empty()).count();
    Report { passed: cases.len() - failed, failed, cases, coverage }
}

/// The snapshot with tuples about the service that is asked, if there are any.
fn told(snapshot: &Snapshot, request: &Request<'_>, tuples: &[RelationTuple]) -> Option<Snapshot> {
    let audience = snapshot.route(request).audience().filter(|_| !tuples.is_empty())?;
    let service = snapshot.by_audience(audience)?.key().clone();
    let mut snapshot = snapshot.clone();
    snapshot.put_relationship(&service, "test", tuples);
    Some(snapshot)
}

fn differences(expected: &Expected, decision: &Decision) -> Vec<String> {
    let mut found = Vec::new();
    let mut differ = |what: &str, wanted: String, is: String| {
        if wanted != is {
            found.push(format!("{what} `{wanted}` was expected, it is `{is}`"));
        }
    };
    let word = |allow: bool| if allow { "allow" } else { "deny" }.to_owned();
    differ("verdict", word(expected.verdict == Verdict::Allow), word(decision.allowed()));
    if let Some(reason) = expected.reason {
        differ("reason", reason.to_string(), decision.reason.to_string());
    }
    if let Some(operation) = &expected.operation {
        differ("operation", operation.clone(), decision.operation.as_deref().unwrap_or("none").to_owned());
    }
    if let Some(missing) = &expected.missing {
        let list = |scopes: &BTreeSet<_>| scopes.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        differ("missing", list(missing), list(&decision.missing.iter().cloned().collect()));
    }
    if let Some(rule) = &expected.rule
        && !decision.rules.iter().any(|is| **is == **rule || is.rsplit('/').next() == Some(rule))
    {
        let is = decision.rules.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        differ("rule", rule.clone(), if is.is_empty() { "none".to_owned() } else { is });
    }
    found
}

fn describe(decision: &Decision) -> String {
    let verdict = if decision.allowed() { "allow" } else { "deny" };
    let rules = decision.rules.iter().map(|rule| format!(" {rule}")).collect::<String>();
    format!("{verdict} {}{rules}", decision.reason)
}
