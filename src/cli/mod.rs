//! The commands. Each reads its arguments, calls the library and prints; exit codes are 0 yes, 1 no, 2 could not tell.

mod agent;
mod api_key;
mod approvals;
mod audit;
mod ca;
mod check;
mod cluster_domains;
mod controller;
mod crds;
mod diff;
mod gate;
mod inspect;
mod lint;
mod matrix;
mod mint;
mod output;
mod policies;
mod relations;
mod test;
mod tree;
mod up;
mod what_can;
mod who_can;

use clap::{CommandFactory, Parser, Subcommand};
use durward_doors::approvals::Verdict as Decision;
use std::process::ExitCode;

/// Doorkeeper for Kubernetes workloads: who is calling, and may they?
#[derive(Debug, Parser)]
#[command(name = "durward", version, propagate_version = true, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the engine on a directory of manifests, without a cluster
    Up(up::Up),
    /// Run in a cluster: watch the resources, serve doors and webhooks, write what became of them
    Controller(controller::Controller),
    /// Give the containers of a pod their identity over the SPIFFE Workload API and Envoy's SDS
    Agent(agent::Agent),
    /// Stand before one application: authenticate callers, decide, and pass on what is allowed
    Gate(gate::Gate),
    /// Explain a decision, from files or a cluster
    Check(check::Check),
    /// Tell who may do an operation, from files or a cluster
    WhoCan(who_can::WhoCan),
    /// Tell what somebody may do, from files or a cluster
    WhatCan(what_can::WhatCan),
    /// Tell who gains and who loses what by a change of policies
    Diff(diff::Diff),
    /// Tell what is allowed in policies and still seems wrong
    Lint(lint::Lint),
    /// Try the cases beside policies, and tell what of the policies they reach
    Test(test::Test),
    /// Give a local caller a credential
    #[command(subcommand)]
    Mint(mint::Mint),
    /// List, replace and end API keys
    #[command(subcommand)]
    ApiKey(api_key::ApiKeys),
    /// Tell which operations wait for somebody's approval, and which have it
    Approvals(approvals::Approvals),
    /// Let a caller do what waits for your approval, for a while
    Approve(approvals::Decide),
    /// Refuse what waits for your approval
    Deny(approvals::Decide),
    /// Tell what a certificate is, and whether it counts now
    Inspect(inspect::Inspect),
    /// Look after the certificate authority of an installation
    #[command(subcommand)]
    Ca(ca::Ca),
    /// Work with audit logs
    #[command(subcommand)]
    Audit(audit::AuditCommand),
    /// Bring the relations of a service into an OpenFGA server
    #[command(subcommand)]
    Relations(relations::Relations),
    /// Print the custom resource definitions, or write them to a directory
    Crds(crds::Crds),
    /// Remove the webhook configurations of an installation from the cluster
    Uninstall(controller::Uninstall),
    /// Ask a running instance whether it is ready
    Health(controller::Health),
    /// Print the completion script of a shell
    Completion {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// What a command came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Done, or allowed.
    Yes,
    /// Denied, or a difference was found.
    No,
}

/// A command that could not do its work: one line that says what, where and what to do.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

impl Cli {
    /// Runs the command.
    #[must_use]
    pub fn run(self) -> ExitCode {
        let result = match self.command {
            Command::Up(up) => up.run(),
            Command::Controller(controller) => controller.run(),
            Command::Agent(agent) => agent.run(),
            Command::Gate(gate) => gate.run(),
            Command::Uninstall(uninstall) => uninstall.run(),
            Command::Health(health) => health.run(),
            Command::Check(check) => check.run(),
            Command::WhoCan(who_can) => who_can.run(),
            Command::WhatCan(what_can) => what_can.run(),
            Command::Diff(diff) => diff.run(),
            Command::Lint(lint) => lint.run(),
            Command::Test(test) => test.run(),
            Command::Mint(mint) => mint.run(),
            Command::ApiKey(keys) => keys.run(),
            Command::Approvals(approvals) => approvals.run(),
            Command::Approve(decide) => decide.run(Decision::Approve),
            Command::Deny(decide) => decide.run(Decision::Deny),
            Command::Inspect(inspect) => inspect.run(),
            Command::Ca(ca) => ca.run(),
            Command::Audit(audit) => audit.run(),
            Command::Relations(relations) => relations.run(),
            Command::Crds(crds) => crds.run(),
            Command::Completion { shell } => {
                clap_complete::generate(shell, &mut Self::command(), "durward", &mut std::io::stdout());
                Ok(Verdict::Yes)
            }
        };
        match result {
            Ok(Verdict::Yes) => ExitCode::SUCCESS,
            Ok(Verdict::No) => ExitCode::from(1),
            Err(failure) => {
                eprintln!("error: {failure}");
                ExitCode::from(2)
            }
        }
    }
}
