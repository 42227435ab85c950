//! The example `examples/orders` in pods: FastAPI and own_requests callers, each with own_requests pod's certificate.

use std::path::{Path, PathBuf};
use std::process::Command;

use durward_cluster::{Image, Namespace, dockerfile, image, paths};
use durward_tests::installation::{Installed, policy};
use durward_tests::turn::Turn;
use durward_tests::venv::venv;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

const ORDERS: &str = "durward.test/orders:test";

/// Stands in for a registry's Python image: this machine's Python with the packages of the tests.
fn python() -> Image {
    let script = "import sys, sysconfig; print(sys.executable, sysconfig.get_path('stdlib'))";
    let base = Command::new(venv("python")).args(["-c", "import sys; print(sys._base_executable)"]).output();
    let base = PathBuf::from(String::from_utf8(base.expect("python runs").stdout).expect("a path").trim());
    let base = base.canonicalize().expect("python");
    let interpreter = Command::new(&base).args(["-c", script]).output().expect("python runs").stdout;
    let interpreter = String::from_utf8(interpreter).expect("paths");
    let (program, library) = interpreter.trim().split_once(' ').expect("two paths");
    let packages = venv("python").ancestors().nth(2).expect("a folder").join("lib");
    let packages = packages.join(Path::new(library).file_name().expect("a version")).join("site-packages");

    let busybox = image::busybox().expect("busybox");
    let without = ["__pycache__", "site-packages", "dist-packages", "test", "tests", "idlelib", "tkinter", "ensurepip"];
    let of_others = ["__pycache__", "envoy", "grpc", "google", "setuptools", "tests"];
    let (bin, _) = program.rsplit_once('/').expect("a folder");
    busybox
        .named("durward.test/python:test")
        .program(program, Path::new(program))
        .and_then(|image| image.tree(library, Path::new(library), &without))
        .and_then(|image| image.tree(&format!("{library}/site-packages"), &packages, &of_others))
        .expect("this machine's python")
        .link("/usr/local/bin/python", program)
        .file("/usr/local/bin/pip", 0o755, "#!/bin/sh\nexec python -m pip \"$@\"\n")
        .env("PATH", &format!("/usr/local/bin:{bin}:/bin"))
}

/// A file of the example, for the test's namespaces.
fn example(file: &str, shop: &str, billing: &str) -> String {
    let text = std::fs::read_to_string(paths::repository().join("examples/orders").join(file)).expect("the example");
    let image = format!("image: {ORDERS}\n          imagePullPolicy: Never");
    text.replace("image: orders:1", &image)
        .replace("namespace: shop", &format!("namespace: {shop}"))
        .replace("name: shop", &format!("name: {shop}"))
        .replace(".shop.svc", &format!(".{shop}.svc"))
        .replace("namespace: billing", &format!("namespace: {billing}"))
        .replace(
            "kind: Namespace\nmetadata: {name: billing}",
            &format!("kind: Namespace\nmetadata: {{name: {billing}}}"),
        )
}

fn seconds(at: &Value) -> i64 {
    at.as_str().expect("a time").parse::<Timestamp>().expect("a time").as_second()
}

fn condition<'v>(object: &'v Value, kind: &str) -> &'v Value {
    let conditions = object["status"]["conditions"].as_array().expect("conditions");
    conditions.iter().find(|condition| condition["type"] == kind).unwrap_or_else(|| panic!("no {kind}: {object}"))
}

fn items(namespace: &Namespace<'_>, kind: &str) -> Vec<Value> {
    let list = namespace.kubectl(["get", kind, "-o", "json"]).expect("objects");
    serde_json::from_str::<Value>(&list).expect("JSON")["items"].as_array().expect("items").clone()
}

/// Whole seconds from scheduling to the certificate and to the first container, for each pod.
fn starts(namespace: &Namespace<'_>) -> Vec<(i64, i64)> {
    let requests = items(namespace, "podcertificaterequests");
    let of = |pod: &Value| {
        let scheduled = seconds(&condition(pod, "PodScheduled")["lastTransitionTime"]);
        let mut own_requests = requests.iter().filter(|request| request["spec"]["podUID"] == pod["metadata"]["uid"]);
        let issued = seconds(&condition(own_requests.next().expect("a request"), "Issued")["lastTransitionTime"]);
        let started = seconds(&pod["status"]["containerStatuses"][0]["state"]["running"]["startedAt"]);
        (issued - scheduled, started - scheduled)
    };
    items(namespace, "pods").iter().map(of).collect()
}

