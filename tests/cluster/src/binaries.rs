//! The programs of a cluster: their sources and builds.
//!
//! Each has a Go module under `go/`, since dependencies conflict. Its `tool` directives name the packages, its `go.sum`
//! pins them. A build is cached under a digest of both, so that a changed version is built again and an old checkout
//! finds its own.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::command::{run, which};
use crate::error::{At, ClusterError, ClusterResult};
use crate::paths;

/// A program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Binary {
    /// The file's name.
    pub name: &'static str,
    module: &'static Module,
    package: &'static str,
}

/// A module file under `go/` and how its programs are built.
#[derive(Debug, PartialEq, Eq)]
struct Module {
    name: &'static str,
    tags: &'static str,
    cgo: bool,
    /// The module path whose version is stamped into the programs, as in Kubernetes' own build.
    stamp: Option<&'static str>,
}

const KUBERNETES: Module = Module { name: "kubernetes", tags: "", cgo: false, stamp: Some("k8s.io/kubernetes") };
// the oldest version that agents support; cloud providers would be most of its code
const OLDEST_KUBERNETES: Module =
    Module { name: "kubernetes-1.29", tags: "providerless", cgo: false, stamp: Some("k8s.io/kubernetes") };
const ETCD_MODULE: Module = Module { name: "etcd", tags: "", cgo: false, stamp: None };
// without snapshotters that need C libraries
const CONTAINERD_MODULE: Module =
    Module { name: "containerd", tags: "no_btrfs,no_devmapper,no_zfs", cgo: false, stamp: None };
// containerd gives every container a seccomp profile; a runc without seccomp refuses it.
const RUNC_MODULE: Module = Module { name: "runc", tags: "seccomp", cgo: true, stamp: None };
const CNI_MODULE: Module = Module { name: "cni", tags: "", cgo: false, stamp: None };
const COREDNS_MODULE: Module = Module { name: "coredns", tags: "", cgo: false, stamp: None };
const SPIFFE_CLIENT_MODULE: Module = Module { name: "spiffe-client", tags: "", cgo: false, stamp: None };
// The server's store is SQLite, in C.
const SPIRE_MODULE: Module = Module { name: "spire", tags: "", cgo: true, stamp: None };
const HELM_MODULE: Module = Module { name: "helm", tags: "", cgo: false, stamp: None };
const CERT_MANAGER_MODULE: Module = Module { name: "cert-manager", tags: "", cgo: false, stamp: None };

/// Modules whose manifests are copied next to their programs: name, module path, folder in the module.
const MANIFESTS: &[(&str, &str, &str)] = &[("cert-manager", "github.com/cert-manager/cert-manager", "deploy/crds")];

