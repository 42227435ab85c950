//! Running programs, with their output in errors.

use std::ffi::OsStr;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use crate::error::{ClusterError, ClusterResult};

/// Runs `command` and returns its standard output.
pub(crate) fn run(command: &mut Command) -> ClusterResult<String> {
    let output = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).output();
    finish(command, output)
}

/// Runs `command` with `input` on its standard input and returns its standard output.
pub(crate) fn run_with_input(command: &mut Command, input: &str) -> ClusterResult<String> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = command.spawn().and_then(|mut child| {
        // the child may end before it has read everything; its status explains more than EPIPE
        let _ = child.stdin.take().map(|mut stdin| stdin.write_all(input.as_bytes()));
        child.wait_with_output()
    });
    finish(command, output)
}

fn finish(command: &Command, output: std::io::Result<Output>) -> ClusterResult<String> {
    let line = || {
        let words = std::iter::once(command.get_program()).chain(command.get_args());
        words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
    };
    match output {
        Ok(output) if output.status.success() => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        Ok(output) => Err(ClusterError::Command {
            command: line(),
            status: output.status.to_string(),
            output: format!("{}{}", String::from_utf8_lossy(&output.stderr), String::from_utf8_lossy(&output.stdout)),
        }),
        Err(error) => {
            Err(ClusterError::Command { command: line(), status: "not started".to_owned(), output: error.to_string() })
        }
    }
}

/// Where on `PATH` a program is.
pub(crate) fn which(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    // a service manager's PATH may lack the folders of ip and iptables in Debian
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|dir| dir.join(program))
        .find(|candidate| candidate.is_file())
}
