//! Writes when API keys were last used to a ConfigMap of the installation.
//!
//! Each replica knows the uses of its own requests. It writes a use only if it is an hour later than the stored one. So a
//! key costs at most one write per hour, however much traffic and however many replicas there are.

use chrono::{DateTime, Utc};
use durward_authn::key_uses::{entry_name, timestamp};
use durward_authn::{Authenticator, KeyUses};
use durward_kubernetes::requests::{REQUEST_TIMEOUT, with_timeout};
use durward_runtime::Failure;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, ObjectMeta, Patch, PatchParams, PostParams};
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// Interval between checks for new uses.
const PERIOD: Duration = Duration::from_secs(60);
/// How much later than the stored use a new one has to be, in seconds.
const MIN_STEP: i64 = 3600;
/// Most keys that are stored: at 100 bytes each, a third of what a ConfigMap can hold.
const MAX_KEYS: usize = 3000;
/// Longest name of a ConfigMap entry, in bytes.
const MAX_ENTRY_NAME: usize = 253;

/// Time of the last use of each key, as the ConfigMap stores it.
type StoredUses = BTreeMap<String, String>;

/// Name of the ConfigMap.
pub fn key_uses_config_map(service: &str) -> String {
    format!("{service}-api-keys")
}

/// Writes the uses that this replica has seen.
pub struct KeyUseWriter {
    pub config_maps: Api<ConfigMap>,
    pub name: String,
    pub authenticator: Arc<Authenticator>,
}

impl KeyUseWriter {
    /// Writes new uses until `shutdown`.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), Failure> {
        let mut stored = StoredUses::new();
        loop {
            tokio::select! {
                () = sleep(PERIOD) => {}
                () = shutdown.cancelled() => return Ok(()),
            }
            // no request to the API server unless there seems to be something to write
            if due(&self.authenticator.key_uses(), &stored).is_empty() {
                continue;
            }
            match with_timeout(REQUEST_TIMEOUT, self.write()).await {
                Ok(now) => stored = now,
                Err(error) => tracing::warn!(%error, "uses of API keys can't be written; trying again later"),
            }
        }
    }

    /// Writes what is due against the stored uses, which another replica may have written; returns what is stored then.
    async fn write(&self) -> Result<StoredUses, kube::Error> {
        let config_map = self.config_maps.get_opt(&self.name).await?;
        let mut stored = config_map.as_ref().and_then(|map| map.data.clone()).unwrap_or_default();
        let uses = self.authenticator.key_uses();
        let due = due(&uses, &stored);
        if due.is_empty() {
            return Ok(stored);
        }
        if config_map.is_none() {
            self.create().await?;
        }
        // entries of deleted keys are removed with the next write
        let existing: Vec<String> = uses.keys().map(|(provider, name)| entry_name(provider, name)).collect();
        let deleted = stored.keys().filter(|entry| !existing.contains(entry)).map(|entry| (entry.clone(), None));
        let data: BTreeMap<String, Option<String>> =
            deleted.chain(due.into_iter().map(|(entry, at)| (entry, Some(at)))).collect();
        let patch = Patch::Merge(json!({"data": data}));
        self.config_maps.patch(&self.name, &PatchParams::default(), &patch).await?;
        for (entry, at) in data {
            match at {
                Some(at) => stored.insert(entry, at),
                None => stored.remove(&entry),
            };
        }
        Ok(stored)
    }

    async fn create(&self) -> Result<(), kube::Error> {
        let metadata = ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() };
        let map = ConfigMap { metadata, ..ConfigMap::default() };
        match self.config_maps.create(&PostParams::default(), &map).await {
            // another replica was faster
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
            other => other.map(drop),
        }
    }
}

/// The uses that have to be written.
fn due(uses: &KeyUses, stored: &StoredUses) -> StoredUses {
    let room = MAX_KEYS.saturating_sub(stored.len());
    let due = uses.iter().filter(|(_, used)| **used > 0).filter_map(|((provider, name), used)| {
        let entry = entry_name(provider, name);
        let before = stored.get(&entry).map(|at| at.parse::<DateTime<Utc>>().map_or(0, |at| at.timestamp()));
        let is_due =
            before.is_none_or(|before| *used >= before.saturating_add(MIN_STEP)) && entry.len() <= MAX_ENTRY_NAME;
        is_due.then_some((entry, timestamp(*used)?, before.is_none()))
    });
    let (new, known): (Vec<_>, Vec<_>) = due.partition(|(_, _, new)| *new);
    new.into_iter().take(room).chain(known).map(|(entry, at, _)| (entry, at)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uses(all: &[(&str, i64)]) -> KeyUses {
        all.iter().map(|(name, used)| (("partners".to_owned(), (*name).to_owned()), *used)).collect()
    }

    #[test]
    fn a_key_is_written_at_most_once_an_hour() {
        let at = 1_800_000_000;
        let first = due(&uses(&[("acme", at), ("idle", 0)]), &StoredUses::new());
        assert_eq!(first, StoredUses::from([("partners.acme".to_owned(), timestamp(at).expect("a time"))]));
        for later in [1, 60, MIN_STEP - 1] {
            assert_eq!(due(&uses(&[("acme", at + later)]), &first), StoredUses::new(), "{later} s later");
        }
        assert_eq!(due(&uses(&[("acme", at + MIN_STEP)]), &first).len(), 1);
    }

    #[test]
    fn the_stored_uses_are_bounded() {
        let many: KeyUses = (0..2 * MAX_KEYS).map(|i| (("partners".to_owned(), format!("k{i}")), 1)).collect();
        assert_eq!(due(&many, &StoredUses::new()).len(), MAX_KEYS);
        let full = due(&many, &StoredUses::new());
        assert_eq!(due(&many, &full), StoredUses::new(), "a full map takes no new key");
        let long = BTreeMap::from([(("p".repeat(250), "k".repeat(63)), 1)]);
        assert_eq!(due(&long, &StoredUses::new()), StoredUses::new());
    }
}
