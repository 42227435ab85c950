//! Talking to the API server: how long to wait, how to try again, what may be logged.

use backon::ExponentialBuilder;
use futures::StreamExt;
use futures::stream::BoxStream;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, ExponentialBackoff, watcher};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt::Debug;
use std::time::Duration;
use tokio::time::timeout;

/// Field manager of everything that Durward writes.
pub const MANAGER: &str = "durward";
/// How long one write may take.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Waits for an answer no longer than `limit`.
pub async fn patiently<T>(
    limit: Duration,
    request: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, kube::Error> {
    timeout(limit, request).await.unwrap_or_else(|elapsed| Err(kube::Error::Service(elapsed.into())))
}

/// Makes an object what it should be, as ours.
pub async fn apply<K>(api: &Api<K>, name: &str, wanted: &K) -> Result<(), kube::Error>
where
    K: Clone + Debug + Serialize + DeserializeOwned,
{
    let parameters = PatchParams::apply(MANAGER).force();
    patiently(PATIENCE, api.patch(name, &parameters, &Patch::Apply(wanted))).await.map(drop)
}

/// Pauses between attempts to hear the API server. The longest is short: when it comes back after an outage, every change
/// that was missed counts.
pub fn pauses() -> ExponentialBackoff {
    let pauses = ExponentialBuilder::default().with_min_delay(Duration::from_millis(200));
    pauses.with_max_delay(Duration::from_secs(3)).with_jitter().without_max_times().into()
}

/// A Secret as it is now and after each change, and `None` once it is removed. The stream has no end: what can't be heard is
/// asked for again.
pub fn versions(secrets: &Api<Secret>, name: &str) -> BoxStream<'static, Option<Secret>> {
    let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let (events, name) = (watcher(secrets.clone(), config).backoff(pauses()), name.to_owned());
    let version = move |event| match event {
        Ok(watcher::Event::Apply(secret) | watcher::Event::InitApply(secret)) => Some(Some(secret)),
        Ok(watcher::Event::Delete(_)) => Some(None),
        Ok(watcher::Event::Init | watcher::Event::InitDone) => None,
        // an error of a Secret's watch could quote it
        Err(_) => {
            tracing::warn!(secret = name, "a Secret can't be watched");
            None
        }
    };
    events.filter_map(move |event| std::future::ready(version(event))).boxed()
}

/// An error of the API server without any text of objects.
pub fn brief(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => format!("{} {}: {}", status.code, status.reason, status.message),
        kube::Error::SerdeError(_) => "an answer could not be read".to_owned(),
        other => other.to_string(),
    }
}
