//! `durward crds`: the CustomResourceDefinitions, as `crds/` holds them.
//!
//! They are kept as text: what makes them from the types is half a megabyte that a running program has no use for.

use crate::cli::output::say;
use crate::cli::{Failure, Verdict};
use std::fs;
use std::path::PathBuf;

/// Each file of `crds/` and its name.
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
pub(crate) struct Crds {
    /// Write one file for each resource to this directory
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

impl Crds {
    pub(crate) fn run(self) -> Result<Verdict, Failure> {
        let Some(directory) = self.out else {
            FILES.iter().try_for_each(|(_, text)| say(&format!("---\n{text}")))?;
            return Ok(Verdict::Yes);
        };
        let failed = |path: &PathBuf| {
            let path = path.display().to_string();
            move |error| format!("can't write `{path}`: {error}")
        };
        fs::create_dir_all(&directory).map_err(failed(&directory))?;
        for (name, text) in FILES {
            let path = directory.join(name);
            fs::write(&path, text).map_err(failed(&path))?;
            say(&format!("{}\n", path.display()))?;
        }
        Ok(Verdict::Yes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_file_is_left_out() {
        let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/crds");
        let mut names: Vec<_> = fs::read_dir(directory)
            .expect("crds/")
            .map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8"))
            .collect();
        names.sort();
        assert_eq!(names, FILES.map(|(name, _)| name));
    }
}
