//! `durward test`: cases beside the policies, and what of the policies they reach.

mod cases;
mod report;
mod trials;

use crate::cli::cluster_domains::ClusterDomainArguments;
use crate::cli::output::Format;
use crate::cli::{Failure, Verdict};
use chrono::{DateTime, Utc};
use durward_manifests::load::{load, manifests, name_in, read_text};
use durward_manifests::watch::Watch;
use std::path::PathBuf;
use trials::{Report, attempt};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Cases are documents of kind AccessPolicyTest (test.durward.dev/v1alpha1) in the directory, by custom in files `*.test.yaml`.\n\
                        Exit codes: 0 all pass, 1 some fail, 2 something can't be read or there are none.\n\n\
                        Examples:\n  durward test examples/orders\n  durward test policies --junit report.xml --min-coverage 90"
)]
pub(crate) struct Test {
    /// Directory of policies and cases
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    #[command(flatten)]
    domains: ClusterDomainArguments,
    /// Time at which cases are decided that state none, RFC 3339; now if left out
    #[arg(long, value_name = "TIME")]
    at: Option<DateTime<Utc>>,
    /// File for the report as JUnit XML
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// Fail when less of the operations, grants and denials is reached, in percent
    #[arg(long, value_name = "PERCENT", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=100))]
    min_coverage: u8,
    /// Try again whenever a file changes, until Ctrl-C
    #[arg(long)]
    watch: bool,
    /// Output format
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
}

impl Test {
    pub(crate) fn run(self) -> Result<Verdict, Failure> {
        if !self.watch {
            return self.once();
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let mut watch = Watch::begin(&self.directory)?;
            loop {
                // what can't be read now may be mended soon
                if let Err(failure) = self.once() {
                    eprintln!("error: {failure}");
                }
                eprintln!("waiting for changes in {}", self.directory.display());
                tokio::select! {
                    () = watch.changed() => {}
                    ended = tokio::signal::ctrl_c() => return ended.map(|()| Verdict::Yes).map_err(Into::into),
                }
            }
        })
    }

    fn once(&self) -> Result<Verdict, Failure> {
        let report = self.report()?;
        self.output.print(&report, report::text)?;
        if let Some(file) = &self.junit {
            std::fs::write(file, report::junit(&report))
                .map_err(|error| format!("can't write the report {}: {error}", file.display()))?;
        }
        let covered = report.coverage.percent() >= usize::from(self.min_coverage);
        if !covered {
            eprintln!("coverage is below {}%", self.min_coverage);
        }
        Ok(if report.failed == 0 && covered { Verdict::Yes } else { Verdict::No })
    }

    fn report(&self) -> Result<Report, Failure> {
        let loaded = load(&self.directory, &self.domains.to_domains())?;
        let (mut trials, mut problems) = (Vec::new(), loaded.problems());
        for path in manifests(&self.directory)? {
            let name = name_in(&self.directory, &path);
            // a file that can't be read is among the problems already
            let (found, wrong) = cases::read(&name, &read_text(&path).unwrap_or_default());
            trials.extend(found);
            // so is what is no YAML
            problems.extend(wrong.into_iter().filter(|problem| problem.field.is_some()));
        }
        if !problems.is_empty() {
            problems.iter().for_each(|problem| eprintln!("{problem}"));
            return Err("nothing was tried: not everything can be used as it is written".into());
        }
        if trials.is_empty() {
            return Err(format!("there are no cases (kind AccessPolicyTest) in {}", self.directory.display()).into());
        }
        Ok(attempt(loaded.catalog.snapshot(), &trials, self.at.unwrap_or_else(Utc::now)))
    }
}
