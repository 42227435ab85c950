//! Programs of this workspace, built by cargo where it built the running program.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::command::run;
use crate::error::{ClusterError, ClusterResult};
use crate::paths;

/// The profile of `Cargo.toml` that compiles the program for test images.
const QUICK: &str = "quick";

/// Builds the program `name` by the profile of the running program, and returns its path. Takes a fraction of a second
/// when nothing changed.
pub fn build(name: &str) -> ClusterResult<PathBuf> {
    let output = output_folder()?;
    // cargo's folder for the profiles `dev` and `test` has another name
    let profile = match output.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(profile) => profile,
    };
    run(command(name, target_folder(&output)).args(["--profile", profile]))?;
    Ok(output.join(name))
}

/// Builds `durward` for an image: a static program, by a profile that compiles in a minute. Returns its path.
pub(crate) fn build_static() -> ClusterResult<PathBuf> {
    let version = run(Command::new("rustc").current_dir(paths::repository()).arg("-vV"))?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    let host = host.ok_or_else(|| ClusterError::invalid("the output of `rustc -vV`", "it has no `host`"))?;
    let output = output_folder()?;
    let target = target_folder(&output);
    let mut cargo = command("durward", target);
    // with --target, RUSTFLAGS do not reach build scripts and procedural macros, which can't be static
    cargo.args(["--package", "durward", "--profile", QUICK, "--target", host]);
    cargo.env_remove("CARGO_ENCODED_RUSTFLAGS").env("RUSTFLAGS", "-C target-feature=+crt-static");
    run(&mut cargo)?;
    Ok(target.join(host).join(QUICK).join("durward"))
}

/// The folder for files that tests make and keep, as cargo names it for integration tests.
pub fn scratch_folder() -> ClusterResult<PathBuf> {
    Ok(target_folder(&output_folder()?).join("tmp"))
}

fn command(name: &str, target: &Path) -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(paths::repository());
    cargo.args(["build", "--quiet", "--locked", "--bin", name, "--target-dir"]).arg(target);
    cargo
}

/// The folder of the running profile, such as `target/debug`: tests run from `deps` below it, programs from itself.
fn output_folder() -> ClusterResult<PathBuf> {
    let failed = |source| ClusterError::Io { action: "resolve", path: PathBuf::from("/proc/self/exe"), source };
    let program = std::env::current_exe().map_err(failed)?;
    let folder = program.parent().unwrap_or(&program);
    Ok(if folder.ends_with("deps") { folder.parent().unwrap_or(folder) } else { folder }.to_owned())
}

fn target_folder(output: &Path) -> &Path {
    output.parent().unwrap_or(output)
}
