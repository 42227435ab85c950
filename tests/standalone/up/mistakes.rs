//! Mistakes in manifests: none opens a door, and each is reported.

use super::*;

/// Everyone may call, except for callers from this host, whom a denial names.
fn denied(name: &str, namespace: &str) -> String {
    format!(
        "apiVersion: durward.dev/v1alpha1\nkind: AccessPolicy\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec:\n  \
         service: {{audience: a.shop, hosts: [a.shop.svc]}}\n  authentication: [{{workload: {{}}}}]\n  operations:\n    \
         - {{name: other, http: [{{methods: [GET], paths: [/other]}}], scopes: [x]}}\n  denials:\n    \
         - {{name: no-billing, to: [{{serviceAccount: {{namespace: billing, name: billing}}}}]}}\n"
    )
}

/// A service that billing may call, unless the document with the denial denies it.
fn granted() -> String {
    policy(
        "a",
        "a.shop.svc",
        "    - {name: read, http: [{methods: [GET], paths: [/read]}], scopes: [x]}\n  grants:\n    \
         - {name: g, to: [{authenticated: true}], scopes: [x]}\n",
    )
}

const NAMESPACE: &str =
    "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop, annotations: {durward.dev/allowed-audiences: a.shop}}\n";

/// The service with its Namespace.
fn shop() -> String {
    format!("{NAMESPACE}---\n{}", granted())
}

fn billing(up: &UpProcess) -> u16 {
    let token = format!("Bearer {}", up.token("billing/billing", "a.shop"));
    up.forward_auth("GET", "a.shop.svc", "/read", &[("Authorization", &token)]).status
}

fn reports(up: &UpProcess) -> u16 {
    let token = format!("Bearer {}", up.token("reports/reports", "a.shop"));
    up.forward_auth("GET", "a.shop.svc", "/read", &[("Authorization", &token)]).status
}

/// Typing errors in the document of a denial, with a part of the message.
fn typing_errors() -> Vec<(String, &'static str)> {
    let good = denied("denials", "shop");
    vec![
        (denied("Denials!", "shop"), "metadata.name: a policy needs a name"),
        (denied("''", "shop"), "metadata.name"),
        (denied("5", "shop"), "metadata.name"),
        (denied("denials", "Shop"), "metadata.namespace: a namespace is made of"),
        (good.replace(", namespace: shop", ""), "metadata.namespace: the AccessPolicy has no namespace"),
        (good.replace("metadata:", "metadta:"), "unknown field `metadta`"),
        (good.replace("AccessPolicy", "AcessPolicy"), "unknown kind `AcessPolicy`"),
        (good.replace("v1alpha1", "v1"), "there is no version `v1`"),
        (good.replace("kind:", "kid:"), "a manifest begins with `apiVersion` and `kind`"),
        (good.replace("  denials:", "  denails:"), "unknown field `denails`"),
        (good.replace("spec:", "spec: ["), "not readable as YAML"),
        (good.clone() + "spec: {}\n", "the field `spec` is written twice"),
        (good.clone() + "...\nx: y\n", "separate documents by a line `---`"),
        (
            format!(
                "apiVersion: v1\nkind: List\nitems:\n- {}",
                good.replace("AccessPolicy", "Acess").replace('\n', "\n  ")
            ),
            "x",
        ),
        (good.replace("no-billing, to", "no-billing, too"), "unknown field `too`"),
        (good + "    - {name: b, to: [{authenticated: true}], when: nonsense}\n", "`nonsense` does not exist"),
    ]
}

