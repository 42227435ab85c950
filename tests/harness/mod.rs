//! A real `durward up` for a test, on ports of its own.

#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "each test uses a part of it"
)]

mod ports;
pub mod usage;

use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long anything that is waited for may take; generous, since it is only reached on failure.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// The binary under test.
pub fn durward() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_durward"));
    command.env_remove("DURWARD_STATE").env_remove("DURWARD_TRUST_DOMAIN");
    command
}

/// Starts one of the binary's servers with `--json`, and waits until it tells where it listens.
pub fn listening(command: &mut Command) -> (Child, BTreeMap<String, SocketAddr>, Arc<Mutex<String>>) {
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let stderr = Arc::new(Mutex::new(String::new()));
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut listen = None;
    for line in lines.by_ref() {
        let line = line.unwrap();
        if line.starts_with('{') {
            let told: BTreeMap<String, Option<SocketAddr>> = serde_json::from_str(&line).unwrap();
            listen = Some(told.into_iter().filter_map(|(name, address)| Some((name, address?))).collect());
            break;
        }
        stderr.lock().unwrap().push_str(&(line + "\n"));
    }
    let collected = Arc::clone(&stderr);
    std::thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            collected.lock().unwrap().push_str(&(line + "\n"));
        }
    });
    let listen = listen.unwrap_or_else(|| panic!("it did not start: {}", stderr.lock().unwrap()));
    (child, listen, stderr)
}

/// `durward up`, with the address of each door.
fn up_command(manifests: &Path, state: &Path, address: impl Fn(&str) -> String) -> Command {
    let mut command = durward();
    command.arg("up").arg(manifests).arg("--state").arg(state).arg("--json");
    for door in ["http", "https", "grpc", "grpcs", "tokens", "tokens-tls", "admin"] {
        command.arg(format!("--{door}")).arg(address(door));
    }
    command
}

