//! Runs test cases, and measures which parts of the policies they reach.

use super::cases::{ExpectedDecision, ExpectedVerdict, TestCase};
use chrono::{DateTime, Utc};
use durward_core::decision::Decision;
use durward_core::principal::Principal;
use durward_core::relations::RelationTuple;
use durward_core::request::Request;
use durward_core::snapshot::Snapshot;
use serde::Serialize;
use std::collections::BTreeSet;

/// The results of all cases.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct TestReport {
    pub(super) passed: usize,
    pub(super) failed: usize,
    pub(super) cases: Vec<CaseResult>,
    pub(super) coverage: Coverage,
}

/// The result of one case.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct CaseResult {
    pub(super) suite: String,
    pub(super) name: String,
    pub(super) file: String,
    pub(super) line: usize,
    /// Differences from the expected decision; empty if the case passes.
    pub(super) differences: Vec<String>,
    /// The decision.
    pub(super) decided: String,
}

impl CaseResult {
    pub(super) const fn passed(&self) -> bool {
        self.differences.is_empty()
    }
}

/// The parts of the policies that some case reaches.
#[derive(Debug, Default, Serialize)]
pub(super) struct Coverage {
    /// Operations that some case requests.
    pub(super) operations: CoveredPart,
    /// Grants that allow some case.
    pub(super) grants: CoveredPart,
    /// Denials that deny some case.
    pub(super) denials: CoveredPart,
}

/// The operations, grants or denials that some case reaches.
#[derive(Debug, Default, Serialize)]
pub(super) struct CoveredPart {
    pub(super) reached: usize,
    pub(super) missed: Vec<String>,
}

impl CoveredPart {
    fn new(all: impl Iterator<Item = String>, reached: &BTreeSet<String>) -> Self {
        let mut covered = Self::default();
        for name in all.collect::<BTreeSet<_>>() {
            if reached.contains(&name) {
                covered.reached += 1;
            } else {
                covered.missed.push(name);
            }
        }
        covered
    }

    pub(super) fn total(&self) -> usize {
        self.reached + self.missed.len()
    }
}

impl Coverage {
    /// The reached share of all operations, grants and denials, in percent.
    pub(super) fn percent(&self) -> usize {
        let parts = [&self.operations, &self.grants, &self.denials];
        let reached: usize = parts.iter().map(|part| part.reached).sum();
        let total: usize = parts.iter().map(|part| part.total()).sum();
        (reached * 100).checked_div(total).unwrap_or(100)
    }
}

/// Runs the cases; those without a time are decided at `now`.
pub(super) fn run(snapshot: &Snapshot, cases: &[TestCase], now: DateTime<Utc>) -> TestReport {
    let mut operations = BTreeSet::new();
    let mut rules = BTreeSet::new();
    let mut results = Vec::new();
    for case in cases {
        // the parser refuses cases with an invalid request
        let evidence = case.request.evidence();
        let Ok(request) = case.request.request(&evidence) else { continue };
        let principal = case.identity.clone().map(Principal::assumed);
        let related = with_tuples(snapshot, &request, &case.tuples);
        let snapshot = related.as_ref().unwrap_or(snapshot);
        let decision = snapshot.decide(principal.as_ref(), &request, case.at.unwrap_or(now));
        if let (Some(policy), Some(operation)) = (&decision.policy, &decision.operation) {
            operations.insert(format!("{policy}/{operation}"));
        }
        rules.extend(decision.rules.iter().map(ToString::to_string));
        results.push(CaseResult {
            suite: case.suite.clone(),
            name: case.name.clone(),
            file: case.file.to_string(),
            line: case.line,
            differences: differences(&case.expected, &decision),
            decided: describe(&decision),
        });
    }
    let declared = snapshot.services().flat_map(|service| service.declared_operations());
    let all = declared.map(|(policy, operation)| format!("{policy}/{operation}"));
    let rules_of = |part: &'static str| {
        let all = snapshot.services().flat_map(|service| service.rules().cloned().collect::<Vec<_>>());
        all.map(|rule| rule.to_string()).filter(move |rule| rule.contains(part))
    };
    let coverage = Coverage {
        operations: CoveredPart::new(all, &operations),
        grants: CoveredPart::new(rules_of("/grants/"), &rules),
        denials: CoveredPart::new(rules_of("/denials/"), &rules),
    };
    let failed = results.iter().filter(|result| !result.passed()).count();
    TestReport { passed: results.len() - failed, failed, cases: results, coverage }
}

/// The snapshot with additional tuples of the requested service, if there are any.
fn with_tuples(snapshot: &Snapshot, request: &Request<'_>, tuples: &[RelationTuple]) -> Option<Snapshot> {
    let audience = snapshot.route(request).audience().filter(|_| !tuples.is_empty())?;
    let service = snapshot.by_audience(audience)?.key().clone();
    let mut snapshot = snapshot.clone();
    snapshot.put_relationship(&service, "test", tuples);
    Some(snapshot)
}

fn differences(expected: &ExpectedDecision, decision: &Decision) -> Vec<String> {
    let mut found = Vec::new();
    let mut compare = |field: &str, wanted: String, is: String| {
        if wanted != is {
            found.push(format!("{field}: expected `{wanted}`, got `{is}`"));
        }
    };
    let word = |allow: bool| if allow { "allow" } else { "deny" }.to_owned();
    compare("verdict", word(expected.verdict == ExpectedVerdict::Allow), word(decision.allowed()));
    if let Some(reason) = expected.reason {
        compare("reason", reason.to_string(), decision.reason.to_string());
    }
    if let Some(operation) = &expected.operation {
        compare("operation", operation.clone(), decision.operation.as_deref().unwrap_or("none").to_owned());
    }
    if let Some(missing) = &expected.missing {
        let list = |scopes: &BTreeSet<_>| scopes.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        compare("missing", list(missing), list(&decision.missing.iter().cloned().collect()));
    }
    if let Some(rule) = &expected.rule
        && !decision.rules.iter().any(|is| **is == **rule || is.rsplit('/').next() == Some(rule))
    {
        let is = decision.rules.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        compare("rule", rule.clone(), if is.is_empty() { "none".to_owned() } else { is });
    }
    found
}

fn describe(decision: &Decision) -> String {
    let verdict = if decision.allowed() { "allow" } else { "deny" };
    let rules = decision.rules.iter().map(|rule| format!(" {rule}")).collect::<String>();
    format!("{verdict} {}{rules}", decision.reason)
}
