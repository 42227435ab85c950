//! Deciding recorded requests again.

use crate::ADMIN;
use crate::audit::Record;
use crate::audit::chain::is_own;
use crate::audit::issuance::is_no_decision;
use durward_core::decision::{Decision, EvaluatedCondition, Reason};
use durward_core::evidence::Evidence;
use durward_core::kubernetes::ApiCall;
use durward_core::principal::Principal;
use durward_core::request::{Call, Request, ServiceTarget};
use durward_core::snapshot::Snapshot;
use serde::Serialize;
use std::io::{self, BufRead};
use thiserror::Error;

/// Longest line that is read, in bytes: a record is about a kilobyte, one with the longest path ten.
const MAX_LINE: usize = 256 * 1024;

/// What came of replaying a log.
#[derive(Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Records that were decided again.
    pub replayed: u64,
    /// Records that were decided with another snapshot than the one at hand.
    pub other_revision: u64,
    /// Records whose conditions read what is not recorded, decided by what they came to then.
    pub by_outcome: u64,
    /// Records of which nobody can tell: a condition reads what is not recorded, and is not the one of then.
    pub untold: Vec<Unreadable>,
    /// Records whose decision differs now.
    pub differences: Vec<Difference>,
    /// Lines that are no record.
    pub unreadable: Vec<Unreadable>,
}

/// A line that can't be used.
#[derive(Debug, PartialEq, Serialize)]
pub struct Unreadable {
    /// Line number, from 1.
    pub line: u64,
    /// Why.
    pub error: String,
}

/// A decision that came out differently.
#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Difference {
    /// Line number of the record, from 1.
    pub line: u64,
    /// Decision id of the record.
    pub id: String,
    /// Each field that differs: its name, the recorded value, the value now.
    pub fields: Vec<(&'static str, String, String)>,
}

/// The log could not be read.
#[derive(Debug, Error)]
#[error("can't read the audit log: {0}")]
pub struct ReplayError(#[from] io::Error);

/// Decides each record of `log` again by `snapshot`, at the time of the record.
///
/// # Errors
/// When the log can't be read any further.
pub fn replay(
    log: &mut dyn BufRead,
    snapshot: &Snapshot,
    progress: &mut dyn FnMut(u64),
) -> Result<Report, ReplayError> {
    let mut report = Report::default();
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        if io::Read::take(&mut *log, MAX_LINE as u64).read_until(b'\n', &mut line)? == 0 {
            break;
        }
        if line.trim_ascii().is_empty() {
            continue;
        }
        match serde_json::from_slice::<Record<'_>>(&line) {
            // decided by the admin listener's own policy, which is none of these
            Ok(record) if record.door == ADMIN => {}
            Ok(record) => {
                report.replayed += 1;
                report.other_revision += u64::from(record.revision != snapshot.revision().to_string());
                let now = decide_again(&record, snapshot);
                let fields = differences(&record, &now);
                if let Some(judged) = untold(&record, &now) {
                    let error = format!("the condition of {} reads what is not recorded", judged.rule);
                    report.untold.push(Unreadable { line: number, error });
                    continue;
                }
                report.by_outcome += u64::from(!now.evaluated.is_empty());
                if !fields.is_empty() {
                    report.differences.push(Difference { line: number, id: record.id, fields });
                }
            }
            // no decision, so nothing to decide again
            Err(_) if is_no_decision(&line) || is_own(&line) => {}
            Err(error) => report.unreadable.push(Unreadable { line: number, error: error.to_string() }),
        }
        if number % 10_000 == 0 {
            progress(number);
        }
    }
    Ok(report)
}

impl Record<'_> {
    /// What was asked.
    #[must_use]
    pub fn question(&self) -> Request<'_> {
        let asked = &self.request;
        let target = match (&asked.host, &asked.audience) {
            (Some(host), _) => ServiceTarget::Host(host),
            (None, audience) => ServiceTarget::Audience(audience.as_deref().unwrap_or_default()),
        };
        let call = match (&asked.method, &asked.path, &asked.operation) {
            (Some(method), Some(path), _) => Call::Http { method, path },
            (_, _, Some(operation)) => Call::Named { operation, captures: asked.captures.clone() },
            _ => asked.kubernetes.as_ref().map_or(Call::Ambiguous, |api| {
                Call::Kubernetes(ApiCall {
                    group: &api.group,
                    resource: &api.resource,
                    subresource: &api.subresource,
                    verb: api.verb,
                    name: &api.name,
                })
            }),
        };
        Request { target, call, source: asked.source, evidence: self }
    }

    /// Who asked, to be asked about again.
    #[must_use]
    pub fn caller(&self) -> Option<Principal> {
        self.principal.as_deref().map(|identity| Principal::assumed(identity.clone()))
    }
}

