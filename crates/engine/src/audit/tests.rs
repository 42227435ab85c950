use super::chain::{Chain, LogSigner, LogTail, MAX_UNSIGNED, hash};
use super::verify::{ChainClose, FindingKind, LogPosition, LogVerifier, VerificationReport};
use super::{AuditSink, AuditWriter, OnLoss};
use durward_authn::keys::KeySet;
use durward_pki::token::{SigningAlgorithm, TokenKey, jwks};
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::sync::Arc;

fn key() -> Arc<TokenKey> {
    Arc::new(TokenKey::generate(SigningAlgorithm::Es256).unwrap())
}

fn signer(key: &Arc<TokenKey>) -> LogSigner {
    let key = Arc::clone(key);
    LogSigner::new(move |claims, typ| key.sign(claims, typ))
}

fn chain(id: &str, key: &Arc<TokenKey>, tail: LogTail) -> Chain {
    Chain::new(id.to_owned(), signer(key), tail)
}

fn lines(log: &[u8]) -> Vec<String> {
    String::from_utf8(log.to_vec()).unwrap().lines().map(ToOwned::to_owned).collect()
}

/// The log of several processes one after another in one file. Each writes a number of records; only the last one ends
/// its chain.
fn log(key: &Arc<TokenKey>, runs: &[usize]) -> Vec<String> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let mut log = Vec::new();
    for (run, records) in runs.iter().enumerate() {
        std::fs::write(&path, &log).unwrap();
        let mut chain = chain(&format!("run{run}"), key, super::chain::read_tail(&path).unwrap());
        for record in 0..*records {
            chain.record(format!("{{\"id\":\"{run}-{record}\"}}\n").as_bytes(), 0, &mut log);
            if record % 3 == 2 {
                chain.checkpoint(0, &mut log);
            }
        }
        if run + 1 == runs.len() {
            chain.end(0, &mut log);
        }
    }
    lines(&log)
}

fn verify(lines: &[String], key: &TokenKey, partial: bool) -> VerificationReport {
    let keys = KeySet::parse(jwks([key.jwk()]).as_bytes()).unwrap();
    let mut verifier = LogVerifier::new(Some(&keys), partial);
    for (number, line) in (1..).zip(lines) {
        verifier.line(&LogPosition { file: "log".into(), line: number }, line.as_bytes());
    }
    verifier.finish(None)
}

fn findings(report: &VerificationReport) -> Vec<(u64, FindingKind)> {
    report.findings.iter().map(|finding| (finding.position.line, finding.kind)).collect()
}

#[test]
fn an_unchanged_log_has_no_findings() {
    let key = key();
    let report = verify(&log(&key, &[5, 2, 4]), &key, false);
    assert_eq!(findings(&report), []);
    assert_eq!((report.records, report.is_open()), (11, false));
    let closes: Vec<_> = report.chains.iter().map(|chain| chain.close).collect();
    assert_eq!(closes, [ChainClose::Continued, ChainClose::Continued, ChainClose::Ended]);
    assert_eq!(report.keys, BTreeSet::from([key.kid().to_owned()]));
}

#[test]
fn each_change_is_reported_with_its_line() {
    let key = key();
    // begin, 0, 1, 2, checkpoint, 3, 4, end
    let good = log(&key, &[5]);
    assert_eq!(good.len(), 8);
    let changed = |change: &dyn Fn(&mut Vec<String>)| {
        let mut lines = good.clone();
        change(&mut lines);
        let report = verify(&lines, &key, false);
        (findings(&report), report.is_open())
    };
    let altered = |at: usize| {
        changed(&move |lines: &mut Vec<String>| lines[at] = lines[at].replace("\"id\":\"0-", "\"id\":\"9-"))
    };
    assert_eq!(altered(2).0, [(3, FindingKind::Altered)]);
    assert_eq!(altered(6).0, [(7, FindingKind::Altered)]);
    assert_eq!(changed(&|lines| drop(lines.remove(2))).0, [(3, FindingKind::Removed)]);
    assert_eq!(changed(&|lines| drop(lines.drain(2..4))).0, [(3, FindingKind::Removed)]);
    assert_eq!(changed(&|lines| lines.swap(1, 2)).0[0], (2, FindingKind::Removed));
    assert!(changed(&|lines| lines.swap(1, 2)).0.contains(&(3, FindingKind::Reordered)));
    assert_eq!(changed(&|lines| lines.insert(3, lines[2].clone())).0, [(4, FindingKind::Reordered)]);
    assert_eq!(changed(&|lines| lines.insert(3, "{\"id\":\"x\"}".to_owned())).0, [(4, FindingKind::Inserted)]);
    assert_eq!(changed(&|lines| drop(lines.remove(0))).0, [(1, FindingKind::Removed),]);
    // without its end the rest is consistent, and the log is open
    for length in 1..good.len() {
        assert_eq!(changed(&|lines| lines.truncate(length)), (vec![], true), "{length}");
    }
}

