//! Which pods and service accounts live, as the API server tells.

use chrono::Utc;
use durward_authn::Living;
use durward_authn::living::Kind;
use durward_kubernetes::requests::pauses;
use durward_pki::serial::UidTag;
use durward_runtime::Failure;
use durward_runtime::readiness::Readiness;
use futures::StreamExt;
use futures::stream::{BoxStream, select};
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use kube::api::Api;
use kube::core::PartialObjectMeta;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, watcher};
use kube::{Client, Resource};
use std::collections::BTreeSet;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

type Events = BoxStream<'static, (Kind, watcher::Result<watcher::Event<()>>, Option<UidTag>)>;

/// Keeps `living` current until `shutdown`; a replica is not ready before it knows.
pub async fn follow(
    client: Client,
    living: Arc<Living>,
    readiness: Arc<Readiness>,
    shutdown: CancellationToken,
) -> Result<(), Failure> {
    let pods = events::<Pod>(&client, Kind::Pod);
    let mut events = select(pods, events::<ServiceAccount>(&client, Kind::ServiceAccount));
    let (mut listings, mut listed) = ([Vec::new(), Vec::new()], BTreeSet::new());
    loop {
        let (kind, event, tag) = tokio::select! {
            Some(event) = events.next() => event,
            () = shutdown.cancelled() => return Ok(()),
        };
        let [pods, accounts] = &mut listings;
        let listing = match kind {
            Kind::Pod => pods,
            Kind::ServiceAccount => accounts,
        };
        match (event, tag) {
            (Ok(watcher::Event::Init), _) => listing.clear(),
            (Ok(watcher::Event::InitApply(())), Some(tag)) => listing.push(tag),
            (Ok(watcher::Event::InitDone), _) => {
                living.are(kind, std::mem::take(listing), Utc::now());
                if listed.insert(kind) && listed.len() == 2 {
                    readiness.living();
                }
            }
            (Ok(watcher::Event::Apply(())), Some(tag)) => living.is_there(kind, tag),
            (Ok(watcher::Event::Delete(())), Some(tag)) => living.is_gone(kind, tag, Utc::now()),
            (Ok(_), None) => {}
            (Err(error), _) => tracing::debug!(?kind, %error, "who lives can't be watched"),
        }
    }
}

/// What happens to objects of a kind, each by the tag of its UID alone.
fn events<K>(client: &Client, kind: Kind) -> Events
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + Send + 'static,
{
    let objects: Api<PartialObjectMeta<K>> = Api::all(client.clone());
    let tag = |object: &PartialObjectMeta<K>| object.metadata.uid.as_deref().map(UidTag::from_uid);
    let event = move |event: watcher::Result<watcher::Event<PartialObjectMeta<K>>>| match event {
        Ok(watcher::Event::Init) => (kind, Ok(watcher::Event::Init), None),
        Ok(watcher::Event::InitDone) => (kind, Ok(watcher::Event::InitDone), None),
        Ok(watcher::Event::InitApply(object)) => (kind, Ok(watcher::Event::InitApply(())), tag(&object)),
        Ok(watcher::Event::Apply(object)) => (kind, Ok(watcher::Event::Apply(())), tag(&object)),
        Ok(watcher::Event::Delete(object)) => (kind, Ok(watcher::Event::Delete(())), tag(&object)),
        Err(error) => (kind, Err(error), None),
    };
    watcher(objects, watcher::Config::default()).backoff(pauses()).map(event).boxed()
}
