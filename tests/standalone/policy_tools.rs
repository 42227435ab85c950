//! The commands that explain, test and compare policies: output and errors.

use durward_tests::{UpProcess, durward, eventually, repository, run};
use serde_json::{Value, json};
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;

/// Compares with `tests/golden/NAME`, or writes it where `DURWARD_BLESS` is set.
fn golden(name: &str, printed: &str) {
    let file = repository("tests/golden").join(name);
    if std::env::var_os("DURWARD_BLESS").is_some() {
        fs::write(&file, printed).unwrap();
    }
    let expected = fs::read_to_string(&file).unwrap_or_default();
    assert_eq!(printed, expected, "{} differs; review it, and update it with DURWARD_BLESS=1", file.display());
}

/// Runs a command and returns its output without the digest of the policies.
fn session(commands: &[&[&str]]) -> String {
    let mut output = String::new();
    for arguments in commands {
        let (code, stdout, stderr) = run(durward().args(*arguments).current_dir(repository("")));
        let stdout: Vec<&str> = stdout.lines().map(|line| line.split("revision   ").next().unwrap()).collect();
        output += &format!("$ durward {}\n{}\n{stderr}[{code}]\n\n", arguments.join(" "), stdout.join("\n").trim_end());
    }
    output
}

const BILLING: &str = "spiffe://cluster.local/ns/billing/sa/billing";
const NIGHTLY: &str = "spiffe://cluster.local/ns/reports/sa/nightly";
const EVENING: &str = "2026-07-01T17:00:00Z";
const ORDERS: &str = "examples/orders";

