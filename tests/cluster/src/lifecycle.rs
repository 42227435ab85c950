//! Brings clusters up and takes them down, in any state after a crash.

use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::binaries::{self, Binary, location};
use crate::command::{run, run_with_input};
use crate::control_plane::{self, Endpoints};
use crate::error::{At, ClusterError, ClusterResult};
use crate::namespaces::{self, Net};
use crate::process::{self, ProcessSpec};
use crate::{image, node, paths, preflight, wait};

/// The time limit for a component to become ready: usually seconds, on a busy two-core machine a minute.
const READY: Duration = Duration::from_secs(180);

/// One process of a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Component {
    /// The store.
    Etcd,
    /// The API server.
    ApiServer,
    /// The controller manager.
    ControllerManager,
    /// The scheduler.
    Scheduler,
    /// The container runtime.
    Containerd,
    /// The node agent.
    Kubelet,
    /// The Service proxy.
    KubeProxy,
    /// The cluster's DNS.
    CoreDns,
}

/// The components in the order of their start.
const CONTROL_PLANE: &[Component] = &[Component::Etcd, Component::ApiServer, Component::ControllerManager];
const NODE: &[Component] =
    &[Component::Scheduler, Component::Containerd, Component::Kubelet, Component::KubeProxy, Component::CoreDns];

impl Component {
    /// The name of its program and log.
    pub fn name(self) -> &'static str {
        match self {
            Self::Etcd => "etcd",
            Self::ApiServer => "kube-apiserver",
            Self::ControllerManager => "kube-controller-manager",
            Self::Scheduler => "kube-scheduler",
            Self::Containerd => "containerd",
            Self::Kubelet => "kubelet",
            Self::KubeProxy => "kube-proxy",
            Self::CoreDns => "coredns",
        }
    }
}

/// A running cluster; stored as `cluster.json` in its folder.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct RunningCluster {
    pub dir: PathBuf,
    pub endpoints: Endpoints,
    pub net: Option<Net>,
    /// Its processes end with the process that started them.
    owned: bool,
    /// Further arguments of the API server.
    #[serde(default)]
    arguments: Vec<String>,
    /// The API server's program, which identifies the version.
    apiserver: PathBuf,
}

/// The options of [`bring_up`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct ClusterSpec<'a> {
    pub node: bool,
    /// The cluster ends with the process that started it.
    pub owned: bool,
    /// The API server.
    pub apiserver: Binary,
    /// Further arguments of the API server.
    pub arguments: &'a [&'a str],
}

