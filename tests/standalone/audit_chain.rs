//! `durward audit verify` on logs of a real `durward up`.

use durward_tests::{UpProcess, durward, run};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const POLICY: &str = "apiVersion: durward.dev/v1alpha1\nkind: AccessPolicy\nmetadata: {name: a, namespace: shop}\nspec:\n  \
                      service: {hosts: [a.shop.svc]}\n  operations:\n    \
                      - {name: open, http: [{methods: [GET], paths: [/open]}], public: true}\n";

fn ask(up: &UpProcess, times: usize) {
    for _ in 0..times {
        assert_eq!(up.forward_auth("GET", "a.shop.svc", "/open", &[]).status, 200);
    }
}

/// One key set with the keys of several.
fn keys(to: &Path, of: &[&UpProcess]) -> String {
    let sets = of.iter().map(|up| {
        let (code, text, stderr) = run(durward().args(["audit", "keys", "--state"]).arg(&up.state));
        assert_eq!(code, 0, "{stderr}");
        serde_json::from_str::<Value>(&text).unwrap()["keys"][0].clone()
    });
    let file = to.join("keys.json");
    fs::write(&file, json!({"keys": sets.collect::<Vec<_>>()}).to_string()).unwrap();
    file.display().to_string()
}

fn verify(files: &[&Path], more: &[&str]) -> (i32, Value, String) {
    let (code, text, stderr) = run(durward().args(["audit", "verify", "-o", "json"]).args(files).args(more));
    (code, serde_json::from_str(&text).unwrap_or_default(), stderr)
}

#[test]
fn verification_finds_every_kind_of_tampering() {
    let mut up = UpProcess::with(&[("a.yaml", POLICY)]);
    ask(&up, 5);
    up.records(5);
    let served = format!("http://{}/.well-known/durward-audit-keys.json", up.listen["tokens"]);
    // the beginning is signed, and the five records wait for a checkpoint
    let (code, report, stderr) = verify(&[&up.audit], &["--keys", &served, "--partial"]);
    assert_eq!((code, &report["verdict"], &report["unproven"]), (2, &json!("unproven"), &json!(5)), "{report}");
    assert!(stderr.contains("no signature proves the last 5 lines"), "{stderr}");
    up.interrupt();
    let directory = tempfile::tempdir().unwrap();
    let keys = keys(directory.path(), &[&up]);
    let (code, report, stderr) = verify(&[&up.audit], &["--keys", &keys]);
    assert_eq!((code, &report["records"], stderr.as_str()), (0, &json!(5), ""), "{report}");
    let (code, report, stderr) = verify(&[&up.audit], &[]);
    assert_eq!((code, &report["verdict"]), (2, &json!("unknown")));
    assert!(stderr.contains("--keys"), "{stderr}");

    let good: Vec<String> = fs::read_to_string(&up.audit).unwrap().lines().map(ToOwned::to_owned).collect();
    let log = directory.path().join("log");
    let changed = |lines: &[String]| {
        fs::write(&log, lines.join("\n") + "\n").unwrap();
        verify(&[&log], &["--keys", &keys])
    };
    let mut lines = good.clone();
    lines[3] = lines[3].replace("allow", "deny");
    let (code, report, _) = changed(&lines);
    assert_eq!(
        (code, &report["findings"][0]["line"], &report["findings"][0]["kind"]),
        (1, &json!(4), &json!("altered"))
    );
    let (_, text, _) = run(durward().args(["audit", "verify", "--keys", &keys]).arg(&log));
    assert!(text.starts_with(&format!("{}:4: altered: ", log.display())) && text.contains("\nBROKEN "), "{text}");
    lines = good.clone();
    lines.drain(2..4);
    let (code, report, _) = changed(&lines);
    assert_eq!(
        (code, &report["findings"][0]["line"], &report["findings"][0]["kind"]),
        (1, &json!(3), &json!("removed"))
    );
    let (code, report, stderr) = changed(&good[..good.len() - 1]);
    assert_eq!((code, &report["verdict"]), (2, &json!("unknown")));
    assert!(stderr.contains("the log has no end"), "{stderr}");
    // invented records: of a chain of their own, and after the last signature
    let record =
        |chain: &str| format!("{{\"verdict\":\"allow\",\"chain\":{{\"id\":\"{chain}\",\"seq\":7,\"prev\":\"x\"}}}}");
    for (lines, expected, verdict) in [
        (vec![record("other")], 1, "broken"),
        (good[..good.len() - 1].to_vec(), 2, "unproven"),
        (good[..1].to_vec(), 0, "intact"),
    ] {
        fs::write(&log, lines.join("\n") + "\n").unwrap();
        let (code, report, _) = verify(&[&log], &["--keys", &keys, "--partial"]);
        assert_eq!((code, &report["verdict"]), (expected, &json!(verdict)), "{report}");
    }
    // keys of another installation don't verify it
    let other_installation = UpProcess::with(&[("a.yaml", POLICY)]);
    let other = keys_of(directory.path(), &other_installation);
    assert_eq!(verify(&[&up.audit], &["--keys", &other]).0, 1);
    // a verified log can be replayed
    let (code, _, stderr) =
        run(durward().args(["audit", "replay"]).arg(&up.audit).arg("--policies").arg(&up.manifests));
    assert_eq!((code, stderr.as_str()), (0, ""));
}