#[test]
fn a_log_can_not_be_rewritten_without_the_key() {
    let (key, other) = (key(), key());
    let report = verify(&log(&other, &[3]), &key, false);
    assert_eq!(findings(&report), [(1, FindingKind::Forged), (5, FindingKind::Forged), (6, FindingKind::Forged)]);
    // hashes that fit, by an attacker who can't sign
    let mut lines = log(&key, &[3]);
    lines[1] = lines[1].replace("\"id\":\"0-0", "\"id\":\"0-9");
    for at in 2..lines.len() {
        let prev = hash(lines[at - 1].as_bytes());
        let (head, _) = lines[at].split_once("\"prev\":\"").unwrap();
        let tail = lines[at].split_once("\"prev\":\"").unwrap().1.split_once('"').unwrap().1;
        lines[at] = format!("{head}\"prev\":\"{prev}\"{tail}");
    }
    assert_eq!(findings(&verify(&lines, &key, false)), [(5, FindingKind::Forged), (6, FindingKind::Forged)]);
    // a log without checkpoints proves nothing
    let mut bare = Vec::new();
    let mut unsigned = Chain::new(
        "bare".to_owned(),
        LogSigner::new(|_, _| Err(durward_pki::token::TokenKeyError::Key)),
        LogTail::default(),
    );
    (0..2 * MAX_UNSIGNED).for_each(|_| unsigned.record(b"{\"a\":1}\n", 0, &mut bare));
    assert!(findings(&verify(&lines_of(&bare), &key, true)).iter().all(|(_, kind)| *kind == FindingKind::Forged));
    assert!(!verify(&lines_of(&bare), &key, true).findings.is_empty());
}

#[test]
fn unused_bits_of_a_signature_can_not_be_changed() {
    let key = key();
    // the last character of a signature has four unused bits
    for _ in 0..8 {
        let good = log(&key, &[1]);
        let last = good.last().unwrap().strip_suffix("\"}").unwrap();
        let (rest, end) = last.split_at(last.len() - 1);
        for other in ["A", "B", "Q", "R", "g", "h", "w", "x"].into_iter().filter(|other| *other != end) {
            let lines = [&good[..good.len() - 1], &[format!("{rest}{other}\"}}")]].concat();
            assert_eq!(findings(&verify(&lines, &key, false)), [(3, FindingKind::Forged)], "{end} as {other}");
        }
    }
}

fn lines_of(log: &[u8]) -> Vec<String> {
    lines(log)
}

#[test]
fn a_signature_is_valid_for_its_line_alone() {
    let key = key();
    let good = log(&key, &[3]);
    let jws = |line: &str| line.split_once(",\"jws\":\"").unwrap().1.to_owned();
    let mut lines = good.clone();
    lines[4] = format!("{},\"jws\":\"{}", good[4].split_once(",\"jws\":\"").unwrap().0, jws(&good[0]));
    assert!(findings(&verify(&lines, &key, false)).contains(&(5, FindingKind::Forged)));
    lines[4] = good[4].split_once(",\"jws\":\"").unwrap().0.to_owned() + "}";
    assert!(findings(&verify(&lines, &key, false)).contains(&(5, FindingKind::Forged)));
    // a token signed by the same key is no checkpoint
    let unsigned = good[4].split_once(",\"jws\":\"").unwrap().0.to_owned() + "}";
    let token = key.sign(&serde_json::json!({"hash": hash(unsigned.as_bytes())}), "JWT").unwrap();
    lines[4] = format!("{},\"jws\":\"{token}\"}}", unsigned.strip_suffix('}').unwrap());
    assert!(findings(&verify(&lines, &key, false)).contains(&(5, FindingKind::Forged)));
}

