//! What the status of a resource is to say. Pure: the writer compares and applies.

use crate::reach::Reach;
use durward_api::field_error::FieldError;
use jiff::Timestamp;
use serde_json::{Value, json};
use std::sync::Arc;

/// Kinds that have a status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    Policy,
    Provider,
    Relationship,
}

/// One resource.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Target {
    pub kind: Kind,
    pub namespace: Option<Arc<str>>,
    pub name: Arc<str>,
}

/// What became of a resource, and the status that it has now.
#[derive(Debug, Clone)]
pub struct Report {
    pub target: Target,
    pub uid: Arc<str>,
    pub generation: i64,
    /// The status as it is stored, in JSON: thousands of them are kept, and few are looked at.
    pub observed: Arc<str>,
    pub outcome: Outcome,
}

impl Report {
    /// How many requests this generation would have denied, as the status that is stored says.
    pub fn audited(&self) -> Option<u64> {
        let observed: Value = serde_json::from_str(&self.observed).ok()?;
        let same = observed.get("observedGeneration")?.as_i64() == Some(self.generation);
        observed.get("auditedDenials")?.as_u64().filter(|_| same)
    }
}

/// What became of a resource.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Reason and mistakes, if its newest version is not in force.
    pub rejected: Option<(&'static str, Vec<FieldError>)>,
    /// Whether any version is in force.
    pub in_force: bool,
    /// The policies that close its service, because versions of them were in force that are not known; this may be one.
    pub closed: Option<String>,
    pub facts: Option<Facts>,
    /// What is to be remembered of the version that was last in force, in JSON.
    pub last_good: Option<Arc<str>>,
}

/// What the version in force comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    pub service: Arc<str>,
    pub operations: usize,
    pub grants: usize,
    /// Whether the API server has to ask for some of them.
    pub governs: bool,
}

/// Condition: it is understood and owns what it claims.
pub const ACCEPTED: &str = "Accepted";
/// Condition: its newest version is in force on every ready replica.
pub(crate) const PROGRAMMED: &str = "Programmed";
/// Reason of `Accepted=True`.
const VALID: &str = "Valid";
/// Reason of `Programmed=True`.
const IN_FORCE: &str = "InForce";
/// Reason of `Programmed=False`: not yet on every ready replica.
const PENDING: &str = "Pending";
/// Reason of `Programmed=False`: the API server does not ask before the Kubernetes operations that it governs.
const NOT_ASKED: &str = "NotAsked";
/// Reason of `Programmed=False`: the version before stays in force.
const LAST_GOOD: &str = "LastGoodInForce";
/// Reason of `Programmed=False`: the version before is not known, so its service is closed.
pub const CLOSED: &str = "ServiceClosed";
/// Reason of `Programmed=False`: nothing of it is in force.
const NOT_ACCEPTED: &str = "NotAccepted";
/// Reason of `Accepted=False`: it does not compile.
const INVALID: &str = durward_api::catalog::RejectionReason::Invalid.as_str();
/// What becomes of a Relationship that does not compile, as long as a version before is known.
const LAST_TUPLES: &str = "the last good version stays in force on replicas that know it; on one that starts anew, relations that exclude \
                           anybody hold for nobody: mend or remove the Relationship";
/// Longest message; the API server takes 32,768 bytes.
const MAX_MESSAGE: usize = 1024;

/// A status that differs from the one that is stored.
#[derive(Debug, Clone, PartialEq)]
pub struct Wanted {
    pub status: Value,
    /// Conditions that changed: type, whether it holds, reason, message.
    pub transitions: Vec<(String, bool, String, String)>,
}

