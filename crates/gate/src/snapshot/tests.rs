//! How a gate applies the snapshot stream.

#![allow(clippy::expect_used, clippy::panic, reason = "a test says what it expects")]

use super::*;
use durward_api::resources::{Approval, ApprovalState};
use durward_approvals::samples::{approved, named, seal};
use durward_approvals::{ApprovalSeal, format_time};
use durward_authn::{Authenticator, TrustDomain};
use durward_core::condition::Truth;
use durward_core::principal::{Identity, PrincipalId};
use durward_core::request::{Call, Request, ServiceTarget};
use durward_core::risk::Assurance;
use durward_engine::Engine;
use durward_engine::audit::AuditWriter;
use serde_json::{Value, json};
use std::path::PathBuf;
use tokio::time::sleep;
use url::Url;

const MAX_AGE: Duration = Duration::from_secs(60);

struct Gate {
    follower: SnapshotFollower,
    engine: Arc<Engine>,
    readiness: Arc<Readiness>,
}

impl Gate {
    fn new() -> Self {
        let liveness = Arc::new(LivenessIndex::deletions_only());
        let readiness = Arc::new(Readiness::default());
        readiness.mark_identities_ready();
        let trust = TrustDomain { name: "cluster.local".to_owned(), ..TrustDomain::default() };
        let authenticator = Arc::new(Authenticator::new(trust, Arc::clone(&liveness)));
        let context = EngineContext::new(authenticator, AuditWriter::nowhere(), Arc::default(), None, 1);
        let engine = Arc::clone(&context.engine);
        let domain =
            ClusterDomains { trust_domain: "cluster.local".to_owned(), cluster_domain: "cluster.local".to_owned() };
        let controller = ControllerClient {
            url: Url::parse("https://127.0.0.1:1").expect("a URL"),
            token: PathBuf::new(),
            roots: PathBuf::new(),
        };
        let follower = SnapshotFollower::new(controller, MAX_AGE, domain, &context, liveness, Arc::clone(&readiness));
        Self { follower, engine, readiness }
    }

    /// Receives a snapshot with these policies and other fields.
    fn receive(&mut self, policies: Value, other: Value) {
        let mut resources = json!({
            "policies": policies, "relationships": [], "providers": [], "secrets": [], "namespaces": {}, "serviceAccounts": null,
        });
        let (Some(all), Value::Object(other)) = (resources.as_object_mut(), other) else { panic!("objects") };
        all.extend(other);
        let line = serde_json::from_value(json!({"resources": resources})).expect("a line");
        self.follower.receive(line).expect("received");
    }

    /// Whether a workload may do an operation of the policy below.
    fn passes(&self, service_account: &str, operation: &str) -> bool {
        let id = PrincipalId::workload("cluster.local", "ops", service_account).expect("an id");
        let principal = self
            .follower
            .context
            .authenticator
            .vouched_principal(Identity::new(id, Assurance::Bearer), Some(Assurance::ProofOfPossession));
        let call = Call::Named { operation, captures: durward_core::path::Captures::new() };
        let request = Request { target: ServiceTarget::Audience("orders.shop"), call, source: None, evidence: &() };
        self.engine.would_pass(&request, principal.as_ref())
    }
}

fn policy(uid: &str) -> Value {
    let operation = |name: &str| {
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
            "authentication": [{"workload": {}}], "operations": [operation("purge"), operation("refund")],
            "grants": [{"name": "cleaners", "to": cleaners, "scopes": ["orders.purge"]}],
        },
    })
}

