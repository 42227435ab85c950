//! The owner against a scripted API server: listings, gaps, silence, and objects that can't be read.

use super::*;
use durward_authn::{Authenticator, TrustDomain};
use durward_core::request::{Call, Request, ServiceTarget};
use durward_engine::audit::Audit;
use durward_engine::metrics::Metrics;
use durward_identity::issuance::pods::LabelledPod;
use futures::stream::{self, StreamExt};
use kube::core::{ApiResource, PartialObjectMeta};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::timeout;

struct World {
    events: mpsc::UnboundedSender<Event>,
    reviews: mpsc::Sender<Review>,
    engine: Arc<Engine>,
    readiness: Arc<Readiness>,
    batches: mpsc::UnboundedReceiver<(u64, Batch)>,
    gates: watch::Receiver<Resources>,
    _applied: mpsc::UnboundedReceiver<(u64, Digest)>,
    _synced: watch::Receiver<bool>,
}

impl World {
    fn new() -> Self {
        let (events, received) = mpsc::unbounded_channel();
        let script = stream::unfold(received, |mut received| async { Some((received.recv().await?, received)) });
        let (reviews, asked) = mpsc::channel(4);
        let (sender, batches) = mpsc::unbounded_channel();
        let (applied, _applied) = mpsc::unbounded_channel();
        let (synced, _synced) = watch::channel(false);
        let audit = Audit::nowhere();
        let engine = Arc::new(Engine::new(
            Arc::new(Authenticator::new(TrustDomain::default(), Arc::default())),
            audit,
            Arc::new(Metrics::default()),
            1,
        ));
        let (to_gates, gates) = watch::channel(Resources::default());
        let readiness = Arc::new(Readiness::default());
        readiness.living();
        let outlets = Outlets {
            engine: Arc::clone(&engine),
            readiness: Arc::clone(&readiness),
            batches: Batches { batches: sender, applied, number: 0 },
            synced,
            gates: to_gates,
            approvals: watch::Sender::default(),
        };
        let settings = ClusterDomains { trust_domain: "cluster.local".into(), cluster_domain: "cluster.local".into() };
        let seal = Seal::new(durward_identity::TokenKeys::new(durward_identity::Ring::default()));
        let owner = Owner::new(settings, Source::all(&[]), seal);
        let script = stream::select_all([script.boxed()]);
        tokio::spawn(owner.run(script, asked, outlets, CancellationToken::new()));
        Self { events, reviews, engine, readiness, batches, gates, _applied, _synced }
    }

    fn tell(&self, event: Event) {
        self.events.send(event).unwrap();
    }

    /// A whole listing of a source.
    fn list(&self, source: &Source, objects: Vec<Object>) {
        self.tell(Event::Listing(source.clone()));
        objects.into_iter().for_each(|object| self.tell(Event::Listed(source.clone(), object)));
        self.tell(Event::Synced(source.clone()));
    }

    /// Everything else is empty.
    fn sync_others(&self) {
        [Source::Providers, Source::Relationships, Source::Approvals, Source::Namespaces]
            .iter()
            .for_each(|source| self.list(source, vec![]));
    }

    /// The reports of the next batch that has any.
    async fn reports(&mut self) -> Vec<Report> {
        loop {
            let (_, batch) = timeout(Duration::from_secs(5), self.batches.recv()).await.expect("a batch").unwrap();
            if !batch.reports.is_empty() {
                return batch.reports;
            }
        }
    }

