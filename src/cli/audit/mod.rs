//! `durward audit`, and the arguments of the commands that write an audit log.

mod verify;

use crate::cli::cluster_domains::ClusterDomainArguments;
use crate::cli::outcome::{CommandOutcome, CommandResult};
use crate::cli::output::{OutputFormat, print_text};
use durward_engine::audit::replay::{ReplayReport, replay};
use durward_engine::audit::{AuditSink, OnLoss};
use durward_manifests::load::load;
use durward_state::{LocalState, StateDirectory};
use std::fmt::Write;
use std::fs::File;
use std::io::{self, BufReader};
use std::path::PathBuf;

/// The arguments that select the audit log.
#[derive(Debug, clap::Args)]
pub(crate) struct AuditLogArguments {
    /// File of the audit log; `-` is standard output
    #[arg(long, value_name = "FILE", default_value = "-")]
    audit_log: PathBuf,
    /// What to do with a decision that can't be recorded
    #[arg(long, value_enum, default_value_t)]
    pub(crate) audit_on_loss: OnLoss,
}

impl From<AuditLogArguments> for AuditSink {
    fn from(AuditLogArguments { audit_log, .. }: AuditLogArguments) -> Self {
        if audit_log.as_os_str() == "-" { Self::Stdout } else { Self::File(audit_log) }
    }
}

#[derive(Debug, clap::Subcommand)]
pub(crate) enum AuditCommand {
    /// Decide the records of an audit log again, and report the differences
    Replay(ReplayCommand),
    /// Verify that an audit log is complete and unaltered
    Verify(verify::VerifyCommand),
    /// Print the public keys that verify the audit logs of this host's `durward up`
    Keys(AuditKeysCommand),
}

#[derive(Debug, clap::Args)]
pub(crate) struct AuditKeysCommand {
    #[command(flatten)]
    state: StateDirectory,
    /// SPIFFE trust domain of the state
    #[arg(long, value_name = "NAME", default_value = "cluster.local", env = "DURWARD_TRUST_DOMAIN")]
    trust_domain: String,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ReplayCommand {
    /// The audit log; `-` is standard input
    file: PathBuf,
    /// Directory of the manifests that decide
    #[arg(long, value_name = "DIR")]
    policies: PathBuf,
    #[command(flatten)]
    domains: ClusterDomainArguments,
    /// Output format
    #[arg(long, short, value_enum, default_value_t)]
    output: OutputFormat,
}

impl AuditCommand {
    pub(crate) fn run(self) -> CommandResult {
        match self {
            Self::Replay(replay) => replay.run(),
            Self::Verify(verify) => verify.run(),
            Self::Keys(keys) => keys.run(),
        }
    }
}

impl AuditKeysCommand {
    fn run(self) -> CommandResult {
        let state = LocalState::open(&self.state.resolve()?, &self.trust_domain)?;
        print_text(&(state.audit_keys.jwks() + "\n"))?;
        Ok(CommandOutcome::Success)
    }
}

impl ReplayCommand {
    fn run(self) -> CommandResult {
        let loaded = load(&self.policies, &self.domains.to_domains())?;
        loaded.print_problems();
        let mut log: Box<dyn io::BufRead> = if self.file.as_os_str() == "-" {
            Box::new(io::stdin().lock())
        } else {
            let file = File::open(&self.file)
                .map_err(|error| format!("cannot read the audit log {}: {error}", self.file.display()))?;
            Box::new(BufReader::new(file))
        };
        let report = replay(&mut log, &loaded.snapshot(), &mut |lines| eprint!("\r{lines} lines"))?;
        self.output.print(&report, text)?;
        if report.replayed == 0 && !report.unreadable.is_empty() {
            return Err("the file contains no audit record".into());
        }
        if report.differences.is_empty() && !report.undecidable.is_empty() {
            return Err("some records can't be decided again".into());
        }
        if !loaded.problems().is_empty() {
            return Err("some manifests are invalid, so a running process may decide otherwise; fix them first".into());
        }
        Ok(CommandOutcome::from_success(report.differences.is_empty() && report.unreadable.is_empty()))
    }
}

fn text(report: &ReplayReport) -> String {
    let mut text = String::new();
    for difference in &report.differences {
        let _ = writeln!(text, "line {}, decision {}:", difference.line, difference.id);
        for (field, recorded, now) in &difference.fields {
            let _ = writeln!(text, "  {field}: was `{recorded}`, is `{now}`");
        }
    }
    for unreadable in &report.unreadable {
        let _ = writeln!(text, "line {}: not a record: {}", unreadable.line, unreadable.error);
    }
    for undecidable in &report.undecidable {
        let _ = writeln!(text, "line {}: cannot be decided again: {}", undecidable.line, undecidable.error);
    }
    if report.by_outcome > 0 {
        let _ = writeln!(
            text,
            "{} of the records depend on conditions that read unrecorded data: the replay used the recorded results",
            report.by_outcome
        );
    }
    let _ = writeln!(
        text,
        "{} records replayed, {} decided differently, {} lines unreadable{}",
        report.replayed,
        report.differences.len(),
        report.unreadable.len(),
        match report.other_revision {
            0 => String::new(),
            other => format!(" ({other} come from another revision of the policies)"),
        }
    );
    text
}
