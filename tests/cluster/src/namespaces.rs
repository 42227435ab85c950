//! The node's mount, network and process namespaces.
//!
//! Everything that a node changes (mounts, interfaces, iptables rules, containers) is inside. Killing the first process
//! there makes the kernel remove all of these, in any state after a crash.

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rustix::process::Pid;
use serde::{Deserialize, Serialize};

use crate::command::run;
use crate::error::{At, ClusterError, ClusterResult};
use crate::process::{self, ProcessSpec};
use crate::{paths, wait};

const NAME: &str = "namespaces";

/// Kernel settings that kubelet would change for the whole machine, mounted over with the values that it wants.
const SYSCTLS: &[(&str, &str)] = &[
    ("vm/overcommit_memory", "1"),
    ("vm/panic_on_oom", "0"),
    ("kernel/panic", "10"),
    ("kernel/panic_on_oops", "1"),
    ("kernel/keys/root_maxkeys", "1000000"),
    ("kernel/keys/root_maxbytes", "25000000"),
];

/// Folders of this machine that are empty inside the node, so that it leaves no files there.
const HIDDEN: &[&str] = &["/run", "/var/lib", "/var/log"];

/// Folders with names that kubelet or CNI fix, and their places in the cluster's folder.
const BINDS: &[(&str, &str)] = &[
    ("/var/lib/kubelet", "kubelet"),
    ("/var/lib/cni", "cni/state"),
    ("/var/log/pods", "log/pods"),
    ("/var/log/containers", "log/containers"),
];

/// A node's addresses. The `index`th node of this machine has its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Net {
    index: u8,
}

impl Net {
    /// This machine's end of the link to the node.
    pub(crate) fn host(self) -> Ipv4Addr {
        Ipv4Addr::new(10, 213, self.index, 1)
    }

    /// The node's end.
    pub(crate) fn node(self) -> Ipv4Addr {
        Ipv4Addr::new(10, 213, self.index, 2)
    }

    pub(crate) fn pods(self) -> String {
        format!("10.214.{}.0/24", self.index)
    }

    pub(crate) fn services(self) -> String {
        format!("10.215.{}.0/24", self.index)
    }

    pub(crate) fn service(self, number: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 215, self.index, number)
    }

    fn interface(self) -> String {
        format!("durward{}", self.index)
    }
}

/// Refuses a folder that a node can't see, or whose path is too long for sockets.
pub(crate) fn check_dir(dir: &Path) -> ClusterResult<()> {
    // A Unix socket's path has at most 107 bytes.
    const LONGEST_SOCKET: &str = "/containerd.sock.ttrpc";
    if dir.as_os_str().len() + LONGEST_SOCKET.len() > 107 {
        return Err(ClusterError::refused(
            format!("`{}` is too long a path for the sockets in it", dir.display()),
            "set DURWARD_CLUSTER_DIR to a shorter one",
        ));
    }
    for (path, variable) in [(dir, "DURWARD_CLUSTER_DIR"), (&paths::cache()?, "DURWARD_CLUSTER_CACHE")] {
        if let Some(hidden) = HIDDEN.iter().find(|hidden| path.starts_with(hidden)) {
            return Err(ClusterError::refused(
                format!("`{}` is below `{hidden}`, of which a node sees nothing", path.display()),
                format!("set {variable} to a folder elsewhere"),
            ));
        }
    }
    Ok(())
}

/// Creates the namespaces of the cluster in `dir` and links them to this machine.
pub(crate) fn create(dir: &Path) -> ClusterResult<Net> {
    // The shell collects orphans, as the first process of a PID namespace must; the kernel shields it from signals.
    let spec = ProcessSpec::new(NAME, "unshare")
        .args(["--mount", "--net", "--pid", "--fork", "--mount-proc", "--propagation", "private", "--"])
        .args(["sh", "-c", "while :; do sleep 3600; done"]);
    process::start(dir, &spec, false)?;
    wait::until("the node's namespaces", Duration::from_secs(20), || holder(dir))
        .map_err(|error| error.with_logs(|| process::tail(dir, &[NAME], 20)))?;
    mount(dir)?;
    link(dir)
}

/// The first process inside, as seen from outside: it is called `sh` only once its own /proc is mounted.
fn holder(dir: &Path) -> ClusterResult<Option<Pid>> {
    Ok(process::of(dir)?.into_iter().find(|found| found.name == NAME && found.program == "sh").map(|found| found.pid))
}

/// `spec`, changed to run inside the namespaces of the cluster in `dir`.
pub(crate) fn enter(dir: &Path, spec: ProcessSpec) -> ClusterResult<ProcessSpec> {
    let inside = ProcessSpec { program: "nsenter".into(), args: Vec::new(), ..spec };
    Ok(inside.args(nsenter_args(dir)?).arg(spec.program).args(spec.args))
}

