//! How authorities and token keys follow one another without anybody noticing.
//!
//! An authority: a new one is *prepared*; its root is *published* once every replica and every bundle carries it; it is
//! *activated*, and signs from then on, when the nodes have had time to bring it to the pods; the old root is *retired* when
//! nothing that it signed is valid any more. No step can be skipped: each is taken from the one before only.
//!
//! A token key is published for a while before it signs, and for a while after it signed last.

use crate::token::Algorithm;
use std::time::Duration;

/// How far the change of authorities is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub enum Step {
    /// There is one authority.
    #[default]
    Steady,
    /// There is a next one; its root spreads.
    Prepared,
    /// Every replica and every bundle has the next root.
    Published,
    /// The next one has become the active one; the root before it still counts.
    Activated,
}

impl Step {
    /// Every step, in order.
    pub const ALL: [Self; 4] = [Self::Steady, Self::Prepared, Self::Published, Self::Activated];

    /// Its name.
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

/// What is to be done next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Make the next authority.
    Prepare,
    /// Say that its root is everywhere.
    Publish,
    /// Let it sign.
    Activate,
    /// Forget the old root.
    Retire,
}

impl Action {
    /// The step that it leads to.
    #[must_use]
    pub const fn leads_to(self) -> Step {
        match self {
            Self::Prepare => Step::Prepared,
            Self::Publish => Step::Published,
            Self::Activate => Step::Activated,
            Self::Retire => Step::Steady,
        }
    }
}

/// How long each step takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Schedule {
    /// Age at which an authority is replaced.
    pub rotate_after: Duration,
    /// How long a published root waits for the nodes to bring it to the pods.
    pub spread: Duration,
    /// How long an old root still counts: longer than anything that it signed is valid.
    pub overlap: Duration,
}

/// Where things stand. Times are in seconds since 1970.
#[derive(Debug, Clone, Copy)]
pub struct Standing {
    /// How far the change is.
    pub step: Step,
    /// When that was reached.
    pub since: i64,
    /// Validity of the active authority.
    pub active: (i64, i64),
    /// Whether somebody asks for a change.
    pub wanted: bool,
    /// Whether every replica and every bundle has exactly the roots that are stored.
    pub everywhere: bool,
}

/// What is to be done at `now`, in seconds since 1970.
#[must_use]
pub fn due(standing: &Standing, schedule: &Schedule, now: i64) -> Option<Action> {
    let waited = |long: Duration| now.saturating_sub(standing.since) >= seconds(long);
    match standing.step {
        Step::Steady => {
            let (from, until) = standing.active;
            let old = now.saturating_sub(from) >= seconds(schedule.rotate_after);
            // whatever its age: the whole change has to fit into what is left
            let ends = until.saturating_sub(now) <= seconds(schedule.spread) + 2 * seconds(schedule.overlap);
            (standing.wanted || old || ends).then_some(Action::Prepare)
        }
        Step::Prepared => standing.everywhere.then_some(Action::Publish),
        Step::Published => (standing.everywhere && waited(schedule.spread)).then_some(Action::Activate),
        Step::Activated => waited(schedule.overlap).then_some(Action::Retire),
    }
}

fn seconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX / 4)
}

/// How token keys follow one another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeySchedule {
    /// How they sign; each algorithm has keys of its own.
    pub algorithms: &'static [Algorithm],
    /// For how long a key signs.
    pub signs: Duration,
    /// How long it is published before: longer than any verifier keeps the keys.
    pub ahead: Duration,
    /// How long it is published after: longer than any token is valid.
    pub after: Duration,
}

/// A token key: how it signs, and from when on, in seconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyTerm {
    /// How it signs.
    pub algorithm: Algorithm,
    /// Until the next one of this algorithm does.
    pub from: i64,
}

/// The key that signs at `now`.
#[must_use]
pub fn signing(keys: impl IntoIterator<Item = KeyTerm>, algorithm: Algorithm, now: i64) -> Option<KeyTerm> {
    let own: Vec<KeyTerm> = keys.into_iter().filter(|key| key.algorithm == algorithm).collect();
    let begun = own.iter().filter(|key| key.from <= now).max();
    // a clock that is behind: the first key is better than none
    begun.or_else(|| own.iter().min()).copied()
}

/// Keys that are to be made, and those that are to go.
#[must_use]
pub fn key_changes(keys: &[KeyTerm], schedule: &KeySchedule, now: i64) -> (Vec<KeyTerm>, Vec<KeyTerm>) {
    let (mut made, mut gone) = (Vec::new(), Vec::new());
    for algorithm in schedule.algorithms.iter().copied() {
        let mut own: Vec<i64> = keys.iter().filter(|key| key.algorithm == algorithm).map(|key| key.from).collect();
        own.sort_unstable();
        match own.last() {
            None => made.push(KeyTerm { algorithm, from: now }),
            Some(last) => {
                let next = last.saturating_add(seconds(schedule.signs));
                if now.saturating_add(seconds(schedule.ahead)) >= next {
                    made.push(KeyTerm { algorithm, from: next.max(now.saturating_add(seconds(schedule.ahead))) });
                }
            }
        }
        let pairs = own.iter().zip(own.iter().skip(1));
        let over = pairs.filter(|(_, next)| now.saturating_sub(**next) >= seconds(schedule.after));
        gone.extend(over.map(|(from, _)| KeyTerm { algorithm, from: *from }));
    }
    (made, gone)
}
