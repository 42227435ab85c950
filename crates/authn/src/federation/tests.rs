use super::*;
use durward_api::resources::{BundleEndpoint, BundleProfile};
use durward_pki::authority::CertificateAuthority;
use durward_pki::bundle::write;
use durward_pki::serial::CertificateSerial;
use serde_json::json;

fn federation(inline: Option<String>) -> Arc<FederatedTrustDomain> {
    let endpoint = BundleEndpoint { url: "https://x".to_owned(), profile: BundleProfile::HttpsWeb, spiffe_id: None };
    let spec = X509Provider { trust_domain: "partner.example".to_owned(), bundle: inline, endpoint: Some(endpoint) };
    FederatedTrustDomain::new("partner", &spec, "cluster.local", None).expect("a valid provider")
}

fn store(federation: &FederatedTrustDomain, bytes: &[u8]) -> Result<(bool, Duration), BundleUpdateError> {
    federation.store(bytes, federation.current.load_full().as_deref())
}

#[test]
fn a_fetched_bundle_is_stored_unless_it_is_older() {
    let authority = CertificateAuthority::create("partner.example", Utc::now(), CertificateSerial::unbound([1; 15]));
    let roots = authority.expect("an authority").roots().to_vec();
    let text = |sequence, hint| write(&roots, [], sequence, hint);
    let federation = federation(Some(text(5, 60)));
    for (bytes, expected) in [
        (text(4, 60), Err("its sequence went back from 5 to 4")),
        (json!({"keys": []}).to_string(), Err("it has no sequence number")),
        ("nonsense".to_owned(), Err("not a SPIFFE bundle")),
        (json!({"keys": vec![json!({}); 1000], "spiffe_sequence": 9}).to_string(), Err("has 1000 keys")),
        (text(5, 60), Ok((false, 60))),
        (text(6, 7), Ok((true, 7))),
        (text(5, 60), Err("its sequence went back from 6 to 5")),
        // a bundle that revokes all roots and keys
        (json!({"keys": [], "spiffe_sequence": 7}).to_string(), Ok((true, 300))),
    ] {
        let before = federation.bundle(Utc::now());
        let stored = store(&federation, bytes.as_bytes()).map(|(changed, interval)| (changed, interval.as_secs()));
        match expected {
            Ok(expected) => assert_eq!(stored.expect("stored"), expected, "{bytes}"),
            Err(error) => {
                assert!(stored.is_err_and(|found| found.to_string().contains(error)), "{bytes}");
                assert_eq!(federation.bundle(Utc::now()), before, "the previous bundle is kept: {bytes}");
            }
        }
    }
}

#[test]
fn a_bundle_is_accepted_for_a_day_after_its_last_fetch() {
    let federation = federation(None);
    let now = Utc::now();
    assert_eq!(federation.fresh_bundle(now).err(), Some(Cause::NoBundle("partner".to_owned())));
    store(&federation, br#"{"keys": []}"#).expect("a bundle");
    assert!(federation.fresh_bundle(now + TimeDelta::hours(23)).is_ok());
    let late = now + TimeDelta::hours(25);
    assert_eq!(federation.fresh_bundle(late).err(), Some(Cause::StaleBundle("partner".to_owned())));
    assert_eq!(federation.bundle(late), None, "an old bundle is not published");
    assert!(federation.with_certificates(late, |_| ()).is_none(), "an old bundle verifies no handshake");
}