macro_rules! binaries {
    ($($(#[$doc:meta])* $const:ident = $name:literal from $module:ident $package:literal;)*) => {
        $($(#[$doc])* pub const $const: Binary = Binary { name: $name, module: &$module, package: $package };)*
    };
}

binaries! {
    /// The API server.
    APISERVER = "kube-apiserver" from KUBERNETES "k8s.io/kubernetes/cmd/kube-apiserver";
    /// The API server of the oldest Kubernetes that agents support; built on demand.
    OLDEST_APISERVER = "kube-apiserver-1.29" from OLDEST_KUBERNETES "k8s.io/kubernetes/cmd/kube-apiserver";
    /// The controller manager.
    CONTROLLER_MANAGER = "kube-controller-manager" from KUBERNETES "k8s.io/kubernetes/cmd/kube-controller-manager";
    /// The scheduler.
    SCHEDULER = "kube-scheduler" from KUBERNETES "k8s.io/kubernetes/cmd/kube-scheduler";
    /// The node agent.
    KUBELET = "kubelet" from KUBERNETES "k8s.io/kubernetes/cmd/kubelet";
    /// The Service proxy.
    KUBE_PROXY = "kube-proxy" from KUBERNETES "k8s.io/kubernetes/cmd/kube-proxy";
    /// The command line client.
    KUBECTL = "kubectl" from KUBERNETES "k8s.io/kubernetes/cmd/kubectl";
    /// The API server's store.
    ETCD = "etcd" from ETCD_MODULE "go.etcd.io/etcd/server/v3";
    /// The container runtime.
    CONTAINERD = "containerd" from CONTAINERD_MODULE "github.com/containerd/containerd/v2/cmd/containerd";
    /// One per pod: holds its containers.
    SHIM = "containerd-shim-runc-v2" from CONTAINERD_MODULE "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2";
    /// containerd's client.
    CTR = "ctr" from CONTAINERD_MODULE "github.com/containerd/containerd/v2/cmd/ctr";
    /// Makes containers.
    RUNC = "runc" from RUNC_MODULE "github.com/opencontainers/runc";
    /// CNI: the pods' bridge.
    CNI_BRIDGE = "bridge" from CNI_MODULE "github.com/containernetworking/plugins/plugins/main/bridge";
    /// CNI: the pods' loopback interface.
    CNI_LOOPBACK = "loopback" from CNI_MODULE "github.com/containernetworking/plugins/plugins/main/loopback";
    /// CNI: the pods' addresses.
    CNI_HOST_LOCAL = "host-local" from CNI_MODULE "github.com/containernetworking/plugins/plugins/ipam/host-local";
    /// CNI: host ports.
    CNI_PORTMAP = "portmap" from CNI_MODULE "github.com/containernetworking/plugins/plugins/meta/portmap";
    /// The cluster's DNS.
    COREDNS = "coredns" from COREDNS_MODULE "github.com/coredns/coredns";
    /// Installs charts; built on demand.
    HELM = "helm" from HELM_MODULE "helm.sh/helm/v4/cmd/helm";
    /// cert-manager's controllers for certificates and webhook CAs; built on demand.
    CERT_MANAGER = "cert-manager" from CERT_MANAGER_MODULE ".";
    /// A Workload API client by go-spiffe; built on demand.
    SPIFFE_CLIENT = "spiffe-client" from SPIFFE_CLIENT_MODULE ".";
    /// SPIRE's agent, for its `api` commands and for another trust domain; built on demand.
    SPIRE_AGENT = "spire-agent" from SPIRE_MODULE "github.com/spiffe/spire/cmd/spire-agent";
    /// SPIRE's server, for another trust domain; built on demand.
    SPIRE_SERVER = "spire-server" from SPIRE_MODULE "github.com/spiffe/spire/cmd/spire-server";
}

/// The programs of a control plane.
pub const CONTROL_PLANE: &[Binary] = &[APISERVER, CONTROLLER_MANAGER, KUBECTL, ETCD];

/// The programs of a node with its control plane.
pub const NODE: &[Binary] = &[
    RUNC,
    APISERVER,
    CONTROLLER_MANAGER,
    SCHEDULER,
    KUBELET,
    KUBE_PROXY,
    KUBECTL,
    ETCD,
    CONTAINERD,
    SHIM,
    CTR,
    CNI_BRIDGE,
    CNI_LOOPBACK,
    CNI_HOST_LOCAL,
    CNI_PORTMAP,
    COREDNS,
];

/// Every program, for lookup by name.
const ALL: &[&[Binary]] = &[NODE, &[OLDEST_APISERVER, HELM, CERT_MANAGER, SPIFFE_CLIENT, SPIRE_AGENT, SPIRE_SERVER]];

/// The program called `name`.
pub fn named(name: &str) -> Option<Binary> {
    ALL.iter().copied().flatten().find(|binary| binary.name == name).copied()
}

/// The path of a program, built if needed.
pub fn path(binary: Binary) -> ClusterResult<PathBuf> {
    ensure(&[binary])?;
    location(binary)
}

/// The folder with the manifests of a program, built if needed.
pub fn manifests(binary: Binary) -> ClusterResult<PathBuf> {
    ensure(&[binary])?;
    Ok(built_dir(binary.module)?.join("manifests"))
}

/// Builds the programs that are neither in `$KUBEBUILDER_ASSETS` nor cached.
pub fn ensure(wanted: &[Binary]) -> ClusterResult<()> {
    let mut missing = BTreeMap::<&str, Vec<Binary>>::new();
    for binary in wanted {
        if !location(*binary)?.is_file() {
            missing.entry(binary.module.name).or_default().push(*binary);
        }
    }
    missing.into_values().try_for_each(|binaries| build(&binaries))
}

/// The path of `binary`, built or not.
pub(crate) fn location(binary: Binary) -> ClusterResult<PathBuf> {
    // envtest's convention; its folder holds etcd, kube-apiserver and kubectl.
    let assets = std::env::var_os("KUBEBUILDER_ASSETS").filter(|dir| !dir.is_empty());
    if let Some(path) = assets.map(|dir| Path::new(&dir).join(binary.name)).filter(|path| path.is_file()) {
        return Ok(path);
    }
    Ok(built_dir(binary.module)?.join(binary.name))
}

fn source(module: &Module) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("go").join(module.name)
}

fn built_dir(module: &Module) -> ClusterResult<PathBuf> {
    let mut digest = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    for file in ["go.mod", "go.sum", "main.go"] {
        let path = source(module).join(file);
        // most modules have no `main.go`
        if file != "main.go" || path.is_file() {
            digest.update(&fs::read(&path).at("read", &path)?);
        }
    }
    digest.update(format!("{module:?}").as_bytes());
    let hex = crate::hex(digest.finish().as_ref());
    Ok(paths::cache()?.join("bin").join(format!("{}-{}", module.name, hex.get(..12).unwrap_or(&hex))))
}

fn build(binaries: &[Binary]) -> ClusterResult<()> {
    let Some(module) = binaries.first().map(|binary| binary.module) else {
        return Ok(());
    };
    let dir = built_dir(module)?;
    fs::create_dir_all(&dir).at("create", &dir)?;
    // concurrent tests must not build the same program twice
    let lock_path = dir.join(".lock");
    let lock = File::create(&lock_path).at("create", &lock_path)?;
    lock.lock().at("lock", &lock_path)?;
    let missing: Vec<_> = binaries.iter().filter(|binary| !dir.join(binary.name).is_file()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let go = which("go").ok_or_else(|| {
        ClusterError::refused(
            "`go` is missing, and programs of the cluster have to be built",
            "install Go 1.26 or newer, or set KUBEBUILDER_ASSETS or KUBECONFIG",
        )
    })?;
    let names: Vec<_> = missing.iter().map(|binary| binary.name).collect();
    eprintln!("cluster: building {} from {} (minutes on first use)", names.join(", "), source(module).display());
    for binary in missing {
        let partial = dir.join(format!(".{}", binary.name));
        let mut command = Command::new(&go);
        command
            .current_dir(source(module))
            .env("GOFLAGS", "-mod=readonly -buildvcs=false")
            .env("CGO_ENABLED", if module.cgo { "1" } else { "0" })
            .env("GOWORK", "off")
            .args(["build", "-trimpath", "-tags", module.tags, "-ldflags", &link_flags(module)?, "-o"])
            .args([partial.as_path(), Path::new(binary.package)]);
        run(&mut command)?;
        copy_manifests(&go, module, &dir.join("manifests"))?;
        let built = dir.join(binary.name);
        fs::rename(&partial, &built).at("create", &built)?;
    }
    Ok(())
}

/// Copies the [`MANIFESTS`] of a module, since its sources may be gone when its programs are cached.
fn copy_manifests(go: &Path, module: &Module, to: &Path) -> ClusterResult<()> {
    let Some((_, path, folder)) = MANIFESTS.iter().find(|(name, _, _)| *name == module.name) else { return Ok(()) };
    let listed = run(Command::new(go).current_dir(source(module)).args(["list", "-m", "-f", "{{.Dir}}", path]))?;
    let from = Path::new(listed.trim()).join(folder);
    fs::create_dir_all(to).at("create", to)?;
    for entry in fs::read_dir(&from).at("list", &from)?.flatten() {
        let copy = to.join(entry.file_name());
        // a module's files are read-only, and so would be copies of them
        fs::write(&copy, fs::read(entry.path()).at("read", &entry.path())?).at("write", &copy)?;
    }
    Ok(())
}

fn link_flags(module: &Module) -> ClusterResult<String> {
    let Some(stamped) = module.stamp else {
        return Ok("-s -w".to_owned());
    };
    let path = source(module).join("go.mod");
    let text = fs::read_to_string(&path).at("read", &path)?;
    let version = text
        .lines()
        .find_map(|line| {
            line.trim().trim_start_matches("require ").strip_prefix(stamped)?.strip_prefix(" v")?.split(' ').next()
        })
        .ok_or_else(|| {
            ClusterError::invalid(format!("`{}`", path.display()), format!("requires no version of {stamped}"))
        })?;
    let mut parts = version.split('.');
    let major = parts.next().unwrap_or("1");
    let minor = parts.next().unwrap_or("0");
    let stamps = ["k8s.io/component-base/version", "k8s.io/client-go/pkg/version"].map(|package| {
        format!("-X {package}.gitVersion=v{version} -X {package}.gitMajor={major} -X {package}.gitMinor={minor}")
    });
    Ok(format!("-s -w {}", stamps.join(" ")))
}
