//! One snapshot stream, for one gate.

use crate::snapshots::resources::PublishedResources;
use axum::body::Bytes;
use durward_approvals::ApprovalSeal;
use durward_authn::{Authenticator, KeySource};
use durward_engine::Engine;
use durward_identity::LabelledPod;
use durward_pki::serial::UidTag;
use durward_protocol::snapshot::{HEARTBEAT_INTERVAL, SnapshotLine};
use serde::Serialize;
use std::collections::BTreeSet;
use std::sync::Arc;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};
use url::Url;

pub(super) struct SnapshotStream {
    pub(super) pod: LabelledPod,
    pub(super) resources: watch::Receiver<PublishedResources>,
    pub(super) engine: Arc<Engine>,
    pub(super) authenticator: Arc<Authenticator>,
    pub(super) seal: ApprovalSeal,
    /// The resources that were sent last.
    pub(super) sent_resources: Bytes,
    /// The deleted pods and service accounts that were sent.
    pub(super) sent_deletions: BTreeSet<UidTag>,
    pub(super) ends: Instant,
}

impl SnapshotStream {
    /// The next line: a change as soon as there is one, otherwise a heartbeat. `None` ends the stream.
    pub(super) async fn next(&mut self) -> Option<Bytes> {
        let heartbeat = sleep(HEARTBEAT_INTERVAL);
        tokio::pin!(heartbeat);
        loop {
            let line = self.resources_line()?;
            if line != self.sent_resources {
                self.sent_resources = line.clone();
                return Some(line);
            }
            let deleted = self.authenticator.recently_deleted();
            if deleted != self.sent_deletions {
                let unsent = deleted.difference(&self.sent_deletions).copied().collect::<Vec<_>>();
                self.sent_deletions = deleted;
                if !unsent.is_empty() {
                    return encode(&SnapshotLine::<(), ()>::Revoked(unsent));
                }
            }
            tokio::select! {
                changed = self.resources.changed() => changed.ok()?,
                () = &mut heartbeat => return encode(&SnapshotLine::<(), ()>::Heartbeat),
                () = sleep_until(self.ends) => return None,
            }
        }
    }

    fn resources_line(&mut self) -> Option<Bytes> {
        let published = self.resources.borrow_and_update().clone();
        let mut resources = published.for_pod(&self.pod);
        resources.service_accounts = self.service_accounts();
        resources.approval_keys = self.seal.public_keys();
        resources.step_up = self.engine.step_up_page().map(|page| Url::clone(&page));
        encode(&SnapshotLine::Resources(Box::new(resources)))
    }

    /// Issuer and key set of service-account tokens.
    fn service_accounts(&self) -> Option<(String, String)> {
        let issuer = self.authenticator.service_account_issuer()?;
        if let KeySource::Inline(jwks) = issuer.keys { Some((issuer.issuer, jwks)) } else { None }
    }
}

fn encode<P: Serialize, R: Serialize>(line: &SnapshotLine<P, R>) -> Option<Bytes> {
    let mut text = match serde_json::to_vec(line) {
        Ok(text) => text,
        Err(error) => {
            tracing::error!(%error, "a line of a snapshot stream can't be serialized; closing the stream");
            return None;
        }
    };
    text.push(b'\n');
    Some(text.into())
}
