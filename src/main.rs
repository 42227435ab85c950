//! Parses the arguments and runs the command.

mod cli;

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    cli::CommandLine::parse().run()
}
