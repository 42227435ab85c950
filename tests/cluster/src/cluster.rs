//! Clusters and namespaces, as tests use them.

use std::fs::File;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use crate::binaries::{self, Binary};
use crate::command::{run, run_with_input, which};
use crate::control_plane::{self, option};
use crate::error::{ClusterError, ClusterResult};
use crate::image::Image;
use crate::lifecycle::{self, ClusterSpec, Component, RunningCluster};
use crate::{paths, preflight, wait};

/// A Kubernetes cluster.
#[derive(Debug)]
pub struct Cluster {
    origin: ClusterOrigin,
    kubeconfig: PathBuf,
}

#[derive(Debug)]
enum ClusterOrigin {
    /// The shared node; it stays up when this value is dropped.
    Shared(RunningCluster),
    /// A control plane that ends with this value.
    Isolated(RunningCluster, #[expect(dead_code, reason = "held for its lock")] File),
    /// A kind cluster that `KUBECONFIG` names.
    Kind { name: String },
}

impl Cluster {
    /// The node that all tests of this machine share, brought up if needed. It stays up until
    /// [`crate::down`]. With `KUBECONFIG` of a kind cluster: that cluster.
    pub fn shared() -> ClusterResult<Self> {
        if let Some(kind) = Self::kind()? {
            return Ok(kind);
        }
        preflight::root()?;
        let dir = paths::state()?.join(lifecycle::SHARED);
        let _lock = lifecycle::lock(&dir)?;
        let running = match lifecycle::running(&dir).filter(|running| running.net.is_some()) {
            Some(running) => running,
            None => lifecycle::bring_up(
                &dir,
                ClusterSpec { node: true, owned: false, apiserver: binaries::APISERVER, arguments: &[] },
            )?,
        };
        Ok(Self { kubeconfig: running.kubeconfig(), origin: ClusterOrigin::Shared(running) })
    }

    /// A new control plane without a node (etcd, API server, controller manager), on free ports of the loopback. It ends
    /// with the value or with this process. Needs no root.
    pub fn isolated() -> ClusterResult<Self> {
        Self::isolated_with(&[])
    }

    /// As [`Cluster::isolated`], with further arguments of the API server.
    pub fn isolated_with(arguments: &[&str]) -> ClusterResult<Self> {
        Self::isolated_by(binaries::APISERVER, arguments)
    }

    /// As [`Cluster::isolated_with`], with this API server.
    pub fn isolated_by(apiserver: Binary, arguments: &[&str]) -> ClusterResult<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        collect_abandoned()?;
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let dir = paths::state()?.join(format!("isolated-{}-{number}", std::process::id()));
        let lock = lifecycle::lock(&dir)?;
        let running = lifecycle::bring_up(&dir, ClusterSpec { node: false, owned: true, apiserver, arguments })?;
        Ok(Self { kubeconfig: running.kubeconfig(), origin: ClusterOrigin::Isolated(running, lock) })
    }

    /// The cluster of `KUBECONFIG`, if that is a kind one.
    fn kind() -> ClusterResult<Option<Self>> {
        let Some(kubeconfig) = std::env::var_os("KUBECONFIG").filter(|path| !path.is_empty()).map(PathBuf::from) else {
            return Ok(None);
        };
        let config = option("kubeconfig", kubeconfig.display());
        let context = run(Command::new(kubectl_program()?).args([&config, "config", "current-context"]))?;
        match context.trim().split_once('-') {
            Some(("kind", name)) => {
                Ok(Some(Self { origin: ClusterOrigin::Kind { name: name.to_owned() }, kubeconfig }))
            }
            // the shared cluster's kubeconfig, as `make cluster-up` prints it
            Some(("durward", _)) => Ok(None),
            // tests create and delete objects, which must not happen to a cluster in use
            _ => Err(ClusterError::refused(
                format!(
                    "KUBECONFIG (`{}`) points to context `{}`, which is not a kind cluster",
                    kubeconfig.display(),
                    context.trim()
                ),
                "unset KUBECONFIG, or point it to a kind cluster's kubeconfig",
            )),
        }
    }

    /// The kubeconfig of an administrator.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// The cluster's folder, with its logs. None for a kind cluster.
    pub fn dir(&self) -> Option<&Path> {
        self.running().ok().map(|running| running.dir.as_path())
    }

