//! The CA, and the keys that sign tokens and the audit log.

use crate::settings::ControllerSettings;
use durward_approvals::ApprovalSeal;
use durward_identity::{Authorities, CaStore, TOKEN_KEY_SCHEDULE, TokenKeyStore, TokenKeys};
use durward_pki::rotation::TokenKeySchedule;
use durward_pki::token::SigningAlgorithm;
use durward_runtime::Failure;
use kube::{Api, Client};
use std::time::Duration;

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
    pub ca_store: CaStore,
    pub token_key_store: TokenKeyStore,
    pub audit_key_store: TokenKeyStore,
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
}
