//! Keeps the webhook configurations as they should be: as policies change, and when somebody else changes them.

use super::{Configuration, INJECT_CA, Webhooks};
use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use durward_core::digest::Digest;
use durward_engine::Engine;
use durward_kubernetes::requests::{MANAGER, PATIENCE, brief, patiently, pauses};
use durward_kubernetes::work_queue::Backlog;
use durward_runtime::Failure;
use futures::stream::{BoxStream, StreamExt, select_all};
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Config, watcher};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How long a configuration that was removed stays away: whoever removes the installation ends its replicas first, and one that
/// is about to end must not bring back what would refuse everything without it.
const REMOVED: Duration = Duration::from_secs(5);
/// Changes by others that follow within this time are a quarrel, in which nobody writes faster and faster.
const QUARREL: Duration = Duration::from_secs(60);

/// Whether the API server asks before governed operations, as far as that is known here.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Standing {
    /// Nobody has looked yet.
    #[default]
    Unknown,
    /// Its configuration is not there, or was changed by somebody else.
    Lacking,
    /// It has all that the snapshot of this revision needs, with the roots in force.
    Carries(Digest),
}

/// A configuration as it is stored.
#[derive(Debug, Clone, PartialEq)]
struct Found {
    /// Its resource version, which grows with each change.
    version: Option<u64>,
    webhooks: Value,
}

impl Found {
    fn of(object: &DynamicObject) -> Self {
        let version = object.metadata.resource_version.as_deref().and_then(|version| version.parse().ok());
        Self { version, webhooks: sorted(object.data.get("webhooks").cloned().unwrap_or_default()) }
    }

    /// As [`Found::of`], but for the CA that cert-manager writes of this Certificate: whatever that is, as long as it is asked
    /// to.
    fn without_ca(object: &DynamicObject, certificate: Option<&str>) -> Self {
        let mut found = Self::of(object);
        let Some(certificate) = certificate else { return found };
        if object.annotations().get(INJECT_CA).is_none_or(|asked| asked != certificate) {
            return Self { webhooks: Value::Null, ..found };
        }
        let webhooks = found.webhooks.as_array_mut().into_iter().flatten();
        for client in webhooks.filter_map(|webhook| webhook.get_mut("clientConfig")?.as_object_mut()) {
            client.remove("caBundle");
        }
        found
    }
}

/// Webhooks in the order of their names, in which they mean the same.
pub(super) fn sorted(webhooks: Value) -> Value {
    let Value::Array(mut webhooks) = webhooks else { return Value::Array(Vec::new()) };
    webhooks.sort_by(|a, b| {
        let name = |webhook: &Value| webhook.get("name").and_then(Value::as_str).map(ToOwned::to_owned);
        name(a).cmp(&name(b))
    });
    Value::Array(webhooks)
}

/// What is known of the configurations.
#[derive(Debug, Default)]
struct Known {
    /// Whether this replica writes.
    leads: bool,
    /// The Certificate whose CA cert-manager writes.
    certificate: Option<String>,
    /// As they are stored; `None` is not there.
    stored: BTreeMap<String, Option<Found>>,
    /// Those that a listing which is going on has held.
    listed: BTreeSet<String>,
    /// As each was last what it should be.
    right: BTreeMap<String, Value>,
    /// The revision for which that was so of the one for governed operations.
    carries: Option<Digest>,
    /// How long each waits before it is put back.
    waits: BTreeMap<String, Duration>,
    quarrels: BTreeMap<String, (Instant, ExponentialBackoff)>,
}

impl Known {
    fn take_in(&mut self, name: &str, event: watcher::Event<DynamicObject>) {
        match event {
            watcher::Event::Init => drop(self.listed.remove(name)),
            watcher::Event::InitApply(object) => {
                self.listed.insert(name.to_owned());
                self.found(name, &object);
            }
            watcher::Event::Apply(object) => self.found(name, &object),
            watcher::Event::InitDone if self.listed.contains(name) => {}
            watcher::Event::InitDone => self.gone(name),
            watcher::Event::Delete(object) if self.is_news(name, &Found::of(&object)) => self.gone(name),
            watcher::Event::Delete(_) => {}
        }
    }

