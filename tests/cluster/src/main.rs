//! `durward-cluster`: the test cluster for people and for make.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use clap::{Parser, Subcommand};
use durward_cluster::{Cluster, ClusterError, ClusterResult, binaries, image, preflight};

/// A real Kubernetes for tests, without a container engine.
#[derive(Debug, Parser)]
#[command(version)]
struct ClusterArguments {
    #[command(subcommand)]
    action: ClusterCommand,
}

#[derive(Debug, Subcommand)]
enum ClusterCommand {
    /// Bring up the shared cluster unless it is up.
    Up,
    /// Bring up a control plane without a node until this command ends.
    ControlPlane,
    /// Take down every cluster and remove every trace of it.
    Down,
    /// Show the clusters and their processes.
    Status,
    /// Build missing programs of the cluster.
    Build,
    /// Print the path of a program (kubectl, helm, ctr, ...), built if needed.
    Path {
        /// The program's name.
        program: String,
    },
    /// Build the durward image of the tests and write its archive, in the format of `docker save`.
    Image {
        /// File to write.
        to: PathBuf,
    },
    /// Run `cargo test` with these arguments; afterwards take the shared cluster down unless it was up before.
    /// Where no node can run, skip and count tests called `e2e_*`; with `CI=true` that is a failure.
    Test {
        /// Arguments of `cargo test`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, default_values = ["--test", "cluster", "--test", "kubernetes"])]
        cargo: Vec<String>,
    },
}

fn main() -> ExitCode {
    match act(&ClusterArguments::parse().action) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn act(action: &ClusterCommand) -> ClusterResult<ExitCode> {
    match action {
        ClusterCommand::Up => {
            let cluster = Cluster::shared()?;
            println!("export KUBECONFIG={}", cluster.kubeconfig().display());
            println!("# kubectl: {}", binaries::path(binaries::KUBECTL)?.display());
        }
        ClusterCommand::ControlPlane => {
            let cluster = Cluster::isolated()?;
            println!("export KUBECONFIG={}", cluster.kubeconfig().display());
            // the cluster ends with this process, by Ctrl-C
            loop {
                std::thread::park();
            }
        }
        ClusterCommand::Down => {
            for dir in durward_cluster::down()? {
                eprintln!("cluster: {} stays up: a running test uses it", dir.display());
            }
        }
        ClusterCommand::Status => status()?,
        ClusterCommand::Build => binaries::ensure(binaries::NODE)?,
        ClusterCommand::Path { program } => {
            let binary = binaries::named(program).ok_or_else(|| ClusterError::Refused {
                what: format!("`{program}` is not a program of the cluster"),
                remedy: "tests/cluster/src/binaries.rs lists the programs".to_owned(),
            })?;
            println!("{}", binaries::path(binary)?.display());
        }
        ClusterCommand::Image { to } => fs::write(to, image::durward()?.archive()?)
            .map_err(|source| ClusterError::Io { action: "write", path: to.clone(), source })?,
        ClusterCommand::Test { cargo } => return test(cargo),
    }
    Ok(ExitCode::SUCCESS)
}

fn status() -> ClusterResult<()> {
    let all = durward_cluster::status()?;
    if all.is_empty() {
        println!("no cluster");
    }
    for status in all {
        println!("{} {}", status.dir.display(), if status.ready { "ready" } else { "not ready" });
        for (name, pid) in status.processes {
            println!("  {pid:>8} {name}");
        }
    }
    Ok(())
}

/// Whether `KUBECONFIG` names a cluster to use instead of ours.
fn has_external_cluster() -> bool {
    std::env::var_os("KUBECONFIG").is_some_and(|path| !path.is_empty())
}

fn test(arguments: &[String]) -> ClusterResult<ExitCode> {
    let node = if has_external_cluster() { Ok(()) } else { preflight::node() };
    let was_up =
        has_external_cluster() || durward_cluster::status()?.iter().any(|status| status.dir.ends_with("shared"));
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let harness_given = arguments.iter().any(|argument| argument == "--");
    let run = |more: &[&str]| {
        let mut command = Command::new(&cargo);
        command.arg("test").args(arguments);
        if !harness_given && !more.is_empty() {
            command.arg("--");
        }
        command.args(more);
        command
    };
    let not_started = |source| ClusterError::Io { action: "start", path: cargo.clone().into(), source };

    let status = match &node {
        Ok(()) => {
            if !has_external_cluster() {
                // not within the time limit of a test
                binaries::ensure(binaries::NODE)?;
            }
            run(&[]).status()
        }
        Err(_) => run(&["--skip", "e2e_"]).status(),
    }
    .map_err(not_started)?;
    if !was_up {
        durward_cluster::down()?;
    }
    let mut code = if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    if let Err(reason) = node {
        let listed = run(&["--list"]).output().map_err(not_started)?;
        let text = String::from_utf8_lossy(&listed.stdout);
        let count = text.lines().filter(|line| line.ends_with(": test") && line.contains("e2e_")).count();
        println!("NOT RUN: {count} end-to-end tests, because {reason}");
        if std::env::var("CI").is_ok_and(|value| value == "true") {
            code = ExitCode::FAILURE;
        }
    }
    Ok(code)
}