/// The status that the resource should have, unless it has it: `reach` is how far it is in force; `audited` is how many requests it would have denied, as far as more are known
/// than the status says.
pub fn wanted(report: &Report, reach: Reach, audited: Option<u64>, now: Timestamp) -> Option<Wanted> {
    let observed: &Value = &serde_json::from_str(&report.observed).unwrap_or_default();
    let was_programmed = was_programmed(report, observed);
    let last_good: Option<Value> = report.outcome.last_good.as_deref().and_then(|good| serde_json::from_str(good).ok());
    let mut conditions = vec![accepted(report)];
    if report.target.kind == Kind::Policy {
        conditions.push(programmed(report, last_good.as_ref(), reach, was_programmed));
    }
    let mut transitions = Vec::new();
    let conditions: Vec<Value> = conditions
        .into_iter()
        .map(|(kind, holds, reason, message)| {
            let old = condition(observed, kind);
            let status = if holds { "True" } else { "False" };
            let same = |field: &str, text: &str| old.and_then(|old| old.get(field)?.as_str()) == Some(text);
            if !(same("status", status) && same("reason", reason)) {
                transitions.push((kind.to_owned(), holds, reason.to_owned(), message.clone()));
            }
            let since = old.filter(|_| same("status", status)).and_then(|old| old.get("lastTransitionTime").cloned());
            json!({
                "type": kind, "status": status, "reason": reason, "message": message,
                "observedGeneration": report.generation,
                "lastTransitionTime": since.unwrap_or_else(|| json!(seconds(now))),
            })
        })
        .collect();
    let facts = report.outcome.facts.as_ref();
    let closed = last_good.as_ref().filter(|_| report.outcome.closed.is_some());
    let mut status = json!({
        "conditions": conditions,
        "observedGeneration": report.generation,
        "service": facts.map(|facts| &*facts.service).or_else(|| closed?.get("audience")?.as_str()),
        "operations": facts.map(|facts| facts.operations),
        "grants": facts.map(|facts| facts.grants),
        "auditedDenials": audited.max(report.audited()),
        "revision": revision(report, observed.get("revision").filter(|_| was_programmed), reach),
        "lastGood": last_good,
    });
    if let Value::Object(fields) = &mut status {
        fields.retain(|_, value| !value.is_null());
    }
    (status != *observed).then_some(Wanted { status, transitions })
}

fn accepted(report: &Report) -> (&'static str, bool, &'static str, String) {
    let Outcome { rejected, in_force, .. } = &report.outcome;
    match rejected {
        None => (ACCEPTED, true, VALID, "understood, and it owns what it claims".to_owned()),
        Some((reason, errors)) => {
            let mut texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
            if report.target.kind == Kind::Relationship && *in_force && *reason == INVALID {
                texts.insert(0, LAST_TUPLES.to_owned());
            }
            (ACCEPTED, false, reason, cut(texts.join("; ")))
        }
    }
}

fn programmed(
    report: &Report,
    last_good: Option<&Value>,
    reach: Reach,
    was_programmed: bool,
) -> (&'static str, bool, &'static str, String) {
    let not = |reason, message: &str| (PROGRAMMED, false, reason, message.to_owned());
    if let Some(by) = &report.outcome.closed {
        let why = last_good.filter(|_| !report.outcome.in_force).map(closed);
        let why = why.unwrap_or_else(|| {
            format!("its service is closed, and every request denied, until {by} is mended or removed")
        });
        return (PROGRAMMED, false, CLOSED, cut(why));
    }
    match (&report.outcome.rejected, report.outcome.in_force) {
        (Some(_), true) => not(
            LAST_GOOD,
            "the last good version stays in force on replicas that know it; one that starts anew closes the service: mend \
             or remove the policy",
        ),
        (Some(_), false) | (None, false) => not(NOT_ACCEPTED, "nothing of it is in force: its service denies"),
        (None, true) => match reach {
            Reach::NotAsked => not(
                NOT_ASKED,
                "the API server does not ask before its Kubernetes operations: the ValidatingWebhookConfiguration of governed \
                 operations lacks its rules, or the roots in force; Durward puts them there, if it may write it",
            ),
            Reach::Unknown if !was_programmed => not(PENDING, "not every ready replica has it in force yet"),
            Reach::Unknown | Reach::Everywhere(_) => {
                (PROGRAMMED, true, IN_FORCE, "in force on every ready replica".to_owned())
            }
        },
    }
}

/// What is to be known of a service that is closed.
fn closed(good: &Value) -> String {
    let service = good.get("audience").and_then(Value::as_str).unwrap_or_default();
    let version = good.get("generation").and_then(Value::as_i64);
    let version = version.map_or_else(|| "an earlier version".to_owned(), |number| format!("generation {number}"));
    let governed =
        if good.get("kubernetes").is_some() { ", and so are the Kubernetes operations that it governed" } else { "" };
    format!(
        "service `{service}` is closed: {version} was in force, which a replica that starts anew can't know, so every request \
         to the service is denied{governed}; mend or remove the policy"
    )
}

