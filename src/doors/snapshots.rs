//! The snapshot stream: a gate is told what its own pod is to decide by, and each change of it.
//!
//! Lines of JSON, on the token listener. Who asks proves to be a pod as at the mint; it is told of the services that it is, by
//! the selectors of policies in its namespace, and of nothing else.

use crate::authn::{Authenticator, KeySource, api_key};
use crate::doors::mint;
use crate::identity::Mint;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use durward_api::relationships::RelationshipKey;
use durward_api::resources::{AccessPolicy, IdentityProvider, Relationship};
use durward_core::policy::{Labels, PolicyKey};
use durward_core::snapshot::Snapshot;
use durward_pki::serial::Tag;
use futures::stream::unfold;
use k8s_openapi::api::core::v1::Secret;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

/// Where gates follow it.
pub(crate) const PATH: &str = "/snapshot";
/// How often something is said, so that a gate knows that it is not forgotten.
pub(crate) const BEAT: Duration = Duration::from_secs(5);
/// How long one stream lasts: then the pod proves anew that it lives, and which labels it has.
const LONGEST: Duration = Duration::from_secs(300);

/// Annotations of Namespaces on which policies depend.
pub(crate) type Annotations = BTreeMap<String, String>;

/// Everything that gates can be told of, at one moment. Clones share it.
#[derive(Clone, Default)]
pub(crate) struct Resources {
    /// By which it is known who is which service.
    pub(crate) snapshot: Snapshot,
    /// The policies in force, each in the version that is.
    pub(crate) policies: imbl::OrdMap<PolicyKey, InForce>,
    /// Tuples, each with the audience of the service that they are about.
    pub(crate) relationships: imbl::OrdMap<RelationshipKey, (Arc<str>, Arc<RawValue>)>,
    pub(crate) namespaces: imbl::HashMap<String, Annotations>,
    pub(crate) providers: Arc<Vec<IdentityProvider>>,
    /// Secrets with hashes of API keys.
    pub(crate) secrets: Arc<Vec<Secret>>,
}

/// A policy, in the version that is in force, or was last.
#[derive(Clone)]
pub(crate) struct InForce {
    /// Whether it still is.
    pub(crate) in_force: bool,
    pub(crate) audience: Arc<str>,
    /// Providers that it accepts.
    pub(crate) providers: Arc<[Arc<str>]>,
    /// The resource.
    pub(crate) json: Arc<RawValue>,
}

/// One line.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Line<P, R> {
    /// What to decide by from now on, in place of everything before.
    Resources(Told<P, R>),
    /// What was issued for these counts no more.
    Gone(Vec<Tag>),
    /// Nothing changed.
    Beat,
}

/// What a gate decides by.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Told<P, R> {
    pub(crate) policies: Vec<P>,
    pub(crate) relationships: Vec<R>,
    /// Those that the policies accept.
    pub(crate) providers: Vec<IdentityProvider>,
    /// Hashes of API keys, of these providers alone.
    pub(crate) secrets: Vec<Secret>,
    pub(crate) namespaces: BTreeMap<String, Annotations>,
    /// Labels of all Namespaces, as far as rules ask for them.
    #[serde(default)]
    pub(crate) namespace_labels: BTreeMap<String, Labels>,
    /// Issuer of the cluster's service-account tokens, and its keys.
    pub(crate) service_accounts: Option<(String, String)>,
}

/// As a gate reads it.
pub(crate) type Heard = Line<AccessPolicy, Relationship>;

/// What the door needs.
#[derive(Clone)]
pub(crate) struct Snapshots {
    pub(crate) mint: Mint,
    pub(crate) resources: watch::Receiver<Resources>,
    pub(crate) authenticator: Arc<Authenticator>,
    /// Ends every stream.
    pub(crate) closing: CancellationToken,
}

/// A pod that is told.
pub(crate) struct Pod {
    pub(crate) namespace: String,
    pub(crate) labels: BTreeMap<String, String>,
}

