//! Rotation of authorities and token keys without an interruption.
//!
//! Rotation of an authority has four actions, always in this order:
//!
//! 1. *prepare*: create the next authority.
//! 2. *publish*: every replica and every bundle has the root of the next authority.
//! 3. *activate*: the nodes have had time to deliver the root to the pods; the next authority signs from now on.
//! 4. *retire*: nothing that the old authority signed is valid any more; remove the old root.
//!
//! A token key is published for some time before its first signature and after its last one.

use crate::token::SigningAlgorithm;
use std::time::Duration;

/// Progress of a rotation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub enum RotationStep {
    /// No rotation: there is one authority.
    #[default]
    Steady,
    /// The next authority exists; its root is being distributed.
    Prepared,
    /// Every replica and every bundle has the next root.
    Published,
    /// The next authority signs; the old root is still trusted.
    Activated,
}

impl RotationStep {
    /// All steps, in order.
    pub const ALL: [Self; 4] = [Self::Steady, Self::Prepared, Self::Published, Self::Activated];

    /// The name of the step.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Steady => "Steady",
            Self::Prepared => "Prepared",
            Self::Published => "Published",
            Self::Activated => "Activated",
        }
    }
}

/// The next action of a rotation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RotationAction {
    /// Create the next authority.
    Prepare,
    /// Record that every replica and every bundle has the root of the next authority.
    Publish,
    /// Let the next authority sign.
    Activate,
    /// Remove the old root.
    Retire,
}

impl RotationAction {
    /// The step after the action.
    #[must_use]
    pub const fn leads_to(self) -> RotationStep {
        match self {
            Self::Prepare => RotationStep::Prepared,
            Self::Publish => RotationStep::Published,
            Self::Activate => RotationStep::Activated,
            Self::Retire => RotationStep::Steady,
        }
    }
}

/// Durations of a rotation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RotationSchedule {
    /// Age at which a rotation of the authority starts.
    pub rotate_after: Duration,
    /// Time between publication and activation, for the nodes to deliver the root to the pods.
    pub spread: Duration,
    /// Time for which the old root stays trusted: longer than the lifetime of any certificate it signed.
    pub overlap: Duration,
}

/// State of a rotation. Times are in Unix seconds.
#[derive(Debug, Clone, Copy)]
pub struct RotationState {
    /// Progress of the rotation.
    pub step: RotationStep,
    /// When the rotation reached this step.
    pub since: i64,
    /// Start and end of the active authority's validity.
    pub active: (i64, i64),
    /// Whether an administrator requested a rotation.
    pub requested: bool,
    /// Whether every replica and every bundle has exactly the stored roots.
    pub everywhere: bool,
}

/// The action to take at `now` (Unix seconds), if one is due.
#[must_use]
pub fn next_action(state: &RotationState, schedule: &RotationSchedule, now: i64) -> Option<RotationAction> {
    let waited = |duration: Duration| now.saturating_sub(state.since) >= seconds(duration);
    match state.step {
        RotationStep::Steady => {
            let (not_before, not_after) = state.active;
            let old = now.saturating_sub(not_before) >= seconds(schedule.rotate_after);
            // the whole rotation has to end before the authority expires
            let ends_soon = not_after.saturating_sub(now) <= seconds(schedule.spread) + 2 * seconds(schedule.overlap);
            (state.requested || old || ends_soon).then_some(RotationAction::Prepare)
        }
        RotationStep::Prepared => state.everywhere.then_some(RotationAction::Publish),
        RotationStep::Published => (state.everywhere && waited(schedule.spread)).then_some(RotationAction::Activate),
        RotationStep::Activated => waited(schedule.overlap).then_some(RotationAction::Retire),
    }
}

fn seconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX / 4)
}

/// Durations of token key rotation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenKeySchedule {
    /// Algorithms in use; each has its own keys.
    pub algorithms: &'static [SigningAlgorithm],
    /// Time for which a key signs.
    pub signs: Duration,
    /// Time for which a key is published before it signs: longer than any verifier caches the key set.
    pub ahead: Duration,
    /// Time for which a key stays published after it signed: longer than the lifetime of any token.
    pub after: Duration,
}

/// The term of one token key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenKeyTerm {
    /// Signature algorithm.
    pub algorithm: SigningAlgorithm,
    /// Start of its term, in Unix seconds. The term ends when that of the next key of this algorithm starts.
    pub from: i64,
}

/// The key that signs at `now` (Unix seconds).
#[must_use]
pub fn signing_key(
    keys: impl IntoIterator<Item = TokenKeyTerm>,
    algorithm: SigningAlgorithm,
    now: i64,
) -> Option<TokenKeyTerm> {
    let own: Vec<TokenKeyTerm> = keys.into_iter().filter(|key| key.algorithm == algorithm).collect();
    let begun = own.iter().filter(|key| key.from <= now).max();
    // if the clock is behind, sign with the first key rather than with none
    begun.or_else(|| own.iter().min()).copied()
}

/// The keys to generate and the keys to remove at `now` (Unix seconds).
#[must_use]
pub fn token_key_changes(
    keys: &[TokenKeyTerm],
    schedule: &TokenKeySchedule,
    now: i64,
) -> (Vec<TokenKeyTerm>, Vec<TokenKeyTerm>) {
    let mut added = Vec::new();
    let mut removed = Vec::new();
    for algorithm in schedule.algorithms.iter().copied() {
        let mut own: Vec<i64> = keys.iter().filter(|key| key.algorithm == algorithm).map(|key| key.from).collect();
        own.sort_unstable();
        match own.last() {
            None => added.push(TokenKeyTerm { algorithm, from: now }),
            Some(last) => {
                let next = last.saturating_add(seconds(schedule.signs));
                if now.saturating_add(seconds(schedule.ahead)) >= next {
                    added.push(TokenKeyTerm { algorithm, from: next.max(now.saturating_add(seconds(schedule.ahead))) });
                }
            }
        }
        let pairs = own.iter().zip(own.iter().skip(1));
        let expired = pairs.filter(|(_, next)| now.saturating_sub(**next) >= seconds(schedule.after));
        removed.extend(expired.map(|(from, _)| TokenKeyTerm { algorithm, from: *from }));
    }
    (added, removed)
}
