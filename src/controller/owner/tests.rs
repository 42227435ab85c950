//! The owner against a scripted API server: listings, gaps, silence, and objects that can't be read.

use super::*;
use crate::audit::Audit;
use crate::authn::{Authenticator, TrustDomain};
use crate::metrics::Metrics;
use durward_core::request::{Call, Request, Target};
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
        let readiness = Arc::new(Readiness::default());
        readiness.living();
        let outlets = Outlets {
            engine: Arc::clone(&engine),
            readiness: Arc::clone(&readiness),
            batches: Batches { batches: sender, applied, number: 0 },
            synced,
            gates: watch::Sender::new(Resources::default()),
            approvals: watch::Sender::default(),
        };
        let settings = Settings { trust_domain: "cluster.local".into(), cluster_domain: "cluster.local".into() };
        let seal = Seal::new(crate::identity::TokenKeys::new(crate::identity::Ring::default()));
        let owner = Owner::new(settings, Source::all(&[]), seal);
        let script = stream::select_all([script.boxed()]);
        tokio::spawn(owner.run(script, asked, outlets, CancellationToken::new()));
        Self { events, reviews, engine, readiness, batches, _applied, _synced }
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

    fn decides(&self, namespace: &str) -> bool {
        let host = format!("orders.{namespace}.svc");
        let call = Call::Http { method: "GET", path: "/" };
        let request = Request { target: Target::Host(&host), call, source: None };
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
