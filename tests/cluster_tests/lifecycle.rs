//! Nodes survive crashes of their parts and leave nothing behind.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use durward_cluster::{image, wait};

use crate::{alone, program};

struct NodeUnderTest {
    state: tempfile::TempDir,
    before: Vec<String>,
}

impl NodeUnderTest {
    fn new() -> Self {
        let state = tempfile::Builder::new().prefix("dc").tempdir().expect("a folder");
        let before = traces(state.path());
        Self { state, before }
    }

    fn command(&self, action: &str) -> Command {
        let mut command = Command::new(program());
        command
            .arg(action)
            .env("DURWARD_CLUSTER_DIR", self.state.path())
            .env_remove("KUBECONFIG")
            .stdout(Stdio::piped());
        command
    }

    fn run(&self, action: &str) -> String {
        let output = self.command(action).output().expect("ran");
        let output_text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{action}: {output_text}{}", String::from_utf8_lossy(&output.stderr));
        output_text
    }

    fn kubectl(&self, args: &[&str]) -> Result<String, String> {
        let kubectl = durward_cluster::binaries::path(durward_cluster::binaries::KUBECTL).expect("kubectl");
        let kubeconfig = self.state.path().join("shared/kubeconfig");
        let output = Command::new(kubectl).arg("--kubeconfig").arg(kubeconfig).args(args).output().expect("ran");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    /// A pod with a mount, an address and iptables rules of its own.
    fn run_pod(&self, name: &str) {
        wait::until("the service account", Duration::from_secs(60), || {
            Ok(self.kubectl(&["get", "serviceaccount", "default"]).ok())
        })
        .expect("the service account");
        let image = format!("--image={}", image::BUSYBOX);
        self.kubectl(&[
            "run",
            name,
            &image,
            "--image-pull-policy=Never",
            "--port=80",
            "--expose",
            "--",
            "sleep",
            "3600",
        ])
        .expect("created");
        self.kubectl(&["wait", "--for=condition=Ready", &format!("pod/{name}"), "--timeout=120s"]).unwrap_or_else(
            |error| {
                let log = fs::read_to_string(self.state.path().join("shared/log/kubelet.log")).unwrap_or_default();
                let last: Vec<_> = log.lines().rev().take(20).collect();
                panic!("{error}\n{}", last.join("\n"))
            },
        );
    }

    fn kill(&self, which: impl Fn(&str) -> bool) {
        for line in self.run("status").lines().filter_map(|line| line.strip_prefix(' ')) {
            let (pid, name) = line.trim().split_once(' ').expect("a process id and a name");
            if which(name) {
                let killed = Command::new("kill").args(["-KILL", pid]).status().expect("ran");
                assert!(killed.success(), "{name}");
            }
        }
    }

    fn assert_no_trace(&self) {
        assert_eq!(self.run("status"), "no cluster\n");
        // only new traces: other programs may remove theirs meanwhile
        let left =
            || traces(self.state.path()).into_iter().filter(|trace| !self.before.contains(trace)).collect::<Vec<_>>();
        assert_eq!(left(), Vec::<String>::new());
    }
}

impl Drop for NodeUnderTest {
    fn drop(&mut self) {
        let _ = self.command("down").status();
    }
}

/// Everything on this machine that a node in `state` could leave behind.
fn traces(state: &Path) -> Vec<String> {
    let run = |program: &str, args: &[&str]| {
        let output = Command::new(program).args(args).output().expect("ran");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let mut traces = Vec::new();
    traces.extend(fs::read_to_string("/proc/mounts").expect("mounts").lines().map(|line| format!("mount {line}")));
    traces.extend(
        run("ip", &["-o", "link"]).lines().filter_map(|line| Some(format!("link {}", line.split(": ").nth(1)?))),
    );
    traces.extend(run("ip", &["route"]).lines().map(|line| format!("route {line}")));
    let rules = run("iptables-save", &[]);
    traces.extend(rules.lines().filter(|line| line.starts_with('-')).map(|line| format!("rule {line}")));
    for entry in fs::read_dir("/proc").expect("listed").flatten() {
        let mention = |file: &str| {
            let bytes = fs::read(entry.path().join(file)).unwrap_or_default();
            String::from_utf8_lossy(&bytes).contains(&*state.to_string_lossy())
        };
        if mention("cmdline") || mention("environ") {
            traces.push(format!("process {}", entry.file_name().display()));
        }
    }
    for hierarchy in fs::read_dir("/sys/fs/cgroup").expect("listed").flatten() {
        let containers = fs::read_dir(hierarchy.path().join("k8s.io")).into_iter().flatten().flatten();
        traces.extend(containers.map(|entry| format!("cgroup {}", entry.path().display())));
    }
    let settings = ["kernel/panic", "vm/overcommit_memory", "net/ipv4/ip_forward"];
    traces.extend(
        settings.map(|name| {
            format!("{name} {}", fs::read_to_string(Path::new("/proc/sys").join(name)).unwrap_or_default())
        }),
    );
    traces.extend(
        fs::read_dir(state)
            .into_iter()
            .flatten()
            .flatten()
            .filter(|entry| entry.path().is_dir())
            .map(|entry| format!("{entry:?}")),
    );
    // folders that the node's programs create unless prevented
    let folders = [
        "/var/lib/kubelet",
        "/var/lib/cni",
        "/var/log/pods",
        "/var/log/containers",
        "/run/containerd",
        "/run/netns",
        "/opt/cni",
        "/opt/containerd",
    ];
    traces.extend(folders.into_iter().filter(|path| Path::new(path).exists()).map(|path| format!("folder {path}")));
    traces.sort();
    traces
}

#[test]
fn e2e_up_recovers_from_any_crash_and_down_leaves_nothing() {
    let _machine = alone();
    let node = NodeUnderTest::new();
    assert!(node.run("up").contains("export KUBECONFIG="));
    node.run_pod("one");
    let again = node.run("up");
    assert!(
        again.contains("export KUBECONFIG=") && node.kubectl(&["get", "pod", "one"]).is_ok(),
        "a second `up` changes nothing"
    );

    // some processes: containers keep running without kubelet and containerd
    node.kill(|name| ["kubelet", "containerd", "kube-apiserver"].contains(&name));
    node.run("up");
    assert!(node.kubectl(&["get", "pod", "one"]).is_err(), "a new cluster");
    node.run_pod("two");

    // all processes
    node.kill(|_| true);
    node.run("up");
    node.run_pod("three");
    node.run("down");
    node.assert_no_trace();

    node.run("down");
}

#[test]
fn e2e_a_node_survives_the_end_of_another() {
    let _machine = alone();
    let one = NodeUnderTest::new();
    let other = NodeUnderTest::new();
    one.run("up");
    other.run("up");
    one.run_pod("of-one");
    other.run_pod("of-other");
    assert!(other.kubectl(&["get", "pod", "of-one"]).is_err(), "the nodes are separate");
    other.run("down");
    other.kubectl(&["version", "--request-timeout=5s"]).expect_err("the other node is down");
    one.run_pod("afterwards");
    one.kubectl(&["exec", "of-one", "--", "true"]).expect("its pods keep running");
    one.run("down");
    one.assert_no_trace();
}

#[test]
fn e2e_an_interrupted_up_is_removed() {
    let _machine = alone();
    let node = NodeUnderTest::new();
    for begun in ["sysctl", "log/kube-apiserver.log", "log/kubelet.log"] {
        let mut up = node.command("up").spawn().expect("started");
        wait::until(begun, Duration::from_secs(120), || {
            Ok(node.state.path().join("shared").join(begun).exists().then_some(()))
        })
        .expect("the file of this step");
        up.kill().expect("killed");
        up.wait().expect("reaped");
        node.run("down");
        node.assert_no_trace();
    }
}

#[test]
fn e2e_down_after_a_crash_leaves_nothing() {
    let _machine = alone();
    let node = NodeUnderTest::new();
    node.run("up");
    node.run_pod("one");
    node.kill(|name| name != "etcd");
    node.run("down");
    node.assert_no_trace();
}
