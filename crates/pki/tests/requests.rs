//! Which keys are certified.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests say what they expect by unwrapping it"
)]

use durward_pki::authority::{Authority, Request};
use durward_pki::request::{SubjectKey, SubjectKeyError};
use durward_pki::serial::Serial;
use durward_pki::svid;
use rcgen::{
    CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ECDSA_P521_SHA512, PKCS_ED25519,
    PKCS_RSA_SHA256, RsaKeySize,
};
use time::OffsetDateTime;

fn request(key: &KeyPair) -> Vec<u8> {
    CertificateParams::default().serialize_request(key).unwrap().der().to_vec()
}

#[test]
fn keys_that_kubelet_makes_are_certified() {
    let now = OffsetDateTime::now_utc();
    let authority = Authority::create("cluster.local", now, Serial::own([7; 15])).unwrap();
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
        let alone = SubjectKey::of_public_key(&rcgen::PublicKeyData::subject_public_key_info(&key));
        let alone = alone.unwrap_or_else(|error| panic!("{name}: {error}"));
        let key = SubjectKey::of_request(&request(&key)).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(rcgen::PublicKeyData::der_bytes(&alone), rcgen::PublicKeyData::der_bytes(&key), "{name}");
        let asked = Request {
            id: "spiffe://cluster.local/ns/shop/sa/web",
            dns_names: &[],
            addresses: &[],
            not_before: now,
            not_after: now + time::Duration::hours(1),
            serial: Serial::own([9; 15]),
        };
        let certificate = authority.certify(&asked, &key).unwrap_or_else(|error| panic!("{name}: {error}"));
        let read = svid::verify(&[certificate], &[authority.certificate().clone()], now.unix_timestamp());
        assert_eq!(read.unwrap_or_else(|error| panic!("{name}: {error}")).id, asked.id);
    }
}

#[test]
fn weak_keys_and_nonsense_are_not() {
    let weak = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap();
    assert_eq!(SubjectKey::of_request(&request(&weak)).unwrap_err(), SubjectKeyError::Unsupported);
    let good = request(&KeyPair::generate().unwrap());
    let cut = good[..good.len() - 1].to_vec();
    for der in [&b""[..], b"x", &good] {
        assert_eq!(SubjectKey::of_public_key(der).unwrap_err(), SubjectKeyError::Unreadable);
    }
    for (name, der) in [("nothing", vec![]), ("cut", cut), ("more", [&good[..], &[0]].concat())] {
        assert_eq!(SubjectKey::of_request(&der).unwrap_err(), SubjectKeyError::Unreadable, "{name}");
    }
}

#[test]
fn who_does_not_have_the_key_gets_no_certificate_for_it() {
    let good = request(&KeyPair::generate().unwrap());
    assert!(SubjectKey::of_signed_request(&good).is_ok());
    let mut forged = good;
    // the signature is what a request ends with
    let last = forged.len() - 1;
    forged[last] ^= 1;
    assert!(SubjectKey::of_request(&forged).is_ok(), "it reads well");
    assert_eq!(SubjectKey::of_signed_request(&forged).unwrap_err(), SubjectKeyError::Signature);
}