#[test]
fn decisions_are_explained_as_a_tree() {
    let check = ["check", "-p", ORDERS];
    let of = |more: &[&'static str]| [&check[..], more].concat();
    let commands = [
        of(&["--as", BILLING, "GET", "http://orders.example.com/orders/42"]),
        of(&["--as", BILLING, "POST", "http://orders.example.com/orders/42/refund"]),
        of(&["--as", NIGHTLY, "--at", EVENING, "GET", "http://orders.example.com/orders"]),
        of(&["--as", "user:corporate/alice", "GET", "http://orders.example.com/orders"]),
        of(&["--as", BILLING, "--attribute", "suspended=true", "GET", "http://orders.example.com/orders"]),
        of(&["--as", BILLING, "DELETE", "http://orders.example.com/orders/42"]),
        of(&["--as", BILLING, "GET", "http://orders.example.com/ordrs/42"]),
        of(&["--as", BILLING, "GET", "http://orders.exmple.com/orders/42"]),
        of(&["--as", BILLING, "--operation", "list-order", "orders-api"]),
        of(&["GET", "http://orders.example.com/Orders"]),
        of(&["GET", "http://orders.example.com/orders"]),
        of(&["GET", "http://orders.example.com/healthz"]),
    ];
    let commands: Vec<&[&str]> = commands.iter().map(Vec::as_slice).collect();
    golden("check.txt", &session(&commands));
}

#[test]
fn rights_are_listed_by_principal_and_by_operation() {
    golden(
        "rights.txt",
        &session(&[
            &["what-can", "-p", ORDERS, BILLING],
            &["what-can", "-p", ORDERS, "key:partners/acme", NIGHTLY, "--service", "orders-api"],
            &["what-can", "-p", ORDERS, "user:corporate/alice"],
            &["what-can", "-p", ORDERS, "--matrix"],
            &["what-can", "-p", ORDERS, "--matrix", BILLING, "-o", "json"],
            &["who-can", "-p", ORDERS, "--matrix", "list-orders"],
            &["what-can", "-p", ORDERS],
            &["what-can", "-p", ORDERS, "alice"],
            &["what-can", "-p", "/nonexistent", BILLING],
        ]),
    );
}

/// With the policy of the document: rights name their approvers, and a request names its missing approval.
#[test]
fn rights_listings_name_required_approvals() {
    let directory = |lasts: &str| {
        let document = fs::read_to_string(repository("docs/approvals.md")).unwrap();
        let policy = document.split("```yaml\n").nth(1).unwrap().split("```").next().unwrap();
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("policy.yaml"), policy.replace("for: 30m", &format!("for: {lasts}"))).unwrap();
        directory
    };
    let policies = directory("30m");
    let cleaner = "spiffe://cluster.local/ns/ops/sa/cleaner";
    let durward = |arguments: &[&str]| {
        let (code, stdout, stderr) = run(durward().args(arguments).arg("-p").arg(policies.path()));
        assert_eq!(stderr, "");
        (code, stdout)
    };
    let json = |arguments: &[&str]| -> Value {
        serde_json::from_str(&durward(&[arguments, &["-o", "json"]].concat()).1).unwrap()
    };
    let words = "an approval by group oncall of provider corporate, for 30 min";
    let by = "group oncall of provider corporate";
    for (command, expected_text) in [
        (&["who-can", "purge"][..], format!("risk High, needs orders.purge, and {words}\n")),
        (&["what-can", cleaner], format!("yes purge  orders.shop (risk High)\n        with {words}\n")),
        (&["who-can", "--matrix"], format!("  1  purge of orders.shop, with {words}\n")),
    ] {
        let (code, output) = durward(command);
        assert!(code == 0 && output.contains(&expected_text), "{command:?}: {output}");
    }
    let requirement = json!({"by": [by], "seconds": 1800});
    assert_eq!(json(&["who-can", "purge"])[0]["approval"], requirement);
    assert_eq!(json(&["what-can", cleaner])[0]["operations"][0]["approval"], requirement);
    assert_eq!(json(&["what-can", "--matrix"])["operations"][0]["approval"], requirement);
    // the output for callers without the right has no approval
    assert_eq!(json(&["what-can", BILLING])[0]["operations"][0].get("approval"), None);

    let request = ["DELETE", "http://orders.shop.svc/orders"];
    let check = ["check", "--as", cleaner, "--assurance", "ProofOfPossession"];
    let (code, output) = durward(&[&check[..], &request].concat());
    assert!(
        code == 1 && output.contains("DENY  ApprovalRequired") && output.contains(&format!("needs {words}\n")),
        "{output}"
    );
    let name =
        output.lines().find_map(|line| line.strip_suffix(" is not granted")).unwrap().rsplit(' ').next().unwrap();
    assert!(name.starts_with("shop/purge-") && output.contains(&format!("`durward approve {name}`")), "{output}");
    let (_, output) =
        durward(&[&["check", "--as", BILLING, "--assurance", "ProofOfPossession"][..], &request].concat());
    assert!(
        output.contains(words) && !output.contains("shop/purge-"),
        "a caller without the scope gets no hint of the approval: {output}"
    );

    let shorter = directory("10m");
    let (code, output, _) = run(self::durward().arg("diff").arg(policies.path()).arg(shorter.path()));
    assert!(code == 1 && output.contains(words) && output.contains("for 10 min"), "{output}");
    let (code, output, _) = run(self::durward().arg("diff").arg(policies.path()).arg(directory("30m").path()));
    assert_eq!(code, 0, "{output}");
}

/// The namespace of the example, with another policy.
fn changed(change: impl Fn(String) -> String) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    for file in ["namespace.yaml", "partners.yaml", "policy.test.yaml"] {
        fs::copy(repository(ORDERS).join(file), directory.path().join(file)).unwrap();
    }
    let policy = fs::read_to_string(repository(ORDERS).join("policy.yaml")).unwrap();
    fs::write(directory.path().join("policy.yaml"), change(policy)).unwrap();
    directory
}

