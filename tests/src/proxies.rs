//! The proxies of the examples, in front of an application.

use crate::venv::venv;
use crate::{HttpReply, UpProcess, eventually, free, repository, request};
use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use tempfile::{NamedTempFile, TempDir};

/// A server that ends when dropped.
pub struct ServerProcess {
    child: Child,
    pub address: SocketAddr,
    log: NamedTempFile,
    _directory: Option<TempDir>,
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        // SIGTERM lets a proxy end its workers too
        let _ = Command::new("kill").arg(self.child.id().to_string()).status();
        let _ = self.child.wait();
    }
}

impl ServerProcess {
    pub fn start(command: &mut Command, address: SocketAddr, directory: Option<TempDir>) -> Self {
        let log = NamedTempFile::new().unwrap();
        let child =
            command.stdout(log.reopen().unwrap()).stderr(log.reopen().unwrap()).stdin(Stdio::null()).spawn().unwrap();
        let server = Self { child, address, log, _directory: directory };
        eventually(&format!("{command:?} listens"), || TcpStream::connect(address).ok())
            .unwrap_or_else(|what| panic!("{what}:\n{}", server.log()));
        server
    }

    /// What the server has written on its standard streams.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log.path()).unwrap_or_default()
    }

    pub fn get(&self, path: &str, headers: &[(&str, &str)]) -> HttpReply {
        self.ask("GET", path, headers)
    }

    pub fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> HttpReply {
        let mut all = vec![("Host", "orders.example.com")];
        all.extend(headers);
        request(self.address, method, path, &all, "")
    }
}

/// The configuration of an example, with ports of this test.
fn configuration(path: &str, ports: &[(&str, SocketAddr)]) -> String {
    let mut text = fs::read_to_string(repository(path)).unwrap();
    for (from, to) in ports {
        assert!(text.contains(from), "{path} has no {from}");
        text = text.replace(from, &to.port().to_string());
    }
    text
}

pub fn nginx(up: &UpProcess, app: SocketAddr) -> ServerProcess {
    let address = free();
    let directory = tempfile::tempdir().unwrap();
    let text =
        configuration("examples/nginx/nginx.conf", &[("8180", up.listen["http"]), ("8000", app), ("8080", address)]);
    let file = directory.path().join("nginx.conf");
    fs::write(&file, text).unwrap();
    let mut command = Command::new("nginx");
    ServerProcess::start(command.arg("-p").arg(directory.path()).arg("-c").arg(&file), address, Some(directory))
}

pub fn envoy(up: &UpProcess, app: SocketAddr) -> ServerProcess {
    envoy_with(up, app, &[])
}

/// Envoy with the example's configuration, in which each of these texts is replaced.
pub fn envoy_with(up: &UpProcess, app: SocketAddr, changes: &[(&str, &str)]) -> ServerProcess {
    let address = free();
    let directory = tempfile::tempdir().unwrap();
    let mut text =
        configuration("examples/envoy/envoy.yaml", &[("9180", up.listen["grpc"]), ("8000", app), ("8081", address)]);
    for (from, to) in changes {
        assert!(text.contains(from), "the example has no {from}");
        text = text.replace(from, to);
    }
    let file = directory.path().join("envoy.yaml");
    fs::write(&file, text).unwrap();
    let mut command = Command::new(venv("envoy"));
    command.arg("-c").arg(&file).args(["--concurrency", "1", "--use-dynamic-base-id", "--log-level", "warning"]);
    ServerProcess::start(&mut command, address, Some(directory))
}
