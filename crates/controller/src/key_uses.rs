//! When API keys were last used, in a ConfigMap of the installation.
//!
//! Each replica knows what was used at it. It writes a use that is an hour later than the one that is written, so a key
//! costs one write in an hour whatever its traffic and however many replicas there are; one that rests costs none.

use chrono::{DateTime, Utc};
use durward_authn::key_uses::{entry, text};
use durward_authn::{Authenticator, KeyUses};
use durward_kubernetes::requests::{PATIENCE, brief, patiently};
use durward_runtime::Failure;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, ObjectMeta, Patch, PatchParams, PostParams};
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// How often it is looked for uses that are to be written.
const LOOK: Duration = Duration::from_secs(60);
/// How much later than the written use one has to be, in seconds.
const STEP: i64 = 3600;
/// Most keys that are written of: at 100 bytes each a third of what a ConfigMap can hold.
const MOST: usize = 3000;
/// Longest name of an entry of a ConfigMap, in bytes.
const LONGEST: usize = 253;

type Written = BTreeMap<String, String>;

/// Name of the ConfigMap.
pub fn uses_name(service: &str) -> String {
    format!("{service}-api-keys")
}

/// Writes uses.
pub struct UseKeeper {
    pub maps: Api<ConfigMap>,
    pub name: String,
    pub authenticator: Arc<Authenticator>,
}

impl UseKeeper {
    /// Looks now and then, until `shutdown`.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), Failure> {
        let mut written = Written::new();
        loop {
            tokio::select! {
                () = sleep(LOOK) => {}
                () = shutdown.cancelled() => return Ok(()),
            }
            // the API server is asked only when there seems to be something to write
            if changes(&self.authenticator.key_uses(), &written).is_empty() {
                continue;
            }
            match patiently(PATIENCE, self.write()).await {
                Ok(now) => written = now,
                Err(error) => tracing::warn!(error = %brief(&error), "when API keys were used can't be written"),
            }
        }
    }

    /// Writes what is new against what is written, which another replica may have done.
    async fn write(&self) -> Result<Written, kube::Error> {
        let stored = self.maps.get_opt(&self.name).await?;
        let mut written = stored.as_ref().and_then(|map| map.data.clone()).unwrap_or_default();
        let uses = self.authenticator.key_uses();
        let changes = changes(&uses, &written);
        if changes.is_empty() {
            return Ok(written);
        }
        if stored.is_none() {
            let metadata = ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() };
            let map = ConfigMap { metadata, ..ConfigMap::default() };
            match self.maps.create(&PostParams::default(), &map).await {
                // another replica was quicker
                Err(kube::Error::Api(status)) if status.code == 409 => {}
                other => drop(other?),
            }
        }
        // keys that are gone go from here too, whenever there is something to write
        let known: Vec<String> = uses.keys().map(|(provider, name)| entry(provider, name)).collect();
        let gone = written.keys().filter(|entry| !known.contains(entry)).map(|entry| (entry.clone(), None));
        let data: BTreeMap<String, Option<String>> =
            gone.chain(changes.into_iter().map(|(entry, at)| (entry, Some(at)))).collect();
        self.maps.patch(&self.name, &PatchParams::default(), &Patch::Merge(json!({"data": data}))).await?;
        for (entry, at) in data {
            match at {
                Some(at) => written.insert(entry, at),
                None => written.remove(&entry),
            };
        }
        Ok(written)
    }
}

/// Uses that are to be written.
fn changes(uses: &KeyUses, written: &Written) -> Written {
    let room = MOST.saturating_sub(written.len());
    let due = uses.iter().filter(|(_, used)| **used > 0).filter_map(|((provider, name), used)| {
        let entry = entry(provider, name);
        let before = written.get(&entry).map(|at| at.parse::<DateTime<Utc>>().map_or(0, |at| at.timestamp()));
        let is_due = before.is_none_or(|before| *used >= before.saturating_add(STEP)) && entry.len() <= LONGEST;
        is_due.then_some((entry, text(*used)?, before.is_none()))
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
    fn a_key_is_written_once_in_an_hour_however_often_it_is_used() {
        let at = 1_800_000_000;
        let first = changes(&uses(&[("acme", at), ("idle", 0)]), &Written::new());
        assert_eq!(first, Written::from([("partners.acme".to_owned(), text(at).expect("a time"))]));
        for later in [1, 60, STEP - 1] {
            assert_eq!(changes(&uses(&[("acme", at + later)]), &first), Written::new(), "{later} s later");
        }
        assert_eq!(changes(&uses(&[("acme", at + STEP)]), &first).len(), 1);
    }

    #[test]
    fn what_is_written_is_bounded() {
        let many: KeyUses = (0..2 * MOST).map(|i| (("partners".to_owned(), format!("k{i}")), 1)).collect();
        assert_eq!(changes(&many, &Written::new()).len(), MOST);
        let full = changes(&many, &Written::new());
        assert_eq!(changes(&many, &full), Written::new(), "a full map takes no more");
        let long = BTreeMap::from([(("p".repeat(250), "k".repeat(63)), 1)]);
        assert_eq!(changes(&long, &Written::new()), Written::new());
    }
}