impl RunningCluster {
    fn components(&self) -> impl Iterator<Item = Component> {
        let node: &[Component] = if self.net.is_some() { NODE } else { &[] };
        CONTROL_PLANE.iter().chain(node).copied()
    }

    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.dir.join("kubeconfig")
    }

    /// kubectl's cache, not the user's: entries are by address, and the next cluster at this one has other resources.
    pub(crate) fn kubectl_cache(&self) -> PathBuf {
        self.dir.join("kubectl")
    }

    fn spec(&self, component: Component) -> ClusterResult<ProcessSpec> {
        let dir = &self.dir;
        let spec = match (component, self.net) {
            (Component::Etcd, _) => control_plane::etcd(dir, &self.endpoints),
            (Component::ApiServer, net) => control_plane::apiserver(&self.apiserver, dir, &self.endpoints, net)
                .map(|spec| spec.args(self.arguments.clone())),
            (Component::ControllerManager, _) => control_plane::controller_manager(dir),
            (Component::Scheduler, Some(_)) => node::scheduler(dir),
            (Component::Containerd, Some(_)) => node::containerd(dir),
            (Component::Kubelet, Some(net)) => node::kubelet_process(dir, net),
            (Component::KubeProxy, Some(_)) => node::kube_proxy_process(dir),
            (Component::CoreDns, Some(_)) => node::coredns(dir),
            (component, None) => Err(ClusterError::refused(
                format!("this control plane has no {}", component.name()),
                "use `Cluster::shared()`",
            )),
        }?;
        if self.net.is_some() { namespaces::enter(dir, spec) } else { Ok(spec) }
    }

    /// Starts a component without waiting for it.
    pub(crate) fn start(&self, component: Component) -> ClusterResult<()> {
        process::start(&self.dir, &self.spec(component)?, self.owned)
    }

    /// Ends a component by SIGTERM, then by SIGKILL.
    pub(crate) fn stop(&self, component: Component) -> ClusterResult<()> {
        process::end(&self.dir, Some(Duration::from_secs(10)), |found| found.program == component.name())
    }

    /// Returns an error if one of these components has ended.
    fn check_alive(&self, components: &[Component]) -> ClusterResult<()> {
        let found = process::of(&self.dir)?;
        // by name, since a new one may still be in setpriv or nsenter; but containerd's shims, which inherit its
        // name, outlive it
        let runs = |name: &str| found.iter().any(|found| found.name == name && found.program != binaries::SHIM.name);
        match components.iter().find(|component| !runs(component.name())) {
            Some(gone) => {
                Err(ClusterError::Ended { name: gone.name(), logs: process::tail(&self.dir, &[gone.name()], 30) })
            }
            None => Ok(()),
        }
    }

    /// Waits until `component` is ready.
    pub(crate) fn await_ready(&self, component: Component) -> ClusterResult<()> {
        let what = format!("{} being ready", component.name());
        wait::until(&what, READY, || {
            self.check_alive(&[Component::Etcd, component])?;
            Ok(self.is_ready(component).then_some(()))
        })
        .map_err(|error| error.with_logs(|| self.logs(20)))
    }

    fn is_ready(&self, component: Component) -> bool {
        let kubelet = format!("--raw=/api/v1/nodes/{}/proxy/healthz", node::NODE_NAME);
        match component {
            Component::ApiServer => {
                // a connection is cheap; kubectl takes CPU that the server needs
                listens(self.endpoints.address, self.endpoints.api)
                    && self.kubectl(&["get", "--raw=/readyz", "--request-timeout=10s"]).is_ok()
            }
            Component::ControllerManager => {
                self.kubectl(&["get", "serviceaccount", "default", "--namespace=default"]).is_ok()
            }
            Component::Containerd => self.ctr(&["version"]).is_ok(),
            Component::Kubelet => {
                let ready = r#"jsonpath={.status.conditions[?(@.type=="Ready")].status}"#;
                self.kubectl(&["get", &kubelet]).is_ok_and(|answer| answer == "ok")
                    && self
                        .kubectl(&["get", "node", node::NODE_NAME, "--output", ready])
                        .is_ok_and(|status| status == "True")
            }
            Component::CoreDns => self.net.is_some_and(|net| listens(net.node(), node::DNS_READY_PORT)),
            // these have no readiness check: other checks notice their failures
            Component::Etcd | Component::Scheduler | Component::KubeProxy => true,
        }
    }

    pub(crate) fn kubectl(&self, args: &[&str]) -> ClusterResult<String> {
        run(self.kubectl_command()?.args(args))
    }

    pub(crate) fn kubectl_command(&self) -> ClusterResult<Command> {
        let mut command = Command::new(location(binaries::KUBECTL)?);
        process::mark(&mut command, &self.dir, "kubectl");
        command.env("KUBECACHEDIR", self.kubectl_cache());
        command.arg(control_plane::option("kubeconfig", self.kubeconfig().display()));
        Ok(command)
    }

    fn ctr(&self, args: &[&str]) -> ClusterResult<String> {
        let mut command = Command::new(location(binaries::CTR)?);
        run(process::mark(&mut command, &self.dir, "ctr")
            .arg("--address")
            .arg(node::containerd_socket(&self.dir))
            .args(["--namespace", "k8s.io"])
            .args(args))
    }

    /// Loads an archive of images into containerd.
    pub(crate) fn load_archive(&self, archive: &Path) -> ClusterResult<()> {
        self.ctr(&["images", "import", &archive.to_string_lossy()]).map(drop)
    }

    /// The last lines of each component's log.
    pub(crate) fn logs(&self, lines: usize) -> String {
        let names: Vec<_> = self.components().map(Component::name).collect();
        process::tail(&self.dir, &names, lines)
    }
}

/// Whether a port accepts connections. Times out if the network is gone.
fn listens(address: Ipv4Addr, port: u16) -> bool {
    TcpStream::connect_timeout(&(address, port).into(), Duration::from_secs(1)).is_ok()
}

