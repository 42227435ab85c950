//! The reconciler of the webhook configurations.

use super::context::Context;
use crate::webhooks::{FailurePolicy, WebhookConfigurations, WebhookStatus};
use durward_core::digest::Digest;
use durward_identity::Authorities;
use durward_runtime::supervisor::Supervisor;
use std::sync::Arc;
use tokio::sync::watch;

pub(super) struct WebhookInputs {
    pub port: u16,
    pub authorities: Authorities,
    /// The cert-manager Certificate whose CA the configurations take, as `namespace/name`.
    pub certificate: Option<String>,
    pub failure_policy: FailurePolicy,
    pub injection_failure_policy: FailurePolicy,
    pub leading: watch::Receiver<bool>,
    pub synced: watch::Receiver<bool>,
}

pub(super) struct WebhookFeeds {
    /// Digest of the roots that every configuration has.
    pub roots: watch::Receiver<Option<Digest>>,
    /// Whether the API server calls the webhook for governed operations.
    pub status: watch::Receiver<WebhookStatus>,
}

/// Starts the reconciler.
pub(super) fn start(supervisor: &mut Supervisor, context: &Context, inputs: WebhookInputs) -> WebhookFeeds {
    let (roots_sender, roots) = watch::channel(None);
    let (status_sender, status) = watch::channel(WebhookStatus::default());
    let configurations = WebhookConfigurations {
        service: context.service.clone(),
        namespace: context.namespace.clone(),
        port: i32::from(inputs.port),
        authorities: inputs.authorities,
        roots: roots_sender,
        status: status_sender,
        certificate: inputs.certificate,
        failure_policy: inputs.failure_policy,
        injection_failure_policy: inputs.injection_failure_policy,
    };
    let client = context.client.clone();
    let engine = Arc::clone(&context.engine.engine);
    let WebhookInputs { leading, synced, .. } = inputs;
    supervisor.spawn(|stop| configurations.run(client, engine, leading, synced, stop));
    WebhookFeeds { roots, status }
}
