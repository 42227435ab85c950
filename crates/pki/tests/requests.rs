//! Keys that are certified, and keys that are refused.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a failed expectation fails the test"
)]

use chrono::{TimeDelta, Utc};
use durward_pki::authority::{CertificateAuthority, SvidRequest};
use durward_pki::request::{SubjectKey, SubjectKeyError};
use durward_pki::serial::CertificateSerial;
use durward_pki::svid;
use rcgen::{
    CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ECDSA_P521_SHA512, PKCS_ED25519,
    PKCS_RSA_SHA256, RsaKeySize,
};

fn request(key: &KeyPair) -> Vec<u8> {
    CertificateParams::default().serialize_request(key).unwrap().der().to_vec()
}

#[test]
fn keys_that_the_kubelet_generates_are_certified() {
    let now = Utc::now();
    let authority = CertificateAuthority::create("cluster.local", now, CertificateSerial::unbound([7; 15])).unwrap();
    let mut keys: Vec<(&str, KeyPair)> = [
        ("P-256", &PKCS_ECDSA_P256_SHA256),
        ("P-384", &PKCS_ECDSA_P384_SHA384),
        ("P-521", &PKCS_ECDSA_P521_SHA512),
        ("Ed25519", &PKCS_ED25519),
    ]
    .map(|(name, algorithm)| (name, KeyPair::generate_for(algorithm).unwrap()))
    .into();
    keys.push(("RSA 3072", KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_3072).unwrap()));
    for (name, key) in keys {
        let bare = SubjectKey::from_public_key(&rcgen::PublicKeyData::subject_public_key_info(&key));
        let bare = bare.unwrap_or_else(|error| panic!("{name}: {error}"));
        let key = SubjectKey::from_csr(&request(&key)).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(rcgen::PublicKeyData::der_bytes(&bare), rcgen::PublicKeyData::der_bytes(&key), "{name}");
        let request_for_web = SvidRequest {
            id: "spiffe://cluster.local/ns/shop/sa/web",
            dns_names: &[],
            addresses: &[],
            not_before: now,
            not_after: now + TimeDelta::hours(1),
            serial: CertificateSerial::unbound([9; 15]),
        };
        let certificate = authority.certify(&request_for_web, &key).unwrap_or_else(|error| panic!("{name}: {error}"));
        let read = svid::verify_client(&[certificate], &[authority.certificate().clone()], now.timestamp());
        assert_eq!(read.unwrap_or_else(|error| panic!("{name}: {error}")).id, request_for_web.id);
    }
}

#[test]
fn weak_keys_and_malformed_requests_are_refused() {
    let weak = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap();
    assert_eq!(SubjectKey::from_csr(&request(&weak)).unwrap_err(), SubjectKeyError::Unsupported);
    let good = request(&KeyPair::generate().unwrap());
    let cut = good[..good.len() - 1].to_vec();
    for der in [&b""[..], b"x", &good] {
        assert_eq!(SubjectKey::from_public_key(der).unwrap_err(), SubjectKeyError::Unreadable);
    }
    for (name, der) in [("empty", vec![]), ("truncated", cut), ("trailing byte", [&good[..], &[0]].concat())] {
        assert_eq!(SubjectKey::from_csr(&der).unwrap_err(), SubjectKeyError::Unreadable, "{name}");
    }
}

#[test]
fn a_request_that_is_not_signed_with_its_own_key_is_refused() {
    let good = request(&KeyPair::generate().unwrap());
    assert!(SubjectKey::from_signed_csr(&good).is_ok());
    let mut forged = good;
    // a request ends with its signature
    let last = forged.len() - 1;
    forged[last] ^= 1;
    assert!(SubjectKey::from_csr(&forged).is_ok(), "the request is still well-formed");
    assert_eq!(SubjectKey::from_signed_csr(&forged).unwrap_err(), SubjectKeyError::Signature);
}
