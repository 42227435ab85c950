//! Policies with relations in OpenFGA: checks, cache, audit records, and failures.

use durward_tests::documents::{WHO_MAY, may};
use durward_tests::openfga::{KEY, OpenFgaServer};
use durward_tests::{UpProcess, durward, eventually, repository, request, run};
use serde_json::{Value, json};
use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;

/// The output of `durward relations …` for the policies in a directory.
fn printed(what: &str, directory: &Path, audience: &str) -> Value {
    let (code, stdout, stderr) = run(durward().args(["relations", what, audience, "-p"]).arg(directory));
    assert_eq!((code, stderr.as_str()), (0, ""));
    serde_json::from_str(&stdout).unwrap()
}

/// The example `documents` with its relations and tuples in OpenFGA.
struct Documents {
    openfga: OpenFgaServer,
    model: String,
    policy: String,
    tuples: Vec<Value>,
}

impl Documents {
    fn in_openfga(openfga: OpenFgaServer) -> Self {
        let example = repository("examples/documents");
        let model = openfga.model(&printed("model", &example, "documents.office")).unwrap();
        let tuples = printed("tuples", &example, "documents.office").as_array().unwrap().clone();
        openfga.write(&model, &tuples);
        let policy = fs::read_to_string(example.join("policy.yaml")).unwrap();
        let engine = format!("spec:\n  relationEngine: {{openfga: {{store: {}, model: {model}}}}}\n", openfga.store);
        Self { model, policy: policy.replacen("spec:\n", &engine, 1), tuples, openfga }
    }

    fn namespace(&self) -> String {
        let store = &self.openfga.store;
        format!(
            "apiVersion: v1\nkind: Namespace\nmetadata: {{name: office, annotations: {{durward.dev/allowed-openfga-stores: {store}}}}}\n"
        )
    }

    /// A `durward up` that uses this OpenFGA.
    fn checked_by(&self, more: &[&str]) -> UpProcess {
        let own = self.openfga.arguments();
        let arguments: Vec<&str> = own.iter().map(String::as_str).chain(more.iter().copied()).collect();
        self.up(&arguments)
    }

    fn up(&self, arguments: &[&str]) -> UpProcess {
        UpProcess::start(&[("policy.yaml", &self.policy), ("namespace.yaml", &self.namespace())], arguments)
    }
}

/// Replays the recorded decisions; returns how many differ.
fn replayed(up: &UpProcess) -> Value {
    let (_, report, _) =
        run(durward().args(["audit", "replay", "-o", "json"]).arg(&up.audit).arg("--policies").arg(&up.manifests));
    serde_json::from_str(&report).unwrap()
}

fn metric(up: &UpProcess, name: &str) -> String {
    let metrics = request(up.listen["admin"], "GET", "/metrics", &[("Host", "durward")], "").body;
    metrics.lines().find(|line| line.starts_with(name)).unwrap_or_default().to_owned()
}

#[test]
fn openfga_decides_the_example_like_relationships() {
    for openfga in [OpenFgaServer::start(), OpenFgaServer::with_tls()] {
        let documents = Documents::in_openfga(openfga);
        let up = documents.checked_by(&[]);
        assert_eq!(up.stderr(), "");
        // the name of a set is not a user
        let table = WHO_MAY.into_iter().chain([("carol#viewer", &[][..], "read", "budget", false)]);
        for (person, groups, action, document, expected) in table.clone() {
            assert_eq!(may(&up, person, groups, action, document), expected, "{person} {groups:?} {action} {document}");
        }
        let token = format!("Bearer {}", up.token("audit/collector", "documents.office"));
        let collect =
            |path: &str| up.forward_auth("GET", "documents.office.svc", path, &[("Authorization", &token)]).status;
        assert_eq!((collect("/documents/budget"), collect("/documents/other")), (200, 403));

        // the record contains the answer, so a replay needs no server
        let records = up.records(table.count() + 2);
        assert_eq!(
            records[0]["relations"],
            json!([{"object": "document:budget", "relation": "viewer", "holds": true}]),
            "{}",
            records[0]
        );
        assert_eq!(records[3]["relations"][0]["holds"], false);
        drop(documents);
        let report = replayed(&up);
        assert_eq!((&report["replayed"], &report["differences"]), (&json!(records.len()), &json!([])), "{report}");
        let log = fs::read_to_string(&up.audit).unwrap();
        assert!(!log.contains(KEY) && !up.stderr().contains(KEY), "the key is in a log");
        let mut check = durward();
        let (code, output, _) = run(check
            .args(["check", "-p"])
            .arg(&up.manifests)
            .arg("--record")
            .arg(format!("{}:2", up.audit.display())));
        assert_eq!(code, 0, "{output}");
    }
}

