//! When API keys were last used, in a file of the state directory: from provider and name to a time, as it is kept in a
//! cluster.

use durward_authn::Authenticator;
use durward_authn::key_uses::{entry, text};
use durward_runtime::Failure;
use durward_runtime::private_files::write_private;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// How often the file is written at most.
const PERIOD: Duration = Duration::from_secs(60);

/// What a state directory says; nothing if there is nothing that can be read.
pub fn read(state: &Path) -> BTreeMap<String, String> {
    let text = fs::read_to_string(file(state)).unwrap_or_default();
    serde_json::from_str(&text).unwrap_or_default()
}

fn file(state: &Path) -> PathBuf {
    state.join("api-key-uses.json")
}

/// Writes what is new, now and then and at the end, until `shutdown`.
pub async fn keep(
    state: PathBuf,
    authenticator: Arc<Authenticator>,
    shutdown: CancellationToken,
) -> Result<(), Failure> {
    let mut ends = false;
    while !ends {
        tokio::select! {
            () = sleep(PERIOD) => {}
            () = shutdown.cancelled() => ends = true,
        }
        let known = read(&state);
        let uses = authenticator.key_uses().into_iter();
        let kept = uses.filter_map(|((provider, name), used)| {
            let entry = entry(&provider, &name);
            let at = known.get(&entry).cloned().into_iter().chain(text(used).filter(|_| used > 0)).max()?;
            Some((entry, at))
        });
        let kept: BTreeMap<String, String> = kept.collect();
        if kept != known
            && let Err(error) = write_private(&file(&state), &serde_json::to_string(&kept)?)
        {
            tracing::warn!(%error, "when API keys were used can't be written");
        }
    }
    Ok(())
}
