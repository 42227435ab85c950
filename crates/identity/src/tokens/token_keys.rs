//! The keys that sign JWT-SVIDs, access tokens and the audit log, as this process holds them.

use crate::tokens::key_ring::TokenKeyRing;
use chrono::Utc;
use durward_authn::Authenticator;
use durward_engine::audit::LogSigner;
use durward_pki::token::{SigningAlgorithm, TokenKeyError};
use durward_runtime::Failure;
use std::sync::Arc;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// The current [`TokenKeyRing`], shared by all signers and verifiers of this process.
#[derive(Debug, Clone)]
pub struct TokenKeys(watch::Sender<Arc<TokenKeyRing>>);

impl TokenKeys {
    pub fn new(ring: TokenKeyRing) -> Self {
        Self(watch::Sender::new(Arc::new(ring)))
    }

    pub fn replace(&self, ring: TokenKeyRing) {
        self.0.send_replace(Arc::new(ring));
    }

    pub fn current(&self) -> Arc<TokenKeyRing> {
        Arc::clone(&self.0.borrow())
    }

    pub fn changes(&self) -> watch::Receiver<Arc<TokenKeyRing>> {
        self.0.subscribe()
    }

    /// Gives the authenticator each new key set, until `shutdown`.
    pub async fn sync_authenticator(
        self,
        authenticator: Arc<Authenticator>,
        shutdown: CancellationToken,
    ) -> Result<(), Failure> {
        let mut changes = self.changes();
        loop {
            tokio::select! {
                Ok(()) = changes.changed() => {}
                () = shutdown.cancelled() => return Ok(()),
            }
            let jwks = changes.borrow_and_update().jwks();
            authenticator.change_domain(|domain| domain.own_keys = Some(jwks.clone()));
        }
    }

    /// Signs the audit log, each time with the current key.
    pub fn log_signer(&self) -> LogSigner {
        let keys = self.clone();
        LogSigner::new(move |claims, typ| match keys.current().signing_key(SigningAlgorithm::Es256, Utc::now()) {
            Some(key) => key.sign(claims, typ),
            None => Err(TokenKeyError::Key),
        })
    }
}
