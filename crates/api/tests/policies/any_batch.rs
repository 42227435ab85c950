//! Order and batching of resources change neither the snapshot nor the statuses.

use crate::support::*;
use durward_api::catalog::CatalogChange;
use durward_api::resources::AccessPolicy;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

/// A resource that can create its change several times; `CatalogChange` is not `Clone`.
#[derive(Debug, Clone)]
enum Resource {
    Policy(Box<AccessPolicy>),
    Namespace(&'static str, &'static str, &'static str),
}

impl Resource {
    fn change(&self) -> CatalogChange {
        match self {
            Self::Policy(policy) => CatalogChange::PolicyApplied(policy.clone()),
            Self::Namespace(name, hosts, audiences) => annotated(name, hosts, audiences),
        }
    }
}

/// Policies that conflict in hosts, audiences, operations and requests, in two namespaces; some are invalid or
/// claim what they don't own.
fn any_policy(name: &'static str) -> impl Strategy<Value = Resource> {
    let hosts = subsequence(vec!["x.example.com", "y.example.com", "z.shop.svc", "z.mall.svc"], 0..3);
    let operations = subsequence(vec!["a", "b", "c"], 0..3);
    (hosts, select(vec!["", "audience: p, ", "audience: q, ", "audience: a.shop, "]), operations, 0..4i64, 0..9)
        .prop_map(move |(hosts, audience, operations, age, luck)| {
            let operations: Vec<String> = operations
                .iter()
                .map(|path| format!("{{name: {path}, http: [{{methods: [GET], paths: [/{path}]}}], public: true}}"))
                .collect();
            let spec = format!(
                "service: {{{audience}hosts: [{}]}}\noperations: [{}]",
                hosts.join(", "),
                if luck == 0 { "{name: x}".to_owned() } else { operations.join(", ") }
            );
            Resource::Policy(Box::new(named(name, age, &spec)))
        })
}

fn any_namespace(name: &'static str) -> impl Strategy<Value = Resource> {
    let hosts = select(vec!["", "*.example.com", "x.example.com", "*.example.com"]);
    (hosts, select(vec!["", "p,q", "p,q,a.shop", "p"]))
        .prop_map(move |(hosts, audiences)| Resource::Namespace(name, hosts, audiences))
}

fn any_resources() -> impl Strategy<Value = Vec<Resource>> {
    let policies = ["shop/a", "shop/b", "shop/c", "mall/a", "mall/b"].map(any_policy);
    (policies, any_namespace("shop"), any_namespace("mall"))
        .prop_map(|(policies, shop, mall)| policies.into_iter().chain([shop, mall]).collect())
}

const QUESTIONS: [&str; 8] = [
    "x.example.com/a",
    "x.example.com/b",
    "y.example.com/a",
    "y.example.com/c",
    "z.shop.svc/a",
    "z.shop.svc/b",
    "z.mall.svc/a",
    "z.mall.svc/c",
];

fn observed(world: &World) -> (String, Vec<String>, Vec<String>) {
    (world.revision(), world.statuses(), QUESTIONS.iter().map(|question| world.answers(question)).collect())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(256) })]

    #[test]
    fn order_and_batches_do_not_matter(
        (resources, shuffled) in any_resources().prop_flat_map(|all| (Just(all.clone()), Just(all).prop_shuffle())), batch in 1..8usize,
    ) {
        let mut at_once = World::new();
        at_once.apply(resources.iter().map(Resource::change));
        let mut by_and_by = World::new();
        for some in shuffled.chunks(batch) {
            by_and_by.apply(some.iter().map(Resource::change));
        }
        prop_assert_eq!(observed(&by_and_by), observed(&at_once), "{:#?}", shuffled);
    }

    /// After any history, no host has two services in force or one that its namespace does not own, and each
    /// service is found under all of its names.
    #[test]
    fn after_any_history_each_host_has_one_service(
        history in proptest::collection::vec(prop_oneof![
            any_policy("shop/a"), any_policy("shop/b"), any_policy("shop/c"), any_policy("mall/a"), any_policy("mall/b"),
            any_namespace("shop"), any_namespace("mall"),
        ], 1..14),
    ) {
        let mut world = World::new();
        let mut allowed = std::collections::HashMap::new();
        for resource in &history {
            world.apply([resource.change()]);
            if let Resource::Namespace(name, hosts, audiences) = resource {
                allowed.insert(*name, (*hosts, *audiences));
            }
            for service in world.snapshot().services() {
                let key = service.key();
                let (hosts, audiences) = allowed.get(&*key.namespace).copied().unwrap_or_default();
                prop_assert!(std::sync::Arc::ptr_eq(service, world.snapshot().by_audience(&key.audience).unwrap()));
                let owned = audiences.split(',').any(|one| *one == *key.audience);
                prop_assert!(owned || key.audience.ends_with(&format!(".{}", key.namespace)), "{key:?} {audiences}");
                for host in service.hosts() {
                    prop_assert!(std::sync::Arc::ptr_eq(service, world.snapshot().by_host(host).unwrap()), "{host}");
                    let own = host.as_str().ends_with(&format!(".{}.svc", key.namespace));
                    let granted = hosts == "*.example.com" && host.as_str().ends_with(".example.com") || hosts == host.as_str();
                    prop_assert!(own || granted, "{host} of {key:?} with {hosts}");
                }
            }
            let in_force = world.statuses().iter().filter(|status| status.ends_with("in force") && !status.ends_with("nothing in force")).count();
            prop_assert!(world.snapshot().services().count() <= in_force);
            // the revision depends on the content only, not on the history
            let mut fresh = durward_core::snapshot::Snapshot::default();
            for (key, _) in world.0.policy_statuses() {
                fresh.record(&format!("AccessPolicy/{key}"), world.0.in_force(key).map(|policy| policy.digest));
            }
            fresh.update_revision();
            prop_assert_eq!(fresh.revision(), world.snapshot().revision());
        }
    }
}
