//! A `durward up` of a test's own, on free ports.

use crate::http::{HttpReply, request};
use crate::program::{durward, listening, run};
use crate::{audit, eventually, usage};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The command `durward up` with an address for each door. As users do, it names the manifests relative to its working
/// directory.
fn up_command(directory: &Path, manifests: &str, state: &Path, address: impl Fn(&str) -> String) -> Command {
    let mut command = durward();
    command.current_dir(directory).arg("up").arg(manifests).arg("--state").arg(state).arg("--json");
    for door in ["http", "https", "grpc", "grpcs", "tokens", "tokens-tls", "admin"] {
        command.arg(format!("--{door}")).arg(address(door));
    }
    command
}

/// A running `durward up`; killed when dropped.
pub struct UpProcess {
    child: Child,
    pub listen: BTreeMap<String, SocketAddr>,
    pub manifests: PathBuf,
    pub state: PathBuf,
    pub audit: PathBuf,
    stderr: Arc<Mutex<String>>,
    directory: TempDir,
}

impl UpProcess {
    /// Starts with these manifests: file names and contents.
    pub fn with(files: &[(&str, &str)]) -> Self {
        Self::start(files, &[])
    }

    /// Starts with further arguments.
    pub fn start(files: &[(&str, &str)], arguments: &[&str]) -> Self {
        Self::start_with(files, arguments, |_| ())
    }

    /// Starts with further arguments and a changed command.
    pub fn start_with(files: &[(&str, &str)], arguments: &[&str], change: impl FnOnce(&mut Command)) -> Self {
        let prepare = |directory: &Path| {
            let manifests = directory.join("manifests");
            fs::create_dir(&manifests).unwrap();
            for (name, text) in files {
                fs::write(manifests.join(name), text).unwrap();
            }
        };
        Self::start_in("manifests", prepare, arguments, change)
    }

    /// Starts with a path of manifests in a working directory that `prepare` fills.
    pub fn start_in(
        root: &str,
        prepare: impl FnOnce(&Path),
        arguments: &[&str],
        change: impl FnOnce(&mut Command),
    ) -> Self {
        let directory = tempfile::tempdir().unwrap();
        prepare(directory.path());
        let manifests = directory.path().join(root);
        let state = directory.path().join("state");
        let audit = directory.path().join("audit.log");
        let mut command = up_command(directory.path(), root, &state, |_| "127.0.0.1:0".to_owned());
        if !arguments.contains(&"--audit-log") {
            command.arg("--audit-log").arg(&audit);
        }
        change(&mut command);
        let (child, listen, stderr) = listening(command.args(arguments));
        Self { child, listen, manifests, state, audit, stderr, directory }
    }

    /// Starts again on the same addresses, after its end.
    pub fn restart(&mut self) {
        let mut command = up_command(self.directory(), "manifests", &self.state, |door| {
            self.listen[&door.replace('-', "_")].to_string()
        });
        (self.child, self.listen, self.stderr) = listening(command.arg("--audit-log").arg(&self.audit));
    }

    /// Its working directory.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Sends a signal, such as `HUP`.
    pub fn signal(&self, name: &str) {
        assert!(
            Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status().unwrap().success()
        );
    }

    /// Whether it still runs.
    pub fn runs(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Writes a manifest.
    pub fn write(&self, name: &str, text: &str) {
        fs::write(self.manifests.join(name), text).unwrap();
    }

    /// Its standard error so far.
    pub fn stderr(&self) -> String {
        self.stderr.lock().unwrap().clone()
    }

    /// Waits until its standard error contains `text`.
    pub fn wait_for_stderr(&self, text: &str) {
        eventually(&format!("standard error with {text:?}"), || self.stderr().contains(text).then_some(()))
            .unwrap_or_else(|what| panic!("{what}; standard error:\n{}", self.stderr()));
    }

    /// Runs `durward mint` with its state.
    pub fn mint(&self, arguments: &[&str]) -> String {
        let (code, stdout, stderr) = run(durward().arg("mint").args(arguments).arg("--state").arg(&self.state));
        assert_eq!(code, 0, "{stderr}");
        stdout.trim().to_owned()
    }

    /// A workload's token for an audience.
    pub fn token(&self, service_account: &str, audience: &str) -> String {
        self.mint(&["jwt", "--service-account", service_account, "--audience", audience])
    }

    /// Sends a request to the forward-auth door as nginx does.
    pub fn forward_auth(&self, method: &str, host: &str, uri: &str, headers: &[(&str, &str)]) -> HttpReply {
        let mut all = vec![("Host", host), ("X-Original-Method", method), ("X-Original-URI", uri)];
        all.extend(headers);
        request(self.listen["http"], "GET", "/forward-auth", &all, "")
    }

    /// Sends a request to the AuthZEN door.
    pub fn authzen(&self, path: &str, body: &Value) -> (u16, Value) {
        let reply = request(
            self.listen["http"],
            "POST",
            path,
            &[("Host", "durward"), ("Content-Type", "application/json")],
            &body.to_string(),
        );
        (reply.status, serde_json::from_str(&reply.body).unwrap_or(Value::String(reply.body)))
    }

    /// Waits for at least `count` audit records, and returns all.
    pub fn records(&self, count: usize) -> Vec<Value> {
        audit::records(&self.audit, count)
    }

    /// Waits for an audit record that `matches`: a response may arrive before its record is written.
    pub fn record(&self, what: &str, matches: impl Fn(&Value) -> bool) -> Value {
        audit::record(&self.audit, what, matches)
    }

    /// Sends SIGINT; returns the exit code and the time until exit.
    pub fn interrupt(&mut self) -> (Option<i32>, Duration) {
        let started = Instant::now();
        assert!(Command::new("kill").args(["-INT", &self.child.id().to_string()]).status().unwrap().success());
        let status = self.child.wait().unwrap();
        (status.code(), started.elapsed())
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Its resident memory in kB.
    pub fn resident(&self) -> u64 {
        usage::resident(self.child.id()).unwrap()
    }
}

impl Drop for UpProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
