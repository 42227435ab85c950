#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test says what it expects")]

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

/// An authenticator and the browser it is plugged into; what each of them says can be altered.
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

    /// An answer without attestation (section 8.7); CBOR is written out.
    fn creates(&self, options: &CreationChallengeResponse) -> Value {
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

    fn answers(&self, options: &RequestChallengeResponse) -> Value {
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

/// As the record is stored between a ceremony's start and its end.
fn stored(keys: &Keys) -> Keys {
    serde_json::from_slice(&serde_json::to_vec(keys).unwrap()).unwrap()
}

fn registers(keys: &mut Keys, device: &Device, name: &str) -> Result<(), Refusal> {
    let options = party().start_registration(keys, "user:corporate/alice", now())?;
    *keys = stored(keys);
    party().finish_registration(keys, device.creates(&options).to_string().as_bytes(), name, now())
}

fn authenticates(keys: &mut Keys, device: &Device) -> Result<Factor, Refusal> {
    let options = party().start_authentication(keys, now())?;
    *keys = stored(keys);
    party().finish_authentication(keys, device.answers(&options).to_string().as_bytes(), now())
}

fn alice(device: &Device) -> Keys {
    let mut keys = Keys::default();
    registers(&mut keys, device, "laptop").unwrap();
    keys
}

/// Asserts the refusal, and that nothing is under way after it.
fn refused<T: std::fmt::Debug>(keys: &Keys, result: Result<T, Refusal>, why: &str) {
    let refusal = result.unwrap_err().to_string();
    assert!(refusal.contains(why), "{refusal}");
    assert!(keys.pending.is_none());
}

#[test]
fn a_registered_key_answers_for_its_holder() {
    let mut device = Device::new(1);
    let mut keys = alice(&device);
    device.counter = 7;
    assert_eq!(authenticates(&mut keys, &device), Ok(Factor::HardwareKey));
    let key = keys.iter().next().unwrap();
    assert_eq!((key.created, key.used), (now(), Some(now())));
    assert_eq!(key.id(), encoded(&device.id));
}

#[test]
fn a_synchronised_passkey_is_told_apart() {
    let mut device = Device::new(1);
    device.flags |= BACKED_UP;
    let mut keys = alice(&device);
    assert_eq!(authenticates(&mut keys, &device), Ok(Factor::Passkey));
}

#[test]
fn one_of_several_keys_is_enough() {
    let (first, second) = (Device::new(1), Device::new(2));
    let mut keys = alice(&first);
    registers(&mut keys, &second, " phone ").unwrap();
    authenticates(&mut keys, &second).unwrap();
    authenticates(&mut keys, &first).unwrap();
    let names: Vec<_> = keys.iter().map(|key| key.name.as_str()).collect();
    assert_eq!(names, ["laptop", "phone"]);
    let id = keys.iter().next().unwrap().id();
    assert!(keys.remove(&id) && !keys.remove(&id));
    let gone = authenticates(&mut keys, &first);
    refused(&keys, gone, "could not be found");
}

#[test]
fn browsers_are_asked_for_verified_users_and_new_keys() {
    let device = Device::new(1);
    let mut keys = alice(&device);
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
fn another_origin_domain_or_an_unverified_user_counts_for_nothing() {
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
        let mut keys = alice(&device);
        alter(&mut device);
        let result = authenticates(&mut keys, &device);
        refused(&keys, result, why);
        assert_eq!(keys.iter().next().unwrap().used, None);
        let mut none = Keys::default();
        let result = registers(&mut none, &device, "laptop");
        refused(&none, result, why);
        assert!(none.is_empty());
    }
}

#[test]
fn a_response_counts_for_its_own_challenge_once() {
    let mut device = Device::new(1);
    let mut keys = alice(&device);
    let earlier = party().start_authentication(&mut keys, now()).unwrap();
    device.counter = 1;
    let earlier = device.answers(&earlier).to_string();
    let later = party().start_authentication(&mut keys, now()).unwrap();
    let result = party().finish_authentication(&mut keys, earlier.as_bytes(), now());
    refused(&keys, result, "challenge");

    let later = device.answers(&later).to_string();
    let result = party().finish_authentication(&mut keys, later.as_bytes(), now());
    refused(&keys, result, "no such ceremony");

    let options = party().start_authentication(&mut keys, now()).unwrap();
    let response = device.answers(&options).to_string();
    party().finish_authentication(&mut keys, response.as_bytes(), now()).unwrap();
    let replayed = party().finish_authentication(&mut keys, response.as_bytes(), now());
    refused(&keys, replayed, "no such ceremony");
}

#[test]
fn a_ceremony_ends_by_itself_and_only_as_what_it_was() {
    let device = Device::new(1);
    let mut keys = alice(&device);
    let options = party().start_authentication(&mut keys, now()).unwrap();
    let response = device.answers(&options).to_string();
    let late = party().finish_authentication(&mut keys, response.as_bytes(), now() + TimeDelta::minutes(5));
    refused(&keys, late, "ended at");

    let options = party().start_registration(&mut keys, "user:corporate/alice", now()).unwrap();
    let created = Device::new(2).creates(&options).to_string();
    let other = party().finish_authentication(&mut keys, created.as_bytes(), now());
    refused(&keys, other, "no such ceremony");
    let none = party().finish_registration(&mut keys, created.as_bytes(), "phone", now());
    refused(&keys, none, "no such ceremony");
}

#[test]
fn a_counter_never_goes_back() {
    let mut device = Device::new(1);
    let mut keys = alice(&device);
    device.counter = 9;
    authenticates(&mut keys, &device).unwrap();
    for counter in [9, 8, 0] {
        device.counter = counter;
        let result = authenticates(&mut keys, &device);
        assert!(matches!(result, Err(Refusal::Counter)), "{counter}");
    }
    device.counter = 10;
    authenticates(&mut keys, &device).unwrap();
}

#[test]
fn anothers_key_counts_for_nothing() {
    let (hers, his) = (Device::new(1), Device::new(2));
    let mut keys = alice(&hers);
    let result = authenticates(&mut keys, &his);
    refused(&keys, result, "could not be found");
    // the same ID, but not the same key
    let result = authenticates(&mut keys, &Device::new(1));
    refused(&keys, result, "Authentication has failed");
    let mut told = hers;
    told.user_handle = Some(encoded(b"somebody else's"));
    let result = authenticates(&mut keys, &told);
    refused(&keys, result, "another person");
    told.user_handle = keys.handle.map(|handle| encoded(handle.as_bytes()));
    authenticates(&mut keys, &told).unwrap();
}

#[test]
fn keys_are_few_named_and_different() {
    let mut keys = Keys::default();
    let nothing = party().start_authentication(&mut keys, now());
    assert!(matches!(nothing, Err(Refusal::NoKeys)));
    for name in ["", "  ", "a\nb", &"x".repeat(MAX_NAME + 1)] {
        let result = registers(&mut keys, &Device::new(1), name);
        assert!(matches!(result, Err(Refusal::Name)), "{name:?}");
    }
    registers(&mut keys, &Device::new(0), "key 0").unwrap();
    assert!(matches!(registers(&mut keys, &Device::new(1), "key 0"), Err(Refusal::Name)));
    assert!(registers(&mut keys, &Device::new(0), "again").is_err());
    for number in 1..16 {
        registers(&mut keys, &Device::new(number), &format!("key {number}")).unwrap();
    }
    assert!(matches!(registers(&mut keys, &Device::new(16), "key 16"), Err(Refusal::Full)));
    assert_eq!(keys.iter().len(), MAX_KEYS);
    party().start_authentication(&mut keys, now()).unwrap();
    assert!(serde_json::to_vec(&keys).unwrap().len() < 32 * 1024);
}

#[test]
fn responses_are_bounded() {
    let mut device = Device::new(1);
    let mut keys = alice(&device);
    let options = party().start_authentication(&mut keys, now()).unwrap();
    let mut response = device.answers(&options);
    response["padding"] = "x".repeat(MAX_RESPONSE).into();
    let result = party().finish_authentication(&mut keys, response.to_string().as_bytes(), now());
    refused(&keys, result, "larger than");
    device.id = vec![1; 1500];
    let result = registers(&mut keys, &device, "phone");
    refused(&keys, result, "bytes of the record");
    for garbage in ["", "{}", "[[[[", "null", "\u{0}"] {
        party().start_authentication(&mut keys, now()).unwrap();
        let result = party().finish_authentication(&mut keys, garbage.as_bytes(), now());
        refused(&keys, result, "can't be read");
    }
}

#[test]
fn browsers_have_webauthn_at_names_by_https() {
    let new = |url: &str| RelyingParty::new(&Url::parse(url).unwrap());
    for good in ["https://id.example.com/", "https://id.example.com:8443/durward", "http://localhost:8093"] {
        assert!(new(good).is_ok(), "{good}");
    }
    for bad in ["http://id.example.com", "https://10.0.0.1", "https://[::1]", "spiffe://id.example.com"] {
        assert!(new(bad).is_err(), "{bad}");
    }
}
