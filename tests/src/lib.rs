//! Shared parts of the tests: the program under test, its servers, and the clients and services around them.
//!
//! The test cluster is the crate `durward-cluster`; test cases are in `standalone` and `kubernetes`.
//!
//! Begin with [`UpProcess`], a running `durward up`.

pub mod audit;
pub mod browser;
pub mod clock;
pub mod controller;
pub mod corpus;
pub mod documents;
pub mod gate;
pub mod http;
pub mod installation;
pub mod openfga;
pub mod passkey;
pub mod processes;
pub mod program;
pub mod proxies;
pub mod spire;
pub mod step_up;
pub mod tokens;
pub mod turn;
pub mod up;
pub mod usage;
pub mod venv;
pub mod wait;

pub use audit::{is_about_the_log, record, records};
pub use http::{HttpReply, exchange, raw, request};
pub use program::{durward, listening, path_with_program, program, run};
pub use up::UpProcess;
pub use wait::{StopOnDrop, TIMEOUT, eventually};

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

/// A free address of the loopback, for a program that can't listen on port 0.
pub fn free() -> SocketAddr {
    durward_cluster::ports::free(Ipv4Addr::LOCALHOST.into()).unwrap()
}

/// A path below the root of the repository.
pub fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join(path)
}
