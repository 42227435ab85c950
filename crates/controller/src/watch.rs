//! What the API server tells of the resources that decisions depend on, as one stream.

use durward_api::resources::{AccessPolicy, Approval, IdentityProvider, Relationship};
use durward_kubernetes::requests::pauses;
use futures::stream::{BoxStream, SelectAll, StreamExt, select_all};
use k8s_openapi::api::core::v1::{Namespace, Secret, Service};
use kube::api::{Api, DynamicObject};
use kube::core::{ApiResource, PartialObjectMeta, ResourceExt};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Config, watcher};
use kube::{Client, Resource};

/// Where an object comes from. Each source is in sync on its own.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    Policies,
    Providers,
    Relationships,
    Approvals,
    Namespaces,
    /// Names of Services alone: a host that none stands behind is most often a slip.
    Services,
    /// Secrets with API keys in one namespace.
    ApiKeys(String),
}

/// An object as it was seen. Durward's own kinds are decoded later, each for itself: one that can't be must not stop
/// the others.
#[derive(Debug)]
pub enum Object {
    Own(Box<DynamicObject>),
    Namespace(Box<PartialObjectMeta<Namespace>>),
    Service(Box<PartialObjectMeta<Service>>),
    Secret(Box<Secret>),
}

impl Source {
    /// Everything that decisions wait for; Services are good for warnings alone.
    pub fn all(api_key_namespaces: &[String]) -> Vec<Self> {
        let keys = api_key_namespaces.iter().cloned().map(Self::ApiKeys);
        let all = [Self::Policies, Self::Providers, Self::Relationships, Self::Approvals, Self::Namespaces];
        all.into_iter().chain(keys).collect()
    }
}

impl Object {
    /// Namespace (empty for kinds without) and name.
    pub fn name(&self) -> Name {
        let meta = match self {
            Self::Own(object) => object.meta(),
            Self::Namespace(object) => object.meta(),
            Self::Service(object) => object.meta(),
            Self::Secret(object) => object.meta(),
        };
        (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
    }
}

/// Namespace and name.
pub type Name = (String, String);

/// Something that happened.
#[derive(Debug)]
pub enum Event {
    /// A listing begins: what it does not hold is gone.
    Listing(Source),
    /// An object of the listing that is going on.
    Listed(Source, Object),
    /// The listing is complete.
    Synced(Source),
    /// An object is there, new or changed.
    Applied(Source, Object),
    /// An object is gone.
    Gone(Source, Name),
    /// The API server could not be asked; it will be again, after a pause.
    Failed(Source, watcher::Error),
}

/// Every source, merged.
pub type Events = SelectAll<BoxStream<'static, Event>>;

/// Watches everything. Each source reconnects by itself, after growing pauses with jitter.
pub fn watch(client: &Client, api_key_namespaces: &[String], api_key_label: &str) -> Events {
    let own = |source, resource: ApiResource| {
        let api = Api::<DynamicObject>::all_with(client.clone(), &resource);
        follow(source, watcher(api, Config::default()), |object| Object::Own(Box::new(object)))
    };
    let mut streams = vec![
        own(Source::Policies, ApiResource::erase::<AccessPolicy>(&())),
        own(Source::Providers, ApiResource::erase::<IdentityProvider>(&())),
        own(Source::Relationships, ApiResource::erase::<Relationship>(&())),
        own(Source::Approvals, ApiResource::erase::<Approval>(&())),
    ];
    let namespaces = watcher(Api::<PartialObjectMeta<Namespace>>::all(client.clone()), Config::default());
    streams.push(follow(Source::Namespaces, namespaces, |object| Object::Namespace(Box::new(object))));
    let services = watcher(Api::<PartialObjectMeta<Service>>::all(client.clone()), Config::default());
    streams.push(follow(Source::Services, services, |object| Object::Service(Box::new(object))));
    for namespace in api_key_namespaces {
        let api = Api::<Secret>::namespaced(client.clone(), namespace);
        let secrets = watcher(api, Config::default().labels(api_key_label));
        streams.push(follow(Source::ApiKeys(namespace.clone()), secrets, |object| Object::Secret(Box::new(object))));
    }
    select_all(streams)
}

fn follow<K: Resource + Send + 'static>(
    source: Source,
    stream: impl futures::Stream<Item = watcher::Result<watcher::Event<K>>> + Send + 'static,
    object: fn(K) -> Object,
) -> BoxStream<'static, Event> {
    let event = move |event| {
        let source = source.clone();
        match event {
            Ok(watcher::Event::Init) => Event::Listing(source),
            Ok(watcher::Event::InitApply(found)) => Event::Listed(source, object(found)),
            Ok(watcher::Event::InitDone) => Event::Synced(source),
            Ok(watcher::Event::Apply(found)) => Event::Applied(source, object(found)),
            Ok(watcher::Event::Delete(gone)) => {
                Event::Gone(source, (gone.namespace().unwrap_or_default(), gone.name_any()))
            }
            Err(error) => Event::Failed(source, error),
        }
    };
    stream.backoff(pauses()).map(event).boxed()
}
