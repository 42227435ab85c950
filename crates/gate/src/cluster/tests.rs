//! How a gate applies the snapshot stream.

#![allow(clippy::expect_used, clippy::panic, reason = "a test says what it expects")]

use super::*;
use durward_api::resources::{Approval, ApprovalState};
use durward_approvals::samples::{approved, named, seal};
use durward_approvals::{ApprovalSeal, format_time};
use durward_authn::TrustDomain;
use durward_core::condition::Truth;
use durward_core::principal::{Identity, PrincipalId};
use durward_core::request::{Call, Request, ServiceTarget};
use durward_core::risk::Assurance;
use durward_engine::audit::AuditWriter;
use durward_engine::metrics::Metrics;
use serde_json::{Value, json};

const MAX_AGE: Duration = Duration::from_secs(60);

struct World {
    follower: SnapshotFollower,
    engine: Arc<Engine>,
    readiness: Arc<Readiness>,
}

impl World {
    fn new() -> Self {
        let (living, readiness) = (Arc::new(LivenessIndex::deletions_only()), Arc::new(Readiness::default()));
        readiness.mark_identities_ready();
        let trust = TrustDomain { name: "cluster.local".to_owned(), ..TrustDomain::default() };
        let authenticator = Arc::new(Authenticator::new(trust, Arc::clone(&living)));
        let metrics = Arc::new(Metrics::default());
        let context = EngineContext::new(authenticator, AuditWriter::nowhere(), metrics, None, 1);
        let engine = Arc::clone(&context.engine);
        let names =
            ClusterDomains { trust_domain: "cluster.local".to_owned(), cluster_domain: "cluster.local".to_owned() };
        let follower = SnapshotFollower {
            controller: ControllerClient {
                url: Url::parse("https://127.0.0.1:1").expect("a URL"),
                token: PathBuf::new(),
                roots: PathBuf::new(),
            },
            catalog: Catalog::new(names),
            known: AppliedResources::default(),
            engine: Arc::clone(&engine),
            authenticator: context.authenticator,
            metrics: context.metrics,
            living,
            readiness: Arc::clone(&readiness),
            max_age: MAX_AGE,
            heard: None,
        };
        Self { follower, engine, readiness }
    }

    /// The policies and whatever else is told.
    fn hear(&mut self, policies: Value, more: Value) {
        let mut told = json!({
            "policies": policies, "relationships": [], "providers": [], "secrets": [], "namespaces": {}, "serviceAccounts": null,
        });
        let (Some(all), Value::Object(more)) = (told.as_object_mut(), more) else { panic!("objects") };
        all.extend(more);
        self.follower.hear(serde_json::from_value(json!({"resources": told})).expect("a line")).expect("taken in");
    }

    /// Whether a workload may do an operation of the policy below.
    fn passes(&self, service_account: &str, operation: &str) -> bool {
        let id = PrincipalId::workload("cluster.local", "ops", service_account).expect("an id");
        let who = self
            .follower
            .authenticator
            .vouched_principal(Identity::new(id, Assurance::Bearer), Some(Assurance::ProofOfPossession));
        let call = Call::Named { operation, captures: durward_core::path::Captures::new() };
        let request = Request { target: ServiceTarget::Audience("orders.shop"), call, source: None, evidence: &() };
        self.engine.would_pass(&request, who.as_ref())
    }
}

fn policy(uid: &str) -> Value {
    let asking = |name: &str| {
        json!({
            "name": name, "http": [{"methods": ["DELETE"], "paths": [format!("/{name}")]}], "scopes": ["orders.purge"], "risk": "High",
            "approval": {"by": [{"provider": "corporate", "group": "oncall"}], "for": "30m"},
        })
    };
    let cleaners = [
        json!({"serviceAccount": {"namespace": "ops", "name": "cleaner"}}),
        json!({"serviceAccount": {"namespace": "ops", "name": "other"}}),
    ];
    json!({
        "apiVersion": "durward.dev/v1alpha1", "kind": "AccessPolicy", "metadata": {"name": "orders", "namespace": "shop", "uid": uid},
        "spec": {
            "authentication": [{"workload": {}}], "operations": [asking("purge"), asking("refund")],
            "grants": [{"name": "cleaners", "to": cleaners, "scopes": ["orders.purge"]}],
        },
    })
}