/// The cluster in `dir`, if it is complete, of the current version, and responds.
pub(crate) fn running(dir: &Path) -> Option<RunningCluster> {
    let running: RunningCluster = serde_json::from_slice(&fs::read(dir.join("cluster.json")).ok()?).ok()?;
    let components: Vec<_> = running.components().collect();
    let current = location(binaries::APISERVER).is_ok_and(|apiserver| apiserver == running.apiserver);
    (current && running.check_alive(&components).is_ok() && running.is_ready(Component::ApiServer)).then_some(running)
}

/// Brings up a cluster in `dir`, after removing remains of an earlier one.
pub(crate) fn bring_up(dir: &Path, wanted: ClusterSpec<'_>) -> ClusterResult<RunningCluster> {
    if wanted.node {
        preflight::node()?;
        namespaces::check_dir(dir)?;
        binaries::ensure(binaries::NODE)?;
    } else {
        preflight::control_plane()?;
        binaries::ensure(binaries::CONTROL_PLANE)?;
        binaries::ensure(&[wanted.apiserver])?;
    }
    let mut attempts = 3;
    loop {
        attempts -= 1;
        match try_bring_up(dir, wanted) {
            // another process may have taken a chosen port
            Err(ClusterError::Ended { .. }) if attempts > 0 && !wanted.node => {}
            Err(error) => {
                if wanted.owned {
                    take_down(dir)?;
                }
                return Err(error);
            }
            done => return done,
        }
    }
}

fn try_bring_up(dir: &Path, wanted: ClusterSpec<'_>) -> ClusterResult<RunningCluster> {
    let begun = Instant::now();
    take_down(dir)?;
    let log = dir.join("log");
    fs::create_dir_all(&log).at("create", &log)?;
    let name = dir.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let net = if wanted.node { Some(namespaces::create(dir)?) } else { None };
    let endpoints = net.map_or_else(Endpoints::free, |net| Ok(Endpoints::inside(net)))?;
    let arguments = wanted.arguments.iter().map(|argument| (*argument).to_owned()).collect();
    let apiserver = location(wanted.apiserver)?;
    let running = RunningCluster { dir: dir.to_owned(), endpoints, net, owned: wanted.owned, arguments, apiserver };
    let authority = control_plane::certificates(dir, &format!("durward-{name}"), &endpoints, net)?;
    running.start(Component::Etcd)?;
    running.start(Component::ApiServer)?;
    if let Some(net) = net {
        node::configure(dir, &authority, &endpoints, net)?;
        running.start(Component::Containerd)?;
    }
    running.await_ready(Component::ApiServer)?;
    running.start(Component::ControllerManager)?;
    if let Some(net) = net {
        running.await_ready(Component::Containerd)?;
        for image in [image::pause()?, image::busybox()?] {
            running.load_archive(image.archive_file()?.path())?;
        }
        for component in [Component::Kubelet, Component::Scheduler, Component::KubeProxy, Component::CoreDns] {
            running.start(component)?;
        }
        let objects = node::dns_service(net).to_string();
        run_with_input(running.kubectl_command()?.args(["apply", "--filename=-"]), &objects)?;
        running.await_ready(Component::Kubelet)?;
        running.await_ready(Component::CoreDns)?;
    }
    running.await_ready(Component::ControllerManager)?;
    let file = dir.join("cluster.json");
    let text =
        serde_json::to_vec_pretty(&running).map_err(|error| ClusterError::invalid("the cluster's state", error))?;
    fs::write(&file, text).at("write", &file)?;
    eprintln!("cluster: {name} is up after {:.1} s", begun.elapsed().as_secs_f32());
    Ok(running)
}

/// Ends the cluster in `dir` and removes every trace of it.
pub(crate) fn take_down(dir: &Path) -> ClusterResult<()> {
    process::end(dir, None, |_| true)?;
    namespaces::remove(dir)?;
    unmount_below(dir)?;
    remove_cgroups(dir)?;
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error).at("remove", dir),
        _ => Ok(()),
    }
}

/// Unmounts everything below `dir`, since removing the folder would remove the mounted files, too.
fn unmount_below(dir: &Path) -> ClusterResult<()> {
    let file = Path::new("/proc/self/mounts");
    let mounts = fs::read_to_string(file).at("read", file)?;
    let below =
        mounts.lines().filter_map(|line| line.split(' ').nth(1)).filter(|target| Path::new(target).starts_with(dir));
    // the last mount is on top
    for target in below.collect::<Vec<_>>().into_iter().rev() {
        run(Command::new("umount").arg(target))?;
    }
    Ok(())
}

