//! `durward crds`.

use crate::cli::output::say;
use crate::cli::{Failure, Verdict};
use durward_api::crd::{crds, to_yaml, write_crds};
use std::path::PathBuf;

#[derive(Debug, clap::Args)]
pub(crate) struct Crds {
    /// Write one file for each resource to this directory
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

impl Crds {
    pub(crate) fn run(self) -> Result<Verdict, Failure> {
        match self.out {
            Some(directory) => {
                for file in write_crds(&directory)? {
                    say(&format!("{}\n", file.display()))?;
                }
            }
            None => {
                for crd in crds()? {
                    say(&format!("---\n{}", to_yaml(&crd)?))?;
                }
            }
        }
        Ok(Verdict::Yes)
    }
}