#[test]
fn a_typing_error_removes_no_denial() {
    let good = denied("denials", "shop");
    let up = UpProcess::with(&[("a.yaml", &shop()), ("denials.yaml", &good)]);
    assert_eq!((billing(&up), reports(&up)), (403, 200), "{}", up.stderr());
    for (broken, message) in typing_errors() {
        up.write("denials.yaml", &broken);
        up.wait_for_stderr("denials.yaml: not accepted; what the file held before stays in force");
        if message != "x" {
            up.wait_for_stderr(message);
        }
        assert_eq!((billing(&up), reports(&up)), (403, 200), "{broken}");
        up.write("denials.yaml", &good);
        let valid_again = up.stderr().matches("all manifests are valid again").count();
        eventually("the fixed file", || {
            let ready = request(up.listen["admin"], "GET", "/readyz", &[("Host", "x")], "");
            (ready.body == "ready\n").then_some(())
        })
        .unwrap_or_else(|error| panic!("{error} ({valid_again}):\n{}", up.stderr()));
    }
    // the denial moves to another file, which is broken, and the file is renamed
    up.write("b.yaml", &(good.clone() + "---\nkind: [\n"));
    fs::remove_file(up.manifests.join("denials.yaml")).unwrap();
    up.wait_for_stderr("b.yaml:");
    assert_eq!((billing(&up), reports(&up)), (403, 200), "{}", up.stderr());
    up.write("b.yaml", &good);
    up.wait_for_stderr("all manifests are valid again");
    assert_eq!((billing(&up), reports(&up)), (403, 200), "{}", up.stderr());
    // from the second file to the first, in one change
    let moved = tempfile::tempdir().unwrap();
    fs::write(moved.path().join("a.yaml"), shop() + "---\n" + &good).unwrap();
    fs::rename(moved.path().join("a.yaml"), up.manifests.join("a.yaml"))
        .or_else(|_| fs::copy(moved.path().join("a.yaml"), up.manifests.join("a.yaml")).map(|_| ()))
        .unwrap();
    fs::remove_file(up.manifests.join("b.yaml")).unwrap();
    fs::write(up.manifests.join("z.yaml"), policy("z", "z.shop.svc", "")).unwrap();
    eventually("the last change", || (status(&up, "z.shop.svc", "/open") == 200).then_some(())).unwrap();
    assert_eq!((billing(&up), reports(&up)), (403, 200), "{}", up.stderr());
}

fn check(manifests: &Path, url: &str) -> (i32, String, String) {
    run(durward().arg("check").arg("-p").arg(manifests).args(["GET", url]))
}

#[test]
fn a_broken_document_at_the_start_closes_what_it_may_concern() {
    for (broken, message) in typing_errors() {
        let other = policy("z", "z.shop.svc", "");
        let up = UpProcess::with(&[("a.yaml", &shop()), ("denials.yaml", &broken), ("z.yaml", &other)]);
        assert_ne!(billing(&up), 200, "{broken}\n{}", up.stderr());
        assert_ne!(reports(&up), 200, "{broken}\n{}", up.stderr());
        let open = status(&up, "z.shop.svc", "/open");
        let admin = |path: &str| request(up.listen["admin"], "GET", path, &[("Host", "x")], "");
        let metrics = admin("/metrics").body;
        let ready = admin("/readyz");
        if up.stderr().contains("everything is closed until this file is fixed") {
            assert_eq!((open, ready.status), (403, 503), "{broken}");
            assert!(metrics.contains("durward_all_closed 1\n"), "{metrics}");
        } else {
            assert!(up.stderr().contains("service a.shop of namespace shop is closed until"), "{}", up.stderr());
            assert_eq!((open, ready.status), (200, 200), "{broken}");
            assert!(ready.body.starts_with("ready, with ") && metrics.contains("durward_all_closed 0\n"), "{metrics}");
        }
        assert!(!metrics.contains("durward_manifest_problems 0\n"), "{metrics}");
        assert!(message == "x" || up.stderr().contains(message), "{message}\n{}", up.stderr());
        assert_eq!(check(&up.manifests, "http://z.shop.svc/open").0, 2, "{broken}");
        // nothing stays closed when the document is valid
        up.write("denials.yaml", &denied("denials", "shop"));
        eventually("the fixed document", || (reports(&up) == 200).then_some(())).unwrap();
        assert_eq!((billing(&up), status(&up, "z.shop.svc", "/open")), (403, 200));
        assert_eq!(admin("/readyz").body, "ready\n");
    }
}

