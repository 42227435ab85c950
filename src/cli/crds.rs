//! `durward crds`.

use crate::cli::{Failure, Verdict};
use std::path::PathBuf;

#[derive(Debug, clap::Args)]
pub(crate) struct Crds {
    /// Write one file for each resource to this directory
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

impl Crds {
    pub(crate) fn run(self) -> Result<Verdict, Failure> {
        let _ = self.out;
        Ok(Verdict::Yes)
    }
}