/// A signed approval that was decided `minutes` ago.
fn decided(seal: &ApprovalSeal, minutes: i64, change: impl FnOnce(&mut Approval)) -> Approval {
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
fn an_approval_is_valid_at_a_gate_while_snapshots_have_it() {
    let (mut gate, seal) = (Gate::new(), seal());
    let with = |approvals: &[Approval]| json!({"approvals": approvals, "approvalKeys": seal.public_keys()});
    gate.receive(json!([policy("p-1")]), with(&[]));
    assert!(!gate.passes("cleaner", "purge"));
    gate.receive(json!([policy("p-1")]), with(&[decided(&seal, 1, |_| ())]));
    assert!(gate.passes("cleaner", "purge"));
    assert!(
        !gate.passes("other", "purge") && !gate.passes("cleaner", "refund"),
        "only for its own principal and operation"
    );
    // withdrawn
    gate.receive(json!([policy("p-1")]), with(&[]));
    assert!(!gate.passes("cleaner", "purge"));
    // an older controller sends no approvals
    gate.receive(json!([policy("p-1")]), json!({}));
    assert!(!gate.passes("cleaner", "purge"));
}

#[test]
fn a_gate_ignores_foreign_altered_and_expired_approvals() {
    let (mut gate, seal, other) = (Gate::new(), seal(), seal());
    let good = decided(&seal, 1, |_| ());
    let altered = |change: fn(&mut Approval)| {
        let mut approval = good.clone();
        change(&mut approval);
        named(approval)
    };
    let keys = || json!(seal.public_keys());
    for (what, approval, keys) in [
        (
            "another principal",
            decided(&seal, 1, |a| a.spec.principal = "spiffe://cluster.local/ns/ops/sa/thief".to_owned()),
            keys(),
        ),
        ("another operation", decided(&seal, 1, |a| a.spec.operation = "refund".to_owned()), keys()),
        ("another policy", decided(&seal, 1, |a| a.spec.policy = "payments".to_owned()), keys()),
        ("a policy that was created again", decided(&seal, 1, |a| a.spec.policy_uid = "p-0".to_owned()), keys()),
        ("another namespace", decided(&seal, 1, |a| a.metadata.namespace = Some("bank".to_owned())), keys()),
        ("expired", decided(&seal, 31, |_| ()), keys()),
        ("not valid yet", decided(&seal, -5, |_| ()), keys()),
        (
            "expired by the policy, whatever it says itself",
            decided(&seal, 31, |a| {
                a.status.as_mut().expect("decided").expires_at = Some("2999-01-01T00:00:00Z".to_owned());
            }),
            keys(),
        ),
        ("a refusal", decided(&seal, 1, |a| a.status.as_mut().expect("decided").state = ApprovalState::Denied), keys()),
        ("unsigned", altered(|a| a.status.as_mut().expect("decided").signature = None), keys()),
        (
            "with a later expiry",
            altered(|a| a.status.as_mut().expect("decided").expires_at = Some("2999-01-01T00:00:00Z".to_owned())),
            keys(),
        ),
        ("another object", altered(|a| a.metadata.uid = Some("a-2".to_owned())), keys()),
        ("signed with another key", decided(&other, 1, |_| ()), keys()),
        ("signed with an unknown key", good.clone(), json!([])),
    ] {
        gate.receive(json!([policy("p-1")]), json!({"approvals": [good], "approvalKeys": seal.public_keys()}));
        assert!(gate.passes("cleaner", "purge"));
        gate.receive(json!([policy("p-1")]), json!({"approvals": [approval], "approvalKeys": keys}));
        assert!(!gate.passes("cleaner", "purge"), "{what}");
        assert!(!gate.passes("other", "purge"), "{what}");
    }
}

#[test]
fn a_gate_uses_the_step_up_page_of_the_controller() {
    let mut gate = Gate::new();
    let page = |gate: &Gate| gate.engine.step_up_page().map(|page| page.to_string());
    assert_eq!(page(&gate), None);
    for url in [json!("https://auth.example/step-up"), json!("https://other.example/step-up"), Value::Null] {
        gate.receive(json!([]), json!({"stepUp": url}));
        assert_eq!(json!(page(&gate)), url);
    }
}

#[tokio::test(start_paused = true)]
async fn policies_that_are_too_old_are_dropped_until_the_next_snapshot() {
    let mut gate = Gate::new();
    let services = |gate: &Gate| (gate.engine.snapshot().services().count(), gate.readiness.is_ready());
    assert_eq!(services(&gate), (0, false));
    assert!(gate.follower.receive(SnapshotLine::Heartbeat).is_err(), "no resources arrived yet");
    gate.receive(json!([policy("p-1")]), json!({}));
    assert_eq!(services(&gate), (1, true));
    // silent, but not for long
    gate.follower.wait_while_valid(sleep(MAX_AGE / 2)).await;
    gate.follower.receive(SnapshotLine::Heartbeat).expect("received");
    gate.follower.wait_while_valid(sleep(MAX_AGE / 2)).await;
    assert_eq!(services(&gate), (1, true));
    // for too long
    gate.follower.wait_while_valid(sleep(MAX_AGE)).await;
    assert_eq!(services(&gate), (0, false));
    assert!(gate.follower.receive(SnapshotLine::Heartbeat).is_err(), "dropped policies have to come again");
    assert_eq!(services(&gate), (0, false));
    gate.receive(json!([policy("p-1")]), json!({}));
    assert_eq!(services(&gate), (1, true));
    // a policy that the next snapshot lacks is removed
    gate.receive(json!([]), json!({}));
    assert_eq!(services(&gate), (0, true));
}

#[test]
fn unknown_tuples_let_no_caller_pass() {
    let mut gate = Gate::new();
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
    let reads = |gate: &Gate| {
        let snapshot = gate.engine.snapshot();
        let service = snapshot.by_audience("orders.shop").expect("a service");
        let alice = Identity::new(PrincipalId::user("corporate", "alice").expect("an id"), Assurance::Bearer);
        snapshot.tuples(service.key()).check(service.relations(), "doc:1", "reader", &alice) == Truth::True
    };
    let lost = json!([["shop", "bans", {"service": "orders.shop", "generation": 3}]]);
    let members = || related("members", "member");
    gate.receive(json!([policy]), json!({"relationships": [members()]}));
    assert!(reads(&gate), "no user is banned");
    gate.receive(json!([policy]), json!({"relationships": [members()], "lostRelationships": lost}));
    assert!(!reads(&gate));
    gate.receive(json!([policy]), json!({"relationships": [members()]}));
    assert!(reads(&gate), "removed");
    // a gate knows more than a controller that has just started
    gate.receive(json!([policy]), json!({"relationships": [members(), related("bans", "viewer")]}));
    gate.receive(json!([policy]), json!({"relationships": [members()], "lostRelationships": lost}));
    assert!(reads(&gate));
}