    /// A client with an administrator's rights.
    pub async fn client(&self) -> ClusterResult<kube::Client> {
        let what = || format!("kubeconfig `{}`", self.kubeconfig.display());
        let kubeconfig = kube::config::Kubeconfig::read_from(&self.kubeconfig)
            .map_err(|error| ClusterError::invalid(what(), error))?;
        let config = kube::Config::from_custom_kubeconfig(kubeconfig, &kube::config::KubeConfigOptions::default())
            .await
            .map_err(|error| ClusterError::invalid(what(), error))?;
        kube::Client::try_from(config).map_err(|error| ClusterError::invalid(what(), error))
    }

    /// Runs kubectl and returns its output.
    pub fn kubectl<S: AsRef<str>>(&self, args: impl IntoIterator<Item = S>) -> ClusterResult<String> {
        run(&mut self.kubectl_command(args)?)
    }

    /// Applies a manifest, YAML or JSON.
    pub fn apply(&self, manifest: &str) -> ClusterResult<()> {
        run_with_input(&mut self.kubectl_command(["apply", "--filename=-"])?, manifest).map(drop)
    }

    fn kubectl_command<S: AsRef<str>>(&self, args: impl IntoIterator<Item = S>) -> ClusterResult<Command> {
        let mut command = Command::new(kubectl_program()?);
        if let Ok(running) = self.running() {
            command.env("KUBECACHEDIR", running.kubectl_cache());
        }
        command.arg(option("kubeconfig", self.kubeconfig.display()));
        args.into_iter().for_each(|arg| {
            command.arg(arg.as_ref());
        });
        Ok(command)
    }

    /// Creates a namespace whose name begins with `prefix`; it is deleted with the value.
    /// Returns when pods can be created in it.
    pub fn namespace(&self, prefix: &str) -> ClusterResult<Namespace<'_>> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let name = format!("{prefix}-{:x}", now.as_micros());
        self.kubectl(["create", "namespace", &name])?;
        let namespace = Namespace { cluster: self, name };
        self.until("the namespace's service account", Duration::from_secs(60), || {
            Ok(namespace.kubectl(["get", "serviceaccount", "default"]).ok())
        })?;
        Ok(namespace)
    }

    /// Loads an image into the node.
    pub fn load_image(&self, image: &Image) -> ClusterResult<()> {
        self.load_archive(image.archive_file()?.path())
    }

    /// Loads an archive in the format of `docker save` into the node.
    pub fn load_archive(&self, archive: &Path) -> ClusterResult<()> {
        match &self.origin {
            ClusterOrigin::Kind { name } => {
                let archive = archive.to_string_lossy();
                run(Command::new("kind").args(["load", "image-archive", &archive, "--name", name])).map(drop)
            }
            ClusterOrigin::Shared(running) | ClusterOrigin::Isolated(running, _) => running.load_archive(archive),
        }
    }

    /// The address at which pods and the API server reach servers of this machine.
    pub fn host_address(&self) -> ClusterResult<IpAddr> {
        let running = self.running()?;
        Ok(running.net.map_or(IpAddr::V4(running.endpoints.address), |net| IpAddr::V4(net.host())))
    }

    /// Stops a component. Pods keep running.
    pub fn stop(&self, component: Component) -> ClusterResult<()> {
        self.running()?.stop(component)
    }

    /// Starts a component and waits until it is ready.
    pub fn start(&self, component: Component) -> ClusterResult<()> {
        let running = self.running()?;
        running.start(component)?;
        running.await_ready(component)
    }

    /// Restarts a component and waits until it is ready.
    pub fn restart(&self, component: Component) -> ClusterResult<()> {
        self.stop(component)?;
        self.start(component)
    }

    /// Restarts the API server with further options, such as `--authorization-config=FILE`, in place of those before.
    pub fn api_server_options(&self, options: &[String]) -> ClusterResult<()> {
        control_plane::set_options(&self.running()?.dir, options)?;
        self.restart(Component::ApiServer)
    }

    fn running(&self) -> ClusterResult<&RunningCluster> {
        match &self.origin {
            ClusterOrigin::Shared(running) | ClusterOrigin::Isolated(running, _) => Ok(running),
            ClusterOrigin::Kind { name } => Err(ClusterError::refused(
                format!("the processes of kind cluster `{name}` can't be controlled"),
                "unset KUBECONFIG to have a node of our own",
            )),
        }
    }

    /// Waits for a condition. After `limit` the error has [`Cluster::diagnostics`].
    pub fn until<T>(
        &self,
        what: &str,
        limit: Duration,
        condition: impl FnMut() -> ClusterResult<Option<T>>,
    ) -> ClusterResult<T> {
        wait::until(what, limit, condition).map_err(|error| error.with_logs(|| self.diagnostics()))
    }

    /// Pods, recent events and the last lines of every log, for failed tests.
    pub fn diagnostics(&self) -> String {
        let ask = |args: &[&str]| self.kubectl(args).unwrap_or_else(|error| error.to_string());
        let pods = ask(&["get", "pods", "--all-namespaces", "--output=wide", "--request-timeout=10s"]);
        let events = ask(&["get", "events", "--all-namespaces", "--sort-by=.lastTimestamp", "--request-timeout=10s"]);
        let events: Vec<_> = events.lines().collect();
        let recent = events.get(events.len().saturating_sub(30)..).unwrap_or_default().join("\n");
        let logs = self.running().map(|running| running.logs(15)).unwrap_or_default();
        format!("--- pods\n{pods}\n--- events\n{recent}\n{logs}")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let ClusterOrigin::Isolated(running, _) = &self.origin
            && let Err(error) = lifecycle::retire(&running.dir)
        {
            eprintln!("cluster: {error}");
        }
    }
}

