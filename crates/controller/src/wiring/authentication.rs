//! Tasks that keep the authenticator current: keys of issuers, existing pods and accounts, and the use of API keys.

use super::context::Context;
use crate::key_use_writer::{KeyUseWriter, key_uses_config_map};
use crate::{liveness, service_accounts};
use durward_doors::assembly::start_authenticator;
use durward_identity::TokenKeys;
use durward_runtime::supervisor::Supervisor;
use std::sync::Arc;

pub(super) fn start(supervisor: &mut Supervisor, context: &Context, token_keys: &TokenKeys) {
    start_authenticator(supervisor, Arc::clone(&context.engine.authenticator));
    let client = context.client.clone();
    let index = Arc::clone(&context.liveness);
    let readiness = Arc::clone(&context.readiness);
    supervisor.spawn(|stop| liveness::follow(client, index, readiness, stop));
    let client = context.client.clone();
    let authenticator = Arc::clone(&context.engine.authenticator);
    supervisor.spawn(|stop| service_accounts::follow(client, authenticator, stop));
    let token_keys = token_keys.clone();
    let authenticator = Arc::clone(&context.engine.authenticator);
    supervisor.spawn(|stop| token_keys.sync_authenticator(authenticator, stop));
    let key_uses = KeyUseWriter {
        config_maps: context.namespaced(),
        name: key_uses_config_map(&context.service),
        authenticator: Arc::clone(&context.engine.authenticator),
    };
    supervisor.spawn(|stop| key_uses.run(stop));
}
