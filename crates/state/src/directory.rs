//! The path of the state directory.

use crate::error::StateError;
use std::path::PathBuf;

/// The flag that names the state directory.
#[derive(Debug, Clone, clap::Args)]
pub struct StateDirectory {
    /// Directory of the built-in CA, keys and other state [default: durward in the user's state directory]
    #[arg(long = "state", value_name = "DIR", env = "DURWARD_STATE")]
    pub path: Option<PathBuf>,
}

impl StateDirectory {
    /// The path of the directory.
    ///
    /// # Errors
    /// When no directory is given and the user has no home directory.
    pub fn resolve(&self) -> Result<PathBuf, StateError> {
        let variable = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        self.path
            .clone()
            .or_else(|| variable("XDG_STATE_HOME").map(|state| state.join("durward")))
            .or_else(|| variable("HOME").map(|home| home.join(".local/state/durward")))
            .ok_or(StateError::NoDirectory)
    }
}