/// The built kubectl, else the one on `PATH`, since a build takes minutes.
fn kubectl_program() -> ClusterResult<PathBuf> {
    let built = binaries::location(binaries::KUBECTL)?;
    if built.is_file() {
        return Ok(built);
    }
    which(binaries::KUBECTL.name).map_or_else(|| binaries::path(binaries::KUBECTL), Ok)
}

/// Takes down isolated clusters whose owners have ended.
fn collect_abandoned() -> ClusterResult<()> {
    for dir in lifecycle::dirs()?.into_iter().filter(|dir| !dir.ends_with(lifecycle::SHARED)) {
        if let Some(_lock) = lifecycle::try_lock(&dir)? {
            lifecycle::retire(&dir)?;
        }
    }
    Ok(())
}

/// A test's own namespace.
#[derive(Debug)]
pub struct Namespace<'a> {
    cluster: &'a Cluster,
    name: String,
}

impl Namespace<'_> {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs kubectl in it.
    pub fn kubectl<S: AsRef<str>>(&self, args: impl IntoIterator<Item = S>) -> ClusterResult<String> {
        let mut command = self.cluster.kubectl_command([option("namespace", &self.name)])?;
        args.into_iter().for_each(|arg| {
            command.arg(arg.as_ref());
        });
        run(&mut command)
    }

    /// Applies a manifest in it.
    pub fn apply(&self, manifest: &str) -> ClusterResult<()> {
        let command = self.cluster.kubectl_command([&option("namespace", &self.name), "apply", "--filename=-"]);
        run_with_input(&mut command?, manifest).map(drop)
    }

    /// Waits until `object` (`pod/web`, `deployment/web`) has `condition` (`Ready`, `Available`).
    pub fn await_condition(&self, object: &str, condition: &str) -> ClusterResult<()> {
        self.await_jsonpath(object, &format!("{{.status.conditions[?(@.type==\"{condition}\")].status}}"), "True")
    }

    /// Waits until `path` of `object` has `value`.
    pub fn await_jsonpath(&self, object: &str, path: &str, value: &str) -> ClusterResult<()> {
        let output = option("output", format!("jsonpath={path}"));
        self.cluster.until(&format!("{object} having {path} = {value}"), Duration::from_secs(120), || {
            let found = self.kubectl(["get", object, &output, "--ignore-not-found"]);
            // a restarting API server responds again soon
            Ok(found.ok().filter(|found| found == value).map(drop))
        })
    }
}

impl Drop for Namespace<'_> {
    fn drop(&mut self) {
        // kills pods at once, without their grace period
        let pods = ["delete", "pods", "--all", "--grace-period=0", "--force", "--wait=false"];
        let gone =
            self.kubectl(pods).and_then(|_| self.cluster.kubectl(["delete", "namespace", &self.name, "--wait=false"]));
        if let Err(error) = gone {
            eprintln!("cluster: {error}");
        }
    }
}
