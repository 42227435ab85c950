//! Statuses by outcome and reach.

use super::*;
use durward_core::digest::Digest;

fn report(rejected: Option<(&'static str, Vec<FieldError>)>, in_force: bool, stored: Value) -> StatusReport {
    let summary = PolicySummary { service: "orders-api".into(), operations: 3, grants: 2, governs: true };
    let summary = if in_force { Some(summary) } else { None };
    StatusReport {
        target: StatusTarget { kind: ResourceKind::Policy, namespace: Some("shop".into()), name: "orders".into() },
        uid: "u".into(),
        generation: 4,
        stored: stored.to_string().into(),
        outcome: ResourceOutcome { rejected, in_force, summary, ..ResourceOutcome::default() },
    }
}

fn everywhere(revision: &[u8]) -> Rollout {
    Rollout::Everywhere(Digest::of([revision]))
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).expect("a time")
}

fn state<'v>(status: &'v Value, kind: &str) -> (&'v str, &'v str) {
    let condition = stored_condition(status, kind).expect(kind);
    (condition["status"].as_str().expect("status"), condition["reason"].as_str().expect("reason"))
}

#[test]
fn a_status_is_written_once() {
    let revision = Digest::of([b"one".as_slice()]);
    let first =
        status_change(&report(None, true, Value::Null), Rollout::Everywhere(revision), None, at(0)).expect("a status");
    assert_eq!(state(&first.status, ACCEPTED), ("True", "Valid"));
    assert_eq!(state(&first.status, PROGRAMMED), ("True", "InForce"));
    assert_eq!(first.status["operations"], 3);
    assert_eq!(first.transitions.len(), 2);
    let again = report(None, true, first.status);
    assert_eq!(status_change(&again, everywhere(b"two"), None, at(60)), None, "another policy changed");
    assert_eq!(
        status_change(&again, Rollout::Unknown, None, at(60)),
        None,
        "a new leader has not queried the replicas yet"
    );
}

#[test]
fn a_new_generation_is_pending_until_every_replica_has_it() {
    let old = status_change(&report(None, true, Value::Null), everywhere(b"one"), None, at(0)).expect("one");
    let newer = StatusReport { generation: 5, ..report(None, true, old.status) };
    let pending = status_change(&newer, Rollout::Unknown, None, at(1)).expect("a status");
    assert_eq!(state(&pending.status, PROGRAMMED), ("False", "Pending"));
    assert_eq!(pending.status.get("revision"), None);
    assert_eq!(pending.status["observedGeneration"], 5);
}

#[test]
fn a_policy_whose_operations_bypass_the_webhook_is_not_programmed() {
    let first =
        status_change(&report(None, true, Value::Null), Rollout::NotAsked, None, at(0)).expect("a status").status;
    assert_eq!((state(&first, ACCEPTED), state(&first, PROGRAMMED)), (("True", "Valid"), ("False", "NotAsked")));
    let in_force = status_change(&report(None, true, first), everywhere(b"one"), None, at(1)).expect("a status").status;
    assert_eq!(state(&in_force, PROGRAMMED), ("True", "InForce"));
    // another client removes the rules: the same generation is no longer in force
    let removed =
        status_change(&report(None, true, in_force), Rollout::NotAsked, None, at(2)).expect("a status").status;
    assert_eq!((state(&removed, PROGRAMMED), removed.get("revision")), (("False", "NotAsked"), None));
    assert_eq!(
        status_change(&report(None, true, removed.clone()), Rollout::NotAsked, None, at(9)),
        None,
        "nothing is written without a change"
    );
    let restored =
        status_change(&report(None, true, removed), everywhere(b"two"), None, at(10)).expect("a status").status;
    assert_eq!(state(&restored, PROGRAMMED), ("True", "InForce"));
}

