//! The index against scripted watches: listings, gaps, failures, and objects that can't be decoded.

use super::*;
use crate::status::ResourceOutcome;
use durward_authn::{Authenticator, TrustDomain};
use durward_core::digest::Digest;
use durward_core::request::{Call, Request, ServiceTarget};
use durward_doors::admission::ReviewFindings;
use durward_doors::snapshots::PublishedResources;
use durward_engine::audit::AuditWriter;
use durward_engine::metrics::Metrics;
use durward_engine::{Engine, EngineContext};
use durward_identity::LabelledPod;
use durward_runtime::readiness::Readiness;
use futures::stream::{self, StreamExt};
use kube::core::{ApiResource, PartialObjectMeta};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::timeout;

struct IndexFixture {
    events: mpsc::UnboundedSender<WatchEvent>,
    reviews: mpsc::Sender<ResourceReview>,
    engine: Arc<Engine>,
    metrics: Arc<Metrics>,
    readiness: Arc<Readiness>,
    batches: mpsc::UnboundedReceiver<(u64, StatusBatch)>,
    gates: watch::Receiver<PublishedResources>,
    _revisions: mpsc::UnboundedReceiver<(u64, Digest)>,
    _synced: watch::Receiver<bool>,
}

impl IndexFixture {
    fn new() -> Self {
        let (events, received) = mpsc::unbounded_channel();
        let script = stream::unfold(received, |mut received| async { Some((received.recv().await?, received)) });
        let (reviews, pending_reviews) = mpsc::channel(4);
        let (sender, batches) = mpsc::unbounded_channel();
        let (revisions, _revisions) = mpsc::unbounded_channel();
        let (synced, _synced) = watch::channel(false);
        let audit = AuditWriter::nowhere();
        let authenticator = Arc::new(Authenticator::new(TrustDomain::default(), Arc::default()));
        let context = EngineContext::new(authenticator, audit, Arc::new(Metrics::default()), None, 1);
        let EngineContext { engine, authenticator, metrics } = context;
        let (to_gates, gates) = watch::channel(PublishedResources::default());
        let readiness = Arc::new(Readiness::default());
        readiness.mark_identities_ready();
        let outputs = Outputs {
            engine: Arc::clone(&engine),
            authenticator,
            metrics: Arc::clone(&metrics),
            readiness: Arc::clone(&readiness),
            batches: BatchSender { batches: sender, revisions, number: 0 },
            synced,
            gates: to_gates,
            approvals: watch::Sender::default(),
        };
        let domains = ClusterDomains { trust_domain: "cluster.local".into(), cluster_domain: "cluster.local".into() };
        let seal = ApprovalSeal::new(durward_identity::TokenKeys::new(durward_identity::TokenKeyRing::default()));
        let index = ResourceIndex::new(domains, WatchSource::all(&[]), seal);
        let script = stream::select_all([script.boxed()]);
        tokio::spawn(index.run(script, pending_reviews, outputs, CancellationToken::new()));
        Self { events, reviews, engine, metrics, readiness, batches, gates, _revisions, _synced }
    }

    fn send(&self, event: WatchEvent) {
        self.events.send(event).unwrap();
    }

    /// A whole listing of a source.
    fn list(&self, source: &WatchSource, objects: Vec<WatchedObject>) {
        self.send(WatchEvent::ListingStarted(source.clone()));
        objects.into_iter().for_each(|object| self.send(WatchEvent::Listed(source.clone(), object)));
        self.send(WatchEvent::ListingComplete(source.clone()));
    }

    /// Completes empty listings of all sources but policies.
    fn sync_others(&self) {
        [WatchSource::Providers, WatchSource::Relationships, WatchSource::Approvals, WatchSource::Namespaces]
            .iter()
            .for_each(|source| self.list(source, vec![]));
    }

    /// The reports of the next batch that has any.
    async fn reports(&mut self) -> Vec<StatusReport> {
        loop {
            let (_, batch) = timeout(Duration::from_secs(5), self.batches.recv()).await.expect("a batch").unwrap();
            if !batch.reports.is_empty() {
                return batch.reports;
            }
        }
    }

    /// The next report of a kind.
    async fn reports_of(&mut self, kind: ResourceKind) -> StatusReport {
        loop {
            if let Some(report) = self.reports().await.into_iter().find(|report| report.target.kind == kind) {
                return report;
            }
        }
    }

