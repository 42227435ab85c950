//! A SPIRE server on this machine.

use std::fs;
use std::path::Path;
use std::process::Command;

use durward_cluster::binaries;

/// The server's socket below its folder.
pub const SOCKET: &str = "server.sock";

/// The command that runs a server with its state in `folder`. `more` is appended to its configuration.
pub fn server(folder: &Path, trust_domain: &str, port: u16, more: &str) -> Command {
    let at = |name: &str| folder.join(name).display().to_string();
    let config = format!(
        r#"
server {{
  bind_address = "127.0.0.1"
  bind_port = "{port}"
  socket_path = "{socket}"
  trust_domain = "{trust_domain}"
  data_dir = "{data}"
  ca_key_type = "ec-p256"
  {more}
}}
plugins {{
  DataStore "sql" {{ plugin_data {{ database_type = "sqlite3", connection_string = "{store}" }} }}
  KeyManager "memory" {{ plugin_data {{}} }}
  NodeAttestor "join_token" {{ plugin_data {{}} }}
}}
"#,
        socket = at(SOCKET),
        data = at("server"),
        store = at("store.sqlite3"),
    );
    fs::write(at("server.conf"), config).expect("written");
    let mut server = Command::new(binaries::path(binaries::SPIRE_SERVER).expect("spire-server"));
    server.args(["run", "-config", &at("server.conf")]);
    server
}
