//! The token listener: public keys for services that verify tokens on their own, where everything is, and the trust bundle.

use crate::exchange::{CLIENT_CREDENTIALS, EXCHANGE, INTROSPECTION_PATH, TOKEN_PATH};
use axum::extract::{Query, State};
use axum::http::header;
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use durward_authn::Authenticator;
use durward_core::digest::Digest;
use durward_identity::{Authorities, TokenKeys};
use durward_pki::bundle::write;
use durward_pki::token::SigningAlgorithm;
use durward_protocol::bundles::{BUNDLES_PATH, Bundles};
use rustls_pki_types::CertificateDer;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// How long a verifier may keep the keys, in seconds; a key is published for longer than this before it signs.
const MAX_AGE: &str = "public, max-age=300";
/// How often whoever uses the trust bundle is to look for another one, in seconds.
const REFRESH_HINT: u32 = 300;

/// Where the keys are that verify the audit log: apart from those of tokens, for they count for nothing else.
const AUDIT_KEYS_PATH: &str = "/.well-known/durward-audit-keys.json";

/// What verifiers need: keys, and where everything is.
#[derive(Debug, Clone)]
pub struct Metadata {
    issuer: Arc<str>,
    /// Where clients that show a certificate have to go (RFC 8705, section 5).
    tls: Option<Arc<str>>,
    keys: TokenKeys,
    audit_keys: TokenKeys,
}

impl Metadata {
    /// `issuer` is the URL under which tokens of this installation are verified, and `tls` the same with client
    /// certificates, if that is another.
    pub fn new(issuer: &str, tls: Option<String>, keys: TokenKeys, audit_keys: TokenKeys) -> Self {
        Self { issuer: issuer.into(), tls: tls.map(Into::into), keys, audit_keys }
    }

    fn endpoints(&self, base: &str) -> Map<String, Value> {
        let all = [("token_endpoint", TOKEN_PATH), ("introspection_endpoint", INTROSPECTION_PATH)];
        all.into_iter().map(|(name, path)| (name.to_owned(), format!("{base}{path}").into())).collect()
    }

    /// OpenID Connect Discovery, section 3, and RFC 8414, section 2, as much of both as there is.
    fn document(&self) -> Value {
        let algorithms = SigningAlgorithm::ALL.map(SigningAlgorithm::as_str);
        let mut document = json!({
            "issuer": &*self.issuer,
            "jwks_uri": format!("{}{JWKS_PATH}", self.issuer),
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": algorithms,
            "grant_types_supported": [EXCHANGE, CLIENT_CREDENTIALS],
            "token_endpoint_auth_methods_supported": ["none", "tls_client_auth"],
            "tls_client_certificate_bound_access_tokens": true,
        });
        if let Some(document) = document.as_object_mut() {
            document.extend(self.endpoints(&self.issuer));
            document
                .extend(self.tls.iter().map(|tls| ("mtls_endpoint_aliases".to_owned(), self.endpoints(tls).into())));
        }
        document
    }
}

const JWKS_PATH: &str = "/.well-known/jwks.json";

/// Keys and where everything is, as a router.
pub fn metadata(metadata: Metadata) -> Router {
    let document = async |State(this): State<Metadata>| ([(header::CACHE_CONTROL, MAX_AGE)], Json(this.document()));
    Router::new()
        .route(JWKS_PATH, get(async |State(this): State<Metadata>| key_set(this.keys.current().jwks())))
        .route(AUDIT_KEYS_PATH, get(async |State(this): State<Metadata>| key_set(this.audit_keys.current().jwks())))
        .route("/.well-known/openid-configuration", get(document))
        .route("/.well-known/oauth-authorization-server", get(document))
        .with_state(metadata)
}

/// The bundle of a standalone engine as a router: its roots since a time, in seconds since 1970, and the keys that there are.
pub fn own_bundle(roots: Vec<CertificateDer<'static>>, since: i64, keys: TokenKeys) -> Router {
    let own = async move || {
        let keys = keys.current();
        spiffe_bundle(write(&roots, keys.public(), since.saturating_add(keys.sequence()), REFRESH_HINT))
    };
    Router::new().route("/bundle", get(own))
}

/// How long a question for other bundles is held.
const HOLD: Duration = Duration::from_secs(20);
/// What bundles are made from.
#[derive(Debug, Clone)]
pub struct Published {
    pub trust_domain: Arc<str>,
    pub authorities: Authorities,
    pub keys: TokenKeys,
    /// Knows the other trust domains.
    pub authenticator: Arc<Authenticator>,
}

impl Published {
    /// The own bundle.
    fn bundle(&self) -> String {
        let (trust, keys) = (self.authorities.current(), self.keys.current());
        write(&trust.roots(), keys.public(), trust.since.saturating_add(keys.sequence()), REFRESH_HINT)
    }

    fn bundles(&self) -> Bundles {
        let own = serde_json::from_str(&self.bundle()).unwrap_or_default();
        let mut bundles = self.authenticator.federated_bundles();
        bundles.insert(format!("spiffe://{}", self.trust_domain), own);
        let text = serde_json::to_vec(&bundles).unwrap_or_default();
        Bundles { digest: Digest::of([text.as_slice()]).to_string(), bundles }
    }
}

/// The bundles of a cluster as a router.
pub fn router(published: Published) -> Router {
    Router::new()
        .route("/bundle", get(async |State(this): State<Published>| spiffe_bundle(this.bundle())))
        .route(BUNDLES_PATH, get(bundles))
        .with_state(published)
}

fn key_set(jwks: String) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/jwk-set+json"), (header::CACHE_CONTROL, MAX_AGE)], jwks)
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
