//! Requests to the API server: time limits, error messages that are safe to log, server-side apply, and watch
//! back-off.

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
use thiserror::Error;
use tokio::time::timeout;

/// Field manager of everything that Durward writes.
pub const FIELD_MANAGER: &str = "durward";
/// Time limit for one write.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a request to the API server failed. The message contains no text of objects, so it is safe to log.
///
/// The cause is deliberately not a [`std::error::Error::source`]: printing a chain of sources would quote objects.
#[derive(Debug, Error)]
pub enum RequestError {
    /// The API server rejected the request, or it could not be sent.
    #[error("{}", redacted(.0))]
    Api(kube::Error),
    /// The API server did not answer in time.
    #[error("the API server did not answer within {}s", .0.as_secs())]
    Timeout(Duration),
}

impl RequestError {
    /// HTTP status of the API server's answer, if it answered.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Api(kube::Error::Api(status)) => Some(status.code),
            Self::Api(_) | Self::Timeout(_) => None,
        }
    }
}

impl From<kube::Error> for RequestError {
    fn from(error: kube::Error) -> Self {
        Self::Api(error)
    }
}

/// Waits for a request no longer than `limit`.
///
/// # Errors
/// When the request fails, or takes longer.
pub async fn with_timeout<T, E>(limit: Duration, request: impl Future<Output = Result<T, E>>) -> Result<T, RequestError>
where
    RequestError: From<E>,
{
    match timeout(limit, request).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(RequestError::Timeout(limit)),
    }
}

/// Creates or updates an object by server-side apply, and takes over the fields that others own.
///
/// # Errors
/// When the API server rejects it, or does not answer in time.
pub async fn apply<K>(api: &Api<K>, name: &str, object: &K) -> Result<(), RequestError>
where
    K: Clone + Debug + Serialize + DeserializeOwned,
{
    let parameters = PatchParams::apply(FIELD_MANAGER).force();
    with_timeout(REQUEST_TIMEOUT, api.patch(name, &parameters, &Patch::Apply(object))).await.map(drop)
}

/// Pauses between attempts to watch. The longest is short: after an outage of the API server, a missed change must not
/// stay unknown for long.
pub fn watch_backoff() -> ExponentialBackoff {
    let pauses = ExponentialBuilder::default().with_min_delay(Duration::from_millis(200));
    pauses.with_max_delay(Duration::from_secs(3)).with_jitter().without_max_times().into()
}

/// Follows a Secret: yields it as it is now and after each change, and `None` when it is deleted. The stream does not
/// end; a failed watch is retried.
pub fn follow_secret(secrets: &Api<Secret>, name: &str) -> BoxStream<'static, Option<Secret>> {
    let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let events = watcher(secrets.clone(), config).backoff(watch_backoff());
    let name = name.to_owned();
    let version = move |event| match event {
        Ok(watcher::Event::Apply(secret) | watcher::Event::InitApply(secret)) => Some(Some(secret)),
        Ok(watcher::Event::Delete(_)) => Some(None),
        Ok(watcher::Event::Init | watcher::Event::InitDone) => None,
        // the error is not logged: it could quote the Secret
        Err(_) => {
            tracing::warn!(secret = name, "the Secret can't be watched; trying again");
            None
        }
    };
    events.filter_map(move |event| std::future::ready(version(event))).boxed()
}

/// Message of an error without any text of objects: kube quotes the body of an answer that it can't decode.
#[must_use]
pub fn redacted(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => format!("{} {}: {}", status.code, status.reason, status.message),
        kube::Error::SerdeError(_) => "the answer of the API server can't be decoded".to_owned(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_late_answer_times_out() {
        let late = with_timeout(REQUEST_TIMEOUT, std::future::pending::<Result<(), kube::Error>>()).await;
        let error = late.expect_err("no answer arrives");
        assert!(matches!(error, RequestError::Timeout(REQUEST_TIMEOUT)), "{error:?}");
        assert_eq!(error.status(), None);
    }

    #[tokio::test]
    async fn errors_do_not_quote_undecodable_answers() {
        let failed = serde_json::from_str::<u8>("\"secret\"").map_err(kube::Error::SerdeError);
        let error = with_timeout(REQUEST_TIMEOUT, std::future::ready(failed)).await.expect_err("it is not a number");
        assert!(!error.to_string().contains("secret"), "{error}");
        assert!(std::error::Error::source(&error).is_none());
    }
}