/// Runs a command line inside, to its end.
pub(crate) fn run_inside(dir: &Path, words: &[&str]) -> ClusterResult<String> {
    run(Command::new("nsenter").args(nsenter_args(dir)?).args(words))
}

fn nsenter_args(dir: &Path) -> ClusterResult<Vec<String>> {
    let pid = holder(dir)?.ok_or_else(|| {
        ClusterError::refused(format!("the node in `{}` is not running", dir.display()), "run `make cluster-up`")
    })?;
    let target = format!("--target={}", pid.as_raw_nonzero());
    Ok([&target, "--mount", "--net", "--pid", "--"].map(str::to_owned).to_vec())
}

fn mount(dir: &Path) -> ClusterResult<()> {
    for hidden in HIDDEN {
        run_inside(dir, &["mount", "-t", "tmpfs", "tmpfs", hidden])?;
    }
    for (target, ours) in BINDS {
        let ours = dir.join(ours);
        fs::create_dir_all(&ours).at("create", &ours)?;
        run_inside(dir, &["mkdir", target])?;
        run_inside(dir, &["mount", "--bind", &ours.to_string_lossy(), target])?;
    }
    for (name, value) in SYSCTLS {
        let file = dir.join("sysctl").join(name.replace('/', "."));
        fs::create_dir_all(dir.join("sysctl")).at("create", &file)?;
        fs::write(&file, format!("{value}\n")).at("write", &file)?;
        run_inside(dir, &["mount", "--bind", &file.to_string_lossy(), &format!("/proc/sys/{name}")])?;
    }
    Ok(())
}

fn link(dir: &Path) -> ClusterResult<Net> {
    let pid = holder(dir)?.map(|pid| pid.as_raw_nonzero().to_string()).unwrap_or_default();
    let free = (0..=u8::MAX).map(|index| Net { index });
    // Creating an interface is atomic, so nodes that start together get different numbers.
    let net = free
        .filter(|net| !Path::new("/sys/class/net").join(net.interface()).exists())
        .find(|net| {
            let peer = ["type", "veth", "peer", "name", "eth0", "netns", &pid];
            run(Command::new("ip").args(["link", "add", &net.interface()]).args(peer)).is_ok()
        })
        .ok_or_else(|| ClusterError::refused("no network interface could be made", "run as root; see `ip link`"))?;
    let interface = net.interface();
    let host = net.host().to_string();
    let node = net.node().to_string();
    let ip = |line: &str| run(Command::new("ip").args(line.split(' '))).map(drop);
    // names the owner: the next node reuses the name after its removal
    run(Command::new("ip").args(["link", "set", &interface, "alias"]).arg(dir))?;
    ip(&format!("address add {host}/30 dev {interface}"))?;
    ip(&format!("link set {interface} up"))?;
    ip(&format!("route add {} via {node}", net.pods()))?;
    ip(&format!("route add {} via {node}", net.services()))?;
    let inside = |line: &str| run_inside(dir, &line.split(' ').collect::<Vec<_>>()).map(drop);
    inside("ip link set lo up")?;
    inside(&format!("ip address add {node}/30 dev eth0"))?;
    inside("ip link set eth0 up")?;
    inside(&format!("ip route add default via {host}"))?;
    run_inside(dir, &["sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"])?;
    // Answers between two pods of one bridge must pass iptables, or a Service's address is not translated back.
    let bridged = "/proc/sys/net/bridge/bridge-nf-call-iptables";
    run_inside(dir, &["sh", "-c", &format!("echo 1 > {bridged}")]).map_err(|_| {
        ClusterError::refused("the kernel does not pass bridged packets to iptables", "run `modprobe br_netfilter`")
    })?;
    Ok(net)
}

/// Waits until the kernel removed the network of a node whose processes have ended.
pub(crate) fn remove(dir: &Path) -> ClusterResult<()> {
    let gone = || Ok(interfaces(dir)?.is_empty().then_some(()));
    if wait::until("the end of the node's network", Duration::from_secs(10), gone).is_err() {
        for interface in interfaces(dir)? {
            run(Command::new("ip").args(["link", "delete", &interface]))?;
        }
    }
    Ok(())
}

/// This machine's interfaces that lead to the node in `dir`.
fn interfaces(dir: &Path) -> ClusterResult<Vec<String>> {
    let all = Path::new("/sys/class/net");
    let entries = fs::read_dir(all).at("list", all)?.flatten();
    let ours = entries.filter(|entry| {
        fs::read_to_string(entry.path().join("ifalias")).is_ok_and(|alias| Path::new(alias.trim_end()) == dir)
    });
    Ok(ours.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect())
}
