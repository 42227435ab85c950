//! An API server that uses Durward for token review and authorization.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use durward_cluster::Cluster;
use durward_pki::token::{SigningAlgorithm, TokenKey, jwks};
use durward_tests::turn::Turn;
use durward_tests::{program, repository};
use serde_json::{Value, json};

/// Issuer and audience of the API server of test clusters.
const API: &str = "https://kubernetes.default.svc.cluster.local";
const LIMIT: Duration = Duration::from_secs(60);
/// User names of token review, as policies name them.
const ALICE: &str = "durward:user:corporate/alice";
const BOB: &str = "durward:user:corporate/bob";

/// A `durward controller` with an admin's rights; killed when dropped.
struct ControllerProcess {
    child: Child,
    webhooks: u16,
}

impl ControllerProcess {
    fn start(cluster: &Cluster, log: &Path) -> Self {
        let free = || durward_cluster::ports::free(std::net::Ipv4Addr::LOCALHOST.into()).expect("a port").port();
        let ports: [u16; 5] = std::array::from_fn(|_| free());
        let mut command = Command::new(program());
        command.args(["controller", "--namespace", "durward-system", "--pod-name", "durward-0"]);
        command.args(["--token-review", "corporate", "--operations-failure-policy", "Ignore"]);
        for (door, port) in ["https", "grpcs", "webhooks", "tokens", "admin"].into_iter().zip(&ports) {
            command.arg(format!("--{door}=127.0.0.1:{port}"));
        }
        let log = fs::File::create(log).expect("a log");
        command.env("KUBECONFIG", cluster.kubeconfig()).stdout(Stdio::null()).stderr(log);
        let this = Self { child: command.spawn().expect("it starts"), webhooks: *ports.get(2).expect("five") };
        let admin = format!("https://127.0.0.1:{}", ports.last().expect("five"));
        let ready =
            || Command::new(program()).args(["health", "--admin", &admin]).output().expect("it runs").status.success();
        cluster.until("the controller is ready", LIMIT, || Ok(ready().then_some(()))).expect("ready");
        this
    }