#[test]
fn lost_records_are_reported_where_they_are_missing() {
    let key = key();
    let (mut chain, mut log) = (chain("a", &key, LogTail::default()), Vec::new());
    chain.record(b"{\"id\":1}\n", 0, &mut log);
    chain.record(b"{\"id\":5}\n", 3, &mut log);
    chain.record(b"{\"id\":6}\n", 3, &mut log);
    chain.end(5, &mut log);
    let lines = lines(&log);
    assert!(lines[2].contains("\"event\":\"gap\"") && lines[2].contains("\"lost\":3"), "{}", lines[2]);
    let report = verify(&lines, &key, false);
    assert_eq!((findings(&report), report.lost, report.records), (vec![], 5, 3));
    let mut without = lines.clone();
    without.remove(2);
    assert_eq!(findings(&verify(&without, &key, false)), [(3, FindingKind::Removed)]);
}

#[test]
fn a_truncated_line_differs_from_an_inserted_one() {
    let key = key();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let mut log = Vec::new();
    let mut first = chain("a", &key, LogTail::default());
    first.record(b"{\"id\":1}\n", 0, &mut log);
    first.record(b"{\"id\":2}\n", 0, &mut log);
    log.truncate(log.len() - 10);
    std::fs::write(&path, &log).unwrap();
    let mut second = chain("b", &key, super::chain::read_tail(&path).unwrap());
    second.record(b"{\"id\":3}\n", 0, &mut log);
    second.end(0, &mut log);
    let mut lines = lines(&log);
    assert_eq!(findings(&verify(&lines, &key, false)), []);
    lines[2] = "{\"id\":9}".to_owned();
    assert_eq!(findings(&verify(&lines, &key, false)), [(3, FindingKind::Inserted)]);
    // the second chain proves the last line of the first
    lines[2] = lines[1].replace("\"id\":1", "\"id\":7");
    lines.swap(1, 2);
    assert!(!verify(&lines, &key, false).findings.is_empty());
}

#[test]
fn a_partial_log_may_lack_its_beginning_and_end() {
    let key = key();
    let good = log(&key, &[9, 4]);
    for (from, to, unproven) in [(3, good.len(), 0), (0, 7, 2), (2, 9, 0), (4, 5, 0)] {
        let report = verify(&good[from..to], &key, true);
        assert_eq!((findings(&report), report.unproven), (vec![], unproven), "{from}..{to}");
    }
    assert_eq!(findings(&verify(&good[3..], &key, false)), [(1, FindingKind::Removed)]);
    // a whole run is missing
    let second = good.iter().position(|line| line.contains("run1")).unwrap();
    assert_eq!(findings(&verify(&good[second..], &key, false)), [(1, FindingKind::Removed)]);
}