#[test]
fn the_suggested_grant_is_minimal() {
    for (who, request) in [
        ("spiffe://cluster.local/ns/shop/sa/other", ["GET", "http://orders.example.com/orders/4"]),
        ("spiffe://cluster.local/ns/shop/sa/1.2", ["GET", "http://orders.example.com/orders"]),
        ("spiffe://cluster.local/ns/shop/sa/true", ["GET", "http://orders.example.com/orders"]),
    ] {
        let check = |directory: &Path, who: &str| {
            run(durward().args(["check", "-o", "json", "--as", who, "-p"]).arg(directory).args(request))
        };
        let explained: Value = serde_json::from_str(&check(&repository(ORDERS), who).1).unwrap();
        assert_eq!(explained["reason"], "InsufficientScope");
        let yaml = explained["remedy"]["yaml"].as_str().unwrap();
        let grant: String = yaml.lines().map(|line| format!("    {line}\n")).collect();
        let directory = changed(|policy| policy.replace("  grants:\n", &format!("  grants:\n{grant}")));
        let (code, text, stderr) = check(directory.path(), who);
        assert_eq!((code, stderr.as_str()), (0, ""), "{yaml}{text}");
        let (code, _, _) = check(directory.path(), "spiffe://cluster.local/ns/shop/sa/somebody-else");
        assert_eq!(code, 1, "{yaml}");
    }
    // no suggestion if a denial, a condition or the risk refuses the request
    for more in [
        &["--attribute", "suspended=true", "GET", "http://orders.example.com/orders"][..],
        &["POST", "http://orders.example.com/orders/4/refund"],
    ] {
        let (_, text, _) =
            run(durward().args(["check", "-o", "json", "--as", BILLING, "-p"]).arg(repository(ORDERS)).args(more));
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap()["remedy"].get("yaml"), None, "{text}");
    }
}

#[test]
fn an_audit_record_is_explained() {
    let read = |name: &str| fs::read_to_string(repository(ORDERS).join(name)).unwrap();
    let mut up = UpProcess::with(&[("namespace.yaml", &read("namespace.yaml")), ("policy.yaml", &read("policy.yaml"))]);
    let token = format!("Bearer {}", up.token("billing/billing", "orders-api"));
    up.forward_auth("GET", "orders.example.com", "/orders/7", &[("Authorization", &token)]);
    up.forward_auth("GET", "orders.example.com", "/orders/7", &[("Authorization", "Bearer nonsense")]);
    let records = up.records(2);
    up.interrupt();
    let check = |record: &str, policies: &Path| {
        let (code, text, stderr) = run(durward().args(["check", "-o", "json", "--record", record, "-p"]).arg(policies));
        (code, serde_json::from_str::<Value>(&text).unwrap_or_default(), stderr)
    };
    let log = up.audit.display();
    let id = records[0]["id"].as_str().unwrap();
    for one in [format!("{log}:2"), format!("{log}:{id}")] {
        let (code, explained, stderr) = check(&one, &up.manifests);
        assert_eq!((code, &explained["recorded"]["id"]), (0, &json!(id)), "{stderr}");
        assert_eq!(explained["captures"], json!({"id": "7"}));
        assert_eq!(explained["recorded"]["differences"], json!([]));
    }
    // the last record, with the cause that the response omitted
    let (code, explained, _) = check(&log.to_string(), &up.manifests);
    assert_eq!((code, &explained["reason"]), (1, &json!("Unauthenticated")));
    assert!(explained["recorded"]["cause"].as_str().unwrap().len() > 5, "{explained}");
    // with other policies
    let other = changed(|policy| policy.replace("roles: [clerk]", "scopes: [orders.refund]"));
    let (code, explained, _) = check(&format!("{log}:2"), other.path());
    assert_eq!((code, &explained["recorded"]["differences"][0]), (1, &json!(["verdict", "allow", "deny"])));
    for (record, expected) in [
        (format!("{log}:99"), "has no line 99"),
        (format!("{log}:1"), "line 1 contains no decision"),
        (format!("{log}:0123456789abcdef-0"), "has no decision 0123456789abcdef-0"),
        ("/nonexistent".to_owned(), "cannot read the audit log /nonexistent"),
    ] {
        let (code, _, stderr) = check(&record, &up.manifests);
        assert_eq!((code, stderr.lines().count()), (2, 1), "{stderr}");
        assert!(stderr.contains(expected), "{stderr}");
    }
}

