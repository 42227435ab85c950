#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a failed expectation fails the test")]

use super::*;
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};
use serde_json::{Value, json};

const ORIGIN: &str = "https://id.example.com";
const USER_PRESENT: u8 = 0x01;
const USER_VERIFIED: u8 = 0x04;
const BACKED_UP: u8 = 0x18;
const HAS_CREDENTIAL: u8 = 0x40;

/// An authenticator and the browser that uses it. Tests alter what each of them sends.
struct Device {
    pair: EcdsaKeyPair,
    id: Vec<u8>,
    origin: String,
    domain: String,
    flags: u8,
    counter: u32,
    user_handle: Option<String>,
}

impl Device {
    fn new(id: u8) -> Self {
        Self {
            pair: EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap(),
            id: vec![id; 32],
            origin: ORIGIN.to_owned(),
            domain: "id.example.com".to_owned(),
            flags: USER_PRESENT | USER_VERIFIED,
            counter: 0,
            user_handle: None,
        }
    }

    fn client_data(&self, kind: &str, challenge: &Value) -> Vec<u8> {
        json!({"type": kind, "challenge": challenge, "origin": self.origin, "crossOrigin": false}).to_string().into()
    }

    /// Authenticator data (WebAuthn, section 6.1).
    fn data(&self, flags: u8) -> Vec<u8> {
        let hash = digest(&SHA256, self.domain.as_bytes());
        [hash.as_ref(), &[flags], &self.counter.to_be_bytes()].concat()
    }

    /// A registration response without attestation (section 8.7). The CBOR is spelled out.
    fn registration_response(&self, options: &CreationChallengeResponse) -> Value {
        let options = serde_json::to_value(options).unwrap();
        let client_data = self.client_data("webauthn.create", &options["publicKey"]["challenge"]);
        let point = &self.pair.public_key().as_ref()[1..];
        let (x, y) = point.split_at(32);
        let key = [&[0xa5, 1, 2, 3, 0x26, 0x20, 1, 0x21, 0x58, 32], x, &[0x22, 0x58, 32], y].concat();
        let length = u16::try_from(self.id.len()).unwrap().to_be_bytes();
        let data = [&self.data(self.flags | HAS_CREDENTIAL)[..], &[0; 16], &length, &self.id, &key].concat();
        let size = u16::try_from(data.len()).unwrap().to_be_bytes();
        let object = [b"\xa3\x63fmt\x64none\x67attStmt\xa0\x68authData\x59", &size[..], &data].concat();
        let response = json!({"clientDataJSON": encoded(&client_data), "attestationObject": encoded(&object)});
        json!({"id": encoded(&self.id), "rawId": encoded(&self.id), "type": "public-key", "response": response})
    }

    fn authentication_response(&self, options: &RequestChallengeResponse) -> Value {
        let options = serde_json::to_value(options).unwrap();
        let client_data = self.client_data("webauthn.get", &options["publicKey"]["challenge"]);
        let data = self.data(self.flags);
        let signed = [&data, digest(&SHA256, &client_data).as_ref()].concat();
        let signature = self.pair.sign(&SystemRandom::new(), &signed).unwrap();
        let response = json!({
            "clientDataJSON": encoded(&client_data),
            "authenticatorData": encoded(&data),
            "signature": encoded(signature.as_ref()),
            "userHandle": self.user_handle,
        });
        json!({"id": encoded(&self.id), "rawId": encoded(&self.id), "type": "public-key", "response": response})
    }
}

