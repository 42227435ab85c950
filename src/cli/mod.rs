//! The commands. Each parses its arguments, calls the crates below, and prints the result.

mod agent;
mod api_key;
mod api_key_secret;
mod approvals;
mod arguments;
mod audit;
mod ca;
mod check;
mod cluster;
mod cluster_domains;
mod controller;
mod crds;
mod diff;
mod gate;
mod health;
mod inspect;
mod lint;
mod matrix;
mod mint;
mod outcome;
mod output;
mod permissions;
mod policies;
mod relations;
mod test;
mod tree;
mod uninstall;
mod up;
mod what_can;
mod who_can;

use clap::{CommandFactory, Parser, Subcommand};
use durward_doors::approvals::ApprovalVerdict;
use outcome::{CommandOutcome, CommandResult, exit_code};
use std::process::ExitCode;

/// Doorkeeper for Kubernetes workloads: authenticates callers and decides what they may do
#[derive(Debug, Parser)]
#[command(name = "durward", version, propagate_version = true, max_term_width = 100)]
pub struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the engine on a directory of manifests, without a cluster
    Up(up::UpCommand),
    /// Run in a cluster: watch the resources, serve doors and webhooks, report the status of policies
    Controller(controller::ControllerCommand),
    /// Serve a pod's identity to its containers over the SPIFFE Workload API and Envoy's SDS
    Agent(agent::AgentCommand),
    /// Run the enforcing proxy of one application: authenticate callers, decide, forward what is allowed
    Gate(gate::GateCommand),
    /// Explain a decision by the policies of a directory or a cluster
    Check(check::CheckCommand),
    /// List who can call an operation, by the policies of a directory or a cluster
    WhoCan(who_can::WhoCanCommand),
    /// List what a principal can call, by the policies of a directory or a cluster
    WhatCan(what_can::WhatCanCommand),
    /// Compare two versions of policies: list who gains and who loses access
    Diff(diff::DiffCommand),
    /// Report likely mistakes in valid policies
    Lint(lint::LintCommand),
    /// Run the test cases of a directory of policies, and measure their coverage
    Test(test::TestCommand),
    /// Create a credential for a local caller
    #[command(subcommand)]
    Mint(mint::MintCommand),
    /// List, rotate and revoke API keys
    #[command(subcommand)]
    ApiKey(api_key::ApiKeyCommand),
    /// List the requested and the decided approvals
    Approvals(approvals::ApprovalsCommand),
    /// Approve a pending operation of a caller, for a limited time
    Approve(approvals::DecideApprovalCommand),
    /// Deny a pending operation of a caller
    Deny(approvals::DecideApprovalCommand),
    /// Print a certificate, and check whether it is valid now
    Inspect(inspect::InspectCommand),
    /// Inspect or rotate the certificate authority of an installation
    #[command(subcommand)]
    Ca(ca::CaCommand),
    /// Replay and verify audit logs
    #[command(subcommand)]
    Audit(audit::AuditCommand),
    /// Export the relations of a service for an OpenFGA server
    #[command(subcommand)]
    Relations(relations::RelationsCommand),
    /// Print the custom resource definitions, or write them to a directory
    Crds(crds::CrdsCommand),
    /// Remove the webhook configurations of an installation from the cluster
    Uninstall(uninstall::UninstallCommand),
    /// Ask a running instance whether it is ready
    Health(health::HealthCommand),
    /// Print the completion script for a shell
    Completion {
        /// The shell
        shell: clap_complete::Shell,
    },
}

impl CommandLine {
    /// Runs the command. Exit codes: 0 for yes or done, 1 for no, 2 if the command failed.
    #[must_use]
    pub fn run(self) -> ExitCode {
        exit_code(self.command.run())
    }
}

impl Command {
    fn run(self) -> CommandResult {
        match self {
            Self::Up(up) => up.run(),
            Self::Controller(controller) => controller.run(),
            Self::Agent(agent) => agent.run(),
            Self::Gate(gate) => gate.run(),
            Self::Check(check) => check.run(),
            Self::WhoCan(who_can) => who_can.run(),
            Self::WhatCan(what_can) => what_can.run(),
            Self::Diff(diff) => diff.run(),
            Self::Lint(lint) => lint.run(),
            Self::Test(test) => test.run(),
            Self::Mint(mint) => mint.run(),
            Self::ApiKey(api_key) => api_key.run(),
            Self::Approvals(approvals) => approvals.run(),
            Self::Approve(decide) => decide.run(ApprovalVerdict::Approve),
            Self::Deny(decide) => decide.run(ApprovalVerdict::Deny),
            Self::Inspect(inspect) => inspect.run(),
            Self::Ca(ca) => ca.run(),
            Self::Audit(audit) => audit.run(),
            Self::Relations(relations) => relations.run(),
            Self::Crds(crds) => crds.run(),
            Self::Uninstall(uninstall) => uninstall.run(),
            Self::Health(health) => health.run(),
            Self::Completion { shell } => {
                let mut script = Vec::new();
                clap_complete::generate(shell, &mut CommandLine::command(), "durward", &mut script);
                output::print_text(&String::from_utf8_lossy(&script))?;
                Ok(CommandOutcome::Success)
            }
        }
    }
}
