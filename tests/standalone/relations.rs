//! Relations in a running `durward up`: files, doors, audit, explanation.

use durward_tests::documents::{WHO_MAY, may};
use durward_tests::{UpProcess, durward, eventually, repository, run};
use serde_json::{Value, json};
use std::fs;

fn example(name: &str) -> String {
    fs::read_to_string(repository(&format!("examples/documents/{name}"))).unwrap()
}

fn documents() -> UpProcess {
    UpProcess::with(&[("policy.yaml", &example("policy.yaml")), ("relationships.yaml", &example("relationships.yaml"))])
}

#[test]
fn the_example_decides_by_relationships() {
    let up = documents();
    assert_eq!(up.stderr(), "");
    for (person, groups, action, document, expected) in WHO_MAY {
        assert_eq!(may(&up, person, groups, action, document), expected, "{person} {groups:?} {action} {document}");
    }
    let token = format!("Bearer {}", up.token("audit/collector", "documents.office"));
    let collect =
        |path: &str| up.forward_auth("GET", "documents.office.svc", path, &[("Authorization", &token)]).status;
    assert_eq!((collect("/documents/budget"), collect("/documents/other")), (200, 403));
}

#[test]
fn valid_relationships_apply_and_invalid_ones_do_not() {
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
    up.wait_for_stderr(
        "relationships.yaml:18:53: spec.tuples[9].subject: `frank` is not a valid subject: write a principal",
    );
    is(true);
    up.write(
        "relationships.yaml",
        &more.replace("relation: viewer, subject: \"user:corporate/frank\"", "relation: boss, subject: \"*\""),
    );
    up.wait_for_stderr("spec.tuples[9].relation: `document` has no relation `boss`");
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
fn check_explains_a_relation() {
    let ask = |who: &[&str], output: &str| {
        let mut command = durward();
        command.arg("check").arg("-p").arg(repository("examples/documents")).args(["-o", output, "--as"]).args(who);
        run(command.args(["GET", "http://documents.office.svc/documents/budget"]))
    };
    let (code, stdout_text, stderr) = ask(&["user:corporate/erin", "--group", "finance"], "text");
    assert_eq!((code, stderr.as_str()), (0, ""));
    for line in [
        "office/documents/grants/viewers-read: applies: gives read",
        "document:budget#viewer: by document:budget#parent@folder:finance, as folder:finance#viewer",
        "document:budget#viewer: and not by banned",
        "folder:finance#viewer: by folder:finance#viewer@group:corporate/finance#member, as group:corporate/finance#member",
        "group:corporate/finance#member: by the caller's token",
    ] {
        assert!(
            stdout_text.lines().any(|stdout_text| stdout_text.ends_with(&format!("─ {line}"))),
            "{line}\n{stdout_text}"
        );
    }
    let (code, stdout_text, _) = ask(&["user:corporate/erin"], "json");
    let explained: Value = serde_json::from_str(&stdout_text).unwrap();
    assert_eq!(code, 1);
    assert_eq!(explained["rules"][0]["outcome"], "the caller is not document:budget#viewer");
}

#[test]
fn a_replay_uses_the_relationships_of_the_files() {
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

/// The decisions of the AuthZEN working group's todo scenario. Unlike its payloads, ours name an identity provider.
#[test]
fn the_authzen_todo_scenario_passes() {
    let policy = fs::read_to_string(repository("examples/todo/policy.yaml")).unwrap();
    let up = UpProcess::with(&[("policy.yaml", &policy)]);
    assert_eq!(up.stderr(), "");
    let rick = "rick@the-citadel.com";
    let morty = "morty@the-citadel.com";
    let summer = "summer@the-smiths.com";
    let beth = "beth@the-smiths.com";
    let jerry = "jerry@the-smiths.com";
    // create, update own, update another's, delete own, delete another's
    let mut decisions = 0;
    for (number, (own, other, expected)) in [
        (rick, morty, [true, true, true, true, true]),
        (morty, rick, [true, true, false, true, false]),
        (summer, rick, [true, true, false, true, false]),
        (beth, rick, [false; 5]),
        (jerry, rick, [false; 5]),
    ]
    .into_iter()
    .enumerate()
    {
        // the ids differ in one digit
        let letter = ["A", "E", "I", "M", "Q"][number];
        let id = format!("CiRmZD{letter}2MTRkMy1jMzlhLTQ3ODEtYjdiZC04Yjk2ZjVhNTEwMGQSBWxvY2Fs");
        let subject = json!({"type": "user", "id": id, "properties": {"provider": "citadel"}});
        let todo = |owner: &str| json!({"type": "todo", "id": "7240d0db-8ff0-41ec-98b2-34a096273b9f", "properties": {"ownerID": owner}});
        let user = |id: &str| json!({"type": "user", "id": id});
        let [create, update_own, update_other, delete_own, delete_other] = expected;
        let table = [
            ("can_read_user", user(beth), true),
            ("can_read_user", user(rick), true),
            ("can_read_todos", json!({"type": "todo", "id": "todo-1"}), true),
            ("can_create_todo", json!({"type": "todo", "id": "todo-1"}), create),
            ("can_update_todo", todo(own), update_own),
            ("can_update_todo", todo(other), update_other),
            ("can_delete_todo", todo(own), delete_own),
            ("can_delete_todo", todo(other), delete_other),
        ];
        let items: Vec<Value> = table
            .iter()
            .map(|(action, resource, _)| json!({"action": {"name": action}, "resource": resource}))
            .collect();
        for ((action, resource, expected), item) in table.iter().zip(&items) {
            let question = json!({"subject": subject, "action": item["action"], "resource": resource});
            assert_eq!(
                up.authzen("/access/v1/evaluation", &question),
                (200, json!({"decision": expected})),
                "{own} {action} {resource}"
            );
            decisions += 1;
        }
        // all at once
        let answers: Vec<Value> = table.iter().map(|(_, _, expected)| json!({"decision": expected})).collect();
        let batch = json!({"subject": subject, "evaluations": items});
        assert_eq!(up.authzen("/access/v1/evaluations", &batch), (200, json!({"evaluations": answers})), "{own}");
    }
    assert_eq!(decisions, 40);
}

#[test]
fn searches_match_evaluations() {
    let up = documents();
    let search = |what: &str, question: Value| {
        let (status, answer) = up.authzen(&format!("/access/v1/search/{what}"), &question);
        assert_eq!(status, 200, "{answer}");
        answer
    };
    let named = |answer: &Value, field: &str| -> Vec<String> {
        answer["results"].as_array().unwrap().iter().map(|result| result[field].as_str().unwrap().to_owned()).collect()
    };
    let person = |id: &str, groups: &[&str]| json!({"type": "user", "id": id, "properties": {"provider": "corporate", "groups": groups}});
    let budget = json!({"type": "documents.office", "id": "budget"});
    let read = json!({"name": "read"});

    let found = search("subject", json!({"subject": {"type": "user"}, "action": read, "resource": budget}));
    assert_eq!(named(&found, "id"), ["user:corporate/carol", "user:corporate/dave"]);
    assert_eq!(found["results"][0]["type"], "user");
    let found = search("subject", json!({"subject": {"type": "workload"}, "action": read, "resource": budget}));
    assert_eq!(named(&found, "id"), ["spiffe://cluster.local/ns/audit/sa/collector"]);
    let found = search("subject", json!({"subject": {"type": "key"}, "action": read, "resource": budget}));
    assert_eq!(found["results"], json!([]));

    let documents = json!({"type": "documents.office"});
    let of = |subject: Value| {
        named(&search("resource", json!({"subject": subject, "action": read, "resource": documents})), "id")
    };
    assert_eq!(of(person("dave", &[])), ["budget", "menu"]);
    assert_eq!(of(person("erin", &[])), ["menu"]);
    assert_eq!(of(person("erin", &["finance"])), ["budget", "menu"]);
    assert_eq!(of(person("mallory", &["finance"])), ["menu"]);

    let may = |subject: Value| named(&search("action", json!({"subject": subject, "resource": budget})), "name");
    assert_eq!(may(person("carol", &[])), ["read", "write"]);
    assert_eq!(may(person("dave", &[])), ["read"]);
    assert!(may(person("erin", &[])).is_empty());

    // page by page
    let mut page = json!({"limit": 1});
    let mut all = Vec::new();
    loop {
        let question = json!({"subject": person("dave", &[]), "action": read, "resource": documents, "page": page});
        let answer = search("resource", question);
        all.extend(named(&answer, "id"));
        let next = answer["page"]["next_token"].as_str().unwrap().to_owned();
        if next.is_empty() {
            break;
        }
        page = json!({"limit": 1, "token": next});
    }
    assert_eq!(all, ["budget", "menu"]);

    // the audit log records no searches
    assert!(!fs::read_to_string(&up.audit).unwrap_or_default().contains("authzen"));
    let (status, _) =
        up.authzen("/access/v1/search/subject", &json!({"subject": {"type": "user"}, "resource": budget}));
    assert_eq!(status, 400, "an action is missing");
    let found =
        search("resource", json!({"subject": person("dave", &[]), "action": read, "resource": {"type": "unknown"}}));
    assert_eq!(found["results"], json!([]));
}