/// An approval of so many minutes ago, signed.
fn given(seal: &ApprovalSeal, minutes: i64, change: impl FnOnce(&mut Approval)) -> Approval {
    let mut approval = approved();
    let at = Utc::now() - chrono::TimeDelta::minutes(minutes);
    if let Some(status) = approval.status.as_mut() {
        status.decided_at = Some(format_time(at));
        status.expires_at = Some(format_time(at + chrono::TimeDelta::minutes(30)));
    }
    change(&mut approval);
    let mut approval = named(approval);
    seal.sign(&mut approval).expect("signed");
    approval
}

#[test]
fn an_approval_counts_at_a_gate_while_it_is_told() {
    let (mut world, seal) = (World::new(), seal());
    let told = |approvals: &[Approval]| json!({"approvals": approvals, "approvalKeys": seal.public_keys()});
    world.hear(json!([policy("p-1")]), told(&[]));
    assert!(!world.passes("cleaner", "purge"));
    world.hear(json!([policy("p-1")]), told(&[given(&seal, 1, |_| ())]));
    assert!(world.passes("cleaner", "purge"));
    assert!(!world.passes("other", "purge") && !world.passes("cleaner", "refund"), "for what it is about alone");
    // taken back
    world.hear(json!([policy("p-1")]), told(&[]));
    assert!(!world.passes("cleaner", "purge"));
    // what an older controller tells has none of it
    world.hear(json!([policy("p-1")]), json!({}));
    assert!(!world.passes("cleaner", "purge"));
}

#[test]
fn what_was_not_decided_about_this_and_by_us_counts_for_nothing_at_a_gate() {
    let (mut world, seal, other) = (World::new(), seal(), seal());
    let good = given(&seal, 1, |_| ());
    let altered = |change: fn(&mut Approval)| {
        let mut approval = good.clone();
        change(&mut approval);
        named(approval)
    };
    let keys = || json!(seal.public_keys());
    for (what, approval, keys) in [
        (
            "another principal",
            given(&seal, 1, |a| a.spec.principal = "spiffe://cluster.local/ns/ops/sa/thief".to_owned()),
            keys(),
        ),
        ("another operation", given(&seal, 1, |a| a.spec.operation = "refund".to_owned()), keys()),
        ("another policy", given(&seal, 1, |a| a.spec.policy = "payments".to_owned()), keys()),
        ("a policy that was made anew", given(&seal, 1, |a| a.spec.policy_uid = "p-0".to_owned()), keys()),
        ("another namespace", given(&seal, 1, |a| a.metadata.namespace = Some("bank".to_owned())), keys()),
        ("over", given(&seal, 31, |_| ()), keys()),
        ("not begun", given(&seal, -5, |_| ()), keys()),
        (
            "over for the policy, whatever it says",
            given(&seal, 31, |a| {
                a.status.as_mut().expect("decided").expires_at = Some("2999-01-01T00:00:00Z".to_owned());
            }),
            keys(),
        ),
        ("a refusal", given(&seal, 1, |a| a.status.as_mut().expect("decided").state = ApprovalState::Denied), keys()),
        ("unsigned", altered(|a| a.status.as_mut().expect("decided").signature = None), keys()),
        (
            "made longer",
            altered(|a| a.status.as_mut().expect("decided").expires_at = Some("2999-01-01T00:00:00Z".to_owned())),
            keys(),
        ),
        ("another object", altered(|a| a.metadata.uid = Some("a-2".to_owned())), keys()),
        ("signed by somebody else", given(&other, 1, |_| ()), keys()),
        ("signed by nobody that is known", good.clone(), json!([])),
    ] {
        world.hear(json!([policy("p-1")]), json!({"approvals": [good], "approvalKeys": seal.public_keys()}));
        assert!(world.passes("cleaner", "purge"));
        world.hear(json!([policy("p-1")]), json!({"approvals": [approval], "approvalKeys": keys}));
        assert!(!world.passes("cleaner", "purge"), "{what}");
        assert!(!world.passes("other", "purge"), "{what}");
    }
}

