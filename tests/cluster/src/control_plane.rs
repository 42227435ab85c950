//! etcd, API server, controller manager: command lines and readiness.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::binaries::{self, location};
use crate::certs::{ClientSubject, ClusterAuthority};
use crate::error::{At, ClusterResult};
use crate::namespaces::Net;
use crate::ports;
use crate::process::ProcessSpec;

/// The addresses of a control plane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Endpoints {
    /// The API server's address.
    pub address: Ipv4Addr,
    pub api: u16,
    etcd: u16,
    etcd_peer: u16,
}

impl Endpoints {
    /// On the loopback, at free ports.
    pub(crate) fn free() -> ClusterResult<Self> {
        let address = Ipv4Addr::LOCALHOST;
        let port = || ports::free(address.into()).map(|free| free.port()).at("listen on", Path::new("127.0.0.1"));
        Ok(Self { address, api: port()?, etcd: port()?, etcd_peer: port()? })
    }

    /// In a node's network, at fixed ports.
    pub(crate) fn inside(net: Net) -> Self {
        Self { address: net.node(), api: 6443, etcd: 2379, etcd_peer: 2380 }
    }

    pub(crate) fn server(&self) -> String {
        format!("https://{}:{}", self.address, self.api)
    }
}

/// The Service network of a control plane without a node; its addresses are never used.
const UNUSED_SERVICES: (&str, Ipv4Addr) = ("10.215.0.0/24", Ipv4Addr::new(10, 215, 0, 1));

/// Creates the certificates and kubeconfigs of a control plane.
pub(crate) fn certificates(
    dir: &Path,
    context: &str,
    endpoints: &Endpoints,
    net: Option<Net>,
) -> ClusterResult<ClusterAuthority> {
    let authority = ClusterAuthority::create(dir.join("pki"))?;
    let service = net.map_or(UNUSED_SERVICES.1, |net| net.service(1));
    let names = [
        "localhost",
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
    ];
    let addresses = [Ipv4Addr::LOCALHOST, endpoints.address, service].map(IpAddr::V4);
    authority.server("apiserver", &names, &addresses)?;
    let masters = Some("system:masters");
    authority.client(ClientSubject {
        file: "apiserver-kubelet",
        user: "kube-apiserver-kubelet-client",
        group: masters,
    })?;
    let server = endpoints.server();
    let admin = ClientSubject { file: "admin", user: "durward-cluster-admin", group: masters };
    authority.kubeconfig(&dir.join("kubeconfig"), context, &server, admin)?;
    let manager = ClientSubject { file: "controller-manager", user: "system:kube-controller-manager", group: None };
    authority.kubeconfig(&dir.join("pki/controller-manager.kubeconfig"), context, &server, manager)?;
    Ok(authority)
}

pub(crate) fn etcd(dir: &Path, endpoints: &Endpoints) -> ClusterResult<ProcessSpec> {
    let client = format!("http://127.0.0.1:{}", endpoints.etcd);
    let peer = format!("http://127.0.0.1:{}", endpoints.etcd_peer);
    Ok(ProcessSpec::new("etcd", location(binaries::ETCD)?)
        .arg(option("data-dir", dir.join("etcd").display()))
        .arg(option("listen-client-urls", &client))
        .arg(option("advertise-client-urls", &client))
        .arg(option("listen-peer-urls", &peer))
        .arg(option("initial-advertise-peer-urls", &peer))
        .arg(option("initial-cluster", format!("default={peer}")))
        // its data need not survive a crash of this machine
        .args(["--unsafe-no-fsync", "--log-level=warn"]))
}

pub(crate) fn apiserver(
    program: &Path,
    dir: &Path,
    endpoints: &Endpoints,
    net: Option<Net>,
) -> ClusterResult<ProcessSpec> {
    let pki = |file: &str| dir.join("pki").join(file).display().to_string();
    let spec = ProcessSpec::new("kube-apiserver", program)
        .arg(option("etcd-servers", format!("http://127.0.0.1:{}", endpoints.etcd)))
        .arg(option("bind-address", endpoints.address))
        .arg(option("advertise-address", endpoints.address))
        .arg(option("secure-port", endpoints.api))
        .arg(option("service-cluster-ip-range", net.map_or(UNUSED_SERVICES.0.to_owned(), Net::services)))
        .arg(option("tls-cert-file", pki("apiserver.crt")))
        .arg(option("tls-private-key-file", pki("apiserver.key")))
        .arg(option("client-ca-file", pki("ca.crt")))
        .arg(option("service-account-issuer", "https://kubernetes.default.svc.cluster.local"))
        .arg(option("service-account-key-file", pki("sa.pub")))
        .arg(option("service-account-signing-key-file", pki("sa.key")))
        .arg(option("kubelet-client-certificate", pki("apiserver-kubelet.crt")))
        .arg(option("kubelet-client-key", pki("apiserver-kubelet.key")))
        .arg(option("kubelet-certificate-authority", pki("ca.crt")))
        // the node's name does not resolve, its address works
        .arg("--kubelet-preferred-address-types=InternalIP")
        .args(["--enable-admission-plugins=NodeRestriction", "--allow-privileged=true"])
        .args(["--profiling=false", "--shutdown-delay-duration=0s"]);
    let more = options(dir)?;
    // without nodes the node authorizer is not needed, and it would wait for v1 of resources that may be v1beta1
    let modes = if net.is_some() { "--authorization-mode=Node,RBAC" } else { "--authorization-mode=RBAC" };
    // One excludes the other.
    let configured = more.iter().any(|option| option.starts_with("--authorization-config="));
    let spec = if configured { spec } else { spec.arg(modes) }.args(&more);
    // A loopback address can't be the endpoint of Service `kubernetes`.
    Ok(if net.is_none() { spec.arg("--endpoint-reconciler-type=none") } else { spec })
}

/// Further options of the API server, one a line.
const OPTIONS: &str = "apiserver.options";

fn options(dir: &Path) -> ClusterResult<Vec<String>> {
    let path = dir.join(OPTIONS);
    match fs::read_to_string(&path) {
        Ok(text) => Ok(text.lines().map(ToOwned::to_owned).collect()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error).at("read", &path),
    }
}

/// Sets further options of the API server, for its next start.
pub(crate) fn set_options(dir: &Path, options: &[String]) -> ClusterResult<()> {
    let path = dir.join(OPTIONS);
    fs::write(&path, options.join("\n")).at("write", &path)
}

pub(crate) fn controller_manager(dir: &Path) -> ClusterResult<ProcessSpec> {
    let pki = |file: &str| dir.join("pki").join(file).display().to_string();
    Ok(ProcessSpec::new("kube-controller-manager", location(binaries::CONTROLLER_MANAGER)?)
        .arg(option("kubeconfig", pki("controller-manager.kubeconfig")))
        .arg(option("root-ca-file", pki("ca.crt")))
        .arg(option("service-account-private-key-file", pki("sa.key")))
        .arg(option("cluster-signing-cert-file", pki("ca.crt")))
        .arg(option("cluster-signing-key-file", pki("ca.key")))
        // with its default limits it needs five seconds to start, and tests wait for it
        .args(["--kube-api-qps=500", "--kube-api-burst=1000"])
        .args([
            "--use-service-account-credentials=true",
            "--leader-elect=false",
            "--secure-port=0",
            "--profiling=false",
        ]))
}

/// A command line option in the form that every Go program of the cluster reads.
pub(crate) fn option(name: &str, value: impl std::fmt::Display) -> String {
    format!("--{name}={value}")
}
