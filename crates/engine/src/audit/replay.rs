//! Decides recorded requests again.

use crate::audit::chain::is_log_event;
use crate::audit::decision::DecisionRecord;
use crate::audit::issuance::is_no_decision;
use crate::door::ADMIN;
use durward_core::decision::{Decision, EvaluatedCondition, Reason};
use durward_core::evidence::Evidence;
use durward_core::kubernetes::ApiCall;
use durward_core::principal::Principal;
use durward_core::request::{Call, Request, ServiceTarget};
use durward_core::snapshot::Snapshot;
use serde::Serialize;
use std::io::{self, BufRead};
use thiserror::Error;

/// Longest line that is read, in bytes. A record has about 1 kB, a record with the longest path 10 kB.
const MAX_LINE: usize = 256 * 1024;

/// The result of a replay.
#[derive(Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ReplayReport {
    /// Records that were decided again.
    pub replayed: u64,
    /// Records of decisions by another snapshot.
    pub other_revision: u64,
    /// Records whose conditions read evidence that is not recorded; the recorded outcomes of the conditions were used.
    pub by_outcome: u64,
    /// Records that can't be decided again: a condition reads evidence that is not recorded, and the condition changed.
    #[serde(rename = "untold")]
    pub undecidable: Vec<LineError>,
    /// Records whose decision differs.
    pub differences: Vec<DecisionDifference>,
    /// Lines that are not records.
    pub unreadable: Vec<LineError>,
}

/// A line that can't be replayed.
#[derive(Debug, PartialEq, Serialize)]
pub struct LineError {
    /// Line number, from 1.
    pub line: u64,
    /// The cause.
    pub error: String,
}

/// A decision that differs from its record.
#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DecisionDifference {
    /// Line number of the record, from 1.
    pub line: u64,
    /// Decision id of the record.
    pub id: String,
    /// Each field that differs: its name, the recorded value, the new value.
    pub fields: Vec<(&'static str, String, String)>,
}

/// The audit log can't be read.
#[derive(Debug, Error)]
#[error("can't read the audit log: {0}")]
pub struct ReplayError(#[from] io::Error);

/// Decides each record of `log` again by `snapshot`, as of the time of the record.
///
/// # Errors
/// If reading the log fails.
pub fn replay(
    log: &mut dyn BufRead,
    snapshot: &Snapshot,
    progress: &mut dyn FnMut(u64),
) -> Result<ReplayReport, ReplayError> {
    let mut report = ReplayReport::default();
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        if io::Read::take(&mut *log, MAX_LINE as u64).read_until(b'\n', &mut line)? == 0 {
            break;
        }
        if line.trim_ascii().is_empty() {
            continue;
        }
        match serde_json::from_slice::<DecisionRecord<'_>>(&line) {
            // decided by the policy of the admin listener, which is not in the snapshot
            Ok(record) if record.door == ADMIN => {}
            Ok(record) => {
                report.replayed += 1;
                report.other_revision += u64::from(record.revision != snapshot.revision().to_string());
                let now = decide_again(&record, snapshot);
                let fields = differences(&record, &now);
                if let Some(evaluated) = undecidable_condition(&record, &now) {
                    let error = format!("the condition of {} reads what is not recorded", evaluated.rule);
                    report.undecidable.push(LineError { line: number, error });
                    continue;
                }
                report.by_outcome += u64::from(!now.evaluated.is_empty());
                if !fields.is_empty() {
                    report.differences.push(DecisionDifference { line: number, id: record.id, fields });
                }
            }
            // nothing to decide again
            Err(_) if is_no_decision(&line) || is_log_event(&line) => {}
            Err(error) => report.unreadable.push(LineError { line: number, error: error.to_string() }),
        }
        if number % 10_000 == 0 {
            progress(number);
        }
    }
    Ok(report)
}