#[test]
fn the_snapshot_names_what_is_closed() {
    let admin = tempfile::NamedTempFile::new().unwrap();
    fs::write(
        admin.path(),
        "apiVersion: durward.dev/v1alpha1\nkind: AccessPolicy\nmetadata: {name: admin, namespace: durward-system}\nspec:\n  \
         service: {audience: durward-admin}\n  authentication: [{workload: {}}]\n  operations: [{name: read-snapshot, http: \
         [{methods: [GET], paths: [/snapshot]}], scopes: [snapshot.read]}]\n  grants: [{name: g, to: [{authenticated: true}], \
         scopes: [snapshot.read]}]\n",
    )
    .unwrap();
    let broken = denied("denials", "shop").replace("  denials:", "  denails:");
    let files = [("a.yaml", shop()), ("denials.yaml", broken), ("p.YAML", String::new())];
    let files: Vec<(&str, &str)> = files.iter().map(|(name, text)| (*name, text.as_str())).collect();
    let up = UpProcess::start(&files, &["--admin-policy", admin.path().to_str().unwrap()]);
    let token = format!("Bearer {}", up.token("billing/billing", "durward-admin"));
    let snapshot = || -> Value {
        let headers = [("Host", "x"), ("Authorization", &*token)];
        serde_json::from_str(&request(up.listen["admin"], "GET", "/snapshot", &headers, "").body).unwrap()
    };
    let view = snapshot();
    assert_eq!(view["services"][0]["closedBy"], json!(["shop/denials"]), "{view}");
    assert_eq!(view["manifests"]["allClosed"], json!(false), "{view}");
    assert!(view["manifests"]["problems"][0].as_str().unwrap().starts_with("denials.yaml:9:3: spec.denails"), "{view}");
    assert_eq!(view["manifests"]["notices"].as_array().unwrap().len(), 2, "{view}");
    up.write("denials.yaml", &denied("denials", "shop"));
    fs::remove_file(up.manifests.join("p.YAML")).unwrap();
    eventually("a snapshot without mistakes", || snapshot().get("manifests").is_none().then_some(())).unwrap();
}

#[test]
fn strict_refuses_to_start() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("a.yaml"), denied("denials", "shop").replace("  denials:", "  denails:")).unwrap();
    for tool in [
        vec!["up", ".", "--state", "state", "--strict"],
        vec![
            "gate",
            "--policies",
            ".",
            "--state",
            "state",
            "--strict",
            "--service-account",
            "shop/a",
            "--upstream",
            "http://127.0.0.1:1",
            "--listen",
            "127.0.0.1:0",
            "--admin",
            "127.0.0.1:0",
        ],
    ] {
        let mut command = durward();
        command.args(&tool);
        if tool[0] == "up" {
            for door in ["http", "https", "grpc", "grpcs", "tokens", "tokens-tls", "admin"] {
                command.args([format!("--{door}"), "127.0.0.1:0".to_owned()]);
            }
        }
        let (code, _, stderr) = run(command.current_dir(directory.path()));
        assert_eq!(code, 2, "{stderr}");
        assert!(stderr.contains("unknown field `denails`") && stderr.contains("start without --strict"), "{stderr}");
    }
}

