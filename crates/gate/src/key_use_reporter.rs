//! Reports uses of API keys to the controller, which records them.

use durward_authn::{Authenticator, KeyUses};
use durward_controller_client::client::ControllerClient;
use durward_protocol::snapshot::{KeyUse, MAX_KEY_USES};
use durward_runtime::Failure;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// Interval between reports.
const REPORT_INTERVAL: Duration = Duration::from_secs(20);
/// Resolution of a reported use, in seconds: the controller records hours.
const RESOLUTION: i64 = 3600;

/// Reports uses of API keys to the controller, until `shutdown`.
pub(super) async fn report_key_uses(
    controller: ControllerClient,
    authenticator: Arc<Authenticator>,
    shutdown: CancellationToken,
) -> Result<(), Failure> {
    let mut reported = KeyUses::new();
    loop {
        tokio::select! {
            () = sleep(REPORT_INTERVAL) => {}
            () = shutdown.cancelled() => return Ok(()),
        }
        for uses in due(&authenticator.key_uses(), &reported).chunks(MAX_KEY_USES) {
            if let Err(error) = controller.report_key_uses(uses).await {
                tracing::debug!(%error, "uses of API keys can't be reported; trying again");
                break;
            }
            reported.extend(uses.iter().map(|(provider, name, at)| ((provider.clone(), name.clone()), *at)));
        }
    }
}

/// Uses that are at least [`RESOLUTION`] later than the reported ones.
fn due(uses: &KeyUses, reported: &KeyUses) -> Vec<KeyUse> {
    let new = |key, used: &i64| *used > 0 && reported.get(key).is_none_or(|before| used - before >= RESOLUTION);
    let due = uses.iter().filter(|(key, used)| new(*key, used));
    due.map(|((provider, name), used)| (provider.clone(), name.clone(), *used)).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::expect_used, reason = "a failed expectation fails the test")]

    use super::*;

    #[test]
    fn a_used_key_is_reported_once_an_hour() {
        let at = 1_800_000_000;
        let uses = |used: i64| KeyUses::from([(("partners".to_owned(), "acme".to_owned()), used)]);
        assert_eq!(due(&uses(0), &KeyUses::new()), [], "never used");
        assert_eq!(due(&uses(at), &KeyUses::new()), [("partners".to_owned(), "acme".to_owned(), at)]);
        assert_eq!(due(&uses(at + RESOLUTION - 1), &uses(at)), []);
        assert_eq!(due(&uses(at + RESOLUTION), &uses(at)).len(), 1);
        // a report fits the limit of the controller
        let longest = vec![("p".repeat(253), "k".repeat(63), i64::MAX); MAX_KEY_USES];
        assert!(serde_json::to_vec(&longest).expect("JSON").len() <= 4096);
    }
}