/// Runs a command to its end.
pub fn run(command: &mut Command) -> (i32, String, String) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    (status.code().unwrap_or(-1), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

/// A running `durward up`; killed when dropped.
pub struct Up {
    child: Child,
    pub listen: BTreeMap<String, SocketAddr>,
    pub manifests: PathBuf,
    pub state: PathBuf,
    pub audit: PathBuf,
    stderr: Arc<Mutex<String>>,
    _directory: TempDir,
}

impl Up {
    /// Starts with these files in its directory of manifests.
    pub fn with(files: &[(&str, &str)]) -> Self {
        Self::start(files, &[])
    }

    /// Starts with further arguments.
    pub fn start(files: &[(&str, &str)], arguments: &[&str]) -> Self {
        Self::start_with(files, arguments, |_| ())
    }

    /// Starts with further arguments, and with what else its command is to have.
    pub fn start_with(files: &[(&str, &str)], arguments: &[&str], more: impl FnOnce(&mut Command)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (manifests, state, audit) =
            (directory.path().join("manifests"), directory.path().join("state"), directory.path().join("audit.log"));
        fs::create_dir(&manifests).unwrap();
        for (name, text) in files {
            fs::write(manifests.join(name), text).unwrap();
        }
        let mut command = up_command(&manifests, &state, |_| "127.0.0.1:0".to_owned());
        if !arguments.contains(&"--audit-log") {
            command.arg("--audit-log").arg(&audit);
        }
        more(&mut command);
        let (child, listen, stderr) = listening(command.args(arguments));
        Self { child, listen, manifests, state, audit, stderr, _directory: directory }
    }

    /// Starts it again after its end, where it listened before.
    pub fn restart(&mut self) {
        let mut command =
            up_command(&self.manifests, &self.state, |door| self.listen[&door.replace('-', "_")].to_string());
        (self.child, self.listen, self.stderr) = listening(command.arg("--audit-log").arg(&self.audit));
    }

    /// Writes a manifest.
    pub fn write(&self, name: &str, text: &str) {
        fs::write(self.manifests.join(name), text).unwrap();
    }

    /// What it said so far on standard error.
    pub fn said(&self) -> String {
        self.stderr.lock().unwrap().clone()
    }

    /// Waits until it has said `text`.
    pub fn wait_said(&self, text: &str) {
        eventually(&format!("it says {text:?}"), || self.said().contains(text).then_some(()))
            .unwrap_or_else(|what| panic!("{what}; it said:\n{}", self.said()));
    }

    /// `durward mint …` with its keys.
    pub fn mint(&self, arguments: &[&str]) -> String {
        let (code, stdout, stderr) = run(durward().arg("mint").args(arguments).arg("--state").arg(&self.state));
        assert_eq!(code, 0, "{stderr}");
        stdout.trim().to_owned()
    }

    /// A token of a workload for an audience.
    pub fn token(&self, service_account: &str, audience: &str) -> String {
        self.mint(&["jwt", "--service-account", service_account, "--audience", audience])
    }

    /// Asks the forward-auth door as nginx does.
    pub fn forward_auth(&self, method: &str, host: &str, uri: &str, headers: &[(&str, &str)]) -> Reply {
        let mut all = vec![("Host", host), ("X-Original-Method", method), ("X-Original-URI", uri)];
        all.extend(headers);
        request(self.listen["http"], "GET", "/forward-auth", &all, "")
    }

    /// Asks the AuthZEN door.
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

    /// The decisions and issuances in the audit log so far, once there are at least `count`.
    pub fn records(&self, count: usize) -> Vec<Value> {
        records(&self.audit, count)
    }

    /// The newest record that is so, awaited: an answer may come before its record is written.
    pub fn record(&self, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        record(&self.audit, what, is)
    }

    /// Ends it as Ctrl-C does, and gives its exit code and how long it took.
    pub fn interrupt(&mut self) -> (Option<i32>, Duration) {
        let started = Instant::now();
        assert!(Command::new("kill").args(["-INT", &self.child.id().to_string()]).status().unwrap().success());
        let status = self.child.wait().unwrap();
        (status.code(), started.elapsed())
    }

    /// Process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Resident memory in kB.
    pub fn resident(&self) -> u64 {
        usage::resident(self.child.id()).unwrap()
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The decisions and issuances in an audit log, once there are at least `count`.
pub fn records(log: &Path, count: usize) -> Vec<Value> {
    let read = || {
        let text = fs::read_to_string(log).unwrap_or_default();
        // a line that is still being written is none yet
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let lines = whole.lines().map(|line| serde_json::from_str(line).unwrap());
        let records: Vec<Value> = lines.filter(|line: &Value| !is_about_the_log(line)).collect();
        (records.len() >= count).then_some(records)
    };
    eventually(&format!("{count} audit records"), read).unwrap()
}

/// The newest record of an audit log that is so, once there is one.
pub fn record(log: &Path, what: &str, is: impl Fn(&Value) -> bool) -> Value {
    eventually(&format!("a record of {what}"), || records(log, 0).into_iter().rev().find(&is)).unwrap()
}

/// Whether a line of the audit log is about the log itself.
pub fn is_about_the_log(line: &Value) -> bool {
    line["event"].as_str().is_some_and(|event| ["begin", "checkpoint", "gap", "end"].contains(&event))
}

/// An answer over HTTP/1.1, without what differs by the clock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Reply {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(header, _)| header == name).map(|(_, value)| value.as_str())
    }
}

/// One request on a connection of its own, byte for byte as given.
pub fn request(address: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Reply {
    let mut text = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\nContent-Length: {}\r\n", body.len());
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str("\r\n");
    text.push_str(body);
    raw(address, text.as_bytes())
}

/// Sends bytes and reads the answer to its end.
pub fn raw(address: SocketAddr, bytes: &[u8]) -> Reply {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    exchange(stream, bytes)
}

/// The same on a connection that is there, whatever it runs over.
pub fn exchange(mut stream: impl Read + Write, bytes: &[u8]) -> Reply {
    // a server that refuses early closes while we still write
    let _ = stream.write_all(bytes);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let mut lines = head.lines();
    let status =
        lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|status| status.parse().ok()).unwrap_or(0);
    let headers = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .filter(|(name, _)| name != "date");
    Reply { status, headers: headers.collect(), body: body.to_owned() }
}

/// Waits until `check` gives something.
pub fn eventually<T>(what: &str, mut check: impl FnMut() -> Option<T>) -> Result<T, String> {
    let started = Instant::now();
    loop {
        if let Some(found) = check() {
            return Ok(found);
        }
        if started.elapsed() > PATIENCE {
            return Err(format!("waited in vain: {what}"));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// An address on this machine's loopback for a program that can't be started on a port of the system's choice.
pub fn free() -> SocketAddr {
    ports::free(Ipv4Addr::LOCALHOST.into()).unwrap()
}

/// A file of the repository.
pub fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}
