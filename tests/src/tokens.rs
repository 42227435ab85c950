//! Tokens of an external issuer, valid and invalid.

use crate::{HttpReply, UpProcess};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey};
use serde_json::{Value, json};

/// A signing key of the issuer.
pub struct IssuerKey {
    pub kid: String,
    pub key: EncodingKey,
    pub algorithm: Algorithm,
    pub jwk: Value,
    pub pem: String,
}

impl IssuerKey {
    pub fn rsa(kid: &str) -> Self {
        let pem = durward_pki::token::TokenKey::generate(durward_pki::token::SigningAlgorithm::Rs256)
            .unwrap()
            .to_pem()
            .to_string();
        Self::new(kid, EncodingKey::from_rsa_pem(pem.as_bytes()).unwrap(), Algorithm::RS256, pem)
    }

    pub fn ec(kid: &str) -> Self {
        let pem = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap().serialize_pem();
        Self::new(kid, EncodingKey::from_ec_pem(pem.as_bytes()).unwrap(), Algorithm::ES256, pem)
    }

    fn new(kid: &str, key: EncodingKey, algorithm: Algorithm, pem: String) -> Self {
        let mut jwk = serde_json::to_value(Jwk::from_encoding_key(&key, algorithm).unwrap()).unwrap();
        jwk["kid"] = kid.into();
        Self { kid: kid.to_owned(), key, algorithm, jwk, pem }
    }

    /// A token with exactly this header and these claims.
    pub fn sign(&self, header: &Value, claims: &Value) -> String {
        let message = format!("{}.{}", encode(header), encode(claims));
        let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &self.key, self.algorithm).unwrap();
        format!("{message}.{signature}")
    }

    pub fn header(&self) -> Value {
        json!({"alg": format!("{:?}", self.algorithm), "typ": "JWT", "kid": self.kid})
    }

    /// A valid token with these claims changed; a null removes a claim.
    pub fn token(&self, claims: &Value) -> String {
        self.sign(&self.header(), &with(&good(), claims))
    }

    /// A token with valid claims and these header parameters changed.
    pub fn token_with_header(&self, header: &Value) -> String {
        self.sign(&with(&self.header(), header), &good())
    }
}

pub fn now() -> i64 {
    chrono::Utc::now().timestamp()
}

/// Valid claims.
pub fn good() -> Value {
    json!({
        "iss": "https://id.example", "sub": "alice", "aud": "orders-api", "iat": now(), "nbf": now() - 1, "exp": now() + 300,
        "scope": "orders.read", "groups": ["support"],
    })
}

pub fn with(base: &Value, changes: &Value) -> Value {
    let mut all = base.as_object().unwrap().clone();
    for (name, value) in changes.as_object().unwrap() {
        if value.is_null() { drop(all.remove(name)) } else { drop(all.insert(name.clone(), value.clone())) }
    }
    all.into()
}

/// A decoded part of a token: 0 is the header, 1 the claims.
pub fn segment(token: &str, number: usize) -> Value {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token.split('.').nth(number).unwrap()).unwrap()).unwrap()
}

/// The claims of a token, without verification.
pub fn claims(token: &str) -> Value {
    segment(token, 1)
}

/// Sends a request for the service of [`manifests`] to the forward-auth door.
pub fn door(up: &UpProcess, method: &str, path: &str, token: &str) -> HttpReply {
    up.forward_auth(method, "orders.example.com", path, &[("Authorization", &format!("Bearer {token}"))])
}

pub fn encode(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}

/// A policy that accepts the issuer, API keys and workloads, and an issuer with these keys.
pub fn manifests(keys: &[&IssuerKey]) -> String {
    let jwks = json!({"keys": keys.iter().map(|key| &key.jwk).collect::<Vec<_>>()});
    format!(
        r#"
apiVersion: v1
kind: Namespace
metadata: {{name: shop, annotations: {{durward.dev/allowed-hosts: orders.example.com, durward.dev/allowed-audiences: orders-api}}}}
---
apiVersion: durward.dev/v1alpha1
kind: IdentityProvider
metadata: {{name: corporate}}
spec: {{jwt: {{issuer: "https://id.example", claims: {{attributes: {{team: team}}}}, jwks: {jwks}}}}}
---
apiVersion: durward.dev/v1alpha1
kind: IdentityProvider
metadata: {{name: partners}}
spec: {{apiKey: {{selector: {{matchLabels: {{durward.dev/api-keys: partners}}}}}}}}
---
apiVersion: durward.dev/v1alpha1
kind: AccessPolicy
metadata: {{name: orders, namespace: shop}}
spec:
  service: {{audience: orders-api, hosts: [orders.example.com]}}
  authentication: [{{workload: {{}}}}, {{provider: corporate}}, {{provider: partners}}]
  operations:
    - {{name: list-orders, http: [{{methods: [GET], paths: [/orders, "/orders/{{id}}"]}}], scopes: [orders.read], risk: Low}}
    - {{name: create-order, http: [{{methods: [POST], paths: [/orders]}}], scopes: [orders.write]}}
    - {{name: refund-order, http: [{{methods: [POST], paths: ["/orders/{{id}}/refund"]}}], scopes: [orders.refund], risk: High}}
    - {{name: health, http: [{{methods: [GET], paths: [/healthz]}}], public: true}}
  grants:
    - {{name: tokens, to: [{{provider: corporate}}], scopes: [orders.read], fromToken: true}}
    - {{name: support-writes, to: [{{provider: corporate, group: support}}], scopes: [orders.write]}}
    - {{name: partners, to: [{{provider: partners}}], scopes: [orders.read, orders.write]}}
    - {{name: billing, to: [{{serviceAccount: {{namespace: billing, name: billing}}}}], scopes: [orders.read, orders.refund]}}
"#
    )
}