    fn decides(&self, namespace: &str) -> bool {
        let host = format!("orders.{namespace}.svc");
        let call = Call::Http { method: "GET", path: "/" };
        let request = Request { target: ServiceTarget::Host(&host), call, source: None, evidence: &() };
        self.engine.snapshot().decide(None, &request, chrono::Utc::now()).allowed()
    }

    async fn until(&self, what: &str, condition: impl Fn(&Self) -> bool) {
        let waited = timeout(Duration::from_secs(5), async {
            while !condition(self) {
                tokio::task::yield_now().await;
            }
        });
        waited.await.unwrap_or_else(|_| panic!("{what}"));
    }

    async fn review(&self, object: DynamicObject) -> ReviewFindings {
        let (reply, reviewed) = tokio::sync::oneshot::channel();
        self.reviews
            .send(ResourceReview { kind: "AccessPolicy".into(), object: Box::new(object), reply })
            .await
            .unwrap();
        timeout(Duration::from_secs(5), reviewed).await.expect("an answer").unwrap()
    }
}

fn policy(namespace: &str, generation: i64, spec: Value) -> DynamicObject {
    let mut object = DynamicObject::new("orders", &ApiResource::erase::<AccessPolicy>(&())).within(namespace);
    object.metadata.uid = Some(format!("uid-{namespace}"));
    object.metadata.generation = Some(generation);
    object.data = json!({"spec": spec});
    object
}

fn open(namespace: &str, generation: i64) -> DynamicObject {
    let operation = json!({"name": "home", "public": true, "http": [{"methods": ["GET"], "paths": ["/"]}]});
    policy(
        namespace,
        generation,
        json!({"service": {"hosts": [format!("orders.{namespace}.svc")]}, "operations": [operation]}),
    )
}

fn own(object: DynamicObject) -> WatchedObject {
    WatchedObject::Durward(Box::new(object))
}

/// A pod of namespace `shop`, without labels.
fn shop_pod() -> LabelledPod {
    LabelledPod { namespace: "shop".to_owned(), labels: BTreeMap::new() }
}

#[tokio::test]
async fn nothing_is_in_force_before_all_resources_were_read() {
    let mut fixture = IndexFixture::new();
    fixture.list(&WatchSource::Policies, vec![own(open("shop", 1))]);
    fixture.list(&WatchSource::Providers, vec![]);
    fixture.list(&WatchSource::Relationships, vec![]);
    fixture.list(&WatchSource::Approvals, vec![]);
    // one listing is incomplete
    fixture.send(WatchEvent::ListingStarted(WatchSource::Namespaces));
    let review = fixture.review(open("farm", 1)).await;
    assert!(review.errors[0].message.contains("has not read all resources yet"), "{review:?}");
    assert!(!fixture.readiness.is_ready() && !fixture.decides("shop"));
    fixture.send(WatchEvent::ListingComplete(WatchSource::Namespaces));
    fixture.until("ready", |fixture| fixture.readiness.is_ready()).await;
    assert!(fixture.decides("shop"));
    let reports = fixture.reports().await;
    assert!(reports[0].outcome.in_force && reports[0].generation == 1, "{reports:?}");
}

#[tokio::test]
async fn objects_missing_from_a_new_listing_are_deleted() {
    let fixture = IndexFixture::new();
    fixture.sync_others();
    fixture.list(&WatchSource::Policies, vec![own(open("shop", 1)), own(open("farm", 1))]);
    fixture.until("both", |fixture| fixture.decides("shop") && fixture.decides("farm")).await;
    // the watch fails while a policy is deleted; nothing changes until the listing is complete
    fixture.send(WatchEvent::Failed(WatchSource::Policies, kube::runtime::watcher::Error::NoResourceVersion));
    fixture.send(WatchEvent::ListingStarted(WatchSource::Policies));
    fixture.send(WatchEvent::Listed(WatchSource::Policies, own(open("farm", 1))));
    fixture.review(open("shop", 1)).await;
    assert!(fixture.decides("shop") && fixture.decides("farm"));
    fixture.send(WatchEvent::ListingComplete(WatchSource::Policies));
    fixture.until("the deletion of one policy", |fixture| !fixture.decides("shop")).await;
    assert!(fixture.decides("farm"));
}

