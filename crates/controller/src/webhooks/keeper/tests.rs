//! What is seen of the configurations, and what is to be done about it.

use super::*;
use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use kube::core::ApiResource;

const NAME: &str = "durward-operations";

fn stored(version: u64, webhooks: Value) -> DynamicObject {
    let resource = ApiResource::erase::<ValidatingWebhookConfiguration>(&());
    let mut object = DynamicObject::new(NAME, &resource);
    object.metadata.resource_version = Some(version.to_string());
    object.data = json!({ "webhooks": webhooks });
    object
}

fn wanted(webhooks: Value) -> [Configuration; 1] {
    let resource = ApiResource::erase::<ValidatingWebhookConfiguration>(&());
    [Configuration { resource, name: NAME.to_owned(), webhooks: sorted(webhooks) }]
}

fn revision(text: &str) -> Digest {
    Digest::of([text.as_bytes()])
}

fn listed(known: &mut Known, object: Option<DynamicObject>) {
    known.take_in(NAME, watcher::Event::Init);
    object.into_iter().for_each(|object| known.take_in(NAME, watcher::Event::InitApply(object)));
    known.take_in(NAME, watcher::Event::InitDone);
}

fn leader() -> Known {
    Known { leads: true, ..Known::default() }
}

#[test]
fn nothing_is_written_that_is_as_it_should_be() {
    let wanted = wanted(json!([{"name": "a", "rules": [1]}, {"name": "b"}]));
    let mut known = leader();
    assert_eq!(known.standing(&wanted[0], revision("one")), Standing::Unknown);
    assert_eq!(known.wrong(&wanted), [(NAME, Duration::ZERO)], "who has seen nothing yet writes");
    // the order of webhooks means nothing
    listed(&mut known, Some(stored(7, json!([{"name": "b"}, {"name": "a", "rules": [1]}]))));
    assert!(known.wrong(&wanted).is_empty());
    assert_eq!(known.standing(&wanted[0], revision("one")), Standing::Carries(revision("one")));
    listed(&mut known, Some(stored(7, json!([{"name": "a", "rules": [1]}, {"name": "b"}]))));
    assert!(known.wrong(&wanted).is_empty());
}

#[test]
fn what_cert_manager_writes_is_right_as_long_as_it_is_asked_to() {
    let certificate = "durward-system/durward-webhooks";
    let wanted = wanted(json!([{"name": "a", "clientConfig": {"service": 1}}]));
    let with = |version, asked: Option<&str>, webhook: Value| {
        let mut object = stored(version, json!([webhook]));
        object.metadata.annotations = asked.map(|asked| [(INJECT_CA.to_owned(), asked.to_owned())].into());
        object
    };
    let mut known = Known { certificate: Some(certificate.to_owned()), ..leader() };
    for (version, asked, webhook, right) in [
        (1, Some(certificate), json!({"name": "a", "clientConfig": {"service": 1}}), true),
        (2, Some(certificate), json!({"name": "a", "clientConfig": {"service": 1, "caBundle": "one"}}), true),
        (3, Some(certificate), json!({"name": "a", "clientConfig": {"service": 1, "caBundle": "other"}}), true),
        (4, Some(certificate), json!({"name": "a", "clientConfig": {"service": 2, "caBundle": "other"}}), false),
        (5, Some("other/certificate"), json!({"name": "a", "clientConfig": {"service": 1, "caBundle": "one"}}), false),
        (6, None, json!({"name": "a", "clientConfig": {"service": 1}}), false),
    ] {
        listed(&mut known, Some(with(version, asked, webhook)));
        assert_eq!(known.wrong(&wanted).is_empty(), right, "version {version}");
    }
    // where Durward writes it, no other is right
    let mut known = leader();
    listed(
        &mut known,
        Some(with(7, Some(certificate), json!({"name": "a", "clientConfig": {"service": 1, "caBundle": "one"}}))),
    );
    assert!(!known.wrong(&wanted).is_empty());
}

