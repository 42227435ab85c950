//! Reconciles the webhook configurations: as policies change, and when another client changes a configuration.

mod tracker;

pub use tracker::WebhookStatus;

use super::configurations::metadata;
use super::{WebhookConfiguration, WebhookConfigurations};
use durward_core::digest::Digest;
use durward_engine::Engine;
use durward_kubernetes::requests::{FIELD_MANAGER, REQUEST_TIMEOUT, RequestError, watch_backoff, with_timeout};
use durward_kubernetes::work_queue::WorkQueue;
use durward_runtime::Failure;
use futures::stream::{BoxStream, StreamExt, select_all};
use kube::Client;
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Config, watcher};
use serde_json::json;
use std::sync::Arc;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracker::{ConfigurationTracker, StoredConfiguration};

/// An event of the configuration of this name.
type ConfigurationEvent = (String, watcher::Result<watcher::Event<DynamicObject>>);

/// The desired configurations of one snapshot and one set of roots.
struct DesiredConfigurations {
    revision: Digest,
    roots: Digest,
    configurations: [WebhookConfiguration; 3],
}

impl WebhookConfigurations {
    /// Keeps the configurations current while this replica leads, until `shutdown`.
    pub async fn run(
        self,
        client: Client,
        engine: Arc<Engine>,
        mut leading: watch::Receiver<bool>,
        mut synced: watch::Receiver<bool>,
        shutdown: CancellationToken,
    ) -> Result<(), Failure> {
        let mut revisions = engine.revisions();
        let mut authorities = self.authorities.changes();
        let mut tracker = ConfigurationTracker::new(self.certificate.clone());
        let mut queue = WorkQueue::new();
        let mut desired = self.desired_now(&engine, None);
        let mut watches = select_all(desired.configurations.iter().map(|one| one.watch(&client)));
        loop {
            let leads = *leading.borrow_and_update();
            let synced_now = *synced.borrow_and_update();
            desired = self.desired_now(&engine, Some(desired));
            tracker.set_writes(leads && synced_now);
            if synced_now {
                let outdated = self.publish(&mut tracker, &desired, leads);
                if leads {
                    outdated.into_iter().for_each(|(name, delay)| queue.push(name, delay));
                }
            }
            tokio::select! {
                Ok(()) = authorities.changed() => {}
                Ok(()) = revisions.changed() => {}
                Ok(()) = leading.changed() => {}
                Ok(()) = synced.changed() => {}
                Some((name, event)) = watches.next() => match event {
                    Ok(event) => tracker.handle(&name, event),
                    Err(error) => tracing::debug!(name, %error, "watch failed; trying again after a pause"),
                },
                name = queue.next(), if leads && synced_now => {
                    let one = desired.configurations.iter().find(|one| one.name == name);
                    if let Some(one) = one {
                        self.reconcile(&client, &mut tracker, &mut queue, one).await;
                    }
                }
                () = shutdown.cancelled() => return Ok(()),
            }
        }
    }

    /// The desired configurations; `last` if they are still current. Building them takes time in proportion to all
    /// governed operations.
    fn desired_now(&self, engine: &Engine, last: Option<DesiredConfigurations>) -> DesiredConfigurations {
        let snapshot = engine.snapshot();
        let revision = snapshot.revision();
        let roots = self.authorities.current().digest();
        match last {
            Some(last) if last.revision == revision && last.roots == roots => last,
            _ => DesiredConfigurations { revision, roots, configurations: self.desired(&snapshot) },
        }
    }

    /// Publishes roots and status; returns the outdated configurations, and how long to wait before each is written.
    fn publish(
        &self,
        tracker: &mut ConfigurationTracker,
        desired: &DesiredConfigurations,
        leads: bool,
    ) -> Vec<(String, std::time::Duration)> {
        let outdated = tracker.outdated(&desired.configurations);
        let roots = (leads && outdated.is_empty()).then_some(desired.roots);
        self.roots.send_if_modified(|published| std::mem::replace(published, roots) != roots);
        let [_, operations, _] = &desired.configurations;
        let status = tracker.status(operations, desired.revision);
        self.status.send_if_modified(|published| std::mem::replace(published, status) != status);
        outdated
    }

    async fn reconcile(
        &self,
        client: &Client,
        tracker: &mut ConfigurationTracker,
        queue: &mut WorkQueue<String>,
        desired: &WebhookConfiguration,
    ) {
        let name = desired.name.clone();
        match desired.write(client, self.certificate.as_deref()).await {
            Ok(stored) => {
                if tracker.written(desired, stored) {
                    queue.done(&name);
                    return;
                }
                tracing::warn!(name, "webhook configuration still differs after a write; trying again after a pause");
                queue.failed(name);
            }
            Err(error) => {
                tracing::warn!(name, %error, "webhook configuration write failed; trying again after a pause");
                queue.failed(name);
            }
        }
    }
}

impl WebhookConfiguration {
    fn api(&self, client: &Client) -> Api<DynamicObject> {
        Api::all_with(client.clone(), &self.resource)
    }

    fn watch(&self, client: &Client) -> BoxStream<'static, ConfigurationEvent> {
        let name = self.name.clone();
        let config = Config::default().fields(&format!("metadata.name={name}"));
        let events = watcher(self.api(client), config).backoff(watch_backoff());
        events.map(move |event| (name.clone(), event)).boxed()
    }

    /// Writes the configuration; returns what is stored then.
    async fn write(&self, client: &Client, certificate: Option<&str>) -> Result<StoredConfiguration, RequestError> {
        let api = self.api(client);
        let whole = Patch::Apply(json!({
            "apiVersion": self.resource.api_version, "kind": self.resource.kind,
            "metadata": metadata(self.name.clone(), certificate), "webhooks": self.webhooks,
        }));
        let parameters = PatchParams::apply(FIELD_MANAGER).force();
        let applied = with_timeout(REQUEST_TIMEOUT, api.patch(&self.name, &parameters, &whole)).await?;
        let stored = StoredConfiguration::without_injected_ca(&applied, certificate);
        if stored.webhooks == self.webhooks {
            return Ok(stored);
        }
        // server-side apply keeps webhooks that another client added, so the whole list is replaced
        let list = Patch::Merge(json!({"webhooks": self.webhooks}));
        let parameters = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        let merged = with_timeout(REQUEST_TIMEOUT, api.patch(&self.name, &parameters, &list)).await?;
        Ok(StoredConfiguration::without_injected_ca(&merged, certificate))
    }
}

#[cfg(test)]
mod tests;
