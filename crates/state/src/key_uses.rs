//! The last uses of API keys, in a file of the state directory: a map from provider and name to a time, as in a
//! cluster.

use durward_authn::Authenticator;
use durward_authn::key_uses::{entry_name, timestamp};
use durward_runtime::Failure;
use durward_runtime::private_files::write_private;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// Interval between writes of the file.
const WRITE_INTERVAL: Duration = Duration::from_secs(60);

/// The last uses in a state directory. Empty if the file is missing or can't be read.
pub fn read(state: &Path) -> BTreeMap<String, String> {
    let text = fs::read_to_string(file(state)).unwrap_or_default();
    serde_json::from_str(&text).unwrap_or_default()
}

fn file(state: &Path) -> PathBuf {
    state.join("api-key-uses.json")
}

/// Writes new uses at each interval and at `shutdown`.
///
/// # Errors
/// When the uses can't be encoded.
pub async fn run_writer(
    state: PathBuf,
    authenticator: Arc<Authenticator>,
    shutdown: CancellationToken,
) -> Result<(), Failure> {
    let mut stopping = false;
    while !stopping {
        tokio::select! {
            () = sleep(WRITE_INTERVAL) => {}
            () = shutdown.cancelled() => stopping = true,
        }
        let written = read(&state);
        let uses = authenticator.key_uses().into_iter();
        let current: BTreeMap<String, String> = uses
            .filter_map(|((provider, name), used)| {
                let entry = entry_name(&provider, &name);
                let used = if used > 0 { timestamp(used) } else { None };
                let latest = written.get(&entry).cloned().into_iter().chain(used).max()?;
                Some((entry, latest))
            })
            .collect();
        if current != written
            && let Err(error) = write_private(&file(&state), &serde_json::to_string(&current)?)
        {
            tracing::warn!(%error, "writing the last uses of API keys failed; trying again in a minute");
        }
    }
    Ok(())
}