#[test]
fn the_example_passes_its_own_tests() {
    let directory = tempfile::tempdir().unwrap();
    let junit = directory.path().join("report.xml");
    let (code, text, stderr) = run(durward()
        .args(["test", ORDERS, "--min-coverage", "100", "--junit"])
        .arg(&junit)
        .current_dir(repository("")));
    assert_eq!((code, stderr.as_str()), (0, ""), "{text}");
    golden("test-orders.txt", &text);
    golden("test-documents.txt", &session(&[&["test", "examples/documents"]]));
    golden("test-orders.xml", &fs::read_to_string(&junit).unwrap());
}

#[test]
fn a_failed_case_prints_the_decision() {
    let directory = changed(|policy| policy.replace("roles: [clerk]", "scopes: [orders.refund]"));
    let junit = directory.path().join("report.xml");
    let (code, text, _) = run(durward().arg("test").arg(directory.path()).arg("--junit").arg(&junit));
    assert_eq!(code, 1);
    golden("test-failing.txt", &text);
    let xml = fs::read_to_string(&junit).unwrap();
    assert!(
        xml.contains("failures=\"2\"") && xml.contains("<failure message=\"verdict: expected `allow`, got `deny`"),
        "{xml}"
    );
    let (code, json, _) = run(durward().args(["test", "-o", "json"]).arg(directory.path()));
    let report: Value = serde_json::from_str(&json).unwrap();
    assert_eq!((code, &report["failed"], &report["coverage"]["grants"]["reached"]), (1, &json!(2), &json!(3)));
    // operations without a case
    let unreached = changed(|policy| {
        policy.replace(
            "    - name: health",
            "    - {name: spare, http: [{methods: [GET], paths: [/spare]}]}\n    - name: health",
        )
    });
    let (code, text, stderr) = run(durward().arg("test").arg(unreached.path()).args(["--min-coverage", "95"]));
    assert_eq!((code, stderr.as_str()), (1, "coverage is below 95%\n"));
    assert!(text.contains("operations not reached: shop/orders/spare"), "{text}");
}

#[test]
fn invalid_cases_are_reported_with_their_place() {
    let cases = |text: &str| {
        format!(
            "apiVersion: test.durward.dev/v1alpha1\nkind: AccessPolicyTest\ncases:\n  - name: a\n    request: {{method: GET, host: a, path: /}}\n    expect: {{verdict: allow}}\n{text}"
        )
    };
    for (text, expected) in [
        (cases("    as: alice\n"), "x.test.yaml:7:5: cases[0].as: `principals` has no `alice`"),
        (
            cases("    principle: {}\n"),
            "x.test.yaml:7:5: cases[0].principle: unknown field `principle`; did you mean `principal`?",
        ),
        (
            cases("").replace("verdict: allow", "verdict: maybe"),
            "x.test.yaml:6:14: cases[0].expect.verdict: `maybe` is not one of allow, deny",
        ),
        (
            cases("").replace("host: a, ", ""),
            "x.test.yaml:5:5: cases[0].request: write exactly one of `host` and `audience`",
        ),
        (cases("").replace("path: /", "operation: x"), "cases[0].request: write `method` and `path`, or `operation`"),
        (cases("").replace("test.durward.dev", "durward.dev"), "unknown kind `AccessPolicyTest`"),
        (
            cases("    relationships: [{object: x, relation: y, subject: z}]\n"),
            "x.test.yaml:7:22: cases[0].relationships[0].object: `x` is not a valid object",
        ),
        (cases("    at: yesterday\n"), "x.test.yaml:7:5: cases[0].at: "),
        (cases("  - [\n"), "x.test.yaml:7:5: not readable as YAML"),
    ] {
        let directory = changed(|policy| policy);
        fs::write(directory.path().join("x.test.yaml"), &text).unwrap();
        let (code, _, stderr) = run(durward().arg("test").arg(directory.path()));
        assert_eq!(code, 2, "{stderr}");
        assert!(stderr.contains(expected), "{expected}\nbut\n{stderr}");
        assert_eq!(stderr.lines().count(), 2, "{stderr}");
    }
    let empty = tempfile::tempdir().unwrap();
    let (code, _, stderr) = run(durward().arg("test").arg(empty.path()));
    assert_eq!((code, stderr.lines().count()), (2, 1), "{stderr}");
    assert_eq!(run(durward().args(["test", "/nonexistent"])).0, 2);
    // an invalid policy can't be tested
    let broken = changed(|policy| policy.replace("risk: High ", "risk: Hihg "));
    assert_eq!(run(durward().arg("test").arg(broken.path())).0, 2);
    // a single file keeps its given name
    let file = broken.path().join("policy.yaml");
    for command in ["lint", "test"] {
        let (code, _, stderr) = run(durward().arg(command).arg(&file));
        assert!(code == 2 && stderr.starts_with(&format!("{}:", file.display())), "{command}: {stderr}");
    }
}

