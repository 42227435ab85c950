//! Rotation of authorities and token keys.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a failed expectation fails the test"
)]

use durward_pki::rotation::{
    RotationAction, RotationSchedule, RotationState, RotationStep, TokenKeySchedule, TokenKeyTerm, next_action,
    signing_key, token_key_changes,
};
use durward_pki::token::SigningAlgorithm;
use proptest::prelude::*;
use std::time::Duration;

const HOUR: i64 = 3600;
const SCHEDULE: RotationSchedule = RotationSchedule {
    rotate_after: Duration::from_secs(100 * 3600),
    spread: Duration::from_secs(600),
    overlap: Duration::from_secs(25 * 3600),
};

fn state(step: RotationStep) -> RotationState {
    RotationState { step, since: 0, active: (0, 1000 * HOUR), requested: false, everywhere: false }
}

#[test]
fn each_step_waits_for_its_condition() {
    let everywhere = |step| RotationState { everywhere: true, ..state(step) };
    for (state, now, expected) in [
        (state(RotationStep::Steady), HOUR, None),
        (RotationState { requested: true, ..state(RotationStep::Steady) }, HOUR, Some(RotationAction::Prepare)),
        (state(RotationStep::Steady), 100 * HOUR, Some(RotationAction::Prepare)),
        (
            RotationState { active: (0, 60 * HOUR), ..state(RotationStep::Steady) },
            11 * HOUR,
            Some(RotationAction::Prepare),
        ),
        (state(RotationStep::Prepared), 500 * HOUR, None),
        (everywhere(RotationStep::Prepared), 0, Some(RotationAction::Publish)),
        (everywhere(RotationStep::Published), 599, None),
        (everywhere(RotationStep::Published), 600, Some(RotationAction::Activate)),
        (state(RotationStep::Published), 500 * HOUR, None),
        (everywhere(RotationStep::Activated), 25 * HOUR - 1, None),
        (state(RotationStep::Activated), 25 * HOUR, Some(RotationAction::Retire)),
    ] {
        assert_eq!(next_action(&state, &SCHEDULE, now), expected, "{state:?} at {now}");
    }
}

proptest! {
    /// No root signs before every replica has it, and no root is removed while a certificate depends on it.
    #[test]
    fn rotation_skips_no_step(events in proptest::collection::vec((0i64..40 * HOUR, any::<bool>(), any::<bool>()), 1..60)) {
        let mut now = 0;
        let mut step = RotationStep::Steady;
        let mut since = 0;
        let mut steps = Vec::new();
        for (passed, everywhere, requested) in events {
            now += passed;
            let state = RotationState { step, since, active: (0, i64::MAX), requested, everywhere };
            let Some(action) = next_action(&state, &SCHEDULE, now) else { continue };
            match action {
                RotationAction::Activate => prop_assert!(everywhere && now - since >= 600),
                RotationAction::Publish => prop_assert!(everywhere),
                RotationAction::Retire => prop_assert!(now - since >= 25 * HOUR),
                RotationAction::Prepare => {}
            }
            step = action.leads_to();
            since = now;
            steps.push(step);
        }
        for (i, step) in steps.iter().enumerate() {
            prop_assert_eq!(*step, RotationStep::ALL[(i + 1) % 4]);
        }
    }

    /// The signing key has always been published long enough, and a key that signed recently is still published.
    #[test]
    fn every_valid_token_can_be_verified(pauses in proptest::collection::vec(1i64..20 * HOUR, 1..80)) {
        let schedule = TokenKeySchedule {
            algorithms: &SigningAlgorithm::ALL,
            signs: Duration::from_secs(50 * 3600), ahead: Duration::from_secs(3600), after: Duration::from_secs(2 * 3600),
        };
        let mut now = 0;
        let mut keys = Vec::<TokenKeyTerm>::new();
        let mut added_at = std::collections::HashMap::new();
        let mut first = None;
        for pause in pauses {
            let before = signing_key(keys.clone(), SigningAlgorithm::Es256, now);
            now += pause;
            // a token that was signed just before now
            let last = signing_key(keys.clone(), SigningAlgorithm::Es256, now - 1);
            let (added, removed) = token_key_changes(&keys, &schedule, now);
            for key in &added {
                added_at.insert(*key, now);
                prop_assert!(!keys.contains(key));
            }
            keys.extend(added);
            keys.retain(|key| !removed.contains(key));
            let signs = signing_key(keys.clone(), SigningAlgorithm::Es256, now).expect("a key");
            // there is no token before there is a key
            first = first.or(Some(signs));
            prop_assert!(signs.from <= now);
            if before.is_some() {
                prop_assert!(keys.contains(&last.expect("a key")), "the key that signed a second ago is removed");
                prop_assert!(Some(signs) == first || now - added_at[&signs] >= HOUR, "the key signs before verifiers have it");
            }
            prop_assert!(keys.len() <= 8);
        }
    }
}