/// The decision on what a record says was asked, by what it says was found out.
pub fn decide_again(record: &Record<'_>, snapshot: &Snapshot) -> Decision {
    let decision = decide(record, snapshot);
    match approved_then(record, &decision, snapshot) {
        Some(then) => Decision { revision: decision.revision, ..decide(record, &then) },
        None => decision,
    }
}

/// The first condition that a decision went by without knowing what it reads, or what it came to then.
pub fn untold<'d>(record: &Record<'_>, now: &'d Decision) -> Option<&'d EvaluatedCondition> {
    now.evaluated.iter().find(|judged| record.recorded(&judged.rule, &judged.condition).is_none())
}

/// The snapshot by which a record is decided again.
pub fn as_then(record: &Record<'_>, snapshot: Snapshot) -> Snapshot {
    approved_then(record, &decide(record, &snapshot), &snapshot).unwrap_or(snapshot)
}

fn decide(record: &Record<'_>, snapshot: &Snapshot) -> Decision {
    let (question, caller) = (record.question(), record.caller());
    snapshot.route(&question).with_answers(record.answers()).decide(caller.as_ref(), record.time)
}

/// The snapshot with the approval that carried a record's decision, where that is all that is missing now: an approval is
/// gone soon after it counted, so what the record says of it is put in its place.
fn approved_then(record: &Record<'_>, decision: &Decision, snapshot: &Snapshot) -> Option<Snapshot> {
    let given = record.approval.as_ref()?.given.clone()?;
    let asked = decision.approval.as_ref().filter(|_| decision.reason == Reason::ApprovalRequired)?;
    let mut then = snapshot.clone();
    then.put_approval(asked.subject.clone(), Some(given.into()));
    Some(then)
}

/// Each field in which a decision differs from the recorded one: its name, the recorded value, the value now.
pub fn differences(record: &Record<'_>, now: &Decision) -> Vec<(&'static str, String, String)> {
    let list = |items: &mut dyn Iterator<Item = &str>| items.collect::<Vec<_>>().join(" ");
    let verdict = |reason: Reason| if reason.allows() { "allow" } else { "deny" };
    let fields = [
        ("verdict", record.verdict.to_string(), verdict(now.reason).to_owned()),
        ("reason", record.reason.to_string(), now.reason.to_string()),
        ("mode", format!("{:?}", record.mode), format!("{:?}", now.mode)),
        (
            "operation",
            record.operation.as_deref().unwrap_or("-").to_owned(),
            now.operation.as_deref().unwrap_or("-").to_owned(),
        ),
        (
            "policy",
            record.policy.clone().unwrap_or_else(|| "-".into()),
            now.policy.as_ref().map_or_else(|| "-".into(), ToString::to_string),
        ),
        ("rules", list(&mut record.rules.iter().map(AsRef::as_ref)), list(&mut now.rules.iter().map(AsRef::as_ref))),
        (
            "missing",
            list(&mut record.missing.iter().map(|scope| scope.as_str())),
            list(&mut now.missing.iter().map(|scope| scope.as_str())),
        ),
    ];
    fields.into_iter().filter(|(_, recorded, now)| recorded != now).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_decision_is_passed_over() {
        let log =
            "{\"event\":\"issuance\",\"outcome\":\"issued\"}\n{\"event\":\"checkpoint\"}\n{\"event\":\"other\"}\n";
        let report = replay(&mut log.as_bytes(), &Snapshot::default(), &mut |_| ()).expect("readable");
        assert_eq!(report.unreadable.iter().map(|line| line.line).collect::<Vec<_>>(), [3]);
    }

    #[test]
    fn a_line_without_end_is_no_record() {
        let log = "x".repeat(MAX_LINE * 2);
        let report = replay(&mut log.as_bytes(), &Snapshot::default(), &mut |_| ()).expect("readable");
        assert_eq!((report.replayed, report.unreadable.len()), (0, 2));
    }
}