#[test]
fn a_store_outside_the_allowed_list_is_refused() {
    let openfga = OpenFgaServer::start();
    let documents = Documents::in_openfga(openfga);
    let up = UpProcess::with(&[("policy.yaml", &documents.policy)]);
    up.wait_for_stderr("namespace `office` may not use store");
    assert!(!may(&up, "carol", &[], "read", "budget"));
    let broken = documents.policy.replace(&documents.model, "../../other");
    let up = UpProcess::with(&[("policy.yaml", &broken), ("namespace.yaml", &documents.namespace())]);
    up.wait_for_stderr("spec.relationEngine.openfga.model: `../../other` is not an OpenFGA id");
    // our own tuples have no effect on this service
    let relationships = fs::read_to_string(repository("examples/documents/relationships.yaml")).unwrap();
    let up = documents.checked_by(&[]);
    up.write("relationships.yaml", &relationships.replace("user:corporate/carol", "user:corporate/frank"));
    up.wait_for_stderr("the service looks its relations up in OpenFGA (`relationEngine`)");
    assert!(!may(&up, "frank", &[], "write", "budget"));
}

#[test]
fn answers_are_cached_for_their_ttl_and_policy_version() {
    let documents = Documents::in_openfga(OpenFgaServer::start());
    let caching = documents.checked_by(&["--openfga-cache", "5m"]);
    let uncached = documents.checked_by(&["--openfga-cache", "0s"]);
    let dave = |up: &UpProcess| may(up, "dave", &[], "read", "budget");
    assert!(dave(&caching) && dave(&caching) && dave(&uncached));
    assert_eq!(metric(&caching, r#"durward_openfga_checks_total{answer="fetched"}"#).rsplit(' ').next(), Some("1"));
    assert_eq!(metric(&caching, r#"durward_openfga_checks_total{answer="cached"}"#).rsplit(' ').next(), Some("1"));
    let deleted: Vec<Value> =
        documents.tuples.iter().filter(|tuple| tuple["user"] == "user:corporate/dave").cloned().collect();
    documents.openfga.delete(&deleted);
    assert!(dave(&caching), "the answer is cached");
    assert!(!dave(&uncached));
    // another user, group, object or relation is another check
    assert!(!may(&caching, "frank", &[], "read", "budget"));
    assert!(!may(&caching, "dave", &["nothing"], "read", "budget"));
    assert!(!may(&caching, "dave", &[], "write", "budget"));
    // a changed policy checks again
    caching.write("policy.yaml", &documents.policy.replace("name: viewers-read", "name: viewers-still-read"));
    eventually("a check for the changed policy", || (!dave(&caching)).then_some(())).unwrap();
}

#[test]
fn every_openfga_failure_denies() {
    let mut documents = Documents::in_openfga(OpenFgaServer::start());
    let carol = |up: &UpProcess| may(up, "carol", &[], "read", "budget");
    let failure = |up: &UpProcess, count: usize| {
        up.records(count).last().unwrap()["relations"][0]["failure"].as_str().unwrap().to_owned()
    };

    // no server, a wrong key, no key file
    let up = documents.up(&[]);
    assert!(!carol(&up));
    assert_eq!(failure(&up, 1), "no OpenFGA server is named here (--openfga-url)");
    let key = documents.openfga.key_file.clone();
    let up = documents.checked_by(&["--openfga-cache", "0s"]);
    assert!(carol(&up), "OpenFGA answers");
    fs::write(&key, "another-key").unwrap();
    assert!(!carol(&up));
    assert_eq!(failure(&up, 2), "OpenFGA answered 401 Unauthorized");
    fs::write(&key, "a\nkey").unwrap();
    assert!(!carol(&up));
    fs::remove_file(&key).unwrap();
    assert!(!carol(&up));
    assert!(failure(&up, 4).starts_with("can't read the token for OpenFGA in "));
    fs::write(&key, KEY).unwrap();
    assert!(carol(&up), "the token file is read again");

    // more groups, and a longer object, than OpenFGA accepts
    let groups: Vec<String> = (0..101).map(|number| format!("group-{number}")).collect();
    let groups: Vec<&str> = groups.iter().map(String::as_str).collect();
    assert!(!may(&up, "carol", &groups, "read", "budget"));
    assert_eq!(failure(&up, 6), "the caller has more than 100 groups");
    assert!(!may(&up, "carol", &[], "read", &"x".repeat(300)));

    documents.openfga.end();
    assert!(!carol(&up));
    assert!(failure(&up, 8).starts_with("OpenFGA can't be reached"), "{}", failure(&up, 8));
    let report = replayed(&up);
    assert_eq!(report["differences"], json!([]), "a replay repeats recorded failures: {report}");

    // a server with no answer, a huge one, or one to another question
    let yes = r#"{"result":{"0":{"allowed":true}}}"#;
    for (name, answer, expected) in [
        ("silence", None, "OpenFGA did not answer within 300ms".to_owned()),
        (
            "an empty answer",
            Some("{}".to_owned()),
            "the answer of OpenFGA can't be read: missing field `result` at line 1 column 2".to_owned(),
        ),
        ("another question", Some(yes.replace("\"0\"", "\"1\"")), "OpenFGA left the question out".to_owned()),
        (
            "an error",
            Some(yes.replace("\"allowed\":true", "\"allowed\":true,\"error\":{\"input_error\":\"type_not_found\"}")),
            "OpenFGA answered with an error: type_not_found".to_owned(),
        ),
        ("too much", Some(" ".repeat(300 * 1024) + yes), "OpenFGA answered with more than 262144 bytes".to_owned()),
    ] {
        let url = fake_server(answer);
        let up = documents.up(&["--openfga-url", &url, "--openfga-timeout", "300ms"]);
        assert!(!carol(&up), "{name}");
        assert_eq!(failure(&up, 1), expected, "{name}");
    }
    // a valid answer still works
    let up = documents.up(&["--openfga-url", &fake_server(Some(yes.to_owned()))]);
    assert!(carol(&up));

    let mut insecure = durward();
    let (code, _, stderr) =
        run(insecure.arg("up").arg(&up.manifests).args(["--openfga-url", "http://openfga.example:8080"]));
    assert_eq!(code, 2);
    assert!(stderr.contains("use https, or http on this host"), "{stderr}");
}

/// A server that sends every request the same answer, or none.
fn fake_server(answer: Option<String>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut open = Vec::new();
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut read = [0; 16 * 1024];
            let _ = stream.read(&mut read);
            match &answer {
                Some(body) => {
                    let head =
                        format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len());
                    let _ = stream.write_all((head + body).as_bytes());
                }
                None => open.push(stream),
            }
        }
    });
    format!("http://{address}")
}

