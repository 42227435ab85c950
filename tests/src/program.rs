//! The program under test.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex, OnceLock};

/// The path of `durward`, built from the current sources, so a test never runs a stale program. The build runs once per
/// process and takes a fraction of a second without changes.
pub fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| durward_cluster::cargo::build("durward").unwrap_or_else(|error| panic!("{error}")))
}

/// `PATH` with the program's folder first, for scripts.
pub fn path_with_program() -> String {
    let folder = program().parent().unwrap().display();
    format!("{folder}:{}", std::env::var("PATH").unwrap())
}

/// A command that runs the program under test.
pub fn durward() -> Command {
    let mut command = Command::new(program());
    command.env_remove("DURWARD_STATE").env_remove("DURWARD_TRUST_DOMAIN");
    command
}

/// Starts a server with `--json` and waits for its addresses. Returns the process, addresses and standard error.
pub fn listening(command: &mut Command) -> (Child, BTreeMap<String, SocketAddr>, Arc<Mutex<String>>) {
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let stderr = Arc::new(Mutex::new(String::new()));
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut listen = None;
    for line in lines.by_ref() {
        let line = line.unwrap();
        if line.starts_with('{') {
            let addresses: BTreeMap<String, Option<SocketAddr>> = serde_json::from_str(&line).unwrap();
            listen = Some(addresses.into_iter().filter_map(|(name, address)| Some((name, address?))).collect());
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
    let listen = listen.unwrap_or_else(|| panic!("the server did not start: {}", stderr.lock().unwrap()));
    (child, listen, stderr)
}

/// Runs a command; returns its exit code, standard output and standard error.
pub fn run(command: &mut Command) -> (i32, String, String) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    (status.code().unwrap_or(-1), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}
