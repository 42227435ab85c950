//! The tracker, for events of the watch of a configuration.

use super::tracker::{ConfigurationTracker, RESTORE_DELAY, StoredConfiguration, WebhookStatus};
use crate::webhooks::{INJECT_CA, WebhookConfiguration, sorted_by_name};
use durward_core::digest::Digest;
use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use kube::api::DynamicObject;
use kube::core::ApiResource;
use kube::runtime::watcher;
use serde_json::{Value, json};
use std::time::Duration;

const NAME: &str = "durward-operations";

fn stored(version: u64, webhooks: Value) -> DynamicObject {
    let resource = ApiResource::erase::<ValidatingWebhookConfiguration>(&());
    let mut object = DynamicObject::new(NAME, &resource);
    object.metadata.resource_version = Some(version.to_string());
    object.data = json!({ "webhooks": webhooks });
    object
}

fn desired(webhooks: Value) -> [WebhookConfiguration; 1] {
    let resource = ApiResource::erase::<ValidatingWebhookConfiguration>(&());
    [WebhookConfiguration { resource, name: NAME.to_owned(), webhooks: sorted_by_name(webhooks) }]
}

fn revision(text: &str) -> Digest {
    Digest::of([text.as_bytes()])
}

/// A configuration to write now.
fn now() -> Vec<(String, Duration)> {
    vec![(NAME.to_owned(), Duration::ZERO)]
}

fn list(tracker: &mut ConfigurationTracker, object: Option<DynamicObject>) {
    tracker.handle(NAME, watcher::Event::Init);
    object.into_iter().for_each(|object| tracker.handle(NAME, watcher::Event::InitApply(object)));
    tracker.handle(NAME, watcher::Event::InitDone);
}

fn leader(certificate: Option<&str>) -> ConfigurationTracker {
    let mut tracker = ConfigurationTracker::new(certificate.map(ToOwned::to_owned));
    tracker.set_writes(true);
    tracker
}

#[test]
fn a_configuration_in_the_desired_state_is_not_written() {
    let desired = desired(json!([{"name": "a", "rules": [1]}, {"name": "b"}]));
    let mut tracker = leader(None);
    assert_eq!(tracker.status(&desired[0], revision("one")), WebhookStatus::Unknown);
    assert_eq!(tracker.outdated(&desired), now(), "a configuration that was not read yet is written");
    // the order of webhooks has no meaning
    list(&mut tracker, Some(stored(7, json!([{"name": "b"}, {"name": "a", "rules": [1]}]))));
    assert!(tracker.outdated(&desired).is_empty());
    assert_eq!(tracker.status(&desired[0], revision("one")), WebhookStatus::Complete(revision("one")));
    list(&mut tracker, Some(stored(7, json!([{"name": "a", "rules": [1]}, {"name": "b"}]))));
    assert!(tracker.outdated(&desired).is_empty());
}

#[test]
fn an_injected_ca_is_accepted_while_the_annotation_requests_it() {
    let certificate = "durward-system/durward-webhooks";
    let desired = desired(json!([{"name": "a", "clientConfig": {"service": 1}}]));
    let with = |version, requested: Option<&str>, webhook: Value| {
        let mut object = stored(version, json!([webhook]));
        object.metadata.annotations = requested.map(|name| [(INJECT_CA.to_owned(), name.to_owned())].into());
        object
    };
    let mut tracker = leader(Some(certificate));
    for (version, requested, webhook, as_desired) in [
        (1, Some(certificate), json!({"name": "a", "clientConfig": {"service": 1}}), true),
        (2, Some(certificate), json!({"name": "a", "clientConfig": {"service": 1, "caBundle": "one"}}), true),
        (3, Some(certificate), json!({"name": "a", "clientConfig": {"service": 1, "caBundle": "other"}}), true),
        (4, Some(certificate), json!({"name": "a", "clientConfig": {"service": 2, "caBundle": "other"}}), false),
        (5, Some("other/certificate"), json!({"name": "a", "clientConfig": {"service": 1, "caBundle": "one"}}), false),
        (6, None, json!({"name": "a", "clientConfig": {"service": 1}}), false),
    ] {
        list(&mut tracker, Some(with(version, requested, webhook)));
        assert_eq!(tracker.outdated(&desired).is_empty(), as_desired, "version {version}");
    }
    // without a Certificate, Durward writes the CA, and no other is accepted
    let mut tracker = leader(None);
    list(
        &mut tracker,
        Some(with(7, Some(certificate), json!({"name": "a", "clientConfig": {"service": 1, "caBundle": "one"}}))),
    );
    assert!(!tracker.outdated(&desired).is_empty());
}

