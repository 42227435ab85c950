//! What a command returns, and the exit code it becomes.

use durward_core::visible::visible;
use durward_runtime::Failure;
use std::process::ExitCode;

/// The result of a command. A failure names what failed, where, and what to do.
pub(super) type CommandResult = Result<CommandOutcome, Failure>;

/// The answer of a command that did its work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CommandOutcome {
    /// The command is done, or the answer is yes.
    Success,
    /// The answer is no: a request is denied, a check fails, or a difference exists.
    Negative,
}

impl CommandOutcome {
    /// `Success` if the condition is true.
    pub(super) const fn from_success(success: bool) -> Self {
        if success { Self::Success } else { Self::Negative }
    }
}

/// Reports a failure on standard error; returns 0 for yes, 1 for no, 2 for a failure.
pub(super) fn exit_code(result: CommandResult) -> ExitCode {
    match result {
        Ok(CommandOutcome::Success) => ExitCode::SUCCESS,
        Ok(CommandOutcome::Negative) => ExitCode::from(1),
        Err(failure) => {
            eprintln!("error: {}", visible(&failure.to_string()));
            ExitCode::from(2)
        }
    }
}
