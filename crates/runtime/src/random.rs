//! Random bytes from the operating system.

use thiserror::Error;

/// The operating system provides no random bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the operating system provides no random bytes")]
pub struct RandomnessUnavailable;

/// Random bytes for keys, serial numbers and identifiers.
///
/// # Errors
/// When the operating system provides none.
pub fn random_bytes<const N: usize>() -> Result<[u8; N], RandomnessUnavailable> {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| RandomnessUnavailable)?;
    Ok(bytes)
}