/// Lines of a chain from a number on, with hashes that fit, by an attacker who can't sign.
fn invented(id: &str, from: u64, prev: &str, count: u64) -> Vec<String> {
    let mut prev = prev.to_owned();
    let lines = (from..from + count).map(|seq| {
        let line = format!(r#"{{"verdict":"allow","chain":{{"id":"{id}","seq":{seq},"prev":"{prev}"}}}}"#);
        prev = hash(line.as_bytes());
        line
    });
    lines.collect()
}

#[test]
fn what_no_signature_proves_is_unproven_or_forged() {
    let key = key();
    // begin, 0, 1, 2, checkpoint, 3, 4, end
    let good = log(&key, &[5]);
    let last = |lines: &[String]| hash(lines[lines.len() - 1].as_bytes());
    let extended = |lines: &[String], id: &str, from: u64| [lines, &invented(id, from, &last(lines), 3)].concat();
    let cases = [
        ("records of a chain of their own", invented("other", 500, "x", 900), vec![(1, FindingKind::Forged)], 900),
        ("… from its first line on", invented("other", 0, "", 3), vec![(1, FindingKind::Forged)], 3),
        ("records after the last signature", extended(&good[..5], "run0", 5), vec![], 3),
        (
            "another chain at the end",
            [&good[..5], &invented("other", 7, "x", 2)].concat(),
            vec![(6, FindingKind::Forged)],
            2,
        ),
        (
            "records after the end",
            extended(&good, "run0", 8),
            vec![(9, FindingKind::Inserted), (10, FindingKind::Inserted), (11, FindingKind::Inserted)],
            3,
        ),
        ("honest lines that are not signed yet", good[..7].to_vec(), vec![], 2),
        ("lines without any signature", good[1..4].to_vec(), vec![(1, FindingKind::Forged)], 3),
    ];
    for (what, lines, expected, unproven) in cases {
        let report = verify(&lines, &key, true);
        assert_eq!((findings(&report), report.unproven), (expected, unproven), "{what}");
    }
    // a last line without its end proves nothing, whole or not
    for cut in [good[5].as_str(), &good[5][..20]] {
        let keys = KeySet::parse(jwks([key.jwk()]).as_bytes()).unwrap();
        let mut verifier = LogVerifier::new(Some(&keys), true);
        let position = |line| LogPosition { file: "log".into(), line };
        for (number, line) in (1..).zip(&good[..5]) {
            verifier.line(&position(number), line.as_bytes());
        }
        verifier.line(&position(6), cut.as_bytes());
        let report = verifier.finish(Some(&position(6)));
        assert_eq!((findings(&report), report.unproven), (vec![], 1), "{cut}");
    }
}

#[test]
fn chains_of_several_replicas_may_be_interleaved() {
    let key = key();
    let (mut a, mut b, mut log) =
        (chain("a", &key, LogTail::default()), chain("b", &key, LogTail::default()), Vec::new());
    for _ in 0..5 {
        a.record(b"{\"id\":1}\n", 0, &mut log);
        b.record(b"{\"id\":2}\n", 0, &mut log);
    }
    a.end(0, &mut log);
    b.end(0, &mut log);
    let lines = lines(&log);
    assert_eq!(findings(&verify(&lines, &key, false)), []);
    // a log collector may interleave them differently
    let (mut first, second): (Vec<String>, Vec<String>) =
        lines.iter().cloned().partition(|line| line.contains("\"id\":\"b\""));
    first.extend(second);
    assert_eq!(findings(&verify(&first, &key, false)), []);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Any change of a line is found.
    #[test]
    fn every_change_is_found(
        runs in proptest::collection::vec(1usize..6, 1..4),
        at in any::<prop::sample::Index>(),
        byte in any::<prop::sample::Index>(),
        what in 0..4,
    ) {
        let key = key();
        let mut lines = log(&key, &runs);
        let at = at.index(lines.len());
        match what {
            0 => {
                let byte = byte.index(lines[at].len());
                let mut bytes = lines[at].clone().into_bytes();
                bytes[byte] = if bytes[byte] == b'1' { b'2' } else { b'1' };
                lines[at] = String::from_utf8(bytes).unwrap();
            }
            1 => drop(lines.remove(at)),
            2 => lines.insert(byte.index(lines.len()), lines[at].clone()),
            _ => {
                let other = byte.index(lines.len());
                prop_assume!(other != at);
                lines.swap(at, other);
            }
        }
        let report = verify(&lines, &key, false);
        prop_assert!(!report.findings.is_empty() || report.is_open(), "{lines:#?}");
        if what != 1 {
            prop_assert!(!report.findings.is_empty(), "{lines:#?}");
        }
    }

    /// No input makes the verifier panic.
    #[test]
    fn the_verifier_accepts_any_text(lines in proptest::collection::vec(".*", 0..8)) {
        let key = key();
        let report = verify(&lines, &key, false);
        prop_assert!(report.findings.len() + usize::try_from(report.more_findings).unwrap() <= lines.len());
    }
}

/// An effect waits for the write of its record exactly if the log must not lose any.
#[tokio::test]
async fn an_effect_waits_until_its_record_is_written() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let file = AuditSink::File(path.clone());
    let log = AuditWriter::open(&file, OnLoss::Deny, signer(&key())).unwrap();
    for number in 1..=20 {
        log.record_effect(&serde_json::json!({"number": number})).unwrap().finished().await.unwrap();
        let written = std::fs::read_to_string(&path).unwrap();
        assert!(written.lines().any(|line| line.contains(&format!("\"number\":{number},"))), "{written}");
    }
    drop(log);
    // a device that takes nothing
    let full = AuditSink::File("/dev/full".into());
    for (on_loss, passes) in [(OnLoss::Deny, false), (OnLoss::Continue, true)] {
        let log = AuditWriter::open(&full, on_loss, signer(&key())).unwrap();
        let pending = log.record_effect(&serde_json::json!({"number": 1})).unwrap();
        assert_eq!(pending.finished().await.is_ok(), passes, "{on_loss:?}");
    }
}
