//! Where the writer thread writes: standard output, or a file that can be renamed or removed meanwhile.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The destination of the log.
#[derive(Debug)]
pub(super) enum LogOutput {
    Stdout(io::Stdout),
    File(ReopenableLog),
}

/// An open file, and its path.
#[derive(Debug)]
pub(super) struct ReopenableLog {
    path: PathBuf,
    file: File,
    /// Device and inode.
    identity: (u64, u64),
}

impl ReopenableLog {
    /// Opens a file for appending, and creates it if necessary. Only its owner can read a new one.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
        let identity = identity(&file.metadata()?);
        Ok(Self { path: path.to_owned(), file, identity })
    }
}

fn identity(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

impl LogOutput {
    /// Whether the path no longer leads to the open file: it was renamed or removed.
    pub fn is_gone(&self) -> bool {
        match self {
            Self::Stdout(_) => false,
            Self::File(log) => fs::metadata(&log.path).map_or(true, |metadata| identity(&metadata) != log.identity),
        }
    }

    /// Opens the path again.
    pub fn reopen(&mut self) -> io::Result<()> {
        if let Self::File(log) = self {
            *log = ReopenableLog::open(&log.path)?;
        }
        Ok(())
    }

    pub fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Stdout(stdout) => {
                let written = stdout.write(bytes)?;
                stdout.flush().map(|()| written)
            }
            Self::File(log) => log.file.write(bytes),
        }
    }
}