/// Removes the empty cgroups of containers that were killed with their node.
fn remove_cgroups(dir: &Path) -> ClusterResult<()> {
    let root = Path::new("/sys/fs/cgroup");
    let below =
        |path: &Path| fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path()).collect::<Vec<_>>();
    let containers = below(&node::containers(dir));
    for parent in below(root).iter().map(PathBuf::as_path).chain([root]).map(|hierarchy| hierarchy.join(node::CGROUP)) {
        for cgroup in containers.iter().filter_map(|container| Some(parent.join(container.file_name()?))) {
            // the last process inside may take a moment to end
            wait::until(&format!("the removal of cgroup {}", cgroup.display()), Duration::from_secs(20), || {
                remove_cgroup(&cgroup);
                Ok((!cgroup.exists()).then_some(()))
            })?;
        }
        // fails while another node has containers in it
        let _ = fs::remove_dir(&parent);
    }
    Ok(())
}

/// Removes an empty cgroup and those below it.
fn remove_cgroup(path: &Path) {
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_cgroup(&entry.path());
        }
    }
    let _ = fs::remove_dir(path);
}

/// The lock of the cluster in `dir`: a file next to the folder, since the folder itself may be removed.
fn lock_file(dir: &Path) -> ClusterResult<(PathBuf, File)> {
    if let Some(state) = dir.parent() {
        fs::create_dir_all(state).at("create", state)?;
    }
    let path = dir.with_extension("lock");
    let file = File::create(&path).at("create", &path)?;
    Ok((path, file))
}

/// Takes the lock of `dir`, waiting as long as needed.
pub(crate) fn lock(dir: &Path) -> ClusterResult<File> {
    let (path, file) = lock_file(dir)?;
    file.lock().at("lock", &path)?;
    Ok(file)
}

/// Takes the lock of `dir`; `None` if it is held.
pub(crate) fn try_lock(dir: &Path) -> ClusterResult<Option<File>> {
    let (path, file) = lock_file(dir)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(fs::TryLockError::WouldBlock) => Ok(None),
        Err(fs::TryLockError::Error(source)) => Err(source).at("lock", &path),
    }
}

/// Takes down a cluster whose lock this process holds, and removes the lock file.
pub(crate) fn retire(dir: &Path) -> ClusterResult<()> {
    take_down(dir)?;
    let path = dir.with_extension("lock");
    // other processes may wait for the shared cluster's lock, so its file stays
    if dir.ends_with(SHARED) { Ok(()) } else { fs::remove_file(&path).at("remove", &path) }
}

/// The name of the cluster that tests share.
pub(crate) const SHARED: &str = "shared";

/// The folders of all clusters.
pub(crate) fn dirs() -> ClusterResult<Vec<PathBuf>> {
    let state = paths::state()?;
    let Ok(entries) = fs::read_dir(&state) else {
        return Ok(Vec::new());
    };
    let mut dirs: Vec<_> = entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
    dirs.sort();
    Ok(dirs)
}

/// Takes down every cluster except those of running tests, and returns the folders of these.
pub fn down() -> ClusterResult<Vec<PathBuf>> {
    let mut in_use = Vec::new();
    for dir in dirs()? {
        match try_lock(&dir)? {
            Some(_lock) => retire(&dir)?,
            None => in_use.push(dir),
        }
    }
    Ok(in_use)
}

/// The status of a cluster.
#[derive(Debug)]
pub struct ClusterStatus {
    /// Its folder.
    pub dir: PathBuf,
    /// Whether all components run and the API server responds.
    pub ready: bool,
    /// Name and process id of each running component.
    pub processes: Vec<(String, i32)>,
}

/// The status of all clusters.
pub fn status() -> ClusterResult<Vec<ClusterStatus>> {
    let mut all = Vec::new();
    for dir in dirs()? {
        let found = process::of(&dir)?;
        let components: Vec<_> = CONTROL_PLANE.iter().chain(NODE).map(|component| component.name()).collect();
        let own = found.into_iter().filter(|found| components.contains(&found.program.as_str()));
        let processes = own.map(|found| (found.name, found.pid.as_raw_nonzero().get())).collect();
        all.push(ClusterStatus { ready: running(&dir).is_some(), processes, dir });
    }
    Ok(all)
}