fn keys_of(directory: &Path, up: &UpProcess) -> String {
    let other = directory.join("other");
    fs::create_dir(&other).unwrap();
    keys(&other, &[up])
}

#[test]
fn the_chain_survives_rotations_restarts_and_crashes() {
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("audit.log");
    let rotated = directory.path().join("audit.log.1");
    let start = || UpProcess::start(&[("a.yaml", POLICY)], &["--audit-log", log.to_str().unwrap()]);
    let lines = |path: &Path| fs::read_to_string(path).unwrap_or_default().lines().count();
    let until = |path: &Path, count: usize| {
        durward_tests::eventually("the log is written", || (lines(path) >= count).then_some(())).unwrap();
    };
    // the process is killed
    let first = start();
    ask(&first, 3);
    until(&log, 4);
    assert!(Command::new("kill").args(["-KILL", &first.id().to_string()]).status().unwrap().success());
    // … in the middle of a line
    fs::OpenOptions::new().append(true).open(&log).unwrap().set_len(fs::metadata(&log).unwrap().len() - 5).unwrap();
    // the next process continues, and logrotate's copytruncate cuts the log
    let mut second = start();
    ask(&second, 4);
    until(&log, 9);
    fs::copy(&log, &rotated).unwrap();
    fs::OpenOptions::new().write(true).open(&log).unwrap().set_len(0).unwrap();
    ask(&second, 2);
    until(&log, 2);
    second.interrupt();
    let keys = keys(directory.path(), &[&first, &second]);
    let (code, report, stderr) = verify(&[&log, &rotated], &["--keys", &keys]);
    assert_eq!((code, &report["records"]), (0, &json!(8)), "{report:#} {stderr}");
    let closes: Vec<&Value> = report["chains"].as_array().unwrap().iter().map(|chain| &chain["close"]).collect();
    assert_eq!(closes, [&json!("continued"), &json!("ended")]);
    assert_eq!(verify(&[&log], &["--keys", &keys]).0, 1, "the beginning is missing");
    assert_eq!(verify(&[&log], &["--keys", &keys, "--partial"]).0, 0);
    // a log collector cuts the log at any place
    let whole = [fs::read(&rotated).unwrap(), fs::read(&log).unwrap()].concat();
    let pieces: Vec<PathBuf> = (0..)
        .map(|n| directory.path().join(format!("piece-{n}")))
        .zip(whole.chunks(700))
        .map(|(path, chunk)| {
            fs::write(&path, chunk).unwrap();
            path
        })
        .collect();
    let pieces: Vec<&Path> = pieces.iter().map(PathBuf::as_path).collect();
    let (code, report, _) = verify(&pieces, &["--keys", &keys]);
    assert_eq!((code, &report["records"]), (0, &json!(8)), "{report:#}");
}

#[test]
fn verification_errors_fit_one_line() {
    let directory = tempfile::tempdir().unwrap();
    let empty = directory.path().join("empty");
    fs::write(&empty, "").unwrap();
    let keys = directory.path().join("keys");
    fs::write(&keys, "{\"keys\": []}").unwrap();
    let keys = keys.to_str().unwrap();
    for (files, more, expected) in [
        (&[Path::new("/nonexistent")][..], &[][..], "cannot read the audit log /nonexistent: No such file"),
        (&[&empty], &["--keys", "/nonexistent"], "cannot read the keys in /nonexistent: No such file"),
        (&[&empty], &["--keys", keys], "it has no key that can verify"),
        (&[&empty], &["--keys", "http://example.com/keys"], "keys are fetched by https only"),
        (&[&empty], &[], "the files contain no line of an audit log"),
    ] {
        let (code, _, stderr) = verify(files, more);
        assert_eq!((code, stderr.lines().count()), (2, 1), "{stderr}");
        assert!(stderr.contains(expected), "{expected}: {stderr}");
    }
    fs::write(&empty, "just\ntext\n").unwrap();
    assert_eq!(verify(&[&empty], &[]).0, 2);
}