/// `kubectl get -o yaml` and `-o json` print lists.
#[test]
fn lists_and_json_are_read() {
    let item = |policy: &str| {
        let value: Value = serde_saphyr::from_str(policy).unwrap();
        value
    };
    let list = json!({"apiVersion": "v1", "kind": "List", "items": [item(NAMESPACE), item(&granted()), item(&denied("denials", "shop"))]});
    let typed = json!({"apiVersion": "durward.dev/v1alpha1", "kind": "AccessPolicyList", "items": [item(NAMESPACE), item(&granted()), item(&denied("denials", "shop"))]});
    for (name, text) in [
        ("all.yaml", serde_saphyr::to_string(&list).unwrap()),
        ("all.json", serde_json::to_string_pretty(&list).unwrap()),
        ("all.json", serde_json::to_string(&typed).unwrap()),
    ] {
        let up = UpProcess::with(&[(name, &text), ("keys.json", r#"{"keys": []}"#)]);
        assert_eq!((billing(&up), reports(&up), up.stderr()), (403, 200, String::new()), "{text}");
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join(name), text.replace("paths", "path")).unwrap();
        let (code, _, stderr) = check(directory.path(), "http://a.shop.svc/read");
        assert!(
            code == 2 && stderr.contains("items[1]") || stderr.contains("spec.operations[0].http[0].path"),
            "{stderr}"
        );
    }
}

#[test]
fn what_is_not_read_is_reported_and_hangs_nothing() {
    let prepare = |directory: &Path| {
        let root = directory.join("manifests");
        fs::create_dir_all(root.join("inner")).unwrap();
        fs::write(root.join("a.yaml"), shop()).unwrap();
        fs::write(root.join("b.YAML"), denied("denials", "shop")).unwrap();
        std::os::unix::fs::symlink("inner", root.join("linked")).unwrap();
        assert!(run(std::process::Command::new("mkfifo").arg(root.join("pipe.yaml"))).0 == 0);
    };
    let up = UpProcess::start_in("manifests", prepare, &[], |_| ());
    let skipped = [
        "b.YAML: skipped: write its extension in lower case",
        "linked: skipped: symlinks to directories are not followed",
        "pipe.yaml: skipped: it is not a file",
    ];
    for notice in skipped {
        assert!(up.stderr().contains(notice), "{notice}\n{}", up.stderr());
    }
    assert_eq!(reports(&up), 200);
    let (code, _, stderr) = check(&up.manifests, "http://a.shop.svc/open");
    assert!(code == 0 && skipped.iter().all(|notice| stderr.contains(notice)), "{code} {stderr}");
    assert!(run(std::process::Command::new("mkfifo").arg(up.manifests.join("late.json"))).0 == 0);
    up.wait_for_stderr("late.json: skipped: it is not a file");
}

#[test]
fn resources_of_one_name_are_reported() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(directory.path().join(name), text).unwrap();
    let provider = |label: &str| {
        format!(
            "apiVersion: durward.dev/v1alpha1\nkind: IdentityProvider\nmetadata: {{name: p}}\nspec: {{apiKey: {{selector: {{matchLabels: {{a: {label}}}}}}}}}\n"
        )
    };
    let namespace =
        |label: &str| format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: shop, labels: {{a: {label}}}}}\n");
    for (first, same, other, message) in [
        (
            provider("x"),
            provider("x"),
            provider("y"),
            "IdentityProvider/p is also defined in 1.yaml line 1; remove one",
        ),
        (namespace("x"), namespace("x"), namespace("y"), "Namespace shop is also defined in 1.yaml line 1; remove one"),
        (granted(), "# nothing\n".to_owned(), granted(), "policy shop/a is also defined in 1.yaml line 1; remove one"),
    ] {
        write("1.yaml", &first);
        write("z.yaml", &policy("z", "z.shop.svc", ""));
        write("2.yaml", &same);
        assert_eq!(check(directory.path(), "http://z.shop.svc/open").0, 0, "{first}");
        write("2.yaml", &other);
        let (code, _, stderr) = check(directory.path(), "http://z.shop.svc/open");
        assert!(code == 2 && stderr.contains(message), "{stderr}");
        write("2.yaml", "");
        write("1.yaml", &(first + "---\n" + &other));
        let (code, _, stderr) = check(directory.path(), "http://z.shop.svc/open");
        assert!(code == 2 && stderr.contains("remove one"), "{stderr}");
    }
}
