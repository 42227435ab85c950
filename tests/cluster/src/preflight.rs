//! Requirements on this machine, checked before anything is changed.

use std::path::PathBuf;
use std::process::Command;

use crate::binaries::{self, location};
use crate::command::{run, which};
use crate::error::{ClusterError, ClusterResult};

/// Programs that a node needs, and the Debian package of each.
const NODE_PROGRAMS: &[(&str, &str)] = &[
    ("unshare", "util-linux"),
    ("nsenter", "util-linux"),
    ("mount", "mount"),
    ("ip", "iproute2"),
    ("iptables", "iptables"),
    ("busybox", "busybox-static"),
];

/// Checks that a control plane can run.
pub(crate) fn control_plane() -> ClusterResult<()> {
    programs(&[("setpriv", "util-linux")])
}

/// Checks that this process is root.
pub(crate) fn root() -> ClusterResult<()> {
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    Err(ClusterError::refused("a node needs root, for its namespaces and containers", "run `sudo -E make cluster-up`"))
}

/// Checks that a node can run: Linux, root, programs, kernel features.
pub fn node() -> ClusterResult<()> {
    if std::env::consts::OS != "linux" {
        return Err(ClusterError::refused(
            "a node needs Linux",
            "set KUBECONFIG to a kind cluster's (see tests/cluster/README.md)",
        ));
    }
    root()?;
    control_plane()?;
    programs(NODE_PROGRAMS)?;
    static_busybox()?;
    if !location(binaries::RUNC)?.is_file() {
        programs(&[("pkg-config", "pkg-config"), ("gcc", "gcc")])?;
        run(Command::new("pkg-config").args(["--exists", "libseccomp"])).map_err(|_| {
            ClusterError::refused(
                "libseccomp's headers are missing, and runc has to be built",
                install("libseccomp-dev"),
            )
        })?;
    }
    // the first operation that a sandboxed root may lack
    run(Command::new("unshare").args(["--mount", "--net", "--pid", "--fork", "--mount-proc", "true"]))
        .map(drop)
        .map_err(|error| {
            ClusterError::refused(
                format!("no namespaces can be made here: {error}"),
                "run where root has CAP_SYS_ADMIN",
            )
        })
}

/// This machine's static busybox, for images.
pub(crate) fn static_busybox() -> ClusterResult<PathBuf> {
    let remedy = || install("busybox-static");
    let path = which("busybox").ok_or_else(|| ClusterError::refused("`busybox` is missing", remedy()))?;
    match run(Command::new("ldd").arg(&path)) {
        // ldd fails for static programs
        Err(_) => Ok(path),
        Ok(_) => Err(ClusterError::refused(format!("`{}` is not static", path.display()), remedy())),
    }
}

pub(crate) fn programs(needed: &[(&str, &str)]) -> ClusterResult<()> {
    let missing: Vec<_> = needed.iter().filter(|(program, _)| which(program).is_none()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let names = missing.iter().map(|(program, _)| format!("`{program}`")).collect::<Vec<_>>().join(", ");
    let mut packages: Vec<_> = missing.iter().map(|(_, package)| *package).collect();
    packages.dedup();
    Err(ClusterError::refused(format!("missing here: {names}"), install(&packages.join(" "))))
}

fn install(packages: &str) -> String {
    format!("install with `apt-get install -y {packages}`, or everything with `make cluster-deps`")
}