#[test]
fn what_somebody_else_changed_is_put_back_at_once_and_a_quarrel_slows_down() {
    let good = json!([{"name": "a", "rules": [1], "failurePolicy": "Fail"}]);
    let wanted = wanted(good.clone());
    let mut known = leader();
    listed(&mut known, Some(stored(7, good.clone())));
    assert!(known.wrong(&wanted).is_empty());
    let mut pauses = Vec::new();
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
        known.take_in(NAME, watcher::Event::Apply(stored(version, bad.clone())));
        assert_eq!(known.standing(&wanted[0], revision("one")), Standing::Lacking, "{bad}");
        let wrong = known.wrong(&wanted);
        assert_eq!(wrong, known.wrong(&wanted), "looking again changes nothing");
        pauses.push(wrong[0].1);
        assert!(known.wrote(&wanted[0], Found::of(&stored(version + 1, good.clone()))));
        assert_eq!(known.standing(&wanted[0], revision("one")), Standing::Carries(revision("one")));
        assert!(known.wrong(&wanted).is_empty());
        // the watch tells of both only now
        known.take_in(NAME, watcher::Event::Apply(stored(version, bad)));
        known.take_in(NAME, watcher::Event::Apply(stored(version + 1, good.clone())));
        assert!(known.wrong(&wanted).is_empty(), "what was written is not taken for somebody else's");
    }
    assert_eq!(pauses[0], Duration::ZERO);
    assert!(pauses[1..].iter().all(|pause| *pause >= Duration::from_secs(1)), "{pauses:?}");
}

#[test]
fn what_was_removed_comes_back_when_a_replica_that_ends_would_have_ended() {
    let good = json!([{"name": "a"}]);
    let wanted = wanted(good.clone());
    let mut known = leader();
    listed(&mut known, None);
    assert_eq!(known.wrong(&wanted), [(NAME, Duration::ZERO)], "it never was there");
    assert_eq!(known.standing(&wanted[0], revision("one")), Standing::Lacking);
    assert!(known.wrote(&wanted[0], Found::of(&stored(7, good.clone()))));
    known.take_in(NAME, watcher::Event::Delete(stored(9, good.clone())));
    assert_eq!(known.wrong(&wanted), [(NAME, REMOVED)]);
    assert_eq!(known.standing(&wanted[0], revision("one")), Standing::Lacking);
    // the removal of one that was made anew since
    assert!(known.wrote(&wanted[0], Found::of(&stored(12, good))));
    known.take_in(NAME, watcher::Event::Delete(stored(9, json!([]))));
    assert!(known.wrong(&wanted).is_empty());
    // a gap of the watch, in which it was removed
    listed(&mut known, None);
    assert!(known.wrong(&wanted)[0].1 >= REMOVED);
}

#[test]
fn our_own_changes_are_nobody_elses() {
    let (one, two) = (wanted(json!([{"name": "a", "rules": [1]}])), wanted(json!([{"name": "a", "rules": [1, 2]}])));
    let mut known = leader();
    listed(&mut known, Some(stored(7, one[0].webhooks.clone())));
    assert_eq!(
        (known.wrong(&one), known.standing(&one[0], revision("one"))),
        (vec![], Standing::Carries(revision("one")))
    );
    // policies ask for more now: what was asked for before still is
    assert_eq!(known.wrong(&two), [(NAME, Duration::ZERO)]);
    assert_eq!(known.standing(&two[0], revision("two")), Standing::Carries(revision("one")));
    assert!(known.wrote(&two[0], Found::of(&stored(8, two[0].webhooks.clone()))));
    assert_eq!(known.standing(&two[0], revision("two")), Standing::Carries(revision("two")));
    // what does not become what it should be is not taken for right
    assert!(!known.wrote(&one[0], Found::of(&stored(9, two[0].webhooks.clone()))));
    assert_eq!(known.wrong(&one), [(NAME, Duration::ZERO)]);
    // one that does not lead sees another write, and minds nothing
    let mut other = Known::default();
    listed(&mut other, Some(stored(7, one[0].webhooks.clone())));
    assert!(other.wrong(&one).is_empty());
    other.take_in(NAME, watcher::Event::Apply(stored(8, two[0].webhooks.clone())));
    assert!(other.waits.is_empty() && other.quarrels.is_empty());
    assert!(other.wrong(&two).is_empty());
}
