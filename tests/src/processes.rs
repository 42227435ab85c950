//! CPU and memory of the test cluster's processes.

use crate::usage;
use std::time::Duration;

/// CPU time since start, summed by kind of process.
#[derive(Clone, Copy)]
pub struct ClusterCpu {
    /// The controllers; nearly all of it is the leader's.
    pub controllers: Duration,
    /// The API server and etcd.
    pub api_server: Duration,
}

impl ClusterCpu {
    pub fn now() -> Self {
        let of = |programs: &[&[u8]]| processes(programs).iter().filter_map(usage::cpu).sum();
        Self { controllers: of(&[CONTROLLER]), api_server: of(&[b"kube-apiserver\0", b"etcd\0"]) }
    }

    /// The CPU time since `before`, per item.
    pub fn since(self, before: Self, many: usize) -> String {
        let each = |now: Duration, then: Duration| (now - then) / u32::try_from(many).expect("small");
        let controllers = each(self.controllers, before.controllers);
        format!("controllers {controllers:?}, API server {:?}", each(self.api_server, before.api_server))
    }
}

const CONTROLLER: &[u8] = b"durward\0controller\0";

/// Ids of processes whose command line, without the program's folder, begins with one of `programs`.
fn processes(programs: &[&[u8]]) -> Vec<String> {
    let processes = std::fs::read_dir("/proc").expect("processes").filter_map(Result::ok);
    let names = processes.filter_map(|entry| entry.file_name().into_string().ok());
    let ours = names.filter(|id| {
        let line = std::fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
        let program = line.split(|byte| *byte == 0).next().unwrap_or_default();
        let folder = program.iter().rposition(|byte| *byte == b'/').map_or(0, |at| at + 1);
        programs.iter().any(|wanted| line[folder..].starts_with(wanted))
    });
    ours.collect()
}

/// Resident memory of each controller, in MB.
pub fn memory() -> Vec<u64> {
    processes(&[CONTROLLER]).iter().filter_map(|id| Some(usage::resident(id)? / 1000)).collect()
}