#[tokio::test]
async fn an_undecodable_object_does_not_stop_the_others() {
    let mut fixture = IndexFixture::new();
    fixture.sync_others();
    let undecodable = policy("odd", 1, json!({"operations": [{"name": "x", "http": 7}]}));
    fixture.list(&WatchSource::Policies, vec![own(undecodable), own(open("shop", 1))]);
    fixture.until("the valid policy", |fixture| fixture.decides("shop")).await;
    let reports = fixture.reports().await;
    let undecodable = reports.iter().find(|report| report.target.namespace.as_deref() == Some("odd")).unwrap();
    let (reason, errors) = undecodable.outcome.rejected.clone().unwrap();
    assert_eq!(
        (reason, errors[0].field.as_str(), undecodable.outcome.in_force),
        ("Invalid", "spec.operations[0].http", false)
    );
}

#[tokio::test]
async fn an_invalid_version_leaves_the_last_good_one_in_force() {
    let mut fixture = IndexFixture::new();
    fixture.sync_others();
    fixture.list(&WatchSource::Policies, vec![own(open("shop", 1))]);
    fixture.until("in force", |fixture| fixture.decides("shop")).await;
    fixture.reports().await;
    fixture.send(WatchEvent::Applied(
        WatchSource::Policies,
        own(policy("shop", 2, json!({"operations": [{"name": "?"}]}))),
    ));
    let report = fixture.reports().await.remove(0);
    assert!(report.outcome.rejected.is_some() && report.outcome.in_force && report.generation == 2, "{report:?}");
    assert!(fixture.decides("shop"));
    fixture.send(WatchEvent::Deleted(WatchSource::Policies, ("shop".into(), "orders".into())));
    fixture.until("the deletion of the policy", |fixture| !fixture.decides("shop")).await;
}

