//! What is stored of each webhook configuration, and who changed it last.

use crate::webhooks::{INJECT_CA, WebhookConfiguration, sorted_by_name};
use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use durward_core::digest::Digest;
use kube::ResourceExt;
use kube::api::DynamicObject;
use kube::runtime::watcher;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::Instant;

/// How long a deleted configuration stays away. An uninstallation ends the replicas first; a terminating replica must not
/// restore a configuration that would make the API server reject every governed operation.
pub(super) const RESTORE_DELAY: Duration = Duration::from_secs(5);
/// Changes by others within this time of one another are a conflict. Then each write waits longer than the last.
const CONFLICT_WINDOW: Duration = Duration::from_secs(60);

/// Whether the API server calls the webhook for governed operations.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum WebhookStatus {
    /// The configuration was not read yet.
    #[default]
    Unknown,
    /// The configuration does not exist, or another client changed it.
    Incomplete,
    /// The configuration has all rules that the snapshot of this revision needs, and the roots in force.
    Complete(Digest),
}

/// A configuration as the API server stores it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct StoredConfiguration {
    /// The resource version, which grows with each change.
    pub version: Option<u64>,
    pub webhooks: Value,
}

impl StoredConfiguration {
    pub fn new(object: &DynamicObject) -> Self {
        let version = object.metadata.resource_version.as_deref().and_then(|version| version.parse().ok());
        Self { version, webhooks: sorted_by_name(object.data.get("webhooks").cloned().unwrap_or_default()) }
    }

    /// Ignores the CA that cert-manager writes for this Certificate, as long as the annotation requests it.
    pub fn without_injected_ca(object: &DynamicObject, certificate: Option<&str>) -> Self {
        let mut stored = Self::new(object);
        let Some(certificate) = certificate else { return stored };
        if object.annotations().get(INJECT_CA).is_none_or(|requested| requested != certificate) {
            return Self { webhooks: Value::Null, ..stored };
        }
        let webhooks = stored.webhooks.as_array_mut().into_iter().flatten();
        for client in webhooks.filter_map(|webhook| webhook.get_mut("clientConfig")?.as_object_mut()) {
            client.remove("caBundle");
        }
        stored
    }
}

/// Changes of a configuration by another client, one after the other.
#[derive(Debug)]
struct Conflict {
    last_change: Instant,
    delays: ExponentialBackoff,
}

/// The state of all configurations.
#[derive(Debug, Default)]
pub(super) struct ConfigurationTracker {
    /// Whether this replica writes.
    writes: bool,
    /// The Certificate whose CA cert-manager writes.
    certificate: Option<String>,
    /// The stored configurations; `None` for one that does not exist.
    stored: BTreeMap<String, Option<StoredConfiguration>>,
    /// Names that the current listing has returned.
    listed: BTreeSet<String>,
    /// The last content of each configuration that was as desired.
    last_desired: BTreeMap<String, Value>,
    /// The revision for which the configuration for operations was last complete.
    complete_revision: Option<Digest>,
    /// How long to wait before each configuration is restored.
    delays: BTreeMap<String, Duration>,
    conflicts: BTreeMap<String, Conflict>,
}

impl ConfigurationTracker {
    pub fn new(certificate: Option<String>) -> Self {
        Self { certificate, ..Self::default() }
    }

    pub const fn set_writes(&mut self, writes: bool) {
        self.writes = writes;
    }

    pub fn handle(&mut self, name: &str, event: watcher::Event<DynamicObject>) {
        match event {
            watcher::Event::Init => drop(self.listed.remove(name)),
            watcher::Event::InitApply(object) => {
                self.listed.insert(name.to_owned());
                self.applied(name, &object);
            }
            watcher::Event::Apply(object) => self.applied(name, &object),
            watcher::Event::InitDone if self.listed.contains(name) => {}
            watcher::Event::InitDone => self.deleted(name),
            watcher::Event::Delete(object) if self.is_current(name, &StoredConfiguration::new(&object)) => {
                self.deleted(name);
            }
            watcher::Event::Delete(_) => {}
        }
    }