impl Resources {
    /// What concerns one pod.
    fn of(&self, pod: &Pod) -> Told<Arc<RawValue>, Arc<RawValue>> {
        let services = self.snapshot.services_of_pod(&pod.namespace, &pod.labels);
        let services: Vec<_> = services.collect();
        let audiences: BTreeSet<_> = services.iter().map(|service| Arc::clone(&service.key().audience)).collect();
        let asked: BTreeSet<_> = services.iter().flat_map(|service| service.namespace_labels()).collect();
        let first = PolicyKey { namespace: pod.namespace.as_str().into(), name: "".into() };
        let own = self.policies.range(first..).take_while(|(key, _)| key.namespace.as_ref() == pod.namespace);
        let own: Vec<_> = own
            .map(|(_, policy)| policy)
            .filter(|policy| policy.in_force && audiences.contains(&policy.audience))
            .collect();
        let accepted: BTreeSet<_> = own.iter().flat_map(|policy| policy.providers.iter().map(AsRef::as_ref)).collect();
        let named = |provider: &&IdentityProvider| {
            provider.metadata.name.as_deref().is_some_and(|name| accepted.contains(name))
        };
        let providers: Vec<_> = self.providers.iter().filter(named).cloned().collect();
        let keys = |secret: &&Secret| {
            let mut selectors = providers.iter().filter_map(|provider| provider.spec.api_key.as_ref());
            selectors.any(|provider| api_key::selects(&provider.selector, secret))
        };
        let first = RelationshipKey { namespace: pod.namespace.as_str().into(), name: "".into() };
        let related = self.relationships.range(first..).take_while(|(key, _)| key.namespace.as_ref() == pod.namespace);
        let related = related.filter(|(_, (audience, _))| audiences.contains(audience));
        let annotations = self.namespaces.get(&pod.namespace).cloned().unwrap_or_default();
        Told {
            policies: own.iter().map(|policy| Arc::clone(&policy.json)).collect(),
            relationships: related.map(|(_, (_, json))| Arc::clone(json)).collect(),
            secrets: self.secrets.iter().filter(keys).map(hashes).collect(),
            providers,
            namespaces: BTreeMap::from([(pod.namespace.clone(), annotations)]),
            namespace_labels: self.labels(&asked),
            service_accounts: None,
        }
    }

    /// Every Namespace with those of its labels that are asked for; none at all if none is.
    fn labels(&self, asked: &BTreeSet<&str>) -> BTreeMap<String, Labels> {
        let told = self.snapshot.labels().filter(|_| !asked.is_empty()).map(|(namespace, labels)| {
            let labels = labels.iter().filter(|(name, _)| asked.contains(name.as_str()));
            (namespace.to_string(), labels.map(|(name, value)| (name.clone(), value.clone())).collect())
        });
        told.collect()
    }
}

/// A Secret with what authentication reads of it, and nothing else.
fn hashes(secret: &Secret) -> Secret {
    let mut told = Secret { data: secret.data.clone(), ..Secret::default() };
    told.metadata.name.clone_from(&secret.metadata.name);
    told.metadata.namespace.clone_from(&secret.metadata.namespace);
    told.metadata.labels.clone_from(&secret.metadata.labels);
    told
}

/// The stream as a router.
pub(crate) fn router(snapshots: Snapshots) -> Router {
    Router::new().route(PATH, get(stream)).with_state(snapshots)
}

async fn stream(State(this): State<Snapshots>, headers: HeaderMap) -> Response {
    let pod = async { this.mint.pod(mint::credential(&headers)?).await };
    let pod = match pod.await {
        Ok(pod) => pod,
        Err(error) => return mint::refusal(error),
    };
    let stream = Stream {
        pod,
        resources: this.resources,
        authenticator: this.authenticator,
        said: Bytes::new(),
        gone: BTreeSet::new(),
        end: Instant::now() + LONGEST,
    };
    let closing = this.closing;
    let lines = unfold(stream, move |mut stream| {
        let closing = closing.clone();
        async move {
            let line = tokio::select! {
                line = stream.next() => line?,
                () = closing.cancelled_owned() => return None,
            };
            Some((Ok::<_, Infallible>(line), stream))
        }
    });
    ([(header::CONTENT_TYPE, "application/x-ndjson"), (header::CACHE_CONTROL, "no-store")], Body::from_stream(lines))
        .into_response()
}

struct Stream {
    pod: Pod,
    resources: watch::Receiver<Resources>,
    authenticator: Arc<Authenticator>,
    /// What was told last.
    said: Bytes,
    /// Those that were told to be gone.
    gone: BTreeSet<Tag>,
    end: Instant,
}

impl Stream {
    /// The next line, as soon as there is something new to tell, or at the next beat.
    async fn next(&mut self) -> Option<Bytes> {
        let beat = sleep(BEAT);
        tokio::pin!(beat);
        loop {
            let resources = self.resources.borrow_and_update().clone();
            let mut told = resources.of(&self.pod);
            told.service_accounts = self.service_accounts();
            let line = line(&Line::Resources(told))?;
            if line != self.said {
                self.said = line.clone();
                return Some(line);
            }
            let gone = self.authenticator.gone();
            if gone != self.gone {
                let news = gone.difference(&self.gone).copied().collect::<Vec<_>>();
                self.gone = gone;
                if !news.is_empty() {
                    return self::line(&Line::<(), ()>::Gone(news));
                }
            }
            tokio::select! {
                changed = self.resources.changed() => changed.ok()?,
                () = &mut beat => return self::line(&Line::<(), ()>::Beat),
                () = sleep_until(self.end) => return None,
            }
        }
    }

    fn service_accounts(&self) -> Option<(String, String)> {
        let issuer = self.authenticator.service_accounts()?;
        if let KeySource::Inline(jwks) = issuer.keys { Some((issuer.issuer, jwks)) } else { None }
    }
}