#[tokio::test]
async fn a_new_status_changes_no_snapshot() {
    let mut fixture = IndexFixture::new();
    fixture.sync_others();
    fixture.list(&WatchSource::Policies, vec![own(open("shop", 1))]);
    fixture.until("in force", |fixture| fixture.decides("shop")).await;
    fixture.reports().await;
    let before = fixture.engine.snapshot();
    let mut same = open("shop", 1);
    same.data["status"] = json!({"observedGeneration": 1});
    fixture.send(WatchEvent::Applied(WatchSource::Policies, own(same)));
    let report = fixture.reports().await.remove(0);
    assert_eq!(&*report.stored, r#"{"observedGeneration":1}"#);
    assert!(Arc::ptr_eq(&before, &fixture.engine.snapshot()), "nothing was compiled again");
}

#[tokio::test]
async fn a_namespace_that_loses_an_allowed_host_loses_the_policy() {
    let fixture = IndexFixture::new();
    let mut claims = open("shop", 1);
    claims.data["spec"]["service"]["hosts"] = json!(["orders.shop.svc", "orders.example.com"]);
    let namespace = |allowed: &str| {
        let mut namespace = PartialObjectMeta::<k8s_openapi::api::core::v1::Namespace>::default();
        namespace.metadata.name = Some("shop".into());
        namespace.metadata.annotations = Some([("durward.dev/allowed-hosts".to_owned(), allowed.to_owned())].into());
        WatchedObject::Namespace(Box::new(namespace))
    };
    fixture.list(&WatchSource::Providers, vec![]);
    fixture.list(&WatchSource::Relationships, vec![]);
    fixture.list(&WatchSource::Approvals, vec![]);
    fixture.list(&WatchSource::Namespaces, vec![namespace("orders.example.com")]);
    fixture.list(&WatchSource::Policies, vec![own(claims)]);
    fixture.until("in force", |fixture| fixture.decides("shop")).await;
    fixture.send(WatchEvent::Applied(WatchSource::Namespaces, namespace("")));
    fixture.until("the policy to go out of force", |fixture| !fixture.decides("shop")).await;
}

/// A policy whose status records generation 4, which governed shells of its namespace.
fn lost(namespace: &str, generation: i64, spec: Value) -> DynamicObject {
    let mut object = policy(namespace, generation, spec);
    let shells = json!({"apiGroups": [""], "resources": ["pods/exec"], "verbs": ["CONNECT"]});
    object.data["status"] = json!({
        "lastGood": {"generation": 4, "audience": format!("orders.{namespace}"), "hosts": [format!("orders.{namespace}.svc")],
                     "kubernetes": [shells]},
    });
    object
}

fn governs(fixture: &IndexFixture, namespace: &str) -> bool {
    let verb = durward_core::kubernetes::Verb::Connect;
    let call =
        durward_core::kubernetes::ApiCall { group: "", resource: "pods", subresource: "exec", verb, name: "web" };
    fixture.engine.snapshot().governing(namespace, &call).next().is_some()
}

#[tokio::test]
async fn starting_with_an_invalid_policy_closes_its_recorded_service() {
    for broken in [json!({"operations": [{"name": "?"}]}), json!({"operations": 7}), json!("nothing")] {
        let mut fixture = IndexFixture::new();
        fixture.sync_others();
        fixture.list(&WatchSource::Policies, vec![own(lost("shop", 5, broken.clone())), own(open("farm", 1))]);
        fixture.until("the valid policy", |fixture| fixture.decides("farm")).await;
        let reports = fixture.reports().await;
        let report = reports.iter().find(|report| report.target.namespace.as_deref() == Some("shop")).unwrap();
        let ResourceOutcome { rejected, in_force, closed, last_good, .. } = &report.outcome;
        assert_eq!((rejected.is_some(), *in_force, closed.as_deref()), (true, false, Some("shop/orders")), "{broken}");
        let good: Value = serde_json::from_str(last_good.as_deref().unwrap()).unwrap();
        assert_eq!(good, lost("shop", 5, Value::Null).data["status"]["lastGood"], "the record stays");
        assert!(!fixture.decides("shop") && governs(&fixture, "shop") && !governs(&fixture, "farm"));
        assert!(
            fixture.engine.snapshot().by_audience("orders.shop").is_some_and(|service| service.closed_by().len() == 1)
        );
        // the fixed policy opens the service and governs the operations that it now declares
        fixture.send(WatchEvent::Applied(WatchSource::Policies, own(open("shop", 6))));
        fixture.until("fixed", |fixture| fixture.decides("shop")).await;
        assert!(!governs(&fixture, "shop"));
        let report = fixture.reports().await.remove(0);
        assert_eq!((report.outcome.closed, report.outcome.rejected), (None, None));
        assert!(report.outcome.last_good.is_some_and(|good| good.contains(r#""generation":6"#)));
    }
}

#[tokio::test]
async fn a_recorded_version_closes_the_service_unless_it_is_known() {
    let mut fixture = IndexFixture::new();
    fixture.sync_others();
    let broken = json!({"operations": 7});
    fixture.list(&WatchSource::Policies, vec![own(policy("shop", 5, broken.clone())), own(open("farm", 1))]);
    fixture.until("the valid policy", |fixture| fixture.decides("farm")).await;
    fixture.reports().await;
    assert!(!governs(&fixture, "shop"), "the record is not known yet");
    // the leader knew the last good version, and has written the record since
    fixture.send(WatchEvent::Applied(WatchSource::Policies, own(lost("shop", 5, broken.clone()))));
    let report = fixture.reports().await.remove(0);
    assert!(report.outcome.closed.is_some() && governs(&fixture, "shop"));
    // a replica that knows the good version keeps it
    fixture.send(WatchEvent::Applied(WatchSource::Policies, own(open("farm", 1))));
    fixture.send(WatchEvent::Applied(WatchSource::Policies, own(lost("farm", 2, broken))));
    fixture.until("the invalid policy", |fixture| fixture.metrics.text().contains("durward_policies_rejected 2")).await;
    assert!(fixture.decides("farm") && !governs(&fixture, "farm"));
}

#[tokio::test]
async fn a_gate_receives_no_policy_of_a_closed_service() {
    let fixture = IndexFixture::new();
    fixture.sync_others();
    let mut sibling = open("shop", 1);
    sibling.metadata.name = Some("sibling".to_owned());
    sibling.data["spec"]["service"] = json!({"hosts": ["orders.shop.svc"], "podSelector": {}});
    let mut broken = lost("shop", 5, json!({"operations": 7}));
    broken.data["status"]["lastGood"]["audience"] = json!("sibling.shop");
    broken.metadata.name = Some("sibling.lost".to_owned());
    // the audience is the sibling's default, so another policy may claim it only with the annotation
    let mut namespace = PartialObjectMeta::<k8s_openapi::api::core::v1::Namespace>::default();
    namespace.metadata.name = Some("shop".into());
    namespace.metadata.annotations =
        Some([("durward.dev/allowed-audiences".to_owned(), "sibling.shop".to_owned())].into());
    fixture.list(&WatchSource::Namespaces, vec![WatchedObject::Namespace(Box::new(namespace))]);
    fixture.list(&WatchSource::Policies, vec![own(sibling), own(broken.clone())]);
    fixture
        .until("closed", |fixture| !fixture.engine.snapshot().services().all(|one| one.closed_by().is_empty()))
        .await;
    let published = |fixture: &IndexFixture| fixture.gates.borrow().for_pod(&shop_pod()).policies.len();
    assert_eq!(published(&fixture), 0, "the other policies could allow requests that the unknown version denied");
    fixture.send(WatchEvent::Deleted(WatchSource::Policies, ("shop".into(), "sibling.lost".into())));
    fixture.until("open again", |fixture| published(fixture) == 1).await;
}

#[tokio::test]
async fn starting_with_an_invalid_relationship_loses_its_tuples() {
    let mut fixture = IndexFixture::new();
    fixture.sync_others();
    let relations = json!([{"object": "doc", "relations": {"banned": {}, "reader": {"exclusion": [{"relation": "banned"}, {"relation": "banned"}]}}}]);
    let service = json!({"hosts": ["orders.shop.svc"], "podSelector": {}});
    fixture.list(
        &WatchSource::Policies,
        vec![own(policy("shop", 1, json!({"service": service, "relations": relations})))],
    );
    let stated = |generation: i64, tuple: Value| {
        let mut object = DynamicObject::new("bans", &ApiResource::erase::<Relationship>(&())).within("shop");
        object.metadata.generation = Some(generation);
        object.data = json!({
            "spec": {"service": "orders.shop", "tuples": [tuple]}, "status": {"lastGood": {"generation": 3, "service": "orders.shop"}},
        });
        WatchEvent::Applied(WatchSource::Relationships, own(object))
    };
    let good = || json!({"object": "doc:1", "relation": "banned", "subject": "*"});
    let lost = |fixture: &IndexFixture| {
        let snapshot = fixture.engine.snapshot();
        let service = snapshot.by_audience("orders.shop").map(|service| service.key().clone());
        service.is_some_and(|service| snapshot.tuples(&service).unknown_source().is_some())
    };
    let published = |fixture: &IndexFixture| {
        let snapshot = fixture.gates.borrow().for_pod(&shop_pod());
        (snapshot.relationships.len(), snapshot.unknown_relationships.len())
    };
    for broken in [json!(7), json!({"object": "doc", "relation": "banned", "subject": "*"})] {
        fixture.send(stated(4, broken));
        fixture.until("lost", |fixture| lost(fixture)).await;
        assert_eq!(published(&fixture), (0, 1), "the gate receives that the tuples are unknown");
        let report = fixture.reports_of(ResourceKind::Relationship).await;
        assert_eq!(report.outcome.rejected.as_ref().map(|(reason, _)| *reason), Some("LastGoodUnknown"));
        assert_eq!(
            report.outcome.last_good.as_deref(),
            Some(r#"{"generation":3,"service":"orders.shop"}"#),
            "the record stays"
        );
        fixture.send(stated(5, good()));
        fixture.until("fixed", |fixture| !lost(fixture)).await;
        assert_eq!(published(&fixture), (1, 0));
        let report = fixture.reports_of(ResourceKind::Relationship).await;
        assert_eq!(report.outcome.last_good.as_deref(), Some(r#"{"generation":5,"service":"orders.shop"}"#));
        // a replica that knows a good version keeps it, and publishes it to gates
        fixture.send(stated(6, json!({"object": "doc", "relation": "banned", "subject": "*"})));
        let report = fixture.reports_of(ResourceKind::Relationship).await;
        assert_eq!(report.outcome.rejected.as_ref().map(|(reason, _)| *reason), Some("Invalid"));
        assert!(!lost(&fixture) && published(&fixture) == (1, 0), "{:?}", published(&fixture));
        fixture.send(WatchEvent::Deleted(WatchSource::Relationships, ("shop".into(), "bans".into())));
        fixture.until("the deletion", |fixture| published(fixture) == (0, 0)).await;
    }
}
