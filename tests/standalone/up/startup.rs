//! Failed starts, concurrent starts, and invalid manifests.

use super::*;

/// Runs a `durward up` that must fail to start.
fn refused(arguments: &[&str]) -> String {
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("state");
    let mut command = durward();
    command.arg("up").args(arguments).args([
        "--https",
        "127.0.0.1:0",
        "--grpc",
        "127.0.0.1:0",
        "--grpcs",
        "127.0.0.1:0",
        "--tokens",
        "127.0.0.1:0",
        "--admin",
        "127.0.0.1:0",
    ]);
    if !arguments.contains(&"--state") {
        command.arg("--state").arg(&state);
    }
    if !arguments.contains(&"--http") {
        command.args(["--http", "127.0.0.1:0"]);
    }
    let (code, _, stderr) = run(&mut command);
    assert_eq!(code, 2, "{stderr}");
    let line = stderr.trim_end().to_owned();
    assert_eq!(line.lines().count(), 1, "one clear line: {stderr}");
    assert!(!line.contains("panicked"), "{line}");
    line
}

#[test]
fn startup_errors_fit_one_line() {
    let directory = tempfile::tempdir().unwrap();
    let manifests = directory.path().to_str().unwrap();
    assert!(refused(&["/nonexistent"]).contains("can't read the manifests in `/nonexistent`"));
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let output = refused(&[manifests, "--http", &address]);
    assert!(output.contains(&format!("can't listen on {address}")) && output.contains("--http"), "{output}");
    assert!(
        refused(&[manifests, "--audit-log", "/nonexistent/audit.log"])
            .contains("can't write the audit log `/nonexistent/audit.log`")
    );

    let state = directory.path().join("state");
    fs::create_dir(&state).unwrap();
    fs::write(state.join("notes"), "").unwrap();
    fs::set_permissions(&state, fs::Permissions::from_mode(0o755)).unwrap();
    let output = refused(&[manifests, "--state", state.to_str().unwrap()]);
    assert!(output.contains("chmod 700"), "{output}");
    fs::set_permissions(&state, fs::Permissions::from_mode(0o700)).unwrap();
    fs::write(state.join("ca.pem"), "nonsense").unwrap();
    fs::set_permissions(state.join("ca.pem"), fs::Permissions::from_mode(0o600)).unwrap();
    assert!(refused(&[manifests, "--state", state.to_str().unwrap()]).contains("can't be used"));
    assert_eq!(fs::read_to_string(state.join("ca.pem")).unwrap(), "nonsense", "a broken file is never overwritten");
}

#[test]
fn keys_are_readable_by_their_owner_only() {
    let up = UpProcess::with(&[("a.yaml", &policy("a", "a.shop.svc", ""))]);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&up.state), 0o700);
    let keys = up.state.join("token-keys");
    assert_eq!(mode(&keys), 0o700);
    let files = |path: &Path| {
        fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file()).collect::<Vec<_>>()
    };
    let files = [files(&up.state), files(&keys)].concat();
    // two state files, a key for each algorithm, and the lock
    assert_eq!(files.len(), 5, "{files:?}");
    assert!(files.iter().all(|file| mode(file) == 0o600), "{files:?}");
}

#[test]
fn concurrent_starts_create_one_authority() {
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("state");
    let starts: Vec<_> = (0..6)
        .map(|_| {
            let state = state.clone();
            std::thread::spawn(move || {
                run(durward()
                    .args(["mint", "jwt", "--service-account", "a/b", "--audience", "c", "--state"])
                    .arg(state))
            })
        })
        .collect();
    let kids: std::collections::BTreeSet<String> = starts
        .into_iter()
        .map(|start| {
            let (code, token, stderr) = start.join().unwrap();
            assert_eq!(code, 0, "{stderr}");
            token.split('.').next().unwrap().to_owned()
        })
        .collect();
    assert_eq!(kids.len(), 1, "one key signs all tokens");
    assert_eq!(fs::read_dir(&state).unwrap().count(), 3);
}

#[test]
fn an_invalid_manifest_is_reported_with_its_place() {
    let good = policy("a", "a.shop.svc", "");
    for (text, expected) in [
        (
            good.replace("AccessPolicy", "AcessPolicy"),
            "x.yaml:2:1: kind: unknown kind `AcessPolicy`; did you mean `AccessPolicy`?",
        ),
        (
            good.replace("v1alpha1", "v1"),
            "x.yaml:1:1: apiVersion: there is no version `v1` of durward.dev; write `durward.dev/v1alpha1`",
        ),
        (
            good.replace("  operations", "  operation"),
            "x.yaml:7:3: spec.operation: unknown field `operation`; did you mean `operations`?",
        ),
        (
            good.replace("methods: [GET]", "method: [GET]"),
            "x.yaml:8:28: spec.operations[0].http[0].method: unknown field `method`; did you mean `methods`?",
        ),
        (
            good.replace("public: true", "public: yes please"),
            "x.yaml:8:62: spec.operations[0].public: invalid type: string \"yes please\", expected a boolean",
        ),
        (
            good.replace("public: true", "risk: high"),
            "x.yaml:8:62: spec.operations[0].risk: `high` is not one of Low, Standard, High",
        ),
        (good.replace("name: open, ", ""), "x.yaml:8:7: spec.operations[0]: the field `name` is missing"),
        (
            good.replace("paths: [/open]", "paths: [open]"),
            "x.yaml:8:52: spec.operations[0].http[0].paths[0]: `open` is not a valid path pattern",
        ),
        (
            good.clone() + "  relations: [{object: order}]\n",
            "x.yaml:9:15: spec.relations[0].relations: a type needs 1 to 64 relations",
        ),
        (
            good.replace("hosts: [a.shop.svc]", "hosts: [orders.example.com]"),
            "x.yaml:5:21: spec.service.hosts[0]: namespace `shop` does not own host `orders.example.com`",
        ),
        (good.clone() + "metadata: {}\n", "x.yaml:9:1: not readable as YAML"),
        ("just text".to_owned(), "x.yaml:1:1: a manifest is a mapping"),
        ("a: [".to_owned(), "not readable as YAML"),
        ("[".repeat(20_000), "not readable as YAML"),
        (
            "a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\nd: [*c, *c]\nkind: x\n".to_owned(),
            "a manifest begins with `apiVersion` and `kind`",
        ),
    ] {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("x.yaml"), &text).unwrap();
        let (code, _, stderr) =
            run(durward().arg("check").arg("-p").arg(directory.path()).args(["GET", "http://a.shop.svc/open"]));
        assert!(
            stderr.contains(expected),
            "{expected}\nbut:\n{stderr}\nfor:\n{}",
            text.chars().take(400).collect::<String>()
        );
        assert_eq!(code, 2, "{stderr}");
    }
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("binary.yaml"), [0xff, 0xfe, 0x00]).unwrap();
    fs::write(directory.path().join("deployment.yaml"), "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: x}\n")
        .unwrap();
    fs::write(directory.path().join("empty.yaml"), "# nothing\n---\n---\n").unwrap();
    fs::write(directory.path().join("good.yaml"), &good).unwrap();
    let (code, _, stderr) =
        run(durward().arg("check").arg("-p").arg(directory.path()).args(["GET", "http://a.shop.svc/open"]));
    assert_eq!(code, 2, "{stderr}");
    assert!(
        stderr.starts_with("binary.yaml: is not UTF-8 from byte 0 on\nbinary.yaml: everything is closed"),
        "{stderr}"
    );
}