    fn end(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for ControllerProcess {
    fn drop(&mut self) {
        self.end();
    }
}

fn policy(users: &[&str]) -> String {
    let to: Vec<Value> = users.iter().map(|user| json!({"principal": format!("kube:{user}")})).collect();
    json!({
        "apiVersion": "durward.dev/v1alpha1", "kind": "AccessPolicy", "metadata": {"name": "deploying", "namespace": "shop"},
        "spec": {
            "operations": [{"name": "deploy", "kubernetes": [{"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["*"]}]}],
            "grants": [{"name": "deployers", "to": to, "scopes": ["deploy"]}],
        },
    })
    .to_string()
}

fn provider(key: &TokenKey) -> String {
    let keys: Value = serde_json::from_str(&jwks([key.jwk()])).expect("JSON");
    json!({
        "apiVersion": "durward.dev/v1alpha1", "kind": "IdentityProvider", "metadata": {"name": "corporate"},
        "spec": {"jwt": {"issuer": "https://id.example", "jwks": keys}},
    })
    .to_string()
}

fn token(key: &TokenKey, subject: &str, audience: &str) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_secs();
    let claims = json!({"iss": "https://id.example", "sub": subject, "aud": audience, "iat": now, "exp": now + 600});
    key.sign(&claims, "JWT").expect("signed")
}

/// The configuration of `examples/api-server` for this cluster.
fn configuration(directory: &Path, port: u16) -> Vec<String> {
    for name in ["authorization.yaml", "authorization.kubeconfig", "authentication.kubeconfig"] {
        let text = fs::read_to_string(repository("examples/api-server").join(name)).expect(name);
        let adapted = text.replace("/etc/kubernetes/durward", &directory.display().to_string());
        let adapted = adapted.replace("https://10.96.0.42:8443", &format!("https://127.0.0.1:{port}"));
        assert_ne!(text, adapted, "{name} has neither the folder nor the address");
        fs::write(directory.join(name), adapted).expect(name);
    }
    let file = |option: &str, name: &str| format!("--{option}={}", directory.join(name).display());
    vec![
        file("authorization-config", "authorization.yaml"),
        file("authentication-token-webhook-config-file", "authentication.kubeconfig"),
        "--authentication-token-webhook-version=v1".to_owned(),
        "--authentication-token-webhook-cache-ttl=1s".to_owned(),
    ]
}

/// Applies the CRDs, the same RBAC rights for both users, the provider and the policy.
fn prepare(cluster: &Cluster, key: &TokenKey) {
    let kubectl = |arguments: &[&str]| cluster.kubectl(arguments.iter().copied());
    kubectl(&["apply", "--server-side", "--filename", repository("crds").to_str().expect("text")]).expect("CRDs");
    kubectl(&["wait", "--for=condition=Established", "--timeout=60s", "crd", "--all"]).expect("established");
    ["durward-system", "shop", "other"]
        .into_iter()
        .for_each(|name| drop(kubectl(&["create", "namespace", name]).expect("created")));
    let rights = ["--verb=get,list,create,patch,delete", "--resource=deployments.apps"];
    kubectl(&[&["create", "clusterrole", "deployer"], &rights[..]].concat()).expect("a role");
    for namespace in ["shop", "other"] {
        let binding = ["create", "rolebinding", "deployers", "--clusterrole=deployer", "--namespace", namespace];
        let alice = format!("--user={ALICE}");
        let bob = format!("--user={BOB}");
        kubectl(&[&binding[..], &[&alice, &bob]].concat()).expect("bound");
    }
    cluster.apply(&provider(key)).expect("a provider");
    cluster.apply(&policy(&[ALICE])).expect("a policy");
}

fn assert_invalid_tokens_are_refused(key: &TokenKey, refusal: &dyn Fn(&str) -> String) {
    for bad in [
        token(key, "alice", "orders-api"),
        token(&TokenKey::generate(SigningAlgorithm::Es256).expect("a key"), "alice", API),
        "nonsense".to_owned(),
    ] {
        let refused = refusal(&bad);
        assert!(refused.contains("Unauthorized") || refused.contains("logged in"), "{refused}");
    }
}

/// Checks the access of users with RBAC rights and of one without.
fn assert_access(can: &dyn Fn(&str, &str, &str) -> bool) {
    for (who, verb, namespace, expected) in [
        (ALICE, "create", "shop", true),
        (ALICE, "patch", "shop", true),
        (BOB, "create", "shop", false),
        (BOB, "patch", "shop", false),
        (BOB, "delete", "shop", false),
        (BOB, "list", "shop", true),
        (BOB, "create", "other", true),
        ("durward:user:corporate/eve", "create", "shop", false),
        ("durward:user:corporate/eve", "create", "other", false),
    ] {
        assert_eq!(can(who, verb, namespace), expected, "{who} {verb} in {namespace}");
    }
}

#[test]
fn the_api_server_authenticates_and_authorizes_with_durward() {
    let _turn = Turn::take(module_path!());
    let cluster = Cluster::isolated().unwrap_or_else(|error| panic!("{error}"));
    let directory = tempfile::tempdir().expect("a folder");
    let kubectl = |arguments: &[&str]| cluster.kubectl(arguments.iter().copied());
    let key = TokenKey::generate(SigningAlgorithm::Es256).expect("a key");
    prepare(&cluster, &key);

    let log = directory.path().join("controller.log");
    let mut controller = ControllerProcess::start(&cluster, &log);
    let ca = kubectl(&[
        "get",
        "secret",
        "durward-ca",
        "--namespace=durward-system",
        r"--output=go-template={{index .data `tls.crt` | base64decode}}",
    ]);
    fs::write(directory.path().join("ca.crt"), ca.expect("the CA")).expect("written");
    cluster.api_server_options(&configuration(directory.path(), controller.webhooks)).expect("restarted");

    // token review
    let server =
        kubectl(&["config", "view", "--minify", "--output=jsonpath={.clusters[0].cluster.server}"]).expect("a server");
    let cluster_ca = cluster.dir().expect("a folder").join("pki/ca.crt");
    let none = directory.path().join("empty");
    fs::write(&none, "").expect("written");
    let by = |token: &str, arguments: &[&str]| {
        let own = [
            format!("--kubeconfig={}", none.display()),
            format!("--server={server}"),
            format!("--certificate-authority={}", cluster_ca.display()),
            format!("--token={token}"),
        ];
        cluster.kubectl(arguments.iter().map(|one| (*one).to_owned()).chain(own))
    };
    let whoami = ["auth", "whoami", "--output=jsonpath={.status.userInfo.username}"];
    let alice = token(&key, "alice", API);
    assert_eq!(
        by(&alice, &whoami).unwrap_or_else(|error| panic!("{error}\n{}", fs::read_to_string(&log).unwrap_or_default())),
        ALICE
    );
    assert_invalid_tokens_are_refused(&key, &|token| by(token, &whoami).expect_err("an invalid token").to_string());

    // authorization: RBAC gives both users the same
    let bob = token(&key, "bob", API);
    let deploy = |token: &str, name: &str, namespace: &str| {
        by(token, &["create", "deployment", name, "--image=none", "--namespace", namespace])
    };
    deploy(&alice, "by-alice", "shop").expect("granted");
    let refused = deploy(&bob, "by-bob", "shop").expect_err("no policy grants it").to_string();
    assert!(
        refused.contains("operation `deploy` of policy shop/deploying is refused for kube:durward:user:corporate/bob"),
        "{refused}"
    );
    let can = |who: &str, verb: &str, namespace: &str| {
        let who = format!("--as={who}");
        let answer = kubectl(&["auth", "can-i", verb, "deployments.apps", "--namespace", namespace, &who]);
        answer.map_or_else(|error| error.to_string().contains("yes"), |answer| answer.contains("yes"))
    };
    assert_access(&can);
    // a grant without RBAC allows nothing
    cluster.apply(&policy(&[ALICE, BOB, "durward:user:corporate/eve"])).expect("another policy");
    cluster.until("bob to be allowed", LIMIT, || Ok(can(BOB, "create", "shop").then_some(()))).expect("in force");
    assert!(!can("durward:user:corporate/eve", "create", "shop"), "RBAC must allow it too");
    deploy(&bob, "by-bob", "shop").expect("granted");

    // without Durward RBAC decides, and other authentication still works
    cluster.apply(&policy(&[ALICE])).expect("the first policy");
    cluster.until("bob to be denied", LIMIT, || Ok((!can(BOB, "create", "shop")).then_some(()))).expect("in force");
    controller.end();
    assert!(can(BOB, "create", "shop") && !can("durward:user:corporate/eve", "create", "shop"));
    cluster
        .until("alice to be unauthenticated", LIMIT, || Ok(by(&alice, &whoami).is_err().then_some(())))
        .expect("closed");
    kubectl(&["create", "configmap", "recovered", "--namespace=shop"]).expect("administrators keep access");
}
