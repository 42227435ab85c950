//! Confirmed batches and roots, for different answers of replicas.

use super::ConfirmedBatch;
use super::peers::{BatchHistory, ReplicaAnswer, ReplicaPeer, ReplicaPeers};
use durward_core::digest::Digest;
use std::net::SocketAddr;

fn revision(name: &str) -> Digest {
    Digest::of([name.as_bytes()])
}

fn answer_of(name: &str, roots: &str) -> ReplicaAnswer {
    ReplicaAnswer::new(format!("{}.{}", revision(name), revision(roots)))
}

fn peers(answers: &[Option<&str>]) -> ReplicaPeers {
    let mut peers = ReplicaPeers::default();
    for (number, answer) in (1..).zip(answers) {
        let address = SocketAddr::from(([10, 0, 0, number], 8443));
        peers.0.insert(
            address,
            ReplicaPeer { last_answer: answer.map(|name| answer_of(name, "old")), queried: false, ready: true },
        );
    }
    peers
}

fn history(revisions: &[&str]) -> BatchHistory {
    let mut history = BatchHistory::default();
    (1..).zip(revisions).for_each(|(number, name)| history.push(number, revision(name)));
    history
}

#[test]
fn a_batch_is_confirmed_once_every_ready_replica_has_it() {
    let history = history(&["one", "two", "three"]);
    for (answers, confirmed, behind) in [
        (&[][..], Some(3), 0),
        (&[Some("three"), Some("three")], Some(3), 0),
        (&[Some("three"), Some("two")], Some(2), 1),
        (&[Some("one"), Some("two")], Some(1), 2),
        (&[Some("three"), None], None, 1),
        (&[Some("unknown")], None, 1),
    ] {
        let (now, count) = peers(answers).confirmed(&history);
        assert_eq!((now.revision.map(|_| now.number), count), (confirmed, behind), "{answers:?}");
    }
}

#[test]
fn batches_up_to_the_confirmed_one_are_in_force() {
    let (confirmed, _) = peers(&[Some("two")]).confirmed(&history(&["one", "two", "three"]));
    assert_eq!(
        (confirmed.revision_with(1), confirmed.revision_with(2), confirmed.revision_with(3)),
        (Some(revision("two")), Some(revision("two")), None)
    );
    assert_eq!(ConfirmedBatch::default().revision_with(0), None);
}

#[test]
fn a_confirmation_is_never_revoked() {
    let (confirmed, _) = peers(&[Some("two")]).confirmed(&history(&["one", "two"]));
    // the other replica has a batch that this one did not receive yet, or does not answer
    for answer in [Some("unknown"), None, Some("one")] {
        let (now, _) = peers(&[answer]).confirmed(&history(&["one", "two", "three"]));
        assert!(!confirmed.is_superseded_by(&now), "{answer:?}");
    }
    let (now, _) = peers(&[Some("three")]).confirmed(&history(&["one", "two", "three"]));
    assert!(confirmed.is_superseded_by(&now));
}

#[test]
fn a_reverted_revision_confirms_its_newest_batch() {
    // a change and its reversal: the first and the last revision are the same
    let (confirmed, behind) = peers(&[Some("one")]).confirmed(&history(&["one", "two", "one"]));
    assert_eq!((confirmed.number, behind), (3, 0));
}

#[test]
fn roots_are_distributed_once_every_ready_replica_has_them() {
    let mut peers = peers(&[Some("one"), Some("two")]);
    assert!(peers.all_have_roots(revision("old")) && !peers.all_have_roots(revision("new")));
    let first = *peers.0.keys().next().unwrap();
    peers.answered(first, Some(answer_of("one", "new")));
    assert!(!peers.all_have_roots(revision("new")));
    // an older version answers without roots
    peers.answered(first, Some(ReplicaAnswer::new(revision("one").to_string())));
    assert!(!peers.all_have_roots(revision("old")));
    peers.0.get_mut(&first).unwrap().ready = false;
    assert!(peers.all_have_roots(revision("old")), "replicas that are not ready are ignored");
}

#[test]
fn counts_are_parsed_after_the_state() {
    let text = "abc.def\n7\nshop/orders 3 2\nnonsense\nshop/a.b 1";
    let answer = ReplicaAnswer::new(text.to_owned());
    assert_eq!((answer.state(), answer.revision(), answer.roots()), ("abc.def", "abc", Some("def")));
    let (process, counts) = answer.policy_counts().expect("counts");
    let counts: Vec<String> =
        counts.iter().map(|(policy, count)| format!("{policy} {} {}", count.audited, count.exhausted)).collect();
    assert_eq!((process, counts.join(", ").as_str()), (7, "shop/a.b 1 0, shop/orders 3 2"));
    assert!(ReplicaAnswer::new("abc.def".to_owned()).policy_counts().is_none(), "an older version sends no counts");
}

#[test]
fn each_replica_has_one_open_request_until_it_ends() {
    let a = SocketAddr::from(([10, 0, 0, 1], 1));
    let b = SocketAddr::from(([10, 0, 0, 2], 1));
    let mut peers = ReplicaPeers::default();
    assert_eq!(peers.set_ready([a, b].into()), [a, b]);
    assert!(peers.set_ready([a, b].into()).is_empty(), "both have an open request");
    peers.answered(a, Some(answer_of("one", "old")));
    assert_eq!(peers.set_ready([a].into()), [a]);
    peers.answered(b, None);
    peers.set_ready([a].into());
    assert_eq!(peers.0.len(), 1);
}