#[test]
fn a_gate_leads_people_where_the_controller_says() {
    let mut world = World::new();
    let page = |world: &World| world.engine.step_up_page().map(|page| page.to_string());
    assert_eq!(page(&world), None);
    for url in [json!("https://auth.example/step-up"), json!("https://other.example/step-up"), Value::Null] {
        world.hear(json!([]), json!({"stepUp": url}));
        assert_eq!(json!(page(&world)), url);
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_too_old_counts_no_more_until_it_is_told_anew() {
    let mut world = World::new();
    let services = |world: &World| (world.engine.snapshot().services().count(), world.readiness.is_ready());
    assert_eq!(services(&world), (0, false));
    assert!(world.follower.hear(SnapshotLine::Heartbeat).is_err(), "no resources arrived yet");
    world.hear(json!([policy("p-1")]), json!({}));
    assert_eq!(services(&world), (1, true));
    // away, but not for long
    world.follower.wait_while_valid(sleep(MAX_AGE / 2)).await;
    world.follower.hear(SnapshotLine::Heartbeat).expect("heard");
    world.follower.wait_while_valid(sleep(MAX_AGE / 2)).await;
    assert_eq!(services(&world), (1, true));
    // for too long
    world.follower.wait_while_valid(sleep(MAX_AGE)).await;
    assert_eq!(services(&world), (0, false));
    assert!(world.follower.hear(SnapshotLine::Heartbeat).is_err(), "dropped policies have to come again");
    assert_eq!(services(&world), (0, false));
    world.hear(json!([policy("p-1")]), json!({}));
    assert_eq!(services(&world), (1, true));
    // and what is told no more is gone
    world.hear(json!([]), json!({}));
    assert_eq!(services(&world), (0, true));
}

#[test]
fn a_key_that_is_used_is_told_of_once_in_an_hour() {
    let at = 1_800_000_000;
    let uses = |used: i64| KeyUses::from([(("partners".to_owned(), "acme".to_owned()), used)]);
    assert_eq!(due(&uses(0), &KeyUses::new()), [], "never used");
    assert_eq!(due(&uses(at), &KeyUses::new()), [("partners".to_owned(), "acme".to_owned(), at)]);
    assert_eq!(due(&uses(at + STEP - 1), &uses(at)), []);
    assert_eq!(due(&uses(at + STEP), &uses(at)).len(), 1);
    // what is told at once is not larger than what is read
    let longest = vec![("p".repeat(253), "k".repeat(63), i64::MAX); MAX_KEY_USES];
    assert!(serde_json::to_vec(&longest).expect("JSON").len() <= 4096);
}

#[test]
fn a_gate_lets_nobody_pass_by_tuples_that_nobody_knows() {
    let mut world = World::new();
    let policy = json!({
        "apiVersion": "durward.dev/v1alpha1", "kind": "AccessPolicy", "metadata": {"name": "orders", "namespace": "shop"},
        "spec": {"relations": [{"object": "doc", "relations": {
            "member": {}, "banned": {}, "reader": {"exclusion": [{"relation": "member"}, {"relation": "banned"}]},
        }}]},
    });
    let related = |name: &str, relation: &str| {
        json!({
            "apiVersion": "durward.dev/v1alpha1", "kind": "Relationship", "metadata": {"name": name, "namespace": "shop"},
            "spec": {"service": "orders.shop", "tuples": [{"object": "doc:1", "relation": relation, "subject": "*"}]},
        })
    };
    let reads = |world: &World| {
        let snapshot = world.engine.snapshot();
        let service = snapshot.by_audience("orders.shop").expect("a service");
        let anybody = Identity::new(PrincipalId::user("corporate", "alice").expect("an id"), Assurance::Bearer);
        snapshot.tuples(service.key()).check(service.relations(), "doc:1", "reader", &anybody) == Truth::True
    };
    let lost = json!([["shop", "bans", {"service": "orders.shop", "generation": 3}]]);
    let members = || related("members", "member");
    world.hear(json!([policy]), json!({"relationships": [members()]}));
    assert!(reads(&world), "nobody was ever banned");
    world.hear(json!([policy]), json!({"relationships": [members()], "lostRelationships": lost}));
    assert!(!reads(&world));
    world.hear(json!([policy]), json!({"relationships": [members()]}));
    assert!(reads(&world), "removed");
    // a gate that knows better than a controller that starts anew
    world.hear(json!([policy]), json!({"relationships": [members(), related("bans", "viewer")]}));
    world.hear(json!([policy]), json!({"relationships": [members()], "lostRelationships": lost}));
    assert!(reads(&world));
}
