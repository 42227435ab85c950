//! `durward test`: run the test cases of policies, and measure their coverage.

mod cases;
mod report;
mod runner;

use crate::cli::cluster_domains::ClusterDomainArguments;
use crate::cli::outcome::{CommandOutcome, CommandResult};
use crate::cli::output::OutputFormat;
use chrono::{DateTime, Utc};
use durward_manifests::files::{display_name, manifest_files, read_text};
use durward_manifests::load::load;
use durward_manifests::watch::DirectoryWatch;
use durward_runtime::Failure;
use runner::TestReport;
use std::path::PathBuf;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Cases are documents of kind AccessPolicyTest (test.durward.dev/v1alpha1) in the directory, usually in files `*.test.yaml`.\n\
                        Exit codes: 0 all cases pass, 1 some fail or the coverage is too low, 2 a file can't be read or there are no cases.\n\n\
                        Examples:\n  durward test examples/orders\n  durward test policies --junit report.xml --min-coverage 90"
)]
pub(crate) struct TestCommand {
    /// Directory of policies and cases
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    #[command(flatten)]
    domains: ClusterDomainArguments,
    /// Time of the decision for cases without one, RFC 3339 [default: now]
    #[arg(long, value_name = "TIME")]
    at: Option<DateTime<Utc>>,
    /// Also write the report to this file, as JUnit XML
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// Fail if the cases reach a smaller share of the operations, grants and denials, in percent
    #[arg(long, value_name = "PERCENT", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=100))]
    min_coverage: u8,
    /// Run again whenever a file changes, until Ctrl-C
    #[arg(long)]
    watch: bool,
    /// Output format
    #[arg(long, short, value_enum, default_value_t)]
    output: OutputFormat,
}

impl TestCommand {
    pub(crate) fn run(self) -> CommandResult {
        if !self.watch {
            return self.run_once();
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let watch = DirectoryWatch::start(&self.directory)?;
            loop {
                // an invalid file may be fixed by the next change
                if let Err(failure) = self.run_once() {
                    eprintln!("error: {failure}");
                }
                eprintln!("waiting for changes in {}", self.directory.display());
                tokio::select! {
                    () = watch.changed() => {}
                    ended = tokio::signal::ctrl_c() => return ended.map(|()| CommandOutcome::Success).map_err(Into::into),
                }
            }
        })
    }

    fn run_once(&self) -> CommandResult {
        let report = self.report()?;
        self.output.print(&report, report::text)?;
        if let Some(file) = &self.junit {
            let written = report::junit(&report).and_then(|xml| std::fs::write(file, xml));
            written.map_err(|error| format!("cannot write the report {}: {error}", file.display()))?;
        }
        let covered = report.coverage.percent() >= usize::from(self.min_coverage);
        if !covered {
            eprintln!("coverage is below {}%", self.min_coverage);
        }
        Ok(CommandOutcome::from_success(report.failed == 0 && covered))
    }

    fn report(&self) -> Result<TestReport, Failure> {
        let loaded = load(&self.directory, &self.domains.to_domains())?;
        let mut cases = Vec::new();
        let mut problems = loaded.problems();
        for path in manifest_files(&self.directory)? {
            let name = display_name(&self.directory, &path);
            // `load` has reported the files that can't be read or that are not YAML
            let (found, invalid) = cases::read(&name, &read_text(&path).unwrap_or_default());
            cases.extend(found);
            problems.extend(invalid.into_iter().filter(|problem| problem.field.is_some()));
        }
        if !problems.is_empty() {
            problems.iter().for_each(|problem| eprintln!("{problem}"));
            return Err("no case was run: some files are invalid; fix them first".into());
        }
        if cases.is_empty() {
            return Err(format!("there are no cases (kind AccessPolicyTest) in {}", self.directory.display()).into());
        }
        Ok(runner::run(loaded.catalog.snapshot(), &cases, self.at.unwrap_or_else(Utc::now)))
    }
}
