//! TokenMetadata on the token listener: public keys, the locations of endpoints, and trust bundles.

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

/// How long a verifier may cache keys. A key is published for longer than this before it signs.
const MAX_AGE: &str = "public, max-age=300";
/// How often clients should fetch the trust bundle, in seconds.
const REFRESH_HINT: u32 = 300;

/// Path of the keys that verify the audit log. They are separate from those of tokens, as they sign nothing else.
const AUDIT_KEYS_PATH: &str = "/.well-known/durward-audit-keys.json";

/// Keys and endpoints, for those who verify or request tokens.
#[derive(Debug, Clone)]
pub struct TokenMetadata {
    issuer: Arc<str>,
    /// Base URL for clients with certificates (RFC 8705, section 5).
    tls: Option<Arc<str>>,
    keys: TokenKeys,
    audit_keys: TokenKeys,
}

impl TokenMetadata {
    /// `issuer` is the base URL and the `iss` of tokens; `tls` is the base URL for clients with certificates, if it
    /// differs.
    pub fn new(issuer: &str, tls: Option<String>, keys: TokenKeys, audit_keys: TokenKeys) -> Self {
        Self { issuer: issuer.into(), tls: tls.map(Into::into), keys, audit_keys }
    }

    fn endpoints(&self, base: &str) -> Map<String, Value> {
        let all = [("token_endpoint", TOKEN_PATH), ("introspection_endpoint", INTROSPECTION_PATH)];
        all.into_iter().map(|(name, path)| (name.to_owned(), format!("{base}{path}").into())).collect()
    }

    /// The metadata document: the supported parts of OpenID Connect Discovery, section 3, and RFC 8414, section 2.
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

/// The keys and the metadata document as a router.
pub fn metadata(metadata: TokenMetadata) -> Router {
    let document =
        async |State(this): State<TokenMetadata>| ([(header::CACHE_CONTROL, MAX_AGE)], Json(this.document()));
    Router::new()
        .route(JWKS_PATH, get(async |State(this): State<TokenMetadata>| key_set(this.keys.current().jwks())))
        .route(
            AUDIT_KEYS_PATH,
            get(async |State(this): State<TokenMetadata>| key_set(this.audit_keys.current().jwks())),
        )
        .route("/.well-known/openid-configuration", get(document))
        .route("/.well-known/oauth-authorization-server", get(document))
        .with_state(metadata)
}

/// The bundle of a standalone engine as a router. The roots exist since `since`, in seconds since 1970.
pub fn own_bundle(roots: Vec<CertificateDer<'static>>, since: i64, keys: TokenKeys) -> Router {
    let own = async move || {
        let keys = keys.current();
        spiffe_bundle(write(&roots, keys.public_keys(), since.saturating_add(keys.sequence()), REFRESH_HINT))
    };
    Router::new().route("/bundle", get(own))
}

/// How long a request for changed bundles waits.
const LONG_POLL: Duration = Duration::from_secs(20);

/// The sources of the published bundles.
#[derive(Debug, Clone)]
pub struct PublishedBundles {
    pub trust_domain: Arc<str>,
    pub authorities: Authorities,
    pub keys: TokenKeys,
    /// Holds the bundles of federated trust domains.
    pub authenticator: Arc<Authenticator>,
}

impl PublishedBundles {
    /// The bundle of this trust domain.
    fn own_bundle(&self) -> String {
        let trust = self.authorities.current();
        let keys = self.keys.current();
        write(&trust.roots(), keys.public_keys(), trust.since.saturating_add(keys.sequence()), REFRESH_HINT)
    }

    fn bundles(&self) -> Bundles {
        let own = serde_json::from_str(&self.own_bundle()).unwrap_or_default();
        let mut bundles = self.authenticator.federated_bundles();
        bundles.insert(format!("spiffe://{}", self.trust_domain), own);
        let text = serde_json::to_vec(&bundles).unwrap_or_default();
        Bundles { digest: Digest::of([text.as_slice()]).to_string(), bundles }
    }
}

/// The bundles of a cluster as a router.
pub fn router(published: PublishedBundles) -> Router {
    Router::new()
        .route("/bundle", get(async |State(this): State<PublishedBundles>| spiffe_bundle(this.own_bundle())))
        .route(BUNDLES_PATH, get(bundles))
        .with_state(published)
}

fn key_set(jwks: String) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/jwk-set+json"), (header::CACHE_CONTROL, MAX_AGE)], jwks)
}

/// A bundle in SPIFFE's format (SPIFFE Trust Domain and Bundle, section 4).
fn spiffe_bundle(bundle: String) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, MAX_AGE)], bundle)
}

#[derive(Debug, Deserialize)]
struct KnownBundles {
    /// Digest of the bundles that the client has.
    #[serde(default)]
    known: String,
}

/// All bundles, as soon as they differ from those of the client; the same ones after a while without a change.
async fn bundles(
    State(this): State<PublishedBundles>,
    Query(KnownBundles { known }): Query<KnownBundles>,
) -> Json<Bundles> {
    let mut roots = this.authorities.changes();
    let mut keys = this.keys.changes();
    let mut federated = this.authenticator.federated_changes();
    let end = Instant::now() + LONG_POLL;
    loop {
        roots.mark_unchanged();
        keys.mark_unchanged();
        federated.mark_unchanged();
        let current = this.bundles();
        if current.digest != known {
            return Json(current);
        }
        tokio::select! {
            Ok(()) = roots.changed() => {}
            Ok(()) = keys.changed() => {}
            Ok(()) = federated.changed() => {}
            () = sleep_until(end) => return Json(current),
        }
    }
}
