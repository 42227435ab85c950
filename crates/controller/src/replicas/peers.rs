//! What the other replicas last answered, and what all of them have in force.

use super::ConfirmedBatch;
use durward_core::digest::Digest;
use durward_core::namespaced_name::NamespacedName;
use durward_engine::audit::policy_counts::{PolicyCount, PolicyCounts};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;

/// Revisions that are remembered. A replica with an older one is behind in any case.
const REMEMBERED_REVISIONS: usize = 256;

/// The revisions that recent batches led to at this replica.
#[derive(Debug, Default)]
pub(super) struct BatchHistory(VecDeque<AppliedBatch>);

/// A batch and its revision.
#[derive(Debug)]
struct AppliedBatch {
    number: u64,
    revision: Digest,
    /// The revision as replicas write it.
    revision_text: String,
}

impl BatchHistory {
    pub fn push(&mut self, number: u64, revision: Digest) {
        self.0.push_back(AppliedBatch { number, revision, revision_text: revision.to_string() });
        while self.0.len() > REMEMBERED_REVISIONS {
            self.0.pop_front();
        }
    }

    /// The last batch that led to this revision.
    fn find(&self, revision: &str) -> Option<&AppliedBatch> {
        self.0.iter().rev().find(|applied| applied.revision_text == revision)
    }
}

/// The answer of a replica.
///
/// The first line is its revision, a dot, and the digest of its roots. The second line is the number of its process. Each
/// further line is `namespace/name audited exhausted`: the requests that a policy in `mode: Audit` would have denied, and the
/// decisions whose budget of work ended at one of its rules.
#[derive(Debug)]
pub(super) struct ReplicaAnswer(String);

impl ReplicaAnswer {
    pub const fn new(text: String) -> Self {
        Self(text)
    }

    /// Revision and roots: the part that a replica sends again only when it changes.
    pub fn state(&self) -> &str {
        self.0.lines().next().unwrap_or_default()
    }

    pub fn revision(&self) -> &str {
        self.state().split_once('.').map_or(self.state(), |(revision, _)| revision)
    }

    pub fn roots(&self) -> Option<&str> {
        self.state().split_once('.').map(|(_, roots)| roots)
    }

    /// The number of the process, and its counts by policy.
    pub fn policy_counts(&self) -> Option<(u64, PolicyCounts)> {
        let mut lines = self.0.lines().skip(1);
        let process = lines.next()?.parse().ok()?;
        let counts = lines.filter_map(|line| {
            let (policy, counts) = line.split_once(' ')?;
            let (namespace, name) = policy.split_once('/')?;
            // an older version sends no second number
            let (audited, exhausted) = counts.split_once(' ').unwrap_or((counts, "0"));
            let count = PolicyCount { audited: audited.parse().ok()?, exhausted: exhausted.parse().ok()? };
            Some((NamespacedName { namespace: namespace.into(), name: name.into() }, count))
        });
        Some((process, counts.collect()))
    }
}

/// The other replicas, by address.
#[derive(Debug, Default)]
pub(super) struct ReplicaPeers(pub BTreeMap<SocketAddr, ReplicaPeer>);

#[derive(Debug, Default)]
pub(super) struct ReplicaPeer {
    pub last_answer: Option<ReplicaAnswer>,
    /// Whether a request to it is open.
    pub queried: bool,
    pub ready: bool,
}

impl ReplicaPeers {
    /// Records which replicas are ready; returns those to query now.
    pub fn set_ready(&mut self, ready: BTreeSet<SocketAddr>) -> Vec<SocketAddr> {
        for (address, peer) in &mut self.0 {
            peer.ready = ready.contains(address);
        }
        for address in ready {
            self.0.entry(address).or_default().ready = true;
        }
        // a replica with an open request is forgotten when the request ends
        self.0.retain(|_, peer| peer.ready || peer.queried);
        let idle = self.0.iter_mut().filter(|(_, peer)| peer.ready && !peer.queried);
        idle.map(|(address, peer)| {
            peer.queried = true;
            *address
        })
        .collect()
    }

    /// Keeps an answer; returns the counts that it carries.
    pub fn answered(&mut self, address: SocketAddr, answer: Option<ReplicaAnswer>) -> Option<(u64, PolicyCounts)> {
        let counts = answer.as_ref().and_then(ReplicaAnswer::policy_counts);
        if let Some(peer) = self.0.get_mut(&address) {
            peer.queried = false;
            peer.last_answer = answer;
        }
        counts
    }

    pub fn last_answer(&self, address: SocketAddr) -> Option<&ReplicaAnswer> {
        self.0.get(&address)?.last_answer.as_ref()
    }

    pub fn contains(&self, address: SocketAddr) -> bool {
        self.0.contains_key(&address)
    }

    /// Whether every ready replica verifies with these roots.
    pub fn all_have_roots(&self, roots: Digest) -> bool {
        let roots = roots.to_string();
        let mut ready = self.0.values().filter(|peer| peer.ready);
        ready.all(|peer| peer.last_answer.as_ref().and_then(ReplicaAnswer::roots) == Some(roots.as_str()))
    }

    /// The last batch that every ready replica has in force, and how many replicas are behind this one.
    pub fn confirmed(&self, history: &BatchHistory) -> (ConfirmedBatch, usize) {
        let Some(newest) = history.0.back() else { return (ConfirmedBatch::default(), 0) };
        let mut confirmed = Some(newest);
        let mut behind = 0;
        for peer in self.0.values().filter(|peer| peer.ready) {
            let at = peer.last_answer.as_ref().and_then(|answer| history.find(answer.revision()));
            if at.is_none_or(|at| at.number < newest.number && at.revision != newest.revision) {
                behind += 1;
            }
            confirmed = confirmed.zip(at).map(|(so_far, at)| if at.number < so_far.number { at } else { so_far });
        }
        let confirmed = confirmed.map(|applied| ConfirmedBatch::new(applied.number, applied.revision));
        (confirmed.unwrap_or_default(), behind)
    }
}
