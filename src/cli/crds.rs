//! `durward crds`: the CustomResourceDefinitions of `crds/`.
//!
//! The program contains their text. Generating them from the types would add half a megabyte to it.

use crate::cli::outcome::{CommandOutcome, CommandResult};
use crate::cli::output::print_text;
use std::fs;
use std::path::PathBuf;

/// Name and text of files of `crds/`.
macro_rules! files {
    ($($name:literal),+ $(,)?) => { [$(($name, include_str!(concat!("../../crds/", $name)))),+] };
}
const FILES: [(&str, &str); 4] = files![
    "accesspolicies.durward.dev.yaml",
    "approvals.durward.dev.yaml",
    "identityproviders.durward.dev.yaml",
    "relationships.durward.dev.yaml"
];

#[derive(Debug, clap::Args)]
pub(crate) struct CrdsCommand {
    /// Write one file per resource to this directory
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

impl CrdsCommand {
    pub(crate) fn run(self) -> CommandResult {
        let Some(directory) = self.out else {
            FILES.iter().try_for_each(|(_, text)| print_text(&format!("---\n{text}")))?;
            return Ok(CommandOutcome::Success);
        };
        let failed = |path: &PathBuf| {
            let path = path.display().to_string();
            move |error| format!("cannot write `{path}`: {error}")
        };
        fs::create_dir_all(&directory).map_err(failed(&directory))?;
        for (name, text) in FILES {
            let path = directory.join(name);
            fs::write(&path, text).map_err(failed(&path))?;
            print_text(&format!("{}\n", path.display()))?;
        }
        Ok(CommandOutcome::Success)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_is_included() {
        let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/crds");
        let mut names: Vec<_> = fs::read_dir(directory)
            .expect("crds/")
            .map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8"))
            .collect();
        names.sort();
        assert_eq!(names, FILES.map(|(name, _)| name));
    }
}