#[test]
fn foreign_changes_are_reverted_at_once_and_conflicts_with_backoff() {
    let good = json!([{"name": "a", "rules": [1], "failurePolicy": "Fail"}]);
    let desired = desired(good.clone());
    let mut tracker = leader(None);
    list(&mut tracker, Some(stored(7, good.clone())));
    assert!(tracker.outdated(&desired).is_empty());
    let mut delays = Vec::new();
    for (version, bad) in [
        (10, json!([{"name": "a", "rules": [], "failurePolicy": "Fail"}])),
        (20, json!([{"name": "a", "rules": [1], "failurePolicy": "Ignore"}])),
        (
            30,
            json!([{"name": "a", "rules": [1], "failurePolicy": "Fail", "objectSelector": {"matchLabels": {"x": "y"}}}]),
        ),
        (40, json!([{"name": "a", "rules": [1], "failurePolicy": "Fail"}, {"name": "more"}])),
        (50, json!([])),
    ] {
        tracker.handle(NAME, watcher::Event::Apply(stored(version, bad.clone())));
        assert_eq!(tracker.status(&desired[0], revision("one")), WebhookStatus::Incomplete, "{bad}");
        let outdated = tracker.outdated(&desired);
        assert_eq!(outdated, tracker.outdated(&desired), "a second check changes nothing");
        delays.push(outdated[0].1);
        assert!(tracker.written(&desired[0], StoredConfiguration::new(&stored(version + 1, good.clone()))));
        assert_eq!(tracker.status(&desired[0], revision("one")), WebhookStatus::Complete(revision("one")));
        assert!(tracker.outdated(&desired).is_empty());
        // the watch reports both changes only now
        tracker.handle(NAME, watcher::Event::Apply(stored(version, bad)));
        tracker.handle(NAME, watcher::Event::Apply(stored(version + 1, good.clone())));
        assert!(tracker.outdated(&desired).is_empty(), "an own write is not a change by another client");
    }
    assert_eq!(delays[0], Duration::ZERO);
    assert!(delays[1..].iter().all(|delay| *delay >= Duration::from_secs(1)), "{delays:?}");
}

#[test]
fn a_deleted_configuration_is_restored_after_a_delay() {
    let good = json!([{"name": "a"}]);
    let desired = desired(good.clone());
    let mut tracker = leader(None);
    list(&mut tracker, None);
    assert_eq!(tracker.outdated(&desired), now(), "it never existed");
    assert_eq!(tracker.status(&desired[0], revision("one")), WebhookStatus::Incomplete);
    assert!(tracker.written(&desired[0], StoredConfiguration::new(&stored(7, good.clone()))));
    tracker.handle(NAME, watcher::Event::Delete(stored(9, good.clone())));
    assert_eq!(tracker.outdated(&desired), [(NAME.to_owned(), RESTORE_DELAY)]);
    assert_eq!(tracker.status(&desired[0], revision("one")), WebhookStatus::Incomplete);
    // a late event of the deletion, after the configuration was created again
    assert!(tracker.written(&desired[0], StoredConfiguration::new(&stored(12, good))));
    tracker.handle(NAME, watcher::Event::Delete(stored(9, json!([]))));
    assert!(tracker.outdated(&desired).is_empty());
    // a gap of the watch, in which it was deleted
    list(&mut tracker, None);
    assert!(tracker.outdated(&desired)[0].1 >= RESTORE_DELAY);
}

#[test]
fn own_writes_are_not_foreign_changes() {
    let one = desired(json!([{"name": "a", "rules": [1]}]));
    let two = desired(json!([{"name": "a", "rules": [1, 2]}]));
    let mut tracker = leader(None);
    list(&mut tracker, Some(stored(7, one[0].webhooks.clone())));
    assert_eq!(
        (tracker.outdated(&one), tracker.status(&one[0], revision("one"))),
        (vec![], WebhookStatus::Complete(revision("one")))
    );
    // policies govern more now: the configuration still covers the earlier operations
    assert_eq!(tracker.outdated(&two), now());
    assert_eq!(tracker.status(&two[0], revision("two")), WebhookStatus::Complete(revision("one")));
    assert!(tracker.written(&two[0], StoredConfiguration::new(&stored(8, two[0].webhooks.clone()))));
    assert_eq!(tracker.status(&two[0], revision("two")), WebhookStatus::Complete(revision("two")));
    // a write without the desired effect is not recorded as desired
    assert!(!tracker.written(&one[0], StoredConfiguration::new(&stored(9, two[0].webhooks.clone()))));
    assert_eq!(tracker.outdated(&one), now());
    // a follower receives the leader's write, and does nothing
    let mut follower = ConfigurationTracker::new(None);
    list(&mut follower, Some(stored(7, one[0].webhooks.clone())));
    assert!(follower.outdated(&one).is_empty());
    follower.handle(NAME, watcher::Event::Apply(stored(8, two[0].webhooks.clone())));
    assert!(!follower.has_conflict());
    assert!(follower.outdated(&two).is_empty());
}
