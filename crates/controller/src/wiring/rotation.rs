//! The rotation of the CA and of all keys.

use super::context::Context;
use super::identity::ControllerIdentity;
use durward_identity::{CaRotation, CaSecretState, PropagationWatchers};
use durward_pki::rotation::RotationSchedule;
use durward_runtime::supervisor::Supervisor;
use std::sync::Arc;
use tokio::sync::watch;

/// Starts the rotation of the CA and of all keys. The leader rotates; every replica follows the Secrets.
pub(super) fn start(
    supervisor: &mut Supervisor,
    context: &Context,
    identity: ControllerIdentity,
    schedule: RotationSchedule,
    propagation: PropagationWatchers,
    leading: &watch::Receiver<bool>,
) {
    let (ca_secret_sender, ca_secret) = watch::channel(CaSecretState::default());
    let rotation = CaRotation {
        store: identity.ca_store.clone(),
        authorities: identity.authorities.clone(),
        schedule,
        watchers: propagation,
        metrics: Arc::clone(&context.engine.metrics),
        namespace: context.namespace.clone(),
        status_config_map: format!("{}-ca-status", context.service),
    };
    let client = context.client.clone();
    let leading_rotation = leading.clone();
    supervisor.spawn(|stop| rotation.run(client, ca_secret, leading_rotation, stop));
    let ControllerIdentity { authorities, token_keys, audit_keys, ca_store, token_key_store, audit_key_store, .. } =
        identity;
    supervisor.spawn(|stop| ca_store.follow(authorities, ca_secret_sender, stop));
    let leading_token_keys = leading.clone();
    supervisor.spawn(|stop| token_key_store.run(token_keys, leading_token_keys, stop));
    let leading_audit_keys = leading.clone();
    supervisor.spawn(|stop| audit_key_store.run(audit_keys, leading_audit_keys, stop));
}