impl DecisionRecord<'_> {
    /// The request.
    #[must_use]
    pub fn to_request(&self) -> Request<'_> {
        let request = &self.request;
        let target = match (&request.host, &request.audience) {
            (Some(host), _) => ServiceTarget::Host(host),
            (None, audience) => ServiceTarget::Audience(audience.as_deref().unwrap_or_default()),
        };
        let call = match (&request.method, &request.path, &request.operation) {
            (Some(method), Some(path), _) => Call::Http { method, path },
            (_, _, Some(operation)) => Call::Named { operation, captures: request.captures.clone() },
            _ => request.kubernetes.as_ref().map_or(Call::Ambiguous, |api| {
                Call::Kubernetes(ApiCall {
                    group: &api.group,
                    resource: &api.resource,
                    subresource: &api.subresource,
                    verb: api.verb,
                    name: &api.name,
                })
            }),
        };
        Request { target, call, source: request.source, evidence: self }
    }

    /// The caller, as recorded.
    #[must_use]
    pub fn to_principal(&self) -> Option<Principal> {
        self.principal.as_deref().map(|identity| Principal::assumed(identity.clone()))
    }
}

/// Decides the request of a record again, with the evidence of the record.
pub fn decide_again(record: &DecisionRecord<'_>, snapshot: &Snapshot) -> Decision {
    let decision = decide(record, snapshot);
    match with_recorded_approval(record, &decision, snapshot) {
        Some(with_approval) => Decision { revision: decision.revision, ..decide(record, &with_approval) },
        None => decision,
    }
}

/// The first condition that a new decision evaluated although the record has neither its evidence nor its outcome.
pub fn undecidable_condition<'d>(record: &DecisionRecord<'_>, now: &'d Decision) -> Option<&'d EvaluatedCondition> {
    now.evaluated.iter().find(|evaluated| record.recorded(&evaluated.rule, &evaluated.condition).is_none())
}

/// The snapshot by which a record is decided again: with the approval of the record, if that alone is missing.
pub fn snapshot_for(record: &DecisionRecord<'_>, snapshot: Snapshot) -> Snapshot {
    with_recorded_approval(record, &decide(record, &snapshot), &snapshot).unwrap_or(snapshot)
}

fn decide(record: &DecisionRecord<'_>, snapshot: &Snapshot) -> Decision {
    let request = record.to_request();
    let principal = record.to_principal();
    snapshot.route(&request).with_answers(record.answers()).decide(principal.as_ref(), record.time)
}

/// The snapshot with the approval of a record, if that alone is missing now. An approval is deleted soon after its
/// validity, so the record stands in for it.
fn with_recorded_approval(record: &DecisionRecord<'_>, decision: &Decision, snapshot: &Snapshot) -> Option<Snapshot> {
    if decision.reason != Reason::ApprovalRequired {
        return None;
    }
    let grant = record.approval.as_ref()?.grant.clone()?;
    let required = decision.approval.as_ref()?;
    let mut with_approval = snapshot.clone();
    with_approval.put_approval(required.subject.clone(), Some(grant.into()));
    Some(with_approval)
}

/// Each field in which a decision differs from its record: its name, the recorded value, the new value.
pub fn differences(record: &DecisionRecord<'_>, now: &Decision) -> Vec<(&'static str, String, String)> {
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
    fn replay_skips_known_events_and_reports_unknown_ones() {
        let log =
            "{\"event\":\"issuance\",\"outcome\":\"issued\"}\n{\"event\":\"checkpoint\"}\n{\"event\":\"other\"}\n";
        let report = replay(&mut log.as_bytes(), &Snapshot::default(), &mut |_| ()).expect("readable");
        assert_eq!(report.unreadable.iter().map(|line| line.line).collect::<Vec<_>>(), [3]);
    }

    #[test]
    fn a_line_without_end_is_reported_as_unreadable() {
        let log = "x".repeat(MAX_LINE * 2);
        let report = replay(&mut log.as_bytes(), &Snapshot::default(), &mut |_| ()).expect("readable");
        assert_eq!((report.replayed, report.unreadable.len()), (0, 2));
    }
}
