//! What a certificate costs, from the request to the answer, on one core.
#![allow(clippy::unwrap_used, reason = "a benchmark says what it expects")]

use criterion::{Criterion, criterion_group, criterion_main};
use durward_pki::authority::{Authority, Request};
use durward_pki::request::SubjectKey;
use durward_pki::serial::{Holder, Serial, Tag};
use rcgen::{CertificateParams, KeyPair};
use std::hint::black_box;
use time::{Duration, OffsetDateTime};

fn issue(criterion: &mut Criterion) {
    let now = OffsetDateTime::now_utc();
    let authority = Authority::create("cluster.local", now, Serial::own([1; 15])).unwrap();
    let key = KeyPair::generate().unwrap();
    let request = CertificateParams::default().serialize_request(&key).unwrap().der().to_vec();
    let holder = Holder { pod: Tag::of("pod"), service_account: Tag::of("account") };
    let names = ["web.shop.svc".to_owned()];
    let wanted = Request {
        id: "spiffe://cluster.local/ns/shop/sa/web",
        dns_names: &names,
        addresses: &[],
        not_before: now,
        not_after: now + Duration::hours(1),
        serial: Serial::of_pod(holder, [2; 9]),
    };
    criterion.bench_function("certificate from a request that the API server verified", |bencher| {
        bencher.iter(|| {
            let key = SubjectKey::of_request(black_box(&request)).unwrap();
            authority.certify(&wanted, &key).unwrap()
        });
    });
    criterion.bench_function("certificate from a signed request", |bencher| {
        bencher.iter(|| {
            let key = SubjectKey::of_signed_request(black_box(&request)).unwrap();
            authority.certify(&wanted, &key).unwrap()
        });
    });
}

criterion_group!(benches, issue);
criterion_main!(benches);