fn line<P: Serialize, R: Serialize>(line: &Line<P, R>) -> Option<Bytes> {
    let mut text =
        serde_json::to_vec(line).inspect_err(|error| tracing::error!(%error, "a line of the snapshot stream")).ok()?;
    text.push(b'\n');
    Some(text.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use durward_api::catalog::{Catalog, Change};
    use durward_api::compile::Settings;
    use serde_json::{Value, json};

    fn policy(namespace: &str, name: &str, audience: &str, app: Option<&str>, ways: &Value) -> AccessPolicy {
        let mut service = json!({"hosts": [format!("{name}.{namespace}.svc")]});
        if let (Some(app), Some(service)) = (app, service.as_object_mut()) {
            service.insert("podSelector".to_owned(), json!({"matchLabels": {"app": app}}));
            service.insert("audience".to_owned(), audience.into());
        }
        let operations = json!([{"name": "open", "http": [{"methods": ["GET"], "paths": ["/"]}]}]);
        serde_json::from_value(json!({
            "apiVersion": "durward.dev/v1alpha1", "kind": "AccessPolicy", "metadata": {"name": name, "namespace": namespace},
            "spec": {"service": service, "authentication": ways, "operations": operations},
        }))
        .expect("a policy")
    }

    fn keys(provider: &str) -> (IdentityProvider, Secret) {
        let labels = json!({"durward.dev/api-keys": provider});
        let resource = json!({
            "apiVersion": "durward.dev/v1alpha1", "kind": "IdentityProvider", "metadata": {"name": provider},
            "spec": {"apiKey": {"selector": {"matchLabels": labels}}},
        });
        let secret = json!({
            "metadata": {"name": format!("of-{provider}"), "namespace": "keys", "labels": labels, "annotations": {"by": "somebody"}},
            "data": {"hash": "eA=="},
        });
        (serde_json::from_value(resource).expect("a provider"), serde_json::from_value(secret).expect("a Secret"))
    }

    #[test]
    fn a_pod_is_told_of_itself_alone() {
        let all = [
            policy("shop", "orders", "orders.shop", Some("orders"), &json!([{"provider": "partners"}])),
            policy("shop", "web", "web.shop", Some("web"), &json!([{"provider": "others"}])),
            policy("bank", "orders", "orders.bank", Some("orders"), &json!([{"workload": {}}])),
        ];
        let mut catalog =
            Catalog::new(Settings { trust_domain: "cluster.local".into(), cluster_domain: "cluster.local".into() });
        catalog.apply(all.iter().cloned().map(|policy| Change::Policy(Box::new(policy))));
        let in_force = all.iter().map(|policy| {
            let key = durward_api::catalog::key_of(&policy.metadata).expect("a name");
            let compiled = catalog.in_force(&key).expect("in force");
            let providers = policy.spec.providers().into_iter().map(|(_, name)| name.into()).collect();
            let json = serde_json::value::to_raw_value(policy).expect("JSON").into();
            (key, InForce { in_force: true, audience: Arc::clone(&compiled.audience), providers, json })
        });
        let (providers, secrets): (Vec<_>, Vec<_>) = ["partners", "others"].map(keys).into_iter().unzip();
        let resources = Resources {
            snapshot: catalog.snapshot().clone(),
            policies: in_force.collect(),
            providers: Arc::new(providers),
            secrets: Arc::new(secrets),
            ..Resources::default()
        };
        let told = |namespace: &str, app: &str| {
            let labels = BTreeMap::from([("app".to_owned(), app.to_owned())]);
            let told = resources.of(&Pod { namespace: namespace.to_owned(), labels });
            serde_json::to_value(told).expect("JSON")
        };
        let orders = told("shop", "orders");
        let names = |told: &Value, kind: &str| -> Vec<String> {
            let all = told[kind].as_array().expect("a list");
            all.iter().map(|one| format!("{}/{}", one["metadata"]["namespace"], one["metadata"]["name"])).collect()
        };
        assert_eq!(names(&orders, "policies"), [r#""shop"/"orders""#]);
        assert_eq!(names(&orders, "providers"), [r#"null/"partners""#]);
        assert_eq!(names(&orders, "secrets"), [r#""keys"/"of-partners""#]);
        assert_eq!(orders["secrets"][0]["metadata"].get("annotations"), None, "only what is needed of a Secret");
        assert_eq!(names(&told("bank", "orders"), "policies"), [r#""bank"/"orders""#]);
        for (namespace, app) in [("shop", "other"), ("elsewhere", "orders"), ("sho", "orders"), ("shop2", "orders")] {
            let told = told(namespace, app);
            assert!(["policies", "providers", "secrets"].iter().all(|kind| names(&told, kind).is_empty()), "{told}");
        }
    }
}
