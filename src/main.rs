//! Parses the arguments and calls the library.

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    durward::cli::Cli::parse().run()
}
