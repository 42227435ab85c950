//! What processes on this machine use.
#![allow(dead_code, reason = "each benchmark uses its part")]

use std::time::Duration;

/// CPU time since they began, of all processes of a kind.
#[derive(Clone, Copy)]
pub struct Cpu {
    /// The controllers; the one that leads has nearly all of it.
    pub controllers: Duration,
    /// The API server and etcd.
    pub api_server: Duration,
}

impl Cpu {
    pub fn now() -> Self {
        let of = |programs: &[&[u8]]| processes(programs).iter().filter_map(|id| cpu(id)).sum();
        Self { controllers: of(&[CONTROLLER]), api_server: of(&[b"kube-apiserver\0", b"etcd\0"]) }
    }

    /// What was spent since `before` for each of `many`.
    pub fn since(self, before: Self, many: usize) -> String {
        let each = |now: Duration, then: Duration| (now - then) / u32::try_from(many).expect("small");
        let controllers = each(self.controllers, before.controllers);
        format!("controllers {controllers:?}, API server {:?}", each(self.api_server, before.api_server))
    }
}

const CONTROLLER: &[u8] = b"durward\0controller\0";

/// Process ids by the beginning of their command line, without the program's folder.
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

/// CPU time of a process, which the kernel tells in hundredths of a second.
pub fn cpu(id: &str) -> Option<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit(") ").next()?.split(' ').collect();
    let ticks = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    Some(Duration::from_millis(ticks * 10))
}

/// Resident memory of each controller, in MB.
pub fn memory() -> Vec<u64> {
    let resident = |id: &String| {
        let status = std::fs::read_to_string(format!("/proc/{id}/status")).ok()?;
        let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
        Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? / 1000)
    };
    processes(&[CONTROLLER]).iter().filter_map(resident).collect()
}