/// Pseudo-random numbers, the same in each run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        // SplitMix64
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % bound as u64).unwrap()
    }

    fn of<'a>(&mut self, choices: &[&'a str]) -> &'a str {
        choices[self.below(choices.len())]
    }
}

const PEOPLE: [&str; 5] = ["ann", "bob", "a:b", "c d", "eve*"];
const GROUPS: [&str; 3] = ["red", "blue", "group 3"];
const RELATIONS: [&str; 5] = ["owner", "editor", "viewer", "approver", "banned"];

/// A model of folders and documents with rules of every kind.
fn model(dice: &mut Dice) -> String {
    let editor = [
        "{}",
        "{union: [{this: {}}, {relation: owner}]}",
        "{union: [{relation: owner}, {from: parent, relation: editor}]}",
    ];
    let viewer = [
        "{exclusion: [{union: [{this: {}}, {relation: editor}]}, {relation: banned}]}",
        "{union: [{this: {}}, {relation: editor}, {from: parent, relation: viewer}]}",
        "{exclusion: [{union: [{this: {}}, {from: parent, relation: viewer}]}, {relation: banned}, {relation: owner}]}",
    ];
    let approver = [
        "{intersection: [{relation: viewer}, {this: {}}]}",
        "{exclusion: [{intersection: [{relation: viewer}, {relation: editor}]}, {relation: banned}]}",
        "{intersection: [{union: [{this: {}}, {from: parent, relation: approver}]}, {relation: viewer}]}",
    ];
    let mut of = |kind: &str| {
        format!(
            "    - object: {kind}\n      relations:\n        parent: {{}}\n        owner: {{}}\n        banned: {{}}\n        editor: {}\n        \
             viewer: {}\n        approver: {}\n",
            dice.of(&editor),
            dice.of(&viewer),
            dice.of(&approver)
        )
    };
    let types = of("folder") + &of("doc");
    let operations: String = RELATIONS
        .iter()
        .map(|name| format!("    - {{name: {name}, http: [{{methods: [GET], paths: [\"/{name}/{{id}}\"]}}]}}\n"))
        .collect();
    let grants: String = RELATIONS
        .iter()
        .map(|name| format!("    - {{name: {name}, to: [{{authenticated: true}}], scopes: [{name}], relation: {{object: \"doc:{{id}}\", relation: {name}}}}}\n"))
        .collect();
    format!(
        "  authentication: [{{provider: corporate}}]\n  operations:\n{operations}  relations:\n{types}  grants:\n{grants}"
    )
}

