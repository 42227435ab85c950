//! Rotation step by step.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a test says what it expects")]

use durward_pki::rotation::{Action, KeySchedule, KeyTerm, Schedule, Standing, Step, due, key_changes, signing};
use durward_pki::token::Algorithm;
use proptest::prelude::*;
use std::time::Duration;

const HOUR: i64 = 3600;
const SCHEDULE: Schedule = Schedule {
    rotate_after: Duration::from_secs(100 * 3600),
    spread: Duration::from_secs(600),
    overlap: Duration::from_secs(25 * 3600),
};

fn standing(step: Step) -> Standing {
    Standing { step, since: 0, active: (0, 1000 * HOUR), wanted: false, everywhere: false }
}

#[test]
fn each_step_waits_for_its_condition() {
    let everywhere = |step| Standing { everywhere: true, ..standing(step) };
    for (standing, now, expected) in [
        (standing(Step::Steady), HOUR, None),
        (Standing { wanted: true, ..standing(Step::Steady) }, HOUR, Some(Action::Prepare)),
        (standing(Step::Steady), 100 * HOUR, Some(Action::Prepare)),
        (Standing { active: (0, 60 * HOUR), ..standing(Step::Steady) }, 11 * HOUR, Some(Action::Prepare)),
        (standing(Step::Prepared), 500 * HOUR, None),
        (everywhere(Step::Prepared), 0, Some(Action::Publish)),
        (everywhere(Step::Published), 599, None),
        (everywhere(Step::Published), 600, Some(Action::Activate)),
        (standing(Step::Published), 500 * HOUR, None),
        (everywhere(Step::Activated), 25 * HOUR - 1, None),
        (standing(Step::Activated), 25 * HOUR, Some(Action::Retire)),
    ] {
        assert_eq!(due(&standing, &SCHEDULE, now), expected, "{standing:?} at {now}");
    }
}

proptest! {
    /// Whatever happens when, no root is used before everybody has it, and none is forgotten while something counts on it.
    #[test]
    fn no_step_is_skipped(events in proptest::collection::vec((0i64..40 * HOUR, any::<bool>(), any::<bool>()), 1..60)) {
        let (mut now, mut step, mut since) = (0, Step::Steady, 0);
        let mut seen = Vec::new();
        for (passed, everywhere, wanted) in events {
            now += passed;
            let standing = Standing { step, since, active: (0, i64::MAX), wanted, everywhere };
            let Some(action) = due(&standing, &SCHEDULE, now) else { continue };
            match action {
                Action::Activate => prop_assert!(everywhere && now - since >= 600),
                Action::Publish => prop_assert!(everywhere),
                Action::Retire => prop_assert!(now - since >= 25 * HOUR),
                Action::Prepare => {}
            }
            (step, since) = (action.leads_to(), now);
            seen.push(step);
        }
        for (i, step) in seen.iter().enumerate() {
            prop_assert_eq!(*step, Step::ALL[(i + 1) % 4]);
        }
    }

    /// At every moment the key that signs has been published long enough, and one that signed lately is still there.
    #[test]
    fn tokens_are_always_verifiable(pauses in proptest::collection::vec(1i64..20 * HOUR, 1..80)) {
        let schedule = KeySchedule {
            algorithms: &Algorithm::ALL,
            signs: Duration::from_secs(50 * 3600), ahead: Duration::from_secs(3600), after: Duration::from_secs(2 * 3600),
        };
        let (mut now, mut keys, mut made_at) = (0, Vec::<KeyTerm>::new(), std::collections::HashMap::new());
        let mut first = None;
        for pause in pauses {
            let before = signing(keys.clone(), Algorithm::Es256, now);
            now += pause;
            // a token that was signed just before now
            let last = signing(keys.clone(), Algorithm::Es256, now - 1);
            let (made, gone) = key_changes(&keys, &schedule, now);
            for key in &made {
                made_at.insert(*key, now);
                prop_assert!(!keys.contains(key));
            }
            keys.extend(made);
            keys.retain(|key| !gone.contains(key));
            let signs = signing(keys.clone(), Algorithm::Es256, now).expect("a key");
            // nobody has a token before there is a key
            first = first.or(Some(signs));
            prop_assert!(signs.from <= now);
            if before.is_some() {
                prop_assert!(keys.contains(&last.expect("a key")), "what signed a second ago is gone");
                prop_assert!(Some(signs) == first || now - made_at[&signs] >= HOUR, "it signs before verifiers know it");
            }
            prop_assert!(keys.len() <= 8);
        }
    }
}
