//! The CA, the keys that sign tokens and the audit log, and their rotation.

use super::context::Context;
use crate::settings::ControllerSettings;
use durward_approvals::ApprovalSeal;
use durward_identity::{
    Authorities, CaRotation, CaSecretState, CaStore, PropagationWatchers, TOKEN_KEY_SCHEDULE, TokenKeyStore, TokenKeys,
};
use durward_pki::rotation::{RotationSchedule, TokenKeySchedule};
use durward_pki::token::SigningAlgorithm;
use durward_runtime::Failure;
use durward_runtime::supervisor::Supervisor;
use kube::{Api, Client};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Rotation of the audit log's keys. Logs are verified for years.
const AUDIT_KEY_SCHEDULE: TokenKeySchedule = TokenKeySchedule {
    algorithms: &[SigningAlgorithm::Es256],
    signs: Duration::from_secs(365 * 24 * 3600),
    ahead: Duration::from_secs(24 * 3600),
    after: Duration::from_secs(10 * 365 * 24 * 3600),
};

/// Keys of the installation and the Secrets that keep them.
pub(super) struct ControllerIdentity {
    pub authorities: Authorities,
    pub token_keys: TokenKeys,
    pub audit_keys: TokenKeys,
    /// Signs and verifies approvals.
    pub seal: ApprovalSeal,
    ca_store: CaStore,
    token_key_store: TokenKeyStore,
    audit_key_store: TokenKeyStore,
}

impl ControllerIdentity {
    /// Reads CA and keys from their Secrets, or creates them.
    pub async fn open(client: &Client, settings: &ControllerSettings) -> Result<Self, Failure> {
        let ControllerSettings { namespace, service, .. } = settings;
        let secrets = Api::namespaced(client.clone(), namespace);
        let ca_store = CaStore::new(secrets.clone(), service, settings.ca, &settings.domains.trust_domain);
        let authorities = Authorities::new(ca_store.open().await?);
        let audit_key_store = TokenKeyStore {
            secrets: secrets.clone(),
            name: format!("{service}-audit-keys"),
            schedule: AUDIT_KEY_SCHEDULE,
        };
        let audit_keys = audit_key_store.open().await?;
        let token_key_store =
            TokenKeyStore { secrets, name: format!("{service}-token-keys"), schedule: TOKEN_KEY_SCHEDULE };
        let token_keys = token_key_store.open().await?;
        let seal = ApprovalSeal::new(audit_keys.clone());
        Ok(Self { authorities, token_keys, audit_keys, seal, ca_store, token_key_store, audit_key_store })
    }

    /// Starts the rotation of the CA and of all keys. The leader rotates; every replica follows the Secrets.
    pub fn start_rotation(
        self,
        supervisor: &mut Supervisor,
        context: &Context,
        schedule: RotationSchedule,
        propagation: PropagationWatchers,
        leading: &watch::Receiver<bool>,
    ) {
        let (ca_secret_sender, ca_secret) = watch::channel(CaSecretState::default());
        let rotation = CaRotation {
            store: self.ca_store.clone(),
            authorities: self.authorities.clone(),
            schedule,
            watchers: propagation,
            metrics: Arc::clone(&context.engine.metrics),
            namespace: context.namespace.clone(),
            status_config_map: format!("{}-ca-status", context.service),
        };
        let client = context.client.clone();
        let leading_rotation = leading.clone();
        supervisor.spawn(|stop| rotation.run(client, ca_secret, leading_rotation, stop));
        let Self { authorities, token_keys, audit_keys, ca_store, token_key_store, audit_key_store, .. } = self;
        supervisor.spawn(|stop| ca_store.follow(authorities, ca_secret_sender, stop));
        let leading_token_keys = leading.clone();
        supervisor.spawn(|stop| token_key_store.run(token_keys, leading_token_keys, stop));
        let leading_audit_keys = leading.clone();
        supervisor.spawn(|stop| audit_key_store.run(audit_keys, leading_audit_keys, stop));
    }
}
