//! A policy compiles or is refused with reasons, the same way every time, and makes a service or says why not.
#![no_main]

use durward_api::catalog::{Catalog, CatalogChange};
use durward_api::compile::{ClusterDomains, compile};
use durward_api::resources::AccessPolicy;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &[u8]| {
    let Ok(policy) = serde_json::from_slice::<AccessPolicy>(text) else { return };
    let settings = ClusterDomains { trust_domain: "td".to_owned(), cluster_domain: "cluster.local".to_owned() };
    let compiled = compile(&policy, &settings);
    assert_eq!(compiled, compile(&policy, &settings));
    if let Err(errors) = &compiled {
        assert!(!errors.is_empty());
        assert!(errors.iter().all(|error| !error.field.is_empty() && !error.message.contains(char::is_control)));
    }
    let mut catalog = Catalog::new(settings);
    for (_, fate) in catalog.apply([CatalogChange::PolicyApplied(Box::new(policy))]) {
        assert!(fate.in_force || fate.rejected.is_some());
    }
});
