//! The token listener: public keys for services that verify tokens on their own, and the trust bundle.

use crate::authn::Authenticator;
use crate::identity::{Authorities, TokenKeys};
use axum::extract::{Query, State};
use axum::http::header;
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use durward_core::digest::Digest;
use durward_pki::bundle::bundle;
use durward_pki::token::Algorithm;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// How long a verifier may keep the keys, in seconds; a key is published for longer than this before it signs.
const MAX_AGE: &str = "public, max-age=300";
/// How often whoever uses the trust bundle is to look for another one, in seconds.
pub(crate) const REFRESH_HINT: u32 = 300;

/// Where the keys are that verify the audit log: apart from those of tokens, for they count for nothing else.
const AUDIT_KEYS_PATH: &str = "/.well-known/durward-audit-keys.json";

/// The listener of a standalone engine as a router, for the keys of tokens and of the audit log (RFC 7517, section 5) and
/// a bundle.
pub(crate) fn standalone(jwks: Arc<str>, audit: Arc<str>, bundle: Arc<str>) -> Router {
    Router::new()
        .route("/.well-known/jwks.json", get(async move || key_set(jwks.to_string())))
        .route(AUDIT_KEYS_PATH, get(async move || key_set(audit.to_string())))
        .route("/bundle", get(async move || spiffe_bundle(bundle.to_string())))
}

/// How long a question for other bundles is held.
const HOLD: Duration = Duration::from_secs(20);
/// Where agents follow the bundles.
pub(crate) const BUNDLES_PATH: &str = "/bundles";

/// Bundles of every trust domain that counts, each as SPIFFE has it, by the domain's SPIFFE ID.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Bundles {
    pub(crate) digest: String,
    pub(crate) bundles: BTreeMap<String, Value>,
}

/// What the listener of a cluster tells.
#[derive(Clone)]
pub(crate) struct Published {
    pub(crate) trust_domain: Arc<str>,
    /// The URL under which tokens of this installation are verified.
    pub(crate) issuer: Arc<str>,
    pub(crate) authorities: Authorities,
    pub(crate) keys: TokenKeys,
    pub(crate) audit_keys: TokenKeys,
    /// Knows the other trust domains.
    pub(crate) authenticator: Arc<Authenticator>,
}

impl Published {
    /// The own bundle.
    fn bundle(&self) -> String {
        let (trust, keys) = (self.authorities.current(), self.keys.current());
        bundle(&trust.roots(), keys.public(), trust.since.saturating_add(keys.sequence()), REFRESH_HINT)
    }

    fn bundles(&self) -> Bundles {
        let own = serde_json::from_str(&self.bundle()).unwrap_or_default();
        let mut bundles = self.authenticator.federated_bundles();
        bundles.insert(format!("spiffe://{}", self.trust_domain), own);
        let text = serde_json::to_vec(&bundles).unwrap_or_default();
        Bundles { digest: Digest::of([text.as_slice()]).to_string(), bundles }
    }
}

/// The listener of a cluster as a router.
pub(crate) fn router(published: Published) -> Router {
    Router::new()
        .route("/.well-known/jwks.json", get(async |State(this): State<Published>| key_set(this.keys.current().jwks())))
        .route(AUDIT_KEYS_PATH, get(async |State(this): State<Published>| key_set(this.audit_keys.current().jwks())))
        .route("/.well-known/openid-configuration", get(discovery))
        .route("/bundle", get(async |State(this): State<Published>| spiffe_bundle(this.bundle())))
        .route(BUNDLES_PATH, get(bundles))
        .with_state(published)
}

fn key_set(jwks: String) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/jwk-set+json"), (header::CACHE_CONTROL, MAX_AGE)], jwks)
}

/// OpenID Connect Discovery, section 3: as much of it as verifiers of tokens read.
async fn discovery(State(this): State<Published>) -> impl IntoResponse {
    let document = json!({
        "issuer": &*this.issuer,
        "jwks_uri": format!("{}/.well-known/jwks.json", this.issuer),
        "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": Algorithm::ALL.map(Algorithm::as_str),
    });
    ([(header::CACHE_CONTROL, MAX_AGE)], Json(document))
}

/// The bundle as SPIFFE has it (SPIFFE Trust Domain and Bundle, section 4).
fn spiffe_bundle(bundle: String) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, MAX_AGE)], bundle)
}

#[derive(Debug, Deserialize)]
struct Known {
    #[serde(default)]
    known: String,
}

/// All bundles, once they are others than those that are known; the same again when nothing changes for a while.
async fn bundles(State(this): State<Published>, Query(Known { known }): Query<Known>) -> Json<Bundles> {
    let (mut roots, mut keys) = (this.authorities.changes(), this.keys.changes());
    let mut federated = this.authenticator.federated_changes();
    let end = Instant::now() + HOLD;
    loop {
        roots.mark_unchanged();
        keys.mark_unchanged();
        federated.mark_unchanged();
        let now = this.bundles();
        if now.digest != known {
            return Json(now);
        }
        tokio::select! {
            Ok(()) = roots.changed() => {}
            Ok(()) = keys.changed() => {}
            Ok(()) = federated.changed() => {}
            () = sleep_until(end) => return Json(now),
        }
    }
}