/// The last line in a caller's log.
fn last(namespace: &Namespace<'_>, deployment: &str) -> Option<String> {
    let log = namespace.kubectl(["logs", &format!("deployment/{deployment}"), "--tail=1"]).ok()?;
    Some(log.trim().to_owned()).filter(|line| !line.is_empty())
}

#[test]
fn e2e_the_orders_example_runs_in_pods() {
    let _turn = Turn::take(module_path!());
    let built = dockerfile::build_on(ORDERS, &paths::repository().join("examples/orders"), ("PYTHON", python()));
    let built = built.unwrap_or_else(|error| panic!("{error}"));
    let installed = Installed::new(&[]);
    installed.cluster.load_archive(&built.archive).expect("loaded");
    let shop = installed.cluster.namespace("shop").expect("a namespace");
    let billing = installed.cluster.namespace("billing").expect("a namespace");
    let example = |file: &str| example(file, shop.name(), billing.name());
    for file in ["namespace.yaml", "partners.yaml", "policy.yaml"] {
        installed.cluster.apply(&example(file)).expect("applied");
    }
    installed.in_force(shop.name(), "orders");
    installed.cluster.apply(&example("workloads.yaml")).expect("applied");
    for (namespace, deployment) in [(&shop, "orders"), (&billing, "billing")] {
        let deployment = format!("deployment/{deployment}");
        namespace.await_condition(&deployment, "Available").unwrap_or_else(|error| panic!("{error}"));
    }
    let starts: Vec<_> = [&shop, &billing].into_iter().flat_map(starts).collect();
    println!("from scheduled to certificate, and to the first container, in seconds: {starts:?}");
    assert!(starts.len() >= 3 && starts.iter().all(|(issued, _)| *issued <= 2), "{starts:?}");

    // allowed: the service knows the caller by mTLS and by own_requests token
    let allowed =
        installed.until("an answer to billing", || last(&billing, "billing").filter(|line| line.starts_with("200")));
    assert!(allowed.contains(&format!("spiffe://cluster.local/ns/{}/sa/billing", billing.name())), "{allowed}");

    // denied: the token of this caller has another scope
    let reports = installed.cluster.namespace("reports").expect("a namespace");
    let to = json!([{"serviceAccount": {"namespace": reports.name(), "name": "billing"}}]);
    let spec = json!({
        "service": {"audience": "orders-api"},
        "authentication": [{"workload": {}}],
        "grants": [{"name": "reports", "to": to, "scopes": ["orders.status"]}],
    });
    shop.apply(&policy(shop.name(), "more", spec)).expect("applied");
    installed.in_force(shop.name(), "more");
    installed.cluster.apply(&self::example("workloads.yaml", shop.name(), reports.name())).expect("applied");
    let refused =
        installed.until("an answer to reports", || last(&reports, "billing").filter(|line| line.starts_with("403")));
    assert_eq!(refused, r#"403 {"detail":"Insufficient scope"}"#);

    // without a token, and with one that is for Durward: 401; without a certificate: no connection
    let python = |script: &str| {
        billing.kubectl(["exec", "deployment/billing", "--", "python", "-c", script]).expect("python runs")
    };
    let invalid = r#"401 {"detail":"Invalid token"}"#;
    assert_eq!(python("import billing; print(billing.orders({}))").trim(), invalid);
    let for_durward = "import billing; token = open('/var/run/secrets/durward/token').read(); \
                       print(billing.orders({'Authorization': f'Bearer {token}'}))";
    assert_eq!(python(for_durward).trim(), invalid);
    let without_certificate = "import billing, ssl, urllib.request\n\
                  context = ssl.create_default_context(cafile=billing.TRUST)\n\
                  try: print(urllib.request.urlopen(billing.ORDERS, timeout=5, context=context).status)\n\
                  except urllib.error.HTTPError as error: print(error.code)\n\
                  except OSError as error: print('no answer')";
    assert_eq!(python(without_certificate).trim(), "no answer");
}
