//! `durward audit`, and where the commands that decide write their log.

mod verify;

use crate::cli::cluster_domains::ClusterDomainArguments;
use crate::cli::output::{Format, say};
use crate::cli::{Failure, Verdict};
use durward_engine::audit::replay::{Report, replay};
use durward_engine::audit::{OnLoss, Sink};
use durward_manifests::load::load;
use durward_state::state::{State, StateDirectory};
use std::fmt::Write;
use std::fs::File;
use std::io::{self, BufReader};
use std::path::PathBuf;

/// Where decisions are recorded.
#[derive(Debug, clap::Args)]
pub(crate) struct AuditLog {
    /// File of the audit log, `-` for standard output
    #[arg(long, value_name = "FILE", default_value = "-")]
    audit_log: PathBuf,
    /// What to do with a decision that can't be recorded
    #[arg(long, value_enum, default_value_t)]
    pub(crate) audit_on_loss: OnLoss,
}

impl From<AuditLog> for Sink {
    fn from(AuditLog { audit_log, .. }: AuditLog) -> Self {
        if audit_log.as_os_str() == "-" { Self::Stdout } else { Self::File(audit_log) }
    }
}

#[derive(Debug, clap::Subcommand)]
pub(crate) enum AuditCommand {
    /// Decide each record of an audit log again and report any difference
    Replay(Replay),
    /// Tell whether a log is what was written, and where it is not
    Verify(verify::Verify),
    /// Print the public keys by which the logs of this host's `durward up` are verified
    Keys(Keys),
}

#[derive(Debug, clap::Args)]
pub(crate) struct Keys {
    #[command(flatten)]
    state: StateDirectory,
    /// SPIFFE trust domain of the state
    #[arg(long, value_name = "NAME", default_value = "cluster.local", env = "DURWARD_TRUST_DOMAIN")]
    trust_domain: String,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Replay {
    /// The log, `-` for standard input
    file: PathBuf,
    /// Directory of the manifests to decide by
    #[arg(long, value_name = "DIR")]
    policies: PathBuf,
    #[command(flatten)]
    domains: ClusterDomainArguments,
    /// Output format
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
}

impl AuditCommand {
    pub(crate) fn run(self) -> Result<Verdict, Failure> {
        match self {
            Self::Replay(replay) => replay.run(),
            Self::Verify(verify) => verify.run(),
            Self::Keys(keys) => keys.run(),
        }
    }
}

impl Keys {
    fn run(self) -> Result<Verdict, Failure> {
        let state = State::open(&self.state.resolve()?, &self.trust_domain)?;
        say(&(state.audit_keys.jwks() + "\n"))?;
        Ok(Verdict::Yes)
    }
}

impl Replay {
    fn run(self) -> Result<Verdict, Failure> {
        let loaded = load(&self.policies, &self.domains.to_domains())?;
        loaded.warn();
        let mut log: Box<dyn io::BufRead> = if self.file.as_os_str() == "-" {
            Box::new(io::stdin().lock())
        } else {
            let file = File::open(&self.file)
                .map_err(|error| format!("can't read the audit log {}: {error}", self.file.display()))?;
            Box::new(BufReader::new(file))
        };
        let report = replay(&mut log, loaded.catalog.snapshot(), &mut |lines| eprint!("\r{lines} lines"))?;
        self.output.print(&report, text)?;
        if report.replayed == 0 && !report.unreadable.is_empty() {
            return Err("the file holds no audit record".into());
        }
        if report.differences.is_empty() && !report.untold.is_empty() {
            return Err("what some records would come to can't be told".into());
        }
        Ok(if report.differences.is_empty() && report.unreadable.is_empty() { Verdict::Yes } else { Verdict::No })
    }
}

fn text(report: &Report) -> String {
    let mut text = String::new();
    for difference in &report.differences {
        let _ = writeln!(text, "line {}, decision {}:", difference.line, difference.id);
        for (field, recorded, now) in &difference.fields {
            let _ = writeln!(text, "  {field}: was `{recorded}`, is `{now}`");
        }
    }
    for unreadable in &report.unreadable {
        let _ = writeln!(text, "line {}: no record: {}", unreadable.line, unreadable.error);
    }
    for untold in &report.untold {
        let _ = writeln!(text, "line {}: can't be told: {}", untold.line, untold.error);
    }
    if report.by_outcome > 0 {
        let _ = writeln!(
            text,
            "{} of the records went by conditions on what is not recorded: they were decided by what those came to then",
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
            other => format!(" ({other} were made from another revision of the policies)"),
        }
    );
    text
}