#[test]
fn a_rejected_policy_reports_the_reason_and_the_version_in_force() {
    let errors = vec![FieldError { field: "spec.grants[0].when".to_owned(), message: "x".repeat(5000) }];
    let status =
        status_change(&report(Some(("Invalid", errors.clone())), true, Value::Null), Rollout::Unknown, None, at(0))
            .expect("one")
            .status;
    assert_eq!(state(&status, ACCEPTED), ("False", "Invalid"));
    assert_eq!(state(&status, PROGRAMMED), ("False", "LastGoodInForce"));
    let message = stored_condition(&status, ACCEPTED).expect("accepted")["message"].as_str().expect("text");
    assert!(message.starts_with("spec.grants[0].when: xxx") && message.len() <= MAX_MESSAGE, "{}", message.len());
    let status = status_change(&report(Some(("Invalid", errors)), false, Value::Null), Rollout::Unknown, None, at(0))
        .expect("one")
        .status;
    assert_eq!(state(&status, PROGRAMMED), ("False", "NotAccepted"));
    assert_eq!(status.get("service"), None);
}

#[test]
fn an_invalid_relationship_reports_the_effect_of_a_restart() {
    let of = |reason: &'static str, in_force: bool| {
        let errors = vec![FieldError { field: "spec.tuples[0].object".to_owned(), message: "no object".to_owned() }];
        let last_good = Some(json!({"generation": 3, "service": "orders.shop"}).to_string().into());
        let report = report(Some((reason, errors)), in_force, Value::Null);
        let target = StatusTarget { kind: ResourceKind::Relationship, ..report.target };
        let outcome = ResourceOutcome { last_good, summary: None, ..report.outcome };
        status_change(&StatusReport { target, outcome, ..report }, Rollout::Unknown, None, at(0))
            .expect("a status")
            .status
    };
    let known = of("Invalid", true);
    assert_eq!((state(&known, ACCEPTED), &known["lastGood"]["generation"]), (("False", "Invalid"), &json!(3)));
    let message = stored_condition(&known, ACCEPTED).expect("accepted")["message"].as_str().expect("text");
    assert!(
        message.contains("relations that exclude anyone hold for no one") && message.contains("spec.tuples[0]"),
        "{message}"
    );
    for (reason, in_force) in [("UnknownRelation", true), ("LastGoodUnknown", false)] {
        let status = of(reason, in_force);
        let message = stored_condition(&status, ACCEPTED).expect("accepted")["message"].as_str().expect("text");
        assert_eq!((state(&status, ACCEPTED), message), (("False", reason), "spec.tuples[0].object: no object"));
    }
}

fn good() -> Value {
    let rule = json!({"apiGroups": [""], "resources": ["pods/exec"], "verbs": ["CONNECT"]});
    json!({"generation": 3, "audience": "orders-api", "hosts": ["orders.shop.svc"], "kubernetes": [rule]})
}

#[test]
fn an_accepted_version_is_recorded_before_it_is_in_force_everywhere() {
    let remembering = |report: StatusReport| {
        let last_good = Some(good().to_string().into());
        StatusReport { outcome: ResourceOutcome { last_good, ..report.outcome }, ..report }
    };
    let pending = status_change(&remembering(report(None, true, Value::Null)), Rollout::Unknown, None, at(0))
        .expect("a status")
        .status;
    assert_eq!((state(&pending, PROGRAMMED), &pending["lastGood"]), (("False", "Pending"), &good()));
    assert_eq!(
        status_change(&remembering(report(None, true, pending.clone())), Rollout::Unknown, None, at(9)),
        None,
        "nothing is written without a change"
    );
    // an invalid version that follows immediately keeps the record
    let broken = report(Some(("Invalid", vec![])), true, pending);
    let broken = StatusReport { generation: 5, ..remembering(broken) };
    let status = status_change(&broken, Rollout::Unknown, None, at(1)).expect("a status").status;
    assert_eq!((state(&status, PROGRAMMED), &status["lastGood"]), (("False", "LastGoodInForce"), &good()));
    let message = stored_condition(&status, PROGRAMMED).expect("programmed")["message"].as_str().expect("text");
    assert!(message.contains("a replica that restarts closes the service: fix or remove the policy"), "{message}");
}