fn encoded(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn party() -> RelyingParty {
    RelyingParty::new(&Url::parse(ORIGIN).unwrap()).unwrap()
}

fn now() -> DateTime<Utc> {
    DateTime::from_timestamp(1_800_000_000, 0).unwrap()
}

/// Stores and loads the record, as happens between the start and the end of a ceremony.
fn store_and_load(keys: &RegisteredKeys) -> RegisteredKeys {
    serde_json::from_slice(&serde_json::to_vec(keys).unwrap()).unwrap()
}

fn register(keys: &mut RegisteredKeys, device: &Device, name: &str) -> Result<(), PasskeyError> {
    let options = party().start_registration(keys, "user:corporate/alice", now())?;
    *keys = store_and_load(keys);
    party().finish_registration(keys, device.registration_response(&options).to_string().as_bytes(), name, now())
}

fn authenticate(keys: &mut RegisteredKeys, device: &Device) -> Result<Factor, PasskeyError> {
    let options = party().start_authentication(keys, now())?;
    *keys = store_and_load(keys);
    party().finish_authentication(keys, device.authentication_response(&options).to_string().as_bytes(), now())
}

fn alice_with_key(device: &Device) -> RegisteredKeys {
    let mut keys = RegisteredKeys::default();
    register(&mut keys, device, "laptop").unwrap();
    keys
}

/// Asserts the error, and that no ceremony is pending after it.
fn assert_rejected<T: std::fmt::Debug>(keys: &RegisteredKeys, result: Result<T, PasskeyError>, expected: &str) {
    let error = result.unwrap_err().to_string();
    assert!(error.contains(expected), "{error}");
    assert!(keys.pending.is_none());
}

#[test]
fn a_registered_key_authenticates_its_holder() {
    let mut device = Device::new(1);
    let mut keys = alice_with_key(&device);
    device.counter = 7;
    assert_eq!(authenticate(&mut keys, &device), Ok(Factor::HardwareKey));
    let key = keys.iter().next().unwrap();
    assert_eq!((key.created, key.used), (now(), Some(now())));
    assert_eq!(key.id(), encoded(&device.id));
}

#[test]
fn a_synchronised_passkey_is_not_a_hardware_key() {
    let mut device = Device::new(1);
    device.flags |= BACKED_UP;
    let mut keys = alice_with_key(&device);
    assert_eq!(authenticate(&mut keys, &device), Ok(Factor::Passkey));
}

#[test]
fn one_of_several_keys_is_enough() {
    let first = Device::new(1);
    let second = Device::new(2);
    let mut keys = alice_with_key(&first);
    register(&mut keys, &second, " phone ").unwrap();
    authenticate(&mut keys, &second).unwrap();
    authenticate(&mut keys, &first).unwrap();
    let names: Vec<_> = keys.iter().map(|key| key.name.as_str()).collect();
    assert_eq!(names, ["laptop", "phone"]);
    let id = keys.iter().next().unwrap().id();
    assert!(keys.remove(&id) && !keys.remove(&id));
    let removed = authenticate(&mut keys, &first);
    assert_rejected(&keys, removed, "could not be found");
}

#[test]
fn options_require_user_verification_and_exclude_known_keys() {
    let device = Device::new(1);
    let mut keys = alice_with_key(&device);
    let options = party().start_registration(&mut keys, "user:corporate/alice", now()).unwrap();
    let options = &serde_json::to_value(options).unwrap()["publicKey"];
    assert_eq!(options["rp"]["id"], "id.example.com");
    assert_eq!(options["authenticatorSelection"]["userVerification"], "required");
    assert_eq!(options["attestation"], "none");
    assert_eq!(options["excludeCredentials"][0]["id"], encoded(&device.id));
    assert!(!encoded(b"alice").contains(options["user"]["id"].as_str().unwrap()));
    let options = party().start_authentication(&mut keys, now()).unwrap();
    let options = &serde_json::to_value(options).unwrap()["publicKey"];
    assert_eq!((&options["rpId"], &options["userVerification"]), (&json!("id.example.com"), &json!("required")));
    assert_eq!(options["allowCredentials"][0]["id"], encoded(&device.id));
}

#[test]
fn other_origins_other_domains_and_unverified_users_are_rejected() {
    type Alter = fn(&mut Device);
    let alterations: [(Alter, &str); 8] = [
        (|device| device.origin = "https://id.example.com.evil.example".to_owned(), "origin"),
        (|device| device.origin = "https://evil.id.example.com".to_owned(), "origin"),
        (|device| device.origin = "https://example.com".to_owned(), "origin"),
        (|device| device.origin = "https://id.example.com:8443".to_owned(), "origin"),
        (|device| device.origin = "http://id.example.com".to_owned(), "origin"),
        (|device| device.domain = "example.com".to_owned(), "party id hash"),
        (|device| device.flags = USER_PRESENT, "user verified bit"),
        (|device| device.flags = USER_VERIFIED, "user present bit"),
    ];
    for (alter, why) in alterations {
        let mut device = Device::new(1);
        let mut keys = alice_with_key(&device);
        alter(&mut device);
        let result = authenticate(&mut keys, &device);
        assert_rejected(&keys, result, why);
        assert_eq!(keys.iter().next().unwrap().used, None);
        let mut none = RegisteredKeys::default();
        let result = register(&mut none, &device, "laptop");
        assert_rejected(&none, result, why);
        assert!(none.is_empty());
    }
}

#[test]
fn a_response_is_accepted_once_and_for_its_own_challenge() {
    let mut device = Device::new(1);
    let mut keys = alice_with_key(&device);
    let earlier = party().start_authentication(&mut keys, now()).unwrap();
    device.counter = 1;
    let earlier = device.authentication_response(&earlier).to_string();
    let later = party().start_authentication(&mut keys, now()).unwrap();
    let result = party().finish_authentication(&mut keys, earlier.as_bytes(), now());
    assert_rejected(&keys, result, "challenge");

    let later = device.authentication_response(&later).to_string();
    let result = party().finish_authentication(&mut keys, later.as_bytes(), now());
    assert_rejected(&keys, result, "no such ceremony");

    let options = party().start_authentication(&mut keys, now()).unwrap();
    let response = device.authentication_response(&options).to_string();
    party().finish_authentication(&mut keys, response.as_bytes(), now()).unwrap();
    let replayed = party().finish_authentication(&mut keys, response.as_bytes(), now());
    assert_rejected(&keys, replayed, "no such ceremony");
}

#[test]
fn a_ceremony_expires_and_accepts_only_its_own_kind_of_response() {
    let device = Device::new(1);
    let mut keys = alice_with_key(&device);
    let options = party().start_authentication(&mut keys, now()).unwrap();
    let response = device.authentication_response(&options).to_string();
    let late = party().finish_authentication(&mut keys, response.as_bytes(), now() + TimeDelta::minutes(5));
    assert_rejected(&keys, late, "ended at");

    let options = party().start_registration(&mut keys, "user:corporate/alice", now()).unwrap();
    let created = Device::new(2).registration_response(&options).to_string();
    let other = party().finish_authentication(&mut keys, created.as_bytes(), now());
    assert_rejected(&keys, other, "no such ceremony");
    let none = party().finish_registration(&mut keys, created.as_bytes(), "phone", now());
    assert_rejected(&keys, none, "no such ceremony");
}

#[test]
fn a_counter_that_goes_back_is_rejected() {
    let mut device = Device::new(1);
    let mut keys = alice_with_key(&device);
    device.counter = 9;
    authenticate(&mut keys, &device).unwrap();
    for counter in [9, 8, 0] {
        device.counter = counter;
        let result = authenticate(&mut keys, &device);
        assert!(matches!(result, Err(PasskeyError::Counter)), "{counter}");
    }
    device.counter = 10;
    authenticate(&mut keys, &device).unwrap();
}

#[test]
fn keys_and_handles_of_other_people_are_rejected() {
    let alices = Device::new(1);
    let bobs = Device::new(2);
    let mut keys = alice_with_key(&alices);
    let result = authenticate(&mut keys, &bobs);
    assert_rejected(&keys, result, "could not be found");
    // the same ID, but not the same key
    let result = authenticate(&mut keys, &Device::new(1));
    assert_rejected(&keys, result, "Authentication has failed");
    let mut altered = alices;
    altered.user_handle = Some(encoded(b"another person's"));
    let result = authenticate(&mut keys, &altered);
    assert_rejected(&keys, result, "another person");
    altered.user_handle = keys.handle.map(|handle| encoded(handle.as_bytes()));
    authenticate(&mut keys, &altered).unwrap();
}

#[test]
fn keys_are_limited_in_number_and_have_unique_names() {
    let mut keys = RegisteredKeys::default();
    let nothing = party().start_authentication(&mut keys, now());
    assert!(matches!(nothing, Err(PasskeyError::NoKeys)));
    for name in ["", "  ", "a\nb", &"x".repeat(MAX_KEY_NAME_LENGTH + 1)] {
        let result = register(&mut keys, &Device::new(1), name);
        assert!(matches!(result, Err(PasskeyError::Name)), "{name:?}");
    }
    register(&mut keys, &Device::new(0), "key 0").unwrap();
    assert!(matches!(register(&mut keys, &Device::new(1), "key 0"), Err(PasskeyError::Name)));
    assert!(register(&mut keys, &Device::new(0), "again").is_err());
    for number in 1..16 {
        register(&mut keys, &Device::new(number), &format!("key {number}")).unwrap();
    }
    assert!(matches!(register(&mut keys, &Device::new(16), "key 16"), Err(PasskeyError::Full)));
    assert_eq!(keys.iter().len(), MAX_KEYS);
    party().start_authentication(&mut keys, now()).unwrap();
    assert!(serde_json::to_vec(&keys).unwrap().len() < 32 * 1024);
}

#[test]
fn oversized_and_malformed_responses_are_rejected() {
    let mut device = Device::new(1);
    let mut keys = alice_with_key(&device);
    let options = party().start_authentication(&mut keys, now()).unwrap();
    let mut response = device.authentication_response(&options);
    response["padding"] = "x".repeat(MAX_RESPONSE).into();
    let result = party().finish_authentication(&mut keys, response.to_string().as_bytes(), now());
    assert_rejected(&keys, result, "larger than");
    device.id = vec![1; 1500];
    let result = register(&mut keys, &device, "phone");
    assert_rejected(&keys, result, "bytes of the record");
    for garbage in ["", "{}", "[[[[", "null", "\u{0}"] {
        party().start_authentication(&mut keys, now()).unwrap();
        let result = party().finish_authentication(&mut keys, garbage.as_bytes(), now());
        assert_rejected(&keys, result, "can't be read");
    }
}

#[test]
fn webauthn_needs_https_and_a_domain_name() {
    let new = |url: &str| RelyingParty::new(&Url::parse(url).unwrap());
    for good in ["https://id.example.com/", "https://id.example.com:8443/durward", "http://localhost:8093"] {
        assert!(new(good).is_ok(), "{good}");
    }
    for bad in ["http://id.example.com", "https://10.0.0.1", "https://[::1]", "spiffe://id.example.com"] {
        assert!(new(bad).is_err(), "{bad}");
    }
}
