//! Which keys verify a token, and fetches that outlive the requests which wait for them.

use super::*;
use crate::cause::Cause;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::Utc;
use durward_pki::token::{SigningAlgorithm, TokenKey, jwks};
use jsonwebtoken::Algorithm;
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

fn key(algorithm: SigningAlgorithm) -> TokenKey {
    TokenKey::generate(algorithm).expect("a key")
}

/// The key as a JWK with these members changed; a null removes one.
fn jwk(key: &TokenKey, changes: Value) -> Value {
    let mut jwk = serde_json::to_value(key.jwk()).expect("JSON");
    let members = jwk.as_object_mut().expect("an object");
    for (name, value) in changes.as_object().expect("an object").clone() {
        if value.is_null() { drop(members.remove(&name)) } else { drop(members.insert(name, value)) }
    }
    jwk
}

/// The same number with a zero octet in front.
fn zero_in_front(key: &TokenKey, member: &str) -> Value {
    let jwk = jwk(key, json!({}));
    let number = URL_SAFE_NO_PAD.decode(jwk[member].as_str().expect("a text")).expect("base64url");
    URL_SAFE_NO_PAD.encode([vec![0], number].concat()).into()
}

#[test]
fn the_keys_that_fit_are_tried() {
    let (rsa, other_rsa) = (key(SigningAlgorithm::Rs256), key(SigningAlgorithm::Rs256));
    let (ec, other_ec) = (key(SigningAlgorithm::Es256), key(SigningAlgorithm::Es256));
    let named = |key: &TokenKey| jwk(key, json!({"kid": "one"}));
    let with = |key: &TokenKey, changes: Value| {
        let mut all = named(key);
        all.as_object_mut().expect("an object").extend(changes.as_object().expect("an object").clone());
        all
    };
    let unnamed = |key: &TokenKey| jwk(key, json!({"kid": null}));
    let many = |count: usize| -> Vec<Value> { (0..count).map(|_| unnamed(&key(SigningAlgorithm::Es256))).collect() };
    let one = Some("one");
    let zeros = |key: &TokenKey, member: &str| with(key, json!({member: zero_in_front(key, member)}));
    for (name, keys, signer, kid, expected) in [
        ("one kid, two types", vec![named(&rsa), named(&ec)], &ec, one, Ok(())),
        ("one kid, two types, other order", vec![named(&ec), named(&rsa)], &ec, one, Ok(())),
        ("one kid, twice the same type", vec![named(&other_rsa), named(&rsa)], &rsa, one, Ok(())),
        ("one kid, the signer is missing", vec![named(&other_rsa), named(&ec)], &rsa, one, Err(Cause::Signature)),
        ("one kid, no type fits", vec![named(&rsa), named(&other_rsa)], &ec, one, Err(Cause::AlgorithmOfKey)),
        ("another kid", vec![named(&rsa)], &rsa, Some("two"), Err(Cause::UnknownKey)),
        ("no kid, several keys", vec![named(&rsa), unnamed(&other_ec), unnamed(&ec)], &ec, None, Ok(())),
        ("no kid, the signer is missing", vec![named(&rsa), named(&other_ec)], &ec, None, Err(Cause::Signature)),
        ("no kid, too many keys", many(11), &ec, None, Err(Cause::TooManyKeys)),
        ("for encryption", vec![with(&ec, json!({"use": "enc"})), named(&rsa)], &ec, one, Err(Cause::AlgorithmOfKey)),
        ("for verifying", vec![with(&ec, json!({"key_ops": ["verify"]}))], &ec, one, Ok(())),
        ("another algorithm", vec![with(&rsa, json!({"alg": "RS512"}))], &rsa, one, Err(Cause::AlgorithmOfKey)),
        ("a zero before n", vec![zeros(&rsa, "n")], &rsa, one, Ok(())),
        ("a zero before e", vec![zeros(&rsa, "e")], &rsa, one, Ok(())),
        ("a zero before x", vec![zeros(&ec, "x")], &ec, one, Ok(())),
        ("a zero before y", vec![zeros(&ec, "y")], &ec, one, Ok(())),
    ] {
        let set = KeySet::parse(json!({"keys": keys}).to_string().as_bytes()).expect(name);
        let token = signer.sign(&json!({}), "JWT").expect("a token");
        let (message, signature) = token.rsplit_once('.').expect("a signature");
        let algorithm = match signer.algorithm() {
            SigningAlgorithm::Es256 => Algorithm::ES256,
            SigningAlgorithm::Rs256 => Algorithm::RS256,
        };
        assert_eq!(set.verify(kid, algorithm, message, signature), expected, "{name}");
    }
    for operations in [json!(["encrypt"]), json!(["sign"]), json!([])] {
        let keys = json!({"keys": [with(&ec, json!({"key_ops": operations}))]});
        assert!(matches!(KeySet::parse(keys.to_string().as_bytes()), Err(KeySetError::NoUsableKey)), "{operations}");
    }
}

/// A slow issuer: the requests that wait for its keys end before it answers.
#[tokio::test]
async fn a_request_that_ends_takes_no_fetch_with_it() {
    let key = key(SigningAlgorithm::Es256);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
    let url = format!("http://{}/jwks", listener.local_addr().expect("an address"));
    let (asked, was_asked) = oneshot::channel();
    let (answer, may_answer) = oneshot::channel();
    let document = jwks([key.jwk()]);
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        stream.read_u8().await.expect("a request");
        asked.send(()).expect("the test waits");
        may_answer.await.expect("the test answers");
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", document.len());
        stream.write_all(format!("{head}{document}").as_bytes()).await.expect("an answer");
        listener
    });
    let source = KeySource::Url(KeySource::url(&url).expect("a URL"));
    let keys = Arc::new(IssuerKeys::new("https://id.example", source).expect("keys"));
    let now = Utc::now();
    tokio::select! {
        _ = keys.get(Some(key.kid()), now) => panic!("the issuer has not answered"),
        asked = was_asked => asked.expect("the server lives"),
    }
    answer.send(()).expect("the server lives");
    // the refresh waits for the same fetch
    keys.refresh().await;
    assert!(keys.get(Some(key.kid()), now).await.expect("the keys").has(key.kid()));
    let listener = server.await.expect("the server ends");
    drop(listener);
}
