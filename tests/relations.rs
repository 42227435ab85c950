//! Relations through the whole of a running `durward up`: files, doors, audit, explanation.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests say what they expect"
)]

#[path = "harness/mod.rs"]
mod harness;

use harness::{Up, durward, eventually, repository, run};
use serde_json::{Value, json};
use std::fs;

fn example(name: &str) -> String {
    fs::read_to_string(repository(&format!("examples/documents/{name}"))).unwrap()
}

fn documents() -> Up {
    Up::with(&[("policy.yaml", &example("policy.yaml")), ("relationships.yaml", &example("relationships.yaml"))])
}

/// Whether AuthZEN's door lets a person do something to a document.
fn may(up: &Up, person: &str, groups: &[&str], action: &str, document: &str) -> bool {
    let question = json!({
        "subject": {"type": "user", "id": person, "properties": {"provider": "corporate", "groups": groups}},
        "action": {"name": action},
        "resource": {"type": "documents.office", "id": document},
    });
    let (status, answer) = up.authzen("/access/v1/evaluation", &question);
    assert_eq!(status, 200, "{answer}");
    answer["decision"].as_bool().unwrap()
}

#[test]
fn the_example_decides_by_relationships() {
    let up = documents();
    assert_eq!(up.said(), "");
    for (person, groups, action, document, expected) in [
        ("carol", &[][..], "read", "budget", true),
        ("carol", &[], "write", "budget", true),
        ("dave", &[], "read", "budget", true),
        ("dave", &[], "write", "budget", false),
        ("erin", &["finance"], "read", "budget", true),
        ("erin", &["sales"], "read", "budget", false),
        ("mallory", &["finance"], "read", "budget", false),
        ("erin", &[], "read", "menu", true),
        ("erin", &[], "write", "menu", false),
        ("carol", &[], "read", "nothing", false),
    ] {
        assert_eq!(may(&up, person, groups, action, document), expected, "{person} {groups:?} {action} {document}");
    }
    let token = format!("Bearer {}", up.token("audit/collector", "documents.office"));
    let collect =
        |path: &str| up.forward_auth("GET", "documents.office.svc", path, &[("Authorization", &token)]).status;
    assert_eq!((collect("/documents/budget"), collect("/documents/other")), (200, 403));
}

#[test]
fn a_changed_file_is_followed_and_a_broken_one_takes_nothing_away() {
    let up = documents();
    let is = |expected: bool| {
        eventually("the change is in force", || (may(&up, "frank", &[], "read", "budget") == expected).then_some(()))
            .unwrap();
    };
    is(false);
    let frank = "    - {object: \"document:budget\", relation: viewer, subject: \"user:corporate/frank\"}\n";
    let more = example("relationships.yaml") + frank;
    up.write("relationships.yaml", &more);
    is(true);
    up.write("relationships.yaml", &more.replace("user:corporate/frank", "frank"));
    up.wait_said("relationships.yaml:18:53: spec.tuples[9].subject: `frank` is no subject: write a principal");
    is(true);
    up.write(
        "relationships.yaml",
        &more.replace("relation: viewer, subject: \"user:corporate/frank\"", "relation: boss, subject: \"*\""),
    );
    up.wait_said("spec.tuples[9].relation: `document` has no relation `boss`");
    is(false);
    up.write(
        "more.yaml",
        &example("relationships.yaml")
            .replace("name: documents,", "name: more,")
            .replace("user:corporate/dave", "user:corporate/frank"),
    );
    is(true);
    fs::remove_file(up.manifests.join("more.yaml")).unwrap();
    is(false);
}

#[test]
fn check_shows_how_a_relation_came_about() {
    let ask = |who: &[&str], output: &str| {
        let mut command = durward();
        command.arg("check").arg("-p").arg(repository("examples/documents")).args(["-o", output, "--as"]).args(who);
        run(command.args(["GET", "http://documents.office.svc/documents/budget"]))
    };
    let (code, said, stderr) = ask(&["user:corporate/erin", "--group", "finance"], "text");
    assert_eq!((code, stderr.as_str()), (0, ""));
    for line in [
        "office/documents/grants/viewers-read: applies: gives read",
        "document:budget#viewer: by document:budget#parent@folder:finance, as folder:finance#viewer",
        "document:budget#viewer: and not by banned",
        "folder:finance#viewer: by folder:finance#viewer@group:corporate/finance#member, as group:corporate/finance#member",
        "group:corporate/finance#member: by the caller's token",
    ] {
        assert!(said.lines().any(|said| said.ends_with(&format!("─ {line}"))), "{line}\n{said}");
    }
    let (code, said, _) = ask(&["user:corporate/erin"], "json");
    let explained: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(code, 1);
    assert_eq!(explained["rules"][0]["outcome"], "the caller is not document:budget#viewer");
}

#[test]
fn a_record_is_decided_again_by_the_relationships_of_the_files() {
    let up = documents();
    assert!(may(&up, "dave", &[], "read", "budget"));
    up.records(1);
    let replay = || {
        let mut command = durward();
        command.args(["audit", "replay", "-o", "json"]).arg(&up.audit).arg("--policies").arg(&up.manifests);
        let (code, report, _) = run(&mut command);
        (code, serde_json::from_str::<Value>(&report).unwrap())
    };
    let (code, report) = replay();
    assert_eq!((code, &report["otherRevision"], &report["differences"]), (0, &json!(0), &json!([])));
    fs::remove_file(up.manifests.join("relationships.yaml")).unwrap();
    let (code, report) = replay();
    assert_eq!((code, &report["otherRevision"]), (1, &json!(1)), "{report}");
    assert_eq!(report["differences"][0]["fields"][0], json!(["verdict", "allow", "deny"]));
}
