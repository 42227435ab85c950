//! containerd, kubelet, kube-proxy, scheduler and coredns: their configurations and command lines.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::binaries::{self, location};
use crate::certs::{ClientSubject, ClusterAuthority};
use crate::control_plane::{Endpoints, option};
use crate::error::{At, ClusterResult};
use crate::image;
use crate::namespaces::Net;
use crate::process::ProcessSpec;

/// The name of the node.
pub const NODE_NAME: &str = "durward-node";

/// containerd's socket, usable from outside the node too.
pub(crate) fn containerd_socket(dir: &Path) -> PathBuf {
    dir.join("containerd.sock")
}

/// containerd's state: in the cluster's folder instead of the node's `/run`, to survive a crash.
fn containerd_state(dir: &Path) -> PathBuf {
    dir.join("containerd/state")
}

/// A folder for each container that runs, or ran when the node was killed.
pub(crate) fn containers(dir: &Path) -> PathBuf {
    containerd_state(dir).join("io.containerd.runtime.v2.task").join(CGROUP)
}

/// The containers' parent cgroup, called after containerd's namespace.
pub(crate) const CGROUP: &str = "k8s.io";

/// Writes every configuration file of the node.
pub(crate) fn configure(
    dir: &Path,
    authority: &ClusterAuthority,
    endpoints: &Endpoints,
    net: Net,
) -> ClusterResult<()> {
    let pki = dir.join("pki");
    let kubeconfig = |client: ClientSubject<'_>| {
        authority.kubeconfig(&pki.join(format!("{}.kubeconfig", client.file)), "durward", &endpoints.server(), client)
    };
    kubeconfig(ClientSubject { file: "scheduler", user: "system:kube-scheduler", group: None })?;
    kubeconfig(ClientSubject { file: "kube-proxy", user: "system:kube-proxy", group: None })?;
    kubeconfig(ClientSubject {
        file: "kubelet",
        user: &format!("system:node:{NODE_NAME}"),
        group: Some("system:nodes"),
    })?;
    // a process outside the cluster; Kubernetes' own role for DNS lacks EndpointSlices
    kubeconfig(ClientSubject { file: "coredns", user: "durward-cluster-dns", group: Some("system:masters") })?;
    authority.server("kubelet-server", &[NODE_NAME], &[net.node().into()])?;

    write(&dir.join("containerd.toml"), &containerd_toml(dir)?)?;
    write(&dir.join("cni/conf/10-durward.conflist"), &cni(net).to_string())?;
    // for pods with `dnsPolicy: Default`; the machine's own may name servers that the node can't reach
    write(&dir.join("resolv.conf"), &format!("nameserver {}\n", net.node()))?;
    write(&dir.join("kubelet.json"), &kubelet(dir, net).to_string())?;
    write(&dir.join("kube-proxy.json"), &kube_proxy(dir, net).to_string())?;
    write(&dir.join("Corefile"), &corefile(dir, net))
}

fn write(path: &Path, text: &str) -> ClusterResult<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).at("create", parent)?;
    }
    fs::write(path, text).at("write", path)
}

fn containerd_toml(dir: &Path) -> ClusterResult<String> {
    let quoted = |path: &Path| Value::from(path.to_string_lossy()).to_string();
    let cni_bin = location(binaries::CNI_BRIDGE)?;
    Ok(format!(
        r#"version = 3
root = {root}
state = {state}

[grpc]
address = {socket}

[plugins."io.containerd.internal.v1.opt"]
path = {opt}

[plugins."io.containerd.cri.v1.images"]
snapshotter = "overlayfs"

[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "{pause}"

[plugins."io.containerd.cri.v1.runtime"]
# Lowering a score takes CAP_SYS_RESOURCE, which root of a sandboxed machine may lack.
restrict_oom_score_adj = true

[plugins."io.containerd.cri.v1.runtime".containerd]
default_runtime_name = "runc"

[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
BinaryName = {runc}
SystemdCgroup = false

[plugins."io.containerd.cri.v1.runtime".cni]
bin_dirs = [{cni_bin}]
conf_dir = {cni_conf}
"#,
        root = quoted(&dir.join("containerd/root")),
        opt = quoted(&dir.join("containerd/opt")),
        state = quoted(&containerd_state(dir)),
        socket = quoted(&containerd_socket(dir)),
        pause = image::PAUSE,
        runc = quoted(&location(binaries::RUNC)?),
        cni_bin = quoted(cni_bin.parent().unwrap_or(&cni_bin)),
        cni_conf = quoted(&dir.join("cni/conf")),
    ))
}

fn cni(net: Net) -> Value {
    json!({"cniVersion": "1.0.0", "name": "durward", "plugins": [
        {
            "type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true,
            "ipam": {"type": "host-local", "ranges": [[{"subnet": net.pods()}]], "routes": [{"dst": "0.0.0.0/0"}]},
        },
        {"type": "portmap", "capabilities": {"portMappings": true}},
    ]})
}

fn kubelet(dir: &Path, net: Net) -> Value {
    let file = |name: &str| dir.join(name).display().to_string();
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": false},
            "webhook": {"enabled": true},
            "x509": {"clientCAFile": file("pki/ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": file("pki/kubelet-server.crt"),
        "tlsPrivateKeyFile": file("pki/kubelet-server.key"),
        "containerRuntimeEndpoint": format!("unix://{}", containerd_socket(dir).display()),
        "clusterDNS": [net.service(DNS_SERVICE)],
        "clusterDomain": "cluster.local",
        "resolvConf": file("resolv.conf"),
        "volumePluginDir": file("kubelet/volume-plugins"),
        // the machine may have cgroup v1, no systemd, swap, and little free disk
        "failCgroupV1": false,
        "cgroupDriver": "cgroupfs",
        "cgroupsPerQOS": false,
        "enforceNodeAllocatable": [],
        "failSwapOn": false,
        "localStorageCapacityIsolation": false,
        "evictionHard": {"memory.available": "50Mi", "nodefs.available": "1%", "imagefs.available": "1%", "nodefs.inodesFree": "1%"},
        "imageGCHighThresholdPercent": 100,
        // tests wait for these
        "syncFrequency": "10s",
        "nodeStatusUpdateFrequency": "5s",
        "shutdownGracePeriod": "0s",
    })
}

fn kube_proxy(dir: &Path, net: Net) -> Value {
    json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "iptables",
        "clientConnection": {"kubeconfig": dir.join("pki/kube-proxy.kubeconfig").display().to_string()},
        "hostnameOverride": NODE_NAME,
        "clusterCIDR": net.pods(),
        // Zero leaves the machine's connection tracking as it is.
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        // the delay from ready endpoints to a working Service
        "iptables": {"minSyncPeriod": "100ms"},
    })
}