#[test]
fn watch_reruns_cases_when_a_file_changes() {
    let directory = changed(|policy| policy);
    let mut child = durward()
        .arg("test")
        .arg(directory.path())
        .arg("--watch")
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut until = |end: &str| lines.by_ref().map(Result::unwrap).find(|line| line.ends_with(end)).unwrap();
    assert_eq!(until(" failed"), "12 passed, 0 failed");
    let policy = directory.path().join("policy.yaml");
    let text = fs::read_to_string(&policy).unwrap();
    fs::write(&policy, text.replace("roles: [clerk]", "scopes: [orders.refund]")).unwrap();
    assert_eq!(until(" failed"), "10 passed, 2 failed");
    assert!(std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let status = eventually("the end of the process", || child.try_wait().unwrap()).unwrap();
    assert!(status.success(), "{status}");
}

const WRONG: &str = r#"apiVersion: durward.dev/v1alpha1
kind: AccessPolicy
metadata:
  name: reports
  namespace: shop
  annotations:
    lint.durward.dev/DW004.export-all: exports nothing that is not public
    lint.durward.dev/DW004.purge: ""
spec:
  service: {hosts: [orders.example.com]}
  authentication: [{workload: {}}]
  operations:
    - {name: export-all, http: [{methods: [GET], paths: ["/export"]}]}
    - {name: purge, http: [{methods: [POST], paths: ["/purge"]}]}
    - {name: admin, risk: High, http: [{methods: [GET], paths: ["/settings/*"]}]}
    - {name: one-setting, scopes: [admin], http: [{methods: [GET], paths: ["/settings/{name}"]}]}
    - {name: more-settings, scopes: [admin], http: [{methods: ["*"], paths: ["/settings/{name}/*"]}]}
    - {name: closed, http: [{methods: [GET], paths: ["/closed"]}]}
  grants:
    - {name: everything, to: [{authenticated: true}], scopes: [export-all, purge, admin, closed], when: "true || principal.id == 'x'"}
    - {name: nothing, to: [{provider: corporate}], scopes: [spare]}
  denials:
    - {name: nobody, to: [{authenticated: true}], when: "request.operation == 'closed'"}
"#;

#[test]
fn lint_reports_place_and_code() {
    let directory = changed(|policy| policy);
    let clean = run(durward().arg("lint").arg(directory.path()));
    assert_eq!(clean, (0, "0 findings, 0 silenced\n".to_owned(), String::new()));
    fs::remove_file(directory.path().join("policy.yaml")).unwrap();
    let namespace = fs::read_to_string(directory.path().join("namespace.yaml")).unwrap();
    fs::write(directory.path().join("namespace.yaml"), namespace).unwrap();
    fs::write(directory.path().join("reports.yaml"), WRONG).unwrap();
    let sarif = directory.path().join("report.sarif");
    let (code, text, stderr) = run(durward().arg("lint").arg(directory.path()).arg("--sarif").arg(&sarif));
    assert_eq!((code, stderr.as_str()), (1, ""), "{text}");
    golden("lint.txt", &text);
    let report: Value = serde_json::from_str(&fs::read_to_string(&sarif).unwrap()).unwrap();
    let results = report["runs"][0]["results"].as_array().unwrap();
    assert_eq!(results.len(), text.lines().count(), "a silenced finding, and the line with the totals");
    let silenced: Vec<&Value> = results.iter().filter(|result| result.get("suppressions").is_some()).collect();
    assert_eq!(silenced[0]["suppressions"][0]["justification"], "exports nothing that is not public");
    // a denial for every caller leaves no rights
    fs::write(directory.path().join("reports.yaml"), WRONG.replace(", when: \"request.operation == 'closed'\"", ""))
        .unwrap();
    let (_, text, _) = run(durward().arg("lint").arg(directory.path()));
    assert!(
        text.contains("DW010 spec.operations[5]: no caller can `closed`: shop/reports/denials/nobody denies it"),
        "{text}"
    );
    // an invalid policy is an error, not a warning
    fs::write(directory.path().join("reports.yaml"), WRONG.replace("risk: High", "risk: Higher")).unwrap();
    assert_eq!(run(durward().arg("lint").arg(directory.path())).0, 2);
    let empty = tempfile::tempdir().unwrap();
    let (code, _, stderr) = run(durward().arg("lint").arg(empty.path()));
    assert_eq!((code, stderr.lines().count()), (2, 1), "{stderr}");
}

#[test]
fn each_lint_code_has_a_page() {
    for code in durward_api::lint::LintCode::ALL {
        let page = fs::read_to_string(repository(&format!("docs/lint/{code}.md"))).unwrap();
        assert!(page.starts_with(&format!("# {code}: ")), "{page}");
    }
}

#[test]
fn the_examples_pass_lint() {
    for example in ["orders", "documents"] {
        let (code, text, stderr) = run(durward().arg("lint").arg(repository(&format!("examples/{example}"))));
        assert_eq!((code, stderr.as_str()), (0, ""), "{text}");
    }
}

#[test]
fn diff_lists_gained_and_lost_rights() {
    let orders = repository(ORDERS);
    let diff = |new: &Path, more: &[&str]| run(durward().arg("diff").arg(&orders).arg(new).args(more));
    let same = diff(&orders, &[]);
    assert_eq!(same, (0, "no access changes\n".to_owned(), String::new()));
    let new = changed(|policy| {
        policy
            .replace("roles: [clerk]", "scopes: [orders.refund]")
            .replace("scopes: [orders.status]\n      risk", "scopes: [orders.read]\n      risk")
    });
    let (code, text, stderr) = diff(new.path(), &[]);
    assert_eq!((code, stderr.as_str()), (1, ""));
    golden("diff.txt", &text);
    // a day of decisions
    let read = |name: &str| fs::read_to_string(orders.join(name)).unwrap();
    let mut up = UpProcess::with(&[("namespace.yaml", &read("namespace.yaml")), ("policy.yaml", &read("policy.yaml"))]);
    let token = format!("Bearer {}", up.token("billing/billing", "orders-api"));
    up.forward_auth("GET", "orders.example.com", "/orders/7", &[("Authorization", &token)]);
    up.forward_auth("GET", "orders.example.com", "/healthz", &[]);
    up.records(2);
    up.interrupt();
    let (code, json, _) = diff(new.path(), &["-o", "json", "--audit", up.audit.to_str().unwrap()]);
    let report: Value = serde_json::from_str(&json).unwrap();
    assert_eq!((code, &report["audit"]["decisions"]), (1, &json!(2)));
    assert_eq!(report["audit"]["changed"][0]["old"], "allow Granted");
    assert_eq!(report["audit"]["changed"][0]["new"], "deny InsufficientScope");
    assert_eq!(report["audit"]["changed"].as_array().unwrap().len(), 1);
    for (new, more) in [("/nonexistent", &[][..]), (ORDERS, &["--audit", "/nonexistent"])] {
        let (code, _, stderr) = run(durward().args(["diff", ORDERS, new]).args(more).current_dir(repository("")));
        assert_eq!((code, stderr.lines().count()), (2, 1), "{stderr}");
    }
}

/// Runs the commands of `examples/github-actions` in a repository with a changed policy.
#[test]
fn the_github_workflow_tests_lints_and_compares() {
    let workflow = fs::read_to_string(repository("examples/github-actions/policies.yaml")).unwrap();
    let workflow: Value = serde_saphyr::from_str(&workflow).unwrap();
    let steps = workflow["jobs"]["review"]["steps"].as_array().unwrap();
    let commands: Vec<&str> =
        steps.iter().filter(|step| step["name"] != "Install").filter_map(|step| step["run"].as_str()).collect();
    assert_eq!(commands.len(), 3);

    let directory = tempfile::tempdir().unwrap();
    let work = directory.path().join("work");
    let temp = directory.path().join("temp");
    fs::create_dir_all(work.join("policies")).unwrap();
    fs::create_dir(&temp).unwrap();
    for file in ["namespace.yaml", "partners.yaml", "policy.yaml", "policy.test.yaml"] {
        fs::copy(repository(ORDERS).join(file), work.join("policies").join(file)).unwrap();
    }
    let summary = temp.join("summary.md");
    let bash = |script: &str| {
        let mut bash = std::process::Command::new("bash");
        bash.args(["-eo", "pipefail", "-c", script]).current_dir(&work);
        bash.env("PATH", durward_tests::path_with_program());
        run(bash.env("RUNNER_TEMP", &temp).env("GITHUB_STEP_SUMMARY", &summary).env("GITHUB_BASE_REF", "main"))
    };
    let (code, _, stderr) = bash(
        "git init -q -b main && git add . && git -c user.name=a -c user.email=a@b commit -qm first && git remote add origin . && git fetch -q origin",
    );
    assert_eq!(code, 0, "{stderr}");
    let policy = fs::read_to_string(work.join("policies/policy.yaml")).unwrap();
    let more = policy.replace(
        "serviceAccount: {namespace: billing, name: billing}",
        "serviceAccount: {namespace: billing, name: other}",
    );
    assert_ne!(policy, more);

    let [test, lint, diff] = commands[..] else { panic!("three commands") };
    let (code, output, stderr) = bash(test);
    assert_eq!(code, 0, "{output}{stderr}");
    assert!(fs::read_to_string(temp.join("policies.xml")).unwrap().contains("<testsuite"));
    let (code, output, stderr) = bash(lint);
    assert_eq!(code, 0, "{output}{stderr}");
    assert!(fs::read_to_string(temp.join("policies.sarif")).unwrap().contains("2.1.0"));

    fs::write(work.join("policies/policy.yaml"), &more).unwrap();
    let (code, output, _) = bash(test);
    assert_eq!(code, 1, "billing lost a right that the cases expect: {output}");
    let (code, output, stderr) = bash(diff);
    assert_eq!(code, 0, "{output}{stderr}");
    let expected_text = fs::read_to_string(&summary).unwrap();
    assert!(expected_text.contains("spiffe://cluster.local/ns/billing/sa/other"), "{expected_text}");
    assert!(expected_text.contains(BILLING), "{expected_text}");
    fs::write(work.join("policies/policy.yaml"), "kind: AccessPolicy\nspec: [").unwrap();
    let (code, ..) = bash(&diff.replace("git worktree", "true || git worktree"));
    assert_ne!(code, 0, "an unreadable policy fails the review");
}
