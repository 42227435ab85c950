//! Follows the controller's snapshot stream: the policies and data by which the gate decides.

mod applied_resources;

use applied_resources::AppliedResources;
use chrono::Utc;
use durward_api::catalog::Catalog;
use durward_api::compile::ClusterDomains;
use durward_api::resources::{AccessPolicy, Relationship};
use durward_authn::liveness::BoundObjectKind;
use durward_authn::{KeySource, LivenessIndex, ServiceAccountIssuer};
use durward_controller_client::client::{ControllerClient, ControllerError};
use durward_controller_client::retry::RetryPauses;
use durward_core::snapshot::Snapshot;
use durward_engine::EngineContext;
use durward_protocol::snapshot::{ReceivedSnapshotLine, SnapshotLine, SnapshotResources};
use durward_runtime::Failure;
use durward_runtime::readiness::Readiness;
use durward_runtime::wall_clock;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use thiserror::Error;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

/// Longest line, in bytes: some thousand policies.
const MAX_LINE: usize = 16 * 1024 * 1024;

/// Why a stream ended.
#[derive(Debug, Error)]
enum SnapshotStreamError {
    #[error(transparent)]
    Controller(#[from] ControllerError),
    #[error("a line is longer than {MAX_LINE} bytes")]
    LineTooLong,
    #[error("a line can't be read: {0}")]
    Line(#[from] serde_json::Error),
    /// They come again at the beginning of another stream.
    #[error("the policies were dropped as too old; requesting them again")]
    PoliciesDropped,
}

/// Keeps the engine's policies those of the controller.
pub(super) struct SnapshotFollower {
    controller: ControllerClient,
    catalog: Catalog,
    context: EngineContext,
    liveness: Arc<LivenessIndex>,
    readiness: Arc<Readiness>,
    max_age: Duration,
    applied: AppliedResources,
    /// Time of the last message of the controller, while its policies are in force: by the timer, and by the clock,
    /// which goes on while the host sleeps.
    last_message: Option<(Instant, SystemTime)>,
}

impl SnapshotFollower {
    /// A follower that has received nothing.
    pub(super) fn new(
        controller: ControllerClient,
        max_age: Duration,
        domain: ClusterDomains,
        context: &EngineContext,
        liveness: Arc<LivenessIndex>,
        readiness: Arc<Readiness>,
    ) -> Self {
        Self {
            controller,
            catalog: Catalog::new(domain),
            context: context.clone(),
            liveness,
            readiness,
            max_age,
            applied: AppliedResources::default(),
            last_message: None,
        }
    }

    /// Follows one stream after the other, until `shutdown`.
    pub(super) async fn run(mut self, shutdown: CancellationToken) -> Result<(), Failure> {
        let mut pauses = RetryPauses::new();
        loop {
            let before = self.last_message;
            let ended = tokio::select! {
                ended = self.follow() => ended,
                () = shutdown.cancelled() => return Ok(()),
            };
            if self.last_message != before {
                pauses.reset();
            }
            let Err(error) = ended else { continue };
            tracing::warn!(%error, "the snapshot stream ended; connecting again");
            let pause = Instant::now() + pauses.next_pause();
            tokio::select! {
                () = self.wait_while_valid(sleep_until(pause)) => {}
                () = shutdown.cancelled() => return Ok(()),
            }
        }
    }

    /// Follows one stream to its end.
    async fn follow(&mut self) -> Result<(), SnapshotStreamError> {
        let controller = self.controller.clone();
        let mut stream = self.wait_while_valid(controller.open_snapshot_stream()).await?;
        let mut line = Vec::new();
        loop {
            let chunk = self.wait_while_valid(stream.chunk()).await;
            let chunk = chunk.map_err(|error| ControllerError::Request(error.without_url().to_string()))?;
            let Some(chunk) = chunk else { return Ok(()) };
            for piece in chunk.split_inclusive(|byte| *byte == b'\n') {
                if line.len() + piece.len() > MAX_LINE {
                    return Err(SnapshotStreamError::LineTooLong);
                }
                line.extend_from_slice(piece);
                if line.ends_with(b"\n") {
                    let message = serde_json::from_slice(&line)?;
                    line.clear();
                    self.receive(message)?;
                }
            }
        }
    }

    /// Waits for the controller. Drops the policies if they become too old meanwhile.
    async fn wait_while_valid<T>(&mut self, response: impl Future<Output = T>) -> T {
        let mut response = pin!(response);
        loop {
            let Some((instant, time)) = self.last_message else { return response.await };
            tokio::select! {
                response = &mut response => return response,
                () = sleep_until(instant + self.max_age) => self.drop_policies(),
                () = wall_clock::sleep_until(time + self.max_age) => self.drop_policies(),
            }
        }
    }

    fn receive(&mut self, line: ReceivedSnapshotLine) -> Result<(), SnapshotStreamError> {
        match line {
            SnapshotLine::Resources(received) => self.replace_resources(*received),
            _ if self.last_message.is_none() => return Err(SnapshotStreamError::PoliciesDropped),
            SnapshotLine::Revoked(tags) => {
                // a tag belongs to a pod or to a service account
                let now = Utc::now();
                tags.into_iter().for_each(|tag| self.liveness.remove(BoundObjectKind::Pod, tag, now));
            }
            SnapshotLine::Heartbeat => {}
        }
        self.last_message = Some((Instant::now(), SystemTime::now()));
        self.context.metrics.controller_seen();
        Ok(())
    }

    fn replace_resources(&mut self, received: SnapshotResources<AccessPolicy, Relationship>) {
        let EngineContext { engine, authenticator, metrics } = &self.context;
        if let Some((issuer, jwks)) = &received.service_accounts {
            let issuer = ServiceAccountIssuer { issuer: issuer.clone(), keys: KeySource::Inline(jwks.clone()) };
            authenticator.change_domain(|domain| domain.service_accounts = Some(issuer.clone()));
        }
        for (provider, problem) in authenticator.replace_providers(&received.providers, &received.secrets) {
            tracing::warn!(provider, %problem, "a provider can't be used; its credentials are refused");
        }
        engine.set_step_up_page(received.step_up.clone());

        for (policy, status) in self.catalog.apply(self.applied.replace(received)) {
            // an older gate can reject what a newer controller accepts; it does not decide by such a policy
            for error in status.rejected.into_iter().flat_map(|rejection| rejection.errors) {
                tracing::warn!(%policy, %error, "a policy can't be put in force here; its service stays closed");
            }
        }
        let snapshot = self.catalog.snapshot();
        tracing::info!(revision = %snapshot.revision(), services = snapshot.services().count(), "in force");
        engine.replace_snapshot(snapshot.clone());
        metrics.policies_rejected(self.catalog.rejected_count());
        self.readiness.mark_policies_loaded();
    }

    /// The policies are too old: deny every request.
    fn drop_policies(&mut self) {
        tracing::error!("the controller has been unreachable for too long; denying every request until it is back");
        self.last_message = None;
        self.readiness.mark_policies_unloaded();
        self.context.engine.replace_snapshot(Snapshot::default());
    }
}

#[cfg(test)]
mod tests;