/// Tuples. A ban never depends on a relation that bans remove, which no engine could evaluate.
fn tuples(dice: &mut Dice) -> Vec<Value> {
    let object = |dice: &mut Dice| format!("{}:{}", dice.of(&["folder", "doc"]), dice.of(&["1", "2", "3:x"]));
    let mut tuples = vec![json!({"object": "doc:1", "relation": "parent", "subject": "folder:1"})];
    for _ in 0..25 {
        let relation = dice.of(&["owner", "editor", "viewer", "viewer", "approver", "banned", "parent", "parent"]);
        let subject = match (relation, dice.below(6)) {
            ("parent", _) => object(dice),
            (_, 0 | 1) => format!("user:corporate/{}", dice.of(&PEOPLE)),
            (_, 2) => format!("group:corporate/{}#member", dice.of(&["red", "blue"])),
            (_, 3) => "group:own#member".to_owned(),
            (_, 4) if dice.below(3) == 0 => "*".to_owned(),
            ("banned" | "owner", _) => format!("user:corporate/{}", dice.of(&PEOPLE)),
            _ => format!("{}#{}", object(dice), dice.of(&["owner", "editor"])),
        };
        tuples.push(json!({"object": object(dice), "relation": relation, "subject": subject}));
    }
    for person in ["ann", "a:b"] {
        tuples
            .push(json!({"object": "group:own", "relation": "member", "subject": format!("user:corporate/{person}")}));
    }
    tuples
}

/// Whether the model allows the tuple. OpenFGA refuses other tuples; our engine ignores them.
fn is_assignable(spec: &str, tuple: &Value) -> bool {
    let kind = tuple["object"].as_str().unwrap().split(':').next().unwrap();
    let relation = tuple["relation"].as_str().unwrap();
    let rules_of_kind = spec.split("    - object: ").find(|part| part.starts_with(kind));
    rules_of_kind.is_none_or(|rules_of_kind| {
        let rule = rules_of_kind.lines().find_map(|line| line.trim().strip_prefix(&format!("{relation}: "))).unwrap();
        rule == "{}" || rule.contains("this")
    })
}

