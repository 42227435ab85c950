//! Generates the messages of a check from their definition.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto/check.proto");
    let descriptors = protox::compile(["proto/check.proto"], ["proto"])?;
    tonic_prost_build::configure().build_client(false).bytes(".").compile_fds(descriptors)?;
    Ok(())
}
