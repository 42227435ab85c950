//! Keeps the liveness index current: which pods and service accounts exist in the cluster.

use chrono::Utc;
use durward_authn::LivenessIndex;
use durward_authn::liveness::BoundObjectKind;
use durward_kubernetes::requests::watch_backoff;
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

/// Events of one kind, each with the tag of the object's UID.
type LivenessEvents = BoxStream<'static, (BoundObjectKind, watcher::Result<watcher::Event<()>>, Option<UidTag>)>;

/// Keeps `index` current until `shutdown`. The replica becomes ready only after both kinds were listed.
pub async fn follow(
    client: Client,
    index: Arc<LivenessIndex>,
    readiness: Arc<Readiness>,
    shutdown: CancellationToken,
) -> Result<(), Failure> {
    let pods = events::<Pod>(&client, BoundObjectKind::Pod);
    let mut events = select(pods, events::<ServiceAccount>(&client, BoundObjectKind::ServiceAccount));
    let mut listings = [Vec::new(), Vec::new()];
    let mut listed = BTreeSet::new();
    loop {
        let (kind, event, tag) = tokio::select! {
            Some(event) = events.next() => event,
            () = shutdown.cancelled() => return Ok(()),
        };
        let [pods, accounts] = &mut listings;
        let listing = match kind {
            BoundObjectKind::Pod => pods,
            BoundObjectKind::ServiceAccount => accounts,
        };
        match (event, tag) {
            (Ok(watcher::Event::Init), _) => listing.clear(),
            (Ok(watcher::Event::InitApply(())), Some(tag)) => listing.push(tag),
            (Ok(watcher::Event::InitDone), _) => {
                index.replace_all(kind, std::mem::take(listing), Utc::now());
                if listed.insert(kind) && listed.len() == 2 {
                    readiness.mark_identities_ready();
                }
            }
            (Ok(watcher::Event::Apply(())), Some(tag)) => index.insert(kind, tag),
            (Ok(watcher::Event::Delete(())), Some(tag)) => index.remove(kind, tag, Utc::now()),
            (Ok(_), None) => {}
            (Err(error), _) => tracing::debug!(?kind, %error, "watch failed; trying again after a pause"),
        }
    }
}

fn events<K>(client: &Client, kind: BoundObjectKind) -> LivenessEvents
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
    watcher(objects, watcher::Config::default()).backoff(watch_backoff()).map(event).boxed()
}