/// The decisions about every relation and some objects of a service.
fn decisions(up: &UpProcess, subject: &Value, service: &str) -> Vec<bool> {
    let items: Vec<Value> = ["1", "2", "3:x", "4"]
        .iter()
        .flat_map(|id| {
            RELATIONS.map(|action| json!({"action": {"name": action}, "resource": {"type": service, "id": id}}))
        })
        .collect();
    let (status, answer) = up.authzen("/access/v1/evaluations", &json!({"subject": subject, "evaluations": items}));
    assert_eq!(status, 200, "{answer}");
    answer["evaluations"].as_array().unwrap().iter().map(|item| item["decision"].as_bool().unwrap()).collect()
}

/// Two services with the same relations and tuples, one of them in OpenFGA.
#[test]
fn both_engines_agree_on_random_relations() {
    let openfga = OpenFgaServer::start();
    let mut yes = 0;
    let mut no = 0;
    let mut refused = 0;
    for seed in 0..12 {
        let dice = &mut Dice(seed);
        let spec = model(dice);
        let stated: Vec<Value> = tuples(dice).into_iter().filter(|tuple| is_assignable(&spec, tuple)).collect();
        let policy = |name: &str, engine: &str| {
            format!(
                "apiVersion: durward.dev/v1alpha1\nkind: AccessPolicy\nmetadata: {{name: {name}, namespace: office}}\nspec:\n{engine}{spec}"
            )
        };
        let relationship = |service: &str| {
            format!(
                "apiVersion: durward.dev/v1alpha1\nkind: Relationship\nmetadata: {{name: {service}, namespace: office}}\nspec: {{service: {service}.office, tuples: {}}}\n",
                json!(stated)
            )
        };
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("own.yaml"), policy("own", "")).unwrap();
        fs::write(directory.path().join("tuples.yaml"), relationship("own")).unwrap();
        let id = match openfga.model(&printed("model", directory.path(), "own.office")) {
            Ok(id) => id,
            Err(error) => panic!("seed {seed}: {error}\n{spec}"),
        };
        let written = printed("tuples", directory.path(), "own.office");
        openfga.write(&id, written.as_array().unwrap());
        let engine = format!("  relationEngine: {{openfga: {{store: {}, model: {id}}}}}\n", openfga.store);
        let namespace = format!(
            "apiVersion: v1\nkind: Namespace\nmetadata: {{name: office, annotations: {{durward.dev/allowed-openfga-stores: {}}}}}\n",
            openfga.store
        );
        let arguments = openfga.arguments();
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let up = UpProcess::start(
            &[
                ("namespace.yaml", &namespace),
                ("own.yaml", &policy("own", "")),
                ("tuples.yaml", &relationship("own")),
                ("asked.yaml", &policy("asked", &engine)),
            ],
            &arguments,
        );
        assert_eq!(up.stderr(), "", "seed {seed}");
        for person in PEOPLE {
            let groups: Vec<&str> = GROUPS.into_iter().filter(|_| dice.below(2) == 0).collect();
            let subject =
                json!({"type": "user", "id": person, "properties": {"provider": "corporate", "groups": groups}});
            let own = decisions(&up, &subject, "own.office");
            let checked = decisions(&up, &subject, "asked.office");
            assert_eq!(own, checked, "seed {seed}, {person} {groups:?}\n{spec}\n{stated:#?}");
            yes += own.iter().filter(|holds| **holds).count();
            no += own.iter().filter(|holds| !**holds).count();
        }
        let records = fs::read_to_string(&up.audit).unwrap();
        refused += records.matches("\"failure\"").count();
        openfga.delete(written.as_array().unwrap());
    }
    assert_eq!(refused, 0, "OpenFGA answered every check");
    assert!(yes > 200 && no > 200, "{yes} yes, {no} no");
}
