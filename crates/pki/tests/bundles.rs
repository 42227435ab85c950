//! Trust bundles in the SPIFFE format.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a failed expectation fails the test")]

use chrono::Utc;
use durward_pki::authority::CertificateAuthority;
use durward_pki::bundle::{BundleError, read, write};
use durward_pki::serial::CertificateSerial;
use durward_pki::token::{SigningAlgorithm, TokenKey};
use serde_json::{Value, json};

#[test]
fn a_bundle_round_trips_through_json() {
    let authority =
        CertificateAuthority::create("cluster.local", Utc::now(), CertificateSerial::unbound([1; 15])).unwrap();
    let keys = SigningAlgorithm::ALL.map(|algorithm| TokenKey::generate(algorithm).unwrap());
    let text = write(authority.roots(), keys.iter().map(TokenKey::jwk), 7, 300);
    let document: Value = serde_json::from_str(&text).unwrap();
    let root = &document["keys"][0];
    assert_eq!((&root["kty"], &root["crv"], &root["use"]), (&json!("EC"), &json!("P-256"), &json!("x509-svid")));
    assert_eq!((root["x"].as_str().unwrap().len(), root["y"].as_str().unwrap().len()), (43, 43));
    let contents = read(text.as_bytes()).unwrap();
    assert_eq!(contents.roots, authority.roots());
    assert_eq!((contents.sequence, contents.refresh_hint), (Some(7), Some(300)));
    let tokens: Value = serde_json::from_str(&contents.jwks).unwrap();
    let ids: Vec<&str> = tokens["keys"].as_array().unwrap().iter().map(|key| key["kid"].as_str().unwrap()).collect();
    assert_eq!(ids, keys.each_ref().map(TokenKey::kid));
}

#[test]
fn invalid_bundles_are_refused_and_other_keys_are_skipped() {
    assert!(matches!(read(b""), Err(BundleError::NotJson(_))));
    for text in ["[]", "{}", r#"{"keys": 1}"#] {
        assert_eq!(read(text.as_bytes()), Err(BundleError::NoKeys), "{text}");
    }
    for x5c in [json!([]), json!(["!"]), json!(["AAAA"]), json!(null), json!(["AAAA", "AAAA"])] {
        let text = json!({"keys": [{"use": "x509-svid", "x5c": x5c}]}).to_string();
        assert_eq!(read(text.as_bytes()), Err(BundleError::Certificate(0)), "{text}");
    }
    let contents = read(br#"{"keys": [{"use": "tomorrow"}, {}]}"#).unwrap();
    assert!(contents.roots.is_empty());
}
