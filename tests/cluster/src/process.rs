//! Processes of a cluster: detached from the caller's terminal, found by a mark in their environment.
//!
//! A mark can't be lost or stale like a pid file: every process of the cluster has it from its first
//! instant, with any parent. Process ids are recorded too, for people.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{OnceLock, mpsc};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::error::{At, ClusterError, ClusterResult};
use crate::wait;

const CLUSTER_MARK: &str = "DURWARD_CLUSTER_OF";
const NAME_MARK: &str = "DURWARD_CLUSTER_PROCESS";

/// The command line of a process.
#[derive(Debug)]
pub(crate) struct ProcessSpec {
    /// Its name in the cluster and of its log.
    pub name: &'static str,
    pub program: PathBuf,
    pub args: Vec<OsString>,
    pub env: BTreeMap<&'static str, OsString>,
}

impl ProcessSpec {
    pub(crate) fn new(name: &'static str, program: impl Into<PathBuf>) -> Self {
        Self { name, program: program.into(), args: Vec::new(), env: BTreeMap::new() }
    }

    pub(crate) fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.args.push(arg.into());
        self
    }

    pub(crate) fn args<A: Into<OsString>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }
}

/// A running process.
#[derive(Debug, Clone)]
pub(crate) struct FoundProcess {
    pub pid: Pid,
    pub name: String,
    /// The program's file name.
    pub program: String,
}

/// Marks the process of `command` as part of the cluster in `dir`, so that it ends with the cluster at the latest.
pub(crate) fn mark<'a>(command: &'a mut Command, dir: &Path, name: &str) -> &'a mut Command {
    command.env(CLUSTER_MARK, dir).env(NAME_MARK, name)
}

/// Starts `spec` for the cluster in `dir`. With `end_with_us` the kernel kills it when this process ends.
pub(crate) fn start(dir: &Path, spec: &ProcessSpec, end_with_us: bool) -> ClusterResult<()> {
    let log_path = log_path(dir, spec.name);
    let log = File::options().create(true).append(true).open(&log_path).at("open", &log_path)?;
    let errors = log.try_clone().at("open", &log_path)?;
    let mut command = if end_with_us {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(&spec.program);
        command
    } else {
        Command::new(&spec.program)
    };
    mark(&mut command, dir, spec.name)
        .args(&spec.args)
        .envs(&spec.env)
        .current_dir(dir)
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(errors)
        // Ctrl-C at the terminal must not reach the cluster
        .process_group(0);
    let mut child = spawn(command).at("start", &spec.program)?;
    let pid_path = pid_path(dir, spec.name);
    fs::write(&pid_path, format!("{}\n", child.id())).at("write", &pid_path)?;
    // reaps the child, so no zombie remains
    std::thread::spawn(move || child.wait());
    Ok(())
}

/// Spawns from one thread that lives as long as this process: a parent-death signal fires when the *thread* ends.
fn spawn(command: Command) -> std::io::Result<Child> {
    type Job = (Command, mpsc::Sender<std::io::Result<Child>>);
    static SPAWNER: OnceLock<mpsc::Sender<Job>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (jobs, inbox) = mpsc::channel::<Job>();
        std::thread::spawn(move || {
            for (mut command, reply) in inbox {
                let _ = reply.send(command.spawn());
            }
        });
        jobs
    });
    let thread_ended = || std::io::Error::other("the spawning thread is gone");
    let (reply, answer) = mpsc::channel();
    spawner.send((command, reply)).map_err(|_| thread_ended())?;
    answer.recv().map_err(|_| thread_ended())?
}

/// The log of the process called `name`.
pub(crate) fn log_path(dir: &Path, name: &str) -> PathBuf {
    dir.join("log").join(format!("{name}.log"))
}

/// The last process id of the process called `name`.
pub(crate) fn pid_path(dir: &Path, name: &str) -> PathBuf {
    dir.join("log").join(format!("{name}.pid"))
}

/// All running processes of the cluster in `dir`.
pub(crate) fn of(dir: &Path) -> ClusterResult<Vec<FoundProcess>> {
    // an environment can't be read during exec: a second pass finds missed processes
    let mut found = scan(dir)?;
    std::thread::sleep(Duration::from_millis(5));
    for late in scan(dir)? {
        match found.iter_mut().find(|earlier| earlier.pid == late.pid) {
            Some(earlier) => *earlier = late,
            None => found.push(late),
        }
    }
    Ok(found)
}

fn scan(dir: &Path) -> ClusterResult<Vec<FoundProcess>> {
    let proc = Path::new("/proc");
    let mut found = Vec::new();
    for entry in fs::read_dir(proc).at("list", proc)?.flatten() {
        let pid = entry.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw);
        // a process may end meanwhile, or belong to another user: then it is not ours
        let (Some(pid), Ok(environ)) = (pid, fs::read(entry.path().join("environ"))) else {
            continue;
        };
        let variable = |name: &str| {
            environ.split(|byte| *byte == 0).find_map(|pair| pair.strip_prefix(name.as_bytes())?.strip_prefix(b"="))
        };
        if variable(CLUSTER_MARK) != Some(dir.as_os_str().as_encoded_bytes()) {
            continue;
        }
        let name = variable(NAME_MARK).map(String::from_utf8_lossy).unwrap_or_default().into_owned();
        let cmdline = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let called = cmdline.split(|byte| *byte == 0).next().map(String::from_utf8_lossy).unwrap_or_default();
        let program = called.rsplit('/').next().unwrap_or_default().to_owned();
        found.push(FoundProcess { pid, name, program });
    }
    Ok(found)
}

/// Ends the processes of `dir` that match `which`: by SIGTERM with `grace`, then by SIGKILL.
pub(crate) fn end(dir: &Path, grace: Option<Duration>, which: impl Fn(&FoundProcess) -> bool) -> ClusterResult<()> {
    let running = || Ok::<_, ClusterError>(of(dir)?.into_iter().filter(|found| which(found)).collect::<Vec<_>>());
    let none_left = || Ok((running()?.is_empty() && running()?.is_empty()).then_some(()));
    if let Some(grace) = grace {
        signal(&running()?, Signal::TERM);
        if wait::until("the processes' end", grace, none_left).is_ok() {
            return Ok(());
        }
    }
    wait::until("the end of killed processes", Duration::from_secs(30), || {
        signal(&running()?, Signal::KILL);
        none_left()
    })
}

fn signal(processes: &[FoundProcess], signal: Signal) {
    for found in processes {
        // it may have ended already
        let _ = kill_process(found.pid, signal);
    }
}

/// The last lines of the logs called `names`.
pub(crate) fn tail(dir: &Path, names: &[&str], lines: usize) -> String {
    let mut out = String::new();
    for name in names {
        let Ok(bytes) = fs::read(log_path(dir, name)) else {
            continue;
        };
        let text = String::from_utf8_lossy(&bytes);
        let all: Vec<_> = text.lines().collect();
        let last = all.get(all.len().saturating_sub(lines)..).unwrap_or_default();
        out.push_str(&format!("--- {name}, last lines\n{}\n", last.join("\n")));
    }
    out
}