    fn found(&mut self, name: &str, object: &DynamicObject) {
        let found = Found::without_ca(object, self.certificate.as_deref());
        if !self.is_news(name, &found) {
            return;
        }
        let right = self.right.get(name).is_none_or(|right| *right == found.webhooks);
        if self.leads && !right && !self.waits.contains_key(name) {
            tracing::warn!(name, "somebody else changed a webhook configuration; it is put back");
            let wait = self.quarrel(name);
            self.waits.insert(name.to_owned(), wait);
        }
        self.stored.insert(name.to_owned(), Some(found));
    }

    fn gone(&mut self, name: &str) {
        if self.stored.insert(name.to_owned(), None).flatten().is_some() && self.leads {
            tracing::warn!(name, "somebody else removed a webhook configuration; it is put back");
            let wait = self.quarrel(name).max(REMOVED);
            self.waits.insert(name.to_owned(), wait);
        }
    }

    /// Whether what is told is not older than what is known: answers to writes come before the watch tells of them.
    fn is_news(&self, name: &str, told: &Found) -> bool {
        let known = self.stored.get(name).and_then(|found| found.as_ref()?.version);
        known.zip(told.version).is_none_or(|(known, told)| told >= known)
    }

    /// How long the next of several changes by others waits.
    fn quarrel(&mut self, name: &str) -> Duration {
        let lately = self.quarrels.get_mut(name).filter(|(at, _)| at.elapsed() < QUARREL);
        if let Some((at, pauses)) = lately {
            *at = Instant::now();
            return pauses.next().unwrap_or(QUARREL);
        }
        let pauses = ExponentialBuilder::default().with_min_delay(Duration::from_secs(1)).with_max_delay(QUARREL / 2);
        self.quarrels.insert(name.to_owned(), (Instant::now(), pauses.with_jitter().without_max_times().build()));
        Duration::ZERO
    }

    /// What was just written, as it is stored; tells whether it is what it should be.
    fn wrote(&mut self, wanted: &Configuration, found: Found) -> bool {
        let right = found.webhooks == wanted.webhooks;
        if right {
            self.waits.remove(&wanted.name);
            self.right.insert(wanted.name.clone(), found.webhooks.clone());
        }
        self.stored.insert(wanted.name.clone(), Some(found));
        right
    }

    /// The configurations that are not as they should be, and how long each waits.
    fn wrong<'w>(&mut self, wanted: &'w [Configuration]) -> Vec<(&'w str, Duration)> {
        let mut wrong = Vec::new();
        for one in wanted {
            let is = self.stored.get(&one.name).and_then(Option::as_ref).is_some_and(|it| it.webhooks == one.webhooks);
            if is {
                self.waits.remove(&one.name);
                self.right.insert(one.name.clone(), one.webhooks.clone());
            } else {
                wrong.push((one.name.as_str(), self.waits.get(&one.name).copied().unwrap_or_default()));
            }
        }
        wrong
    }

    /// Whether the API server asks what a snapshot needs, by the configuration for governed operations.
    fn standing(&mut self, operations: &Configuration, revision: Digest) -> Standing {
        let Some(stored) = self.stored.get(&operations.name) else { return Standing::Unknown };
        match stored {
            Some(found) if found.webhooks == operations.webhooks => self.carries = Some(revision),
            // it is behind, but nobody else has touched it
            Some(found) if self.right.get(&operations.name) == Some(&found.webhooks) => {}
            _ => return Standing::Lacking,
        }
        self.carries.map_or(Standing::Unknown, Standing::Carries)
    }
}

/// What a watch tells of the configuration of a name.
type Told = (String, watcher::Result<watcher::Event<DynamicObject>>);

