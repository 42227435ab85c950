//! The Python environment that `make test-deps` installs.

use std::path::PathBuf;

/// The path of one of its programs.
pub fn venv(program: &str) -> PathBuf {
    let directory = std::env::var_os("DURWARD_TEST_VENV").map(PathBuf::from).unwrap_or_else(|| {
        let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
        let home = || PathBuf::from(std::env::var_os("HOME").expect("a home")).join(".cache");
        cache.unwrap_or_else(home).join("durward/venv")
    });
    let path = directory.join("bin").join(program);
    assert!(path.exists(), "{} is missing: run `make test-deps`", path.display());
    path
}