    fn applied(&mut self, name: &str, object: &DynamicObject) {
        let stored = StoredConfiguration::without_injected_ca(object, self.certificate.as_deref());
        if !self.is_current(name, &stored) {
            return;
        }
        let unchanged = self.last_desired.get(name).is_none_or(|desired| *desired == stored.webhooks);
        if self.writes && !unchanged && !self.delays.contains_key(name) {
            tracing::warn!(name, "another client changed a webhook configuration; restoring it");
            let delay = self.conflict_delay(name);
            self.delays.insert(name.to_owned(), delay);
        }
        self.stored.insert(name.to_owned(), Some(stored));
    }

    fn deleted(&mut self, name: &str) {
        if self.stored.insert(name.to_owned(), None).flatten().is_some() && self.writes {
            tracing::warn!(name, "another client deleted a webhook configuration; restoring it");
            let delay = self.conflict_delay(name).max(RESTORE_DELAY);
            self.delays.insert(name.to_owned(), delay);
        }
    }

    /// Whether an event is not older than the stored state: the response to a write arrives before its watch event.
    fn is_current(&self, name: &str, event: &StoredConfiguration) -> bool {
        let stored = self.stored.get(name).and_then(|stored| stored.as_ref()?.version);
        stored.zip(event.version).is_none_or(|(stored, event)| event >= stored)
    }

    /// How long to wait after a change by another client. The delay grows with each change within [`CONFLICT_WINDOW`].
    fn conflict_delay(&mut self, name: &str) -> Duration {
        let recent = self.conflicts.get_mut(name).filter(|conflict| conflict.last_change.elapsed() < CONFLICT_WINDOW);
        if let Some(conflict) = recent {
            conflict.last_change = Instant::now();
            return conflict.delays.next().unwrap_or(CONFLICT_WINDOW);
        }
        let delays =
            ExponentialBuilder::default().with_min_delay(Duration::from_secs(1)).with_max_delay(CONFLICT_WINDOW / 2);
        let delays = delays.with_jitter().without_max_times().build();
        self.conflicts.insert(name.to_owned(), Conflict { last_change: Instant::now(), delays });
        Duration::ZERO
    }

    /// Records what is stored after a write; returns whether it is as desired.
    pub fn written(&mut self, desired: &WebhookConfiguration, stored: StoredConfiguration) -> bool {
        let as_desired = stored.webhooks == desired.webhooks;
        if as_desired {
            self.delays.remove(&desired.name);
            self.last_desired.insert(desired.name.clone(), stored.webhooks.clone());
        }
        self.stored.insert(desired.name.clone(), Some(stored));
        as_desired
    }

    /// The configurations that differ from the desired ones, and how long to wait before each is written.
    pub fn outdated(&mut self, desired: &[WebhookConfiguration]) -> Vec<(String, Duration)> {
        let mut outdated = Vec::new();
        for one in desired {
            let stored = self.stored.get(&one.name).and_then(Option::as_ref);
            if stored.is_some_and(|stored| stored.webhooks == one.webhooks) {
                self.delays.remove(&one.name);
                self.last_desired.insert(one.name.clone(), one.webhooks.clone());
            } else {
                outdated.push((one.name.clone(), self.delays.get(&one.name).copied().unwrap_or_default()));
            }
        }
        outdated
    }

    /// Whether the configuration for operations has what the snapshot of this revision needs.
    pub fn status(&mut self, operations: &WebhookConfiguration, revision: Digest) -> WebhookStatus {
        let Some(stored) = self.stored.get(&operations.name) else { return WebhookStatus::Unknown };
        match stored {
            Some(stored) if stored.webhooks == operations.webhooks => self.complete_revision = Some(revision),
            // outdated, but no other client changed it
            Some(stored) if self.last_desired.get(&operations.name) == Some(&stored.webhooks) => {}
            _ => return WebhookStatus::Incomplete,
        }
        self.complete_revision.map_or(WebhookStatus::Unknown, WebhookStatus::Complete)
    }

    #[cfg(test)]
    pub fn has_conflict(&self) -> bool {
        !(self.delays.is_empty() && self.conflicts.is_empty())
    }
}