impl Webhooks {
    /// Keeps the configurations current while `leading`, until `shutdown`.
    pub async fn run(
        self,
        client: Client,
        engine: Arc<Engine>,
        mut leading: watch::Receiver<bool>,
        mut synced: watch::Receiver<bool>,
        shutdown: CancellationToken,
    ) -> Result<(), Failure> {
        let (mut revisions, mut trusts) = (engine.revisions(), self.authorities.changes());
        let mut known = Known { certificate: self.certificate.clone(), ..Known::default() };
        let mut backlog = Backlog::new();
        let mut watches = select_all(self.wanted(&engine.snapshot()).iter().map(|one| one.watch(&client)));
        let mut current = None;
        loop {
            let (leads, synced_now) = (*leading.borrow_and_update(), *synced.borrow_and_update());
            let (snapshot, roots) = (engine.snapshot(), self.authorities.current().digest());
            let at = (snapshot.revision(), roots);
            // they cost in proportion to all that is governed
            let wanted = match current.take() {
                Some((of, wanted)) if of == at => wanted,
                _ => self.wanted(&snapshot),
            };
            known.leads = leads && synced_now;
            if synced_now {
                let wrong = known.wrong(&wanted);
                let carried = (leads && wrong.is_empty()).then_some(roots);
                self.carried.send_if_modified(|told| std::mem::replace(told, carried) != carried);
                if leads {
                    wrong.into_iter().for_each(|(name, wait)| backlog.push(name.to_owned(), wait));
                }
                let [_, operations, _] = &wanted;
                let standing = known.standing(operations, at.0);
                self.standing.send_if_modified(|told| std::mem::replace(told, standing) != standing);
            }
            tokio::select! {
                Ok(()) = trusts.changed() => {}
                Ok(()) = revisions.changed() => {}
                Ok(()) = leading.changed() => {}
                Ok(()) = synced.changed() => {}
                Some((name, told)) = watches.next() => match told {
                    Ok(event) => known.take_in(&name, event),
                    Err(error) => tracing::debug!(name, %error, "a webhook configuration can't be watched"),
                },
                name = backlog.next(), if leads && synced_now => {
                    let Some(one) = wanted.iter().find(|one| one.name == name) else { continue };
                    match one.write(&client, self.certificate.as_deref()).await {
                        Ok(found) => {
                            if known.wrote(one, found) {
                                backlog.done(&name);
                            } else {
                                tracing::warn!(name, "a webhook configuration does not become what it should be");
                                backlog.failed(name);
                            }
                        }
                        Err(error) => {
                            tracing::warn!(name, error = %brief(&error), "a webhook configuration could not be written");
                            backlog.failed(name);
                        }
                    }
                }
                () = shutdown.cancelled() => return Ok(()),
            }
            current = Some((at, wanted));
        }
    }
}

impl Configuration {
    fn api(&self, client: &Client) -> Api<DynamicObject> {
        Api::all_with(client.clone(), &self.resource)
    }

    fn watch(&self, client: &Client) -> BoxStream<'static, Told> {
        let (name, only) = (self.name.clone(), Config::default().fields(&format!("metadata.name={}", self.name)));
        watcher(self.api(client), only).backoff(pauses()).map(move |event| (name.clone(), event)).boxed()
    }

    /// Makes it what it should be; returns what is stored then.
    async fn write(&self, client: &Client, certificate: Option<&str>) -> Result<Found, kube::Error> {
        let api = self.api(client);
        let whole = Patch::Apply(json!({
            "apiVersion": self.resource.api_version, "kind": self.resource.kind,
            "metadata": super::metadata(self.name.clone(), certificate), "webhooks": self.webhooks,
        }));
        let parameters = PatchParams::apply(MANAGER).force();
        let found =
            Found::without_ca(&patiently(PATIENCE, api.patch(&self.name, &parameters, &whole)).await?, certificate);
        if found.webhooks == self.webhooks {
            return Ok(found);
        }
        // what somebody else put beside ours stays when ours is applied: the whole list takes its place
        let list = Patch::Merge(json!({"webhooks": self.webhooks}));
        let parameters = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
        Ok(Found::without_ca(&patiently(PATIENCE, api.patch(&self.name, &parameters, &list)).await?, certificate))
    }
}

#[cfg(test)]
mod tests;