#[test]
fn a_closed_service_reports_the_remedy() {
    let closed = |rejected, in_force, stored| {
        let report = report(rejected, in_force, stored);
        let last_good = Some(good().to_string().into());
        StatusReport {
            outcome: ResourceOutcome { closed: Some("shop/orders".into()), last_good, ..report.outcome },
            ..report
        }
    };
    let broken = |stored| closed(Some(("Invalid", vec![])), false, stored);
    let change = status_change(&broken(Value::Null), Rollout::Unknown, None, at(0)).expect("a status");
    assert_eq!(state(&change.status, PROGRAMMED), ("False", "ServiceClosed"));
    assert_eq!((&change.status["service"], &change.status["lastGood"]), (&json!("orders-api"), &good()));
    let message = stored_condition(&change.status, PROGRAMMED).expect("programmed")["message"].as_str().expect("text");
    for part in ["`orders-api` is closed", "generation 3 was in force", "Kubernetes operations", "fix or remove"] {
        assert!(message.contains(part), "{part}: {message}");
    }
    assert!(change.transitions.iter().any(|condition| (condition.kind, condition.reason) == (PROGRAMMED, CLOSED)));
    assert_eq!(
        status_change(&broken(change.status), Rollout::Unknown, None, at(60)),
        None,
        "nothing is written without a change"
    );
    // another policy of the service, which is valid
    let revision = everywhere(b"one");
    let other = status_change(&closed(None, true, Value::Null), revision, None, at(0)).expect("a status").status;
    assert_eq!((state(&other, ACCEPTED), state(&other, PROGRAMMED)), (("True", "Valid"), ("False", "ServiceClosed")));
    assert_eq!(other.get("revision"), None);
    let message = stored_condition(&other, PROGRAMMED).expect("programmed")["message"].as_str().expect("text");
    assert!(message.contains("until shop/orders is fixed or removed"), "{message}");
}

#[test]
fn counts_belong_to_one_generation() {
    let count = |audited, exhausted| Some(PolicyCount { audited, exhausted });
    let counted =
        status_change(&report(None, true, Value::Null), Rollout::Unknown, count(7, 2), at(0)).expect("a status").status;
    assert_eq!((&counted["auditedDenials"], &counted["exhaustedDecisions"]), (&7.into(), &2.into()));
    let again = report(None, true, counted);
    assert_eq!(status_change(&again, Rollout::Unknown, None, at(1)), None, "a new leader has no counts yet");
    assert_eq!(
        status_change(&again, Rollout::Unknown, count(7, 2), at(1)),
        None,
        "nothing is written without a change"
    );
    let more = status_change(&again, Rollout::Unknown, count(9, 3), at(1)).expect("a status").status;
    assert_eq!((&more["auditedDenials"], &more["exhaustedDecisions"]), (&9.into(), &3.into()));
    let newer = StatusReport { generation: 5, ..again };
    let status = status_change(&newer, Rollout::Unknown, None, at(2)).expect("a status").status;
    assert_eq!((status.get("auditedDenials"), status.get("exhaustedDecisions")), (None, None));
}

#[test]
fn a_condition_keeps_its_transition_time() {
    let old = status_change(&report(None, true, Value::Null), everywhere(b"one"), None, at(0)).expect("one");
    let broken = report(Some(("Invalid", vec![])), true, old.status);
    let status = status_change(&broken, Rollout::Unknown, None, at(90)).expect("a status");
    assert_eq!(
        stored_condition(&status.status, ACCEPTED).expect("accepted")["lastTransitionTime"],
        "1970-01-01T00:01:30Z"
    );
    let worse = report(Some(("NotOwned", vec![])), true, status.status);
    let status = status_change(&worse, Rollout::Unknown, None, at(180)).expect("a status").status;
    assert_eq!(stored_condition(&status, ACCEPTED).expect("accepted")["lastTransitionTime"], "1970-01-01T00:01:30Z");
}