fn corefile(dir: &Path, net: Net) -> String {
    format!(
        ".:53 {{
    bind {address}
    errors
    ready {address}:{DNS_READY_PORT}
    kubernetes cluster.local in-addr.arpa {{
        kubeconfig {kubeconfig} durward
        ttl 1
    }}
}}
",
        address = net.node(),
        kubeconfig = dir.join("pki/coredns.kubeconfig").display(),
    )
}

/// The port that coredns opens once it has read the cluster's Services.
pub(crate) const DNS_READY_PORT: u16 = 8181;

/// The DNS Service's number in the Service network.
const DNS_SERVICE: u8 = 10;

/// The objects that make coredns, a process of the node, the cluster's DNS.
pub(crate) fn dns_service(net: Net) -> Value {
    let labels = json!({"k8s-app": "kube-dns", "kubernetes.io/service-name": "kube-dns"});
    let ports = |target: &str| json!([{"name": "dns", "protocol": "UDP", target: 53}, {"name": "dns-tcp", "protocol": "TCP", target: 53}]);
    json!({"apiVersion": "v1", "kind": "List", "items": [
        {
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": "kube-dns", "namespace": "kube-system", "labels": labels},
            "spec": {"clusterIP": net.service(DNS_SERVICE), "ports": ports("port")},
        },
        {
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"name": "kube-dns", "namespace": "kube-system", "labels": labels},
            "addressType": "IPv4", "ports": ports("port"),
            "endpoints": [{"addresses": [net.node()], "conditions": {"ready": true}}],
        },
    ]})
}

pub(crate) fn scheduler(dir: &Path) -> ClusterResult<ProcessSpec> {
    Ok(ProcessSpec::new("kube-scheduler", location(binaries::SCHEDULER)?)
        .arg(option("kubeconfig", dir.join("pki/scheduler.kubeconfig").display()))
        .args(["--kube-api-qps=500", "--kube-api-burst=1000"])
        .args(["--leader-elect=false", "--secure-port=0", "--profiling=false"]))
}

pub(crate) fn containerd(dir: &Path) -> ClusterResult<ProcessSpec> {
    let program = location(binaries::CONTAINERD)?;
    let mut spec =
        ProcessSpec::new("containerd", &program).arg(option("config", dir.join("containerd.toml").display()));
    // it looks for its shim there
    spec.env.insert("PATH", path_with(&program));
    Ok(spec)
}

pub(crate) fn kubelet_process(dir: &Path, net: Net) -> ClusterResult<ProcessSpec> {
    let mut spec = ProcessSpec::new("kubelet", location(binaries::KUBELET)?)
        .arg(option("config", dir.join("kubelet.json").display()))
        .arg(option("kubeconfig", dir.join("pki/kubelet.kubeconfig").display()))
        .arg(option("hostname-override", NODE_NAME))
        .arg(option("node-ip", net.node()));
    spec.env.insert("PATH", path_with(&spec.program));
    Ok(spec)
}

pub(crate) fn kube_proxy_process(dir: &Path) -> ClusterResult<ProcessSpec> {
    let mut spec = ProcessSpec::new("kube-proxy", location(binaries::KUBE_PROXY)?)
        .arg(option("config", dir.join("kube-proxy.json").display()));
    spec.env.insert("PATH", path_with(&spec.program));
    Ok(spec)
}

pub(crate) fn coredns(dir: &Path) -> ClusterResult<ProcessSpec> {
    Ok(ProcessSpec::new("coredns", location(binaries::COREDNS)?).arg("-conf").arg(dir.join("Corefile")))
}

fn path_with(program: &Path) -> std::ffi::OsString {
    let mut path = program.parent().unwrap_or(program).as_os_str().to_owned();
    path.push(":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    path
}
