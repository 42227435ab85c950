//! `durward crds`.

use crate::cli::output::say;
use crate::cli::{Failure, Verdict};
use durward_api::crd::crds;
use std::fs;
use std::path::PathBuf;

#[derive(Debug, clap::Args)]
pub(crate) struct Crds {
    /// Write one file for each resource to this directory
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

impl Crds {
    pub(crate) fn run(self) -> Result<Verdict, Failure> {
        for (name, text) in rendered()? {
            match &self.out {
                None => say(&format!("---\n{text}"))?,
                Some(directory) => {
                    let path = directory.join(name);
                    fs::create_dir_all(directory)
                        .and_then(|()| fs::write(&path, text))
                        .map_err(|error| format!("can't write {}: {error}", path.display()))?;
                }
            }
        }
        Ok(Verdict::Yes)
    }
}

/// File name and text of each definition.
fn rendered() -> Result<Vec<(String, String)>, Failure> {
    let render = |crd: serde_json::Value| -> Result<_, Failure> {
        let name = crd.pointer("/metadata/name").and_then(serde_json::Value::as_str).unwrap_or_default();
        Ok((format!("{name}.yaml"), serde_saphyr::to_string(&crd)?))
    };
    crds()?.into_iter().map(render).collect()
}
