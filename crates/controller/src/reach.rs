//! How far a policy is in force: on every ready replica, and where the API server has to ask.

use crate::replicas::Confirmed;
use crate::webhooks::Standing;
use durward_core::digest::Digest;
use std::collections::VecDeque;

/// Batches that are remembered; the webhook configuration of what lies further back is behind.
const REMEMBERED: usize = 256;

/// How far a resource is in force, as far as that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Not everywhere, or nobody can tell yet.
    Unknown,
    /// Everywhere, and in this revision.
    Everywhere(Digest),
    /// The API server does not ask for it.
    NotAsked,
}

/// What is known of all batches.
#[derive(Debug, Default)]
pub struct Progress {
    /// What every ready replica has in force.
    pub confirmed: Confirmed,
    /// What the API server asks for.
    pub standing: Standing,
    /// Recent batches, and the revisions that they led to.
    recent: VecDeque<(u64, Digest)>,
}

impl Progress {
    /// A batch led to a revision.
    pub(crate) fn applied(&mut self, number: u64, revision: Digest) {
        self.recent.push_back((number, revision));
        while self.recent.len() > REMEMBERED {
            self.recent.pop_front();
        }
    }

    /// How far what a batch brought is in force; `governs` if the API server has to ask for it.
    pub fn of(&self, batch: u64, governs: bool) -> Reach {
        let confirmed = self.confirmed.of(batch);
        match (self.standing, confirmed) {
            (Standing::Lacking, _) if governs => Reach::NotAsked,
            (_, None) => Reach::Unknown,
            (Standing::Unknown, Some(_)) if governs => Reach::Unknown,
            (Standing::Carries(carried), Some(_)) if governs && !self.covers(carried, batch) => Reach::NotAsked,
            (_, Some(revision)) => Reach::Everywhere(revision),
        }
    }

    /// Whether a revision has in it what a batch brought.
    fn covers(&self, revision: Digest, batch: u64) -> bool {
        self.recent.iter().any(|(number, of)| *number >= batch && *of == revision)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_api_server_has_to_ask_for_waits_until_it_does() {
        let revision = |text: &str| Digest::of([text.as_bytes()]);
        let (one, two) = (revision("one"), revision("two"));
        let mut progress = Progress::default();
        progress.applied(1, one);
        assert_eq!([false, true].map(|governs| progress.of(1, governs)), [Reach::Unknown; 2], "no replica has told");
        progress.confirmed = Confirmed::all(1, one);
        assert_eq!(progress.of(1, false), Reach::Everywhere(one));
        assert_eq!(progress.of(1, true), Reach::Unknown, "nobody has looked yet");
        progress.standing = Standing::Carries(one);
        assert_eq!(progress.of(1, true), Reach::Everywhere(one));
        // another batch: what was asked for before still is
        progress.applied(2, two);
        progress.confirmed = Confirmed::all(2, two);
        assert_eq!([1, 2].map(|batch| progress.of(batch, true)), [Reach::Everywhere(two), Reach::NotAsked]);
        assert_eq!(progress.of(2, false), Reach::Everywhere(two));
        progress.standing = Standing::Carries(two);
        assert_eq!([1, 2].map(|batch| progress.of(batch, true)), [Reach::Everywhere(two); 2]);
        // somebody changed it
        progress.standing = Standing::Lacking;
        assert_eq!([1, 2].map(|batch| progress.of(batch, true)), [Reach::NotAsked; 2]);
        assert_eq!(progress.of(2, false), Reach::Everywhere(two));
        // a revision that nobody knows covers nothing
        progress.standing = Standing::Carries(revision("three"));
        assert_eq!(progress.of(1, true), Reach::NotAsked);
    }
}
