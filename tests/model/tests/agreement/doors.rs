//! Decisions of the engine and of the model.

use crate::config;
use crate::engine::{api_call, decide, said, snapshot};
use crate::policies::any_world;
use crate::requests::{any_caller, any_kubernetes_call, any_request, now, with_named};
use durward_model::decision::ReferenceModel;
use proptest::prelude::*;

proptest! {
    #![proptest_config(config())]

    #[test]
    fn the_engine_decides_as_the_model_does(
        world in any_world(),
        callers in proptest::collection::vec(any_caller(), 3),
        requests in proptest::collection::vec(any_request(), 6),
    ) {
        let (model, snapshot) = (ReferenceModel::of(&world), snapshot(&world));
        for request in with_named(&world, &requests) {
            for caller in &callers {
                let decision = decide(&snapshot, caller.as_ref(), &request);
                let expected = model.decide(caller.as_ref(), &request, now());
                prop_assert_eq!(said(&decision), expected, "{:?}\n{:?}\n{:?}", request, caller, decision);
            }
        }
    }

    #[test]
    fn the_engine_governs_the_requests_that_the_model_governs(world in any_world(), call in any_kubernetes_call()) {
        let (model, snapshot) = (ReferenceModel::of(&world), snapshot(&world));
        for namespace in ["shop", "bill"] {
            let asked = api_call(&call);
            let governing: Vec<String> = snapshot.governing(namespace, &asked).map(|service| service.key().audience.to_string()).collect();
            let expected: Vec<String> = model.governing(namespace, &call).into_iter().collect();
            prop_assert_eq!(governing, expected);
        }
    }
}
