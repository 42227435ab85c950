//! Watches of the resources that decisions depend on, merged into one stream of events.

use durward_api::resources::{AccessPolicy, Approval, IdentityProvider, Relationship};
use durward_kubernetes::requests::watch_backoff;
use futures::stream::{BoxStream, SelectAll, StreamExt, select_all};
use k8s_openapi::api::core::v1::{Namespace, Secret, Service};
use kube::api::{Api, DynamicObject};
use kube::core::{ApiResource, PartialObjectMeta, ResourceExt};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Config, watcher};
use kube::{Client, Resource};
use thiserror::Error;

/// The kind of resource that a watch covers. Each becomes synchronized on its own.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WatchSource {
    Policies,
    Providers,
    Relationships,
    Approvals,
    Namespaces,
    /// Names of Services only, for a warning: a host without a Service is most often a typing mistake.
    Services,
    /// Secrets with API keys in one namespace.
    ApiKeys(String),
}

/// An object from a watch. Durward's own kinds are decoded later, one by one, so that one undecodable object does not
/// stop the others.
#[derive(Debug)]
pub enum WatchedObject {
    Durward(Box<DynamicObject>),
    Namespace(Box<PartialObjectMeta<Namespace>>),
    Service(Box<PartialObjectMeta<Service>>),
    Secret(Box<Secret>),
}

impl WatchSource {
    /// The sources that decisions wait for. Services are left out: only warnings depend on them.
    pub fn all(api_key_namespaces: &[String]) -> Vec<Self> {
        let keys = api_key_namespaces.iter().cloned().map(Self::ApiKeys);
        let all = [Self::Policies, Self::Providers, Self::Relationships, Self::Approvals, Self::Namespaces];
        all.into_iter().chain(keys).collect()
    }
}

impl WatchedObject {
    /// Namespace (empty for cluster-scoped kinds) and name.
    pub fn name(&self) -> ObjectName {
        let meta = match self {
            Self::Durward(object) => object.meta(),
            Self::Namespace(object) => object.meta(),
            Self::Service(object) => object.meta(),
            Self::Secret(object) => object.meta(),
        };
        (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
    }
}

/// Namespace and name.
pub type ObjectName = (String, String);

/// An event of one of the watches.
#[derive(Debug)]
pub enum WatchEvent {
    /// A listing starts. Objects that it does not return no longer exist.
    ListingStarted(WatchSource),
    /// An object of the current listing.
    Listed(WatchSource, WatchedObject),
    /// The listing is complete.
    ListingComplete(WatchSource),
    /// An object was created or changed.
    Applied(WatchSource, WatchedObject),
    /// An object was deleted.
    Deleted(WatchSource, ObjectName),
    /// The request to the API server failed. The watch tries again after a pause.
    Failed(WatchSource, watcher::Error),
}

/// The events of all watches.
pub type WatchEvents = SelectAll<BoxStream<'static, WatchEvent>>;

/// The stream of events ended.
#[derive(Debug, Error)]
#[error("all watches of the API server ended")]
pub struct WatchesEnded;

/// Watches all sources. Each watch reconnects by itself, after growing pauses with jitter.
pub fn watch_all(client: &Client, api_key_namespaces: &[String], api_key_label: &str) -> WatchEvents {
    let durward = |source, resource: ApiResource| {
        let api = Api::<DynamicObject>::all_with(client.clone(), &resource);
        follow(source, watcher(api, Config::default()), |object| WatchedObject::Durward(Box::new(object)))
    };
    let mut streams = vec![
        durward(WatchSource::Policies, ApiResource::erase::<AccessPolicy>(&())),
        durward(WatchSource::Providers, ApiResource::erase::<IdentityProvider>(&())),
        durward(WatchSource::Relationships, ApiResource::erase::<Relationship>(&())),
        durward(WatchSource::Approvals, ApiResource::erase::<Approval>(&())),
    ];
    let namespaces = watcher(Api::<PartialObjectMeta<Namespace>>::all(client.clone()), Config::default());
    streams.push(follow(WatchSource::Namespaces, namespaces, |object| WatchedObject::Namespace(Box::new(object))));
    let services = watcher(Api::<PartialObjectMeta<Service>>::all(client.clone()), Config::default());
    streams.push(follow(WatchSource::Services, services, |object| WatchedObject::Service(Box::new(object))));
    for namespace in api_key_namespaces {
        let api = Api::<Secret>::namespaced(client.clone(), namespace);
        let secrets = watcher(api, Config::default().labels(api_key_label));
        let source = WatchSource::ApiKeys(namespace.clone());
        streams.push(follow(source, secrets, |object| WatchedObject::Secret(Box::new(object))));
    }
    select_all(streams)
}

fn follow<K: Resource + Send + 'static>(
    source: WatchSource,
    stream: impl futures::Stream<Item = watcher::Result<watcher::Event<K>>> + Send + 'static,
    wrap: fn(K) -> WatchedObject,
) -> BoxStream<'static, WatchEvent> {
    let event = move |event| {
        let source = source.clone();
        match event {
            Ok(watcher::Event::Init) => WatchEvent::ListingStarted(source),
            Ok(watcher::Event::InitApply(object)) => WatchEvent::Listed(source, wrap(object)),
            Ok(watcher::Event::InitDone) => WatchEvent::ListingComplete(source),
            Ok(watcher::Event::Apply(object)) => WatchEvent::Applied(source, wrap(object)),
            Ok(watcher::Event::Delete(object)) => {
                WatchEvent::Deleted(source, (object.namespace().unwrap_or_default(), object.name_any()))
            }
            Err(error) => WatchEvent::Failed(source, error),
        }
    };
    stream.backoff(watch_backoff()).map(event).boxed()
}
