//! Time to certify a key from its certificate request, on one core.
#![allow(clippy::unwrap_used, reason = "a failed expectation ends the benchmark")]

use chrono::{TimeDelta, Utc};
use criterion::{Criterion, criterion_group, criterion_main};
use durward_pki::authority::{CertificateAuthority, SvidRequest};
use durward_pki::request::SubjectKey;
use durward_pki::serial::{CertificateHolder, CertificateSerial, UidTag};
use rcgen::{CertificateParams, KeyPair};
use std::hint::black_box;

fn issue(criterion: &mut Criterion) {
    let now = Utc::now();
    let authority = CertificateAuthority::create("cluster.local", now, CertificateSerial::unbound([1; 15])).unwrap();
    let key = KeyPair::generate().unwrap();
    let request = CertificateParams::default().serialize_request(&key).unwrap().der().to_vec();
    let holder = CertificateHolder { pod: UidTag::from_uid("pod"), service_account: UidTag::from_uid("account") };
    let names = ["web.shop.svc".to_owned()];
    let svid = SvidRequest {
        id: "spiffe://cluster.local/ns/shop/sa/web",
        dns_names: &names,
        addresses: &[],
        not_before: now,
        not_after: now + TimeDelta::hours(1),
        serial: CertificateSerial::for_pod(holder, [2; 9]),
    };
    criterion.bench_function("certificate from a request that the API server verified", |bencher| {
        bencher.iter(|| {
            let key = SubjectKey::from_csr(black_box(&request)).unwrap();
            authority.certify(&svid, &key).unwrap()
        });
    });
    criterion.bench_function("certificate from a signed request", |bencher| {
        bencher.iter(|| {
            let key = SubjectKey::from_signed_csr(black_box(&request)).unwrap();
            authority.certify(&svid, &key).unwrap()
        });
    });
}

criterion_group!(benches, issue);
criterion_main!(benches);