    /// The next report of a kind.
    async fn reports_of(&mut self, kind: Kind) -> Report {
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

    async fn review(&self, object: DynamicObject) -> Reviewed {
        let (reply, reviewed) = tokio::sync::oneshot::channel();
        self.reviews.send(Review { kind: "AccessPolicy".into(), object: Box::new(object), reply }).await.unwrap();
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

fn own(object: DynamicObject) -> Object {
    Object::Own(Box::new(object))
}

/// A pod of namespace `shop`, without labels.
fn shop_pod() -> LabelledPod {
    LabelledPod { namespace: "shop".to_owned(), labels: BTreeMap::new() }
}

#[tokio::test]
async fn nothing_is_in_force_and_nobody_is_ready_before_everything_was_read() {
    let mut world = World::new();
    world.list(&Source::Policies, vec![own(open("shop", 1))]);
    world.list(&Source::Providers, vec![]);
    world.list(&Source::Relationships, vec![]);
    world.list(&Source::Approvals, vec![]);
    // one listing has begun and not ended
    world.tell(Event::Listing(Source::Namespaces));
    let told = world.review(open("farm", 1)).await;
    assert!(told.errors[0].message.contains("has not read all resources yet"), "{told:?}");
    assert!(!world.readiness.is_ready() && !world.decides("shop"));
    world.tell(Event::Synced(Source::Namespaces));
    world.until("ready", |world| world.readiness.is_ready()).await;
    assert!(world.decides("shop"));
    let reports = world.reports().await;
    assert!(reports[0].outcome.in_force && reports[0].generation == 1, "{reports:?}");
}

#[tokio::test]
async fn what_a_new_listing_does_not_hold_is_gone() {
    let world = World::new();
    world.sync_others();
    world.list(&Source::Policies, vec![own(open("shop", 1)), own(open("farm", 1))]);
    world.until("both", |world| world.decides("shop") && world.decides("farm")).await;
    // the watch broke, and a policy was deleted meanwhile; nothing changes until the listing is complete
    world.tell(Event::Failed(Source::Policies, kube::runtime::watcher::Error::NoResourceVersion));
    world.tell(Event::Listing(Source::Policies));
    world.tell(Event::Listed(Source::Policies, own(open("farm", 1))));
    world.review(open("shop", 1)).await;
    assert!(world.decides("shop") && world.decides("farm"));
    world.tell(Event::Synced(Source::Policies));
    world.until("one to go", |world| !world.decides("shop")).await;
    assert!(world.decides("farm"));
}

#[tokio::test]
async fn one_object_that_can_not_be_read_stops_no_other() {
    let mut world = World::new();
    world.sync_others();
    let odd = policy("odd", 1, json!({"operations": [{"name": "x", "http": 7}]}));
    world.list(&Source::Policies, vec![own(odd), own(open("shop", 1))]);
    world.until("the good one", |world| world.decides("shop")).await;
    let reports = world.reports().await;
    let odd = reports.iter().find(|report| report.target.namespace.as_deref() == Some("odd")).unwrap();
    let (reason, errors) = odd.outcome.rejected.clone().unwrap();
    assert_eq!((reason, errors[0].field.as_str(), odd.outcome.in_force), ("Invalid", "spec.operations[0].http", false));
}

#[tokio::test]
async fn a_broken_version_leaves_the_last_good_one_in_force() {
    let mut world = World::new();
    world.sync_others();
    world.list(&Source::Policies, vec![own(open("shop", 1))]);
    world.until("in force", |world| world.decides("shop")).await;
    world.reports().await;
    world.tell(Event::Applied(Source::Policies, own(policy("shop", 2, json!({"operations": [{"name": "?"}]})))));
    let report = world.reports().await.remove(0);
    assert!(report.outcome.rejected.is_some() && report.outcome.in_force && report.generation == 2, "{report:?}");
    assert!(world.decides("shop"));
    world.tell(Event::Gone(Source::Policies, ("shop".into(), "orders".into())));
    world.until("it to go", |world| !world.decides("shop")).await;
}

#[tokio::test]
async fn a_new_status_changes_no_snapshot() {
    let mut world = World::new();
    world.sync_others();
    world.list(&Source::Policies, vec![own(open("shop", 1))]);
    world.until("in force", |world| world.decides("shop")).await;
    world.reports().await;
    let before = world.engine.snapshot();
    let mut same = open("shop", 1);
    same.data["status"] = json!({"observedGeneration": 1});
    world.tell(Event::Applied(Source::Policies, own(same)));
    let report = world.reports().await.remove(0);
    assert_eq!(&*report.observed, r#"{"observedGeneration":1}"#);
    assert!(Arc::ptr_eq(&before, &world.engine.snapshot()), "nothing was compiled anew");
}

#[tokio::test]
async fn a_namespace_that_loses_its_allowance_loses_its_hosts() {
    let world = World::new();
    let mut claims = open("shop", 1);
    claims.data["spec"]["service"]["hosts"] = json!(["orders.shop.svc", "orders.example.com"]);
    let namespace = |allowed: &str| {
        let mut namespace = PartialObjectMeta::<k8s_openapi::api::core::v1::Namespace>::default();
        namespace.metadata.name = Some("shop".into());
        namespace.metadata.annotations = Some([("durward.dev/allowed-hosts".to_owned(), allowed.to_owned())].into());
        Object::Namespace(Box::new(namespace))
    };
    world.list(&Source::Providers, vec![]);
    world.list(&Source::Relationships, vec![]);
    world.list(&Source::Approvals, vec![]);
    world.list(&Source::Namespaces, vec![namespace("orders.example.com")]);
    world.list(&Source::Policies, vec![own(claims)]);
    world.until("in force", |world| world.decides("shop")).await;
    world.tell(Event::Applied(Source::Namespaces, namespace("")));
    world.until("out of force", |world| !world.decides("shop")).await;
}

/// A policy whose status remembers generation 4, in which it governed shells of its namespace.
fn lost(namespace: &str, generation: i64, spec: Value) -> DynamicObject {
    let mut object = policy(namespace, generation, spec);
    let shells = json!({"apiGroups": [""], "resources": ["pods/exec"], "verbs": ["CONNECT"]});
    object.data["status"] = json!({
        "lastGood": {"generation": 4, "audience": format!("orders.{namespace}"), "hosts": [format!("orders.{namespace}.svc")],
                     "kubernetes": [shells]},
    });
    object
}

fn governs(world: &World, namespace: &str) -> bool {
    let verb = durward_core::kubernetes::Verb::Connect;
    let call =
        durward_core::kubernetes::ApiCall { group: "", resource: "pods", subresource: "exec", verb, name: "web" };
    world.engine.snapshot().governing(namespace, &call).next().is_some()
}

#[tokio::test]
async fn a_start_with_a_broken_policy_closes_what_its_status_remembers() {
    for broken in [json!({"operations": [{"name": "?"}]}), json!({"operations": 7}), json!("nothing")] {
        let mut world = World::new();
        world.sync_others();
        world.list(&Source::Policies, vec![own(lost("shop", 5, broken.clone())), own(open("farm", 1))]);
        world.until("the good one", |world| world.decides("farm")).await;
        let reports = world.reports().await;
        let report = reports.iter().find(|report| report.target.namespace.as_deref() == Some("shop")).unwrap();
        let Outcome { rejected, in_force, closed, last_good, .. } = &report.outcome;
        assert_eq!((rejected.is_some(), *in_force, closed.as_deref()), (true, false, Some("shop/orders")), "{broken}");
        let good: Value = serde_json::from_str(last_good.as_deref().unwrap()).unwrap();
        assert_eq!(good, lost("shop", 5, Value::Null).data["status"]["lastGood"], "it stays remembered");
        assert!(!world.decides("shop") && governs(&world, "shop") && !governs(&world, "farm"));
        assert!(
            world.engine.snapshot().by_audience("orders.shop").is_some_and(|service| service.closed_by().len() == 1)
        );
        // mended, it is open again, and governs what it says now
        world.tell(Event::Applied(Source::Policies, own(open("shop", 6))));
        world.until("mended", |world| world.decides("shop")).await;
        assert!(!governs(&world, "shop"));
        let report = world.reports().await.remove(0);
        assert_eq!((report.outcome.closed, report.outcome.rejected), (None, None));
        assert!(report.outcome.last_good.is_some_and(|good| good.contains(r#""generation":6"#)));
    }
}

#[tokio::test]
async fn a_status_that_comes_later_closes_as_well_and_one_that_is_known_changes_nothing() {
    let mut world = World::new();
    world.sync_others();
    let broken = json!({"operations": 7});
    world.list(&Source::Policies, vec![own(policy("shop", 5, broken.clone())), own(open("farm", 1))]);
    world.until("the good one", |world| world.decides("farm")).await;
    world.reports().await;
    assert!(!governs(&world, "shop"), "nobody knows of it yet");
    // the leader has known better, and has written it since
    world.tell(Event::Applied(Source::Policies, own(lost("shop", 5, broken.clone()))));
    let report = world.reports().await.remove(0);
    assert!(report.outcome.closed.is_some() && governs(&world, "shop"));
    // who has seen the good version goes by that
    world.tell(Event::Applied(Source::Policies, own(open("farm", 1))));
    world.tell(Event::Applied(Source::Policies, own(lost("farm", 2, broken))));
    world.until("the broken one", |world| world.engine.metrics().text().contains("durward_policies_rejected 2")).await;
    assert!(world.decides("farm") && !governs(&world, "farm"));
}

#[tokio::test]
async fn a_gate_is_told_nothing_of_a_closed_service() {
    let world = World::new();
    world.sync_others();
    let mut sibling = open("shop", 1);
    sibling.metadata.name = Some("sibling".to_owned());
    sibling.data["spec"]["service"] = json!({"hosts": ["orders.shop.svc"], "podSelector": {}});
    let mut broken = lost("shop", 5, json!({"operations": 7}));
    broken.data["status"]["lastGood"]["audience"] = json!("sibling.shop");
    broken.metadata.name = Some("sibling.lost".to_owned());
    // the audience is the sibling's own, and has to be let for another
    let mut namespace = PartialObjectMeta::<k8s_openapi::api::core::v1::Namespace>::default();
    namespace.metadata.name = Some("shop".into());
    namespace.metadata.annotations =
        Some([("durward.dev/allowed-audiences".to_owned(), "sibling.shop".to_owned())].into());
    world.list(&Source::Namespaces, vec![Object::Namespace(Box::new(namespace))]);
    world.list(&Source::Policies, vec![own(sibling), own(broken.clone())]);
    world.until("closed", |world| !world.engine.snapshot().services().all(|one| one.closed_by().is_empty())).await;
    let told = |world: &World| world.gates.borrow().of(&shop_pod()).policies.len();
    assert_eq!(told(&world), 0, "what is left would let in whom the lost version denied");
    world.tell(Event::Gone(Source::Policies, ("shop".into(), "sibling.lost".into())));
    world.until("open again", |world| told(world) == 1).await;
}

#[tokio::test]
async fn a_start_with_a_broken_relationship_lets_nobody_pass_by_what_its_status_remembers() {
    let mut world = World::new();
    world.sync_others();
    let relations = json!([{"object": "doc", "relations": {"banned": {}, "reader": {"exclusion": [{"relation": "banned"}, {"relation": "banned"}]}}}]);
    let service = json!({"hosts": ["orders.shop.svc"], "podSelector": {}});
    world.list(&Source::Policies, vec![own(policy("shop", 1, json!({"service": service, "relations": relations})))]);
    let stated = |generation: i64, tuple: Value| {
        let mut object = DynamicObject::new("bans", &ApiResource::erase::<Relationship>(&())).within("shop");
        object.metadata.generation = Some(generation);
        object.data = json!({
            "spec": {"service": "orders.shop", "tuples": [tuple]}, "status": {"lastGood": {"generation": 3, "service": "orders.shop"}},
        });
        Event::Applied(Source::Relationships, own(object))
    };
    let good = || json!({"object": "doc:1", "relation": "banned", "subject": "*"});
    let lost = |world: &World| {
        let snapshot = world.engine.snapshot();
        let service = snapshot.by_audience("orders.shop").map(|service| service.key().clone());
        service.is_some_and(|service| snapshot.tuples(&service).unknown_source().is_some())
    };
    let told = |world: &World| {
        let snapshot = world.gates.borrow().of(&shop_pod());
        (snapshot.relationships.len(), snapshot.lost_relationships.len())
    };
    for broken in [json!(7), json!({"object": "doc", "relation": "banned", "subject": "*"})] {
        world.tell(stated(4, broken));
        world.until("lost", |world| lost(world)).await;
        assert_eq!(told(&world), (0, 1), "a gate is told that it is lost");
        let report = world.reports_of(Kind::Relationship).await;
        assert_eq!(report.outcome.rejected.as_ref().map(|(reason, _)| *reason), Some("LastGoodUnknown"));
        assert_eq!(
            report.outcome.last_good.as_deref(),
            Some(r#"{"generation":3,"service":"orders.shop"}"#),
            "it stays remembered"
        );
        world.tell(stated(5, good()));
        world.until("mended", |world| !lost(world)).await;
        assert_eq!(told(&world), (1, 0));
        let report = world.reports_of(Kind::Relationship).await;
        assert_eq!(report.outcome.last_good.as_deref(), Some(r#"{"generation":5,"service":"orders.shop"}"#));
        // who has seen a good version goes by that, and tells gates of that
        world.tell(stated(6, json!({"object": "doc", "relation": "banned", "subject": "*"})));
        let report = world.reports_of(Kind::Relationship).await;
        assert_eq!(report.outcome.rejected.as_ref().map(|(reason, _)| *reason), Some("Invalid"));
        assert!(!lost(&world) && told(&world) == (1, 0), "{:?}", told(&world));
        world.tell(Event::Gone(Source::Relationships, ("shop".into(), "bans".into())));
        world.until("gone", |world| told(world) == (0, 0)).await;
    }
}