/// The revision in which this generation came into force: what was once found stays, other policies come and go.
fn revision(report: &Report, before: Option<&Value>, reach: Reach) -> Option<String> {
    let Outcome { rejected, in_force, closed, .. } = &report.outcome;
    if report.target.kind != Kind::Policy || rejected.is_some() || !in_force || closed.is_some() {
        return None;
    }
    let before = before.and_then(Value::as_str).map(ToOwned::to_owned);
    match reach {
        Reach::NotAsked => None,
        Reach::Unknown => before,
        Reach::Everywhere(revision) => before.or_else(|| Some(revision.to_string())),
    }
}

/// Whether this generation is already known to be in force everywhere.
fn was_programmed(report: &Report, observed: &Value) -> bool {
    condition(observed, PROGRAMMED).is_some_and(|condition| {
        condition.get("status").and_then(Value::as_str) == Some("True")
            && condition.get("observedGeneration").and_then(Value::as_i64) == Some(report.generation)
    })
}

fn condition<'v>(status: &'v Value, kind: &str) -> Option<&'v Value> {
    let is = |condition: &&Value| condition.get("type").and_then(Value::as_str) == Some(kind);
    status.get("conditions")?.as_array()?.iter().find(is)
}

/// RFC 3339 in whole seconds, as the API server stores it.
fn seconds(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn cut(mut text: String) -> String {
    if text.len() > MAX_MESSAGE {
        let end = (0..=MAX_MESSAGE - 4).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        text.truncate(end);
        text.push_str(" …");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use durward_core::digest::Digest;

    fn report(rejected: Option<(&'static str, Vec<FieldError>)>, in_force: bool, observed: Value) -> Report {
        let facts = Some(Facts { service: "orders-api".into(), operations: 3, grants: 2, governs: true });
        Report {
            target: Target { kind: Kind::Policy, namespace: Some("shop".into()), name: "orders".into() },
            uid: "u".into(),
            generation: 4,
            observed: observed.to_string().into(),
            outcome: Outcome { rejected, in_force, facts: facts.filter(|_| in_force), ..Outcome::default() },
        }
    }

    fn everywhere(revision: &[u8]) -> Reach {
        Reach::Everywhere(Digest::of([revision]))
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a time")
    }

    fn state<'v>(status: &'v Value, kind: &str) -> (&'v str, &'v str) {
        let condition = condition(status, kind).expect(kind);
        (condition["status"].as_str().expect("status"), condition["reason"].as_str().expect("reason"))
    }

    #[test]
    fn a_status_is_written_once() {
        let revision = Digest::of([b"one".as_slice()]);
        let first =
            wanted(&report(None, true, Value::Null), Reach::Everywhere(revision), None, at(0)).expect("a status");
        assert_eq!(state(&first.status, ACCEPTED), ("True", "Valid"));
        assert_eq!(state(&first.status, PROGRAMMED), ("True", "InForce"));
        assert_eq!(first.status["operations"], 3);
        assert_eq!(first.transitions.len(), 2);
        let again = report(None, true, first.status);
        assert_eq!(wanted(&again, everywhere(b"two"), None, at(60)), None, "another policy changed");
        assert_eq!(wanted(&again, Reach::Unknown, None, at(60)), None, "a new leader has not asked the replicas yet");
    }

    #[test]
    fn a_new_generation_is_pending_until_every_replica_has_it() {
        let old = wanted(&report(None, true, Value::Null), everywhere(b"one"), None, at(0)).expect("one");
        let newer = Report { generation: 5, ..report(None, true, old.status) };
        let pending = wanted(&newer, Reach::Unknown, None, at(1)).expect("a status");
        assert_eq!(state(&pending.status, PROGRAMMED), ("False", "Pending"));
        assert_eq!(pending.status.get("revision"), None);
        assert_eq!(pending.status["observedGeneration"], 5);
    }

    #[test]
    fn what_the_api_server_does_not_ask_for_is_not_in_force() {
        let first = wanted(&report(None, true, Value::Null), Reach::NotAsked, None, at(0)).expect("a status").status;
        assert_eq!((state(&first, ACCEPTED), state(&first, PROGRAMMED)), (("True", "Valid"), ("False", "NotAsked")));
        let asked = wanted(&report(None, true, first), everywhere(b"one"), None, at(1)).expect("a status").status;
        assert_eq!(state(&asked, PROGRAMMED), ("True", "InForce"));
        // somebody took the rules away; the same generation is no longer in force
        let taken = wanted(&report(None, true, asked), Reach::NotAsked, None, at(2)).expect("a status").status;
        assert_eq!((state(&taken, PROGRAMMED), taken.get("revision")), (("False", "NotAsked"), None));
        assert_eq!(wanted(&report(None, true, taken.clone()), Reach::NotAsked, None, at(9)), None, "at rest");
        let back = wanted(&report(None, true, taken), everywhere(b"two"), None, at(10)).expect("a status").status;
        assert_eq!(state(&back, PROGRAMMED), ("True", "InForce"));
    }

    #[test]
    fn a_rejected_policy_says_why_and_what_stays() {
        let errors = vec![FieldError { field: "spec.grants[0].when".to_owned(), message: "x".repeat(5000) }];
        let status = wanted(&report(Some(("Invalid", errors.clone())), true, Value::Null), Reach::Unknown, None, at(0))
            .expect("one")
            .status;
        assert_eq!(state(&status, ACCEPTED), ("False", "Invalid"));
        assert_eq!(state(&status, PROGRAMMED), ("False", "LastGoodInForce"));
        let message = condition(&status, ACCEPTED).expect("accepted")["message"].as_str().expect("text");
        assert!(message.starts_with("spec.grants[0].when: xxx") && message.len() <= MAX_MESSAGE, "{}", message.len());
        let status = wanted(&report(Some(("Invalid", errors)), false, Value::Null), Reach::Unknown, None, at(0))
            .expect("one")
            .status;
        assert_eq!(state(&status, PROGRAMMED), ("False", "NotAccepted"));
        assert_eq!(status.get("service"), None);
    }

    #[test]
    fn a_broken_relationship_says_what_a_restart_will_do() {
        let of = |reason: &'static str, in_force: bool| {
            let errors =
                vec![FieldError { field: "spec.tuples[0].object".to_owned(), message: "no object".to_owned() }];
            let last_good = Some(json!({"generation": 3, "service": "orders.shop"}).to_string().into());
            let report = report(Some((reason, errors)), in_force, Value::Null);
            let target = Target { kind: Kind::Relationship, ..report.target };
            let outcome = Outcome { last_good, facts: None, ..report.outcome };
            wanted(&Report { target, outcome, ..report }, Reach::Unknown, None, at(0)).expect("a status").status
        };
        let known = of("Invalid", true);
        assert_eq!((state(&known, ACCEPTED), &known["lastGood"]["generation"]), (("False", "Invalid"), &json!(3)));
        let message = condition(&known, ACCEPTED).expect("accepted")["message"].as_str().expect("text");
        assert!(
            message.contains("relations that exclude anybody hold for nobody") && message.contains("spec.tuples[0]"),
            "{message}"
        );
        for (reason, in_force) in [("UnknownRelation", true), ("LastGoodUnknown", false)] {
            let status = of(reason, in_force);
            let message = condition(&status, ACCEPTED).expect("accepted")["message"].as_str().expect("text");
            assert_eq!((state(&status, ACCEPTED), message), (("False", reason), "spec.tuples[0].object: no object"));
        }
    }

    fn good() -> Value {
        let rule = json!({"apiGroups": [""], "resources": ["pods/exec"], "verbs": ["CONNECT"]});
        json!({"generation": 3, "audience": "orders-api", "hosts": ["orders.shop.svc"], "kubernetes": [rule]})
    }

    #[test]
    fn what_was_accepted_is_remembered_before_it_is_in_force_everywhere() {
        let remembering = |report: Report| {
            let last_good = Some(good().to_string().into());
            Report { outcome: Outcome { last_good, ..report.outcome }, ..report }
        };
        let pending = wanted(&remembering(report(None, true, Value::Null)), Reach::Unknown, None, at(0))
            .expect("a status")
            .status;
        assert_eq!((state(&pending, PROGRAMMED), &pending["lastGood"]), (("False", "Pending"), &good()));
        assert_eq!(
            wanted(&remembering(report(None, true, pending.clone())), Reach::Unknown, None, at(9)),
            None,
            "at rest"
        );
        // a broken version that follows at once leaves it there
        let broken = report(Some(("Invalid", vec![])), true, pending);
        let broken = Report { generation: 5, ..remembering(broken) };
        let status = wanted(&broken, Reach::Unknown, None, at(1)).expect("a status").status;
        assert_eq!((state(&status, PROGRAMMED), &status["lastGood"]), (("False", "LastGoodInForce"), &good()));
        let message = condition(&status, PROGRAMMED).expect("programmed")["message"].as_str().expect("text");
        assert!(message.contains("one that starts anew closes the service: mend or remove the policy"), "{message}");
    }

    #[test]
    fn a_closed_service_is_told_with_what_to_do() {
        let closed = |rejected, in_force, observed| {
            let report = report(rejected, in_force, observed);
            let last_good = Some(good().to_string().into());
            Report { outcome: Outcome { closed: Some("shop/orders".into()), last_good, ..report.outcome }, ..report }
        };
        let broken = |observed| closed(Some(("Invalid", vec![])), false, observed);
        let told = wanted(&broken(Value::Null), Reach::Unknown, None, at(0)).expect("a status");
        assert_eq!(state(&told.status, PROGRAMMED), ("False", "ServiceClosed"));
        assert_eq!((&told.status["service"], &told.status["lastGood"]), (&json!("orders-api"), &good()));
        let message = condition(&told.status, PROGRAMMED).expect("programmed")["message"].as_str().expect("text");
        for part in ["`orders-api` is closed", "generation 3 was in force", "Kubernetes operations", "mend or remove"] {
            assert!(message.contains(part), "{part}: {message}");
        }
        assert!(
            told.transitions
                .iter()
                .any(|(kind, _, reason, _)| (kind.as_str(), reason.as_str()) == (PROGRAMMED, CLOSED))
        );
        assert_eq!(wanted(&broken(told.status), Reach::Unknown, None, at(60)), None, "nothing is written at rest");
        // another policy of the service, which is good itself
        let revision = everywhere(b"one");
        let other = wanted(&closed(None, true, Value::Null), revision, None, at(0)).expect("a status").status;
        assert_eq!(
            (state(&other, ACCEPTED), state(&other, PROGRAMMED)),
            (("True", "Valid"), ("False", "ServiceClosed"))
        );
        assert_eq!(other.get("revision"), None);
        let message = condition(&other, PROGRAMMED).expect("programmed")["message"].as_str().expect("text");
        assert!(message.contains("until shop/orders is mended or removed"), "{message}");
    }

    #[test]
    fn what_audit_would_have_denied_counts_for_one_generation() {
        let counted =
            wanted(&report(None, true, Value::Null), Reach::Unknown, Some(7), at(0)).expect("a status").status;
        assert_eq!(counted["auditedDenials"], 7);
        let again = report(None, true, counted);
        assert_eq!(wanted(&again, Reach::Unknown, None, at(1)), None, "a new leader has not counted yet");
        assert_eq!(wanted(&again, Reach::Unknown, Some(7), at(1)), None, "nothing is written at rest");
        assert_eq!(wanted(&again, Reach::Unknown, Some(9), at(1)).expect("a status").status["auditedDenials"], 9);
        let newer = Report { generation: 5, ..again };
        assert_eq!(wanted(&newer, Reach::Unknown, None, at(2)).expect("a status").status.get("auditedDenials"), None);
    }

    #[test]
    fn a_condition_keeps_the_time_of_its_transition() {
        let old = wanted(&report(None, true, Value::Null), everywhere(b"one"), None, at(0)).expect("one");
        let broken = report(Some(("Invalid", vec![])), true, old.status);
        let status = wanted(&broken, Reach::Unknown, None, at(90)).expect("a status");
        assert_eq!(
            condition(&status.status, ACCEPTED).expect("accepted")["lastTransitionTime"],
            "1970-01-01T00:01:30Z"
        );
        let worse = report(Some(("NotOwned", vec![])), true, status.status);
        let status = wanted(&worse, Reach::Unknown, None, at(180)).expect("a status").status;
        assert_eq!(condition(&status, ACCEPTED).expect("accepted")["lastTransitionTime"], "1970-01-01T00:01:30Z");
    }
}
