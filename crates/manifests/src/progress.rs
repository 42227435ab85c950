//! Progress messages while many manifests load: one changing line on a terminal, separate lines elsewhere.

use std::io::{self, IsTerminal, Stderr, Write};

/// Manifests between two messages. They load in about a second, so fewer need no message.
const STEP: usize = 10_000;

/// What has been read so far, and where messages go.
pub(super) struct LoadProgress<W: Write> {
    output: W,
    terminal: bool,
    files: usize,
    all_files: usize,
    manifests: usize,
}

impl LoadProgress<Stderr> {
    /// Progress for a number of files.
    pub(super) fn on_stderr(files: usize) -> Self {
        let output = io::stderr();
        let terminal = output.is_terminal();
        Self::new(output, terminal, files)
    }
}

impl<W: Write> LoadProgress<W> {
    fn new(output: W, terminal: bool, all_files: usize) -> Self {
        Self { output, terminal, files: 0, all_files, manifests: 0 }
    }

    /// Counts a manifest that was read.
    pub(super) fn resource(&mut self) {
        self.manifests += 1;
        if self.manifests.is_multiple_of(STEP) {
            let Self { manifests, files, all_files, .. } = *self;
            self.print(format_args!("{manifests} manifests read, {files} of {all_files} files done"));
        }
    }

    /// Counts a file that was read.
    pub(super) fn file(&mut self) {
        self.files += 1;
    }

    /// Reports that all files were read and are being compiled.
    pub(super) fn compiling(&mut self) {
        if self.manifests >= STEP {
            let number = self.manifests;
            self.print(format_args!("compiling {number} manifests"));
        }
    }

    /// Clears the line on a terminal: the manifests are in force.
    pub(super) fn done(&mut self) {
        if self.terminal && self.manifests >= STEP {
            let _ = write!(self.output, "\r\u{1b}[K");
        }
    }

    /// Prints a message. A failure to do so must not stop the load.
    fn print(&mut self, message: std::fmt::Arguments<'_>) {
        let _ =
            if self.terminal { write!(self.output, "\r{message}\u{1b}[K") } else { writeln!(self.output, "{message}") };
        let _ = self.output.flush();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(terminal: bool, files: &[usize]) -> String {
        let mut output = Vec::new();
        let mut progress = LoadProgress::new(&mut output, terminal, files.len());
        for manifests in files {
            (0..*manifests).for_each(|_| progress.resource());
            progress.file();
        }
        progress.compiling();
        progress.done();
        String::from_utf8_lossy(&output).into_owned()
    }

    #[test]
    fn progress_is_reported_for_many_manifests_only() {
        assert_eq!(
            messages(false, &[12_000, 12_000, 1]),
            "10000 manifests read, 0 of 3 files done\n20000 manifests read, 1 of 3 files done\ncompiling 24001 manifests\n"
        );
        assert_eq!(
            messages(true, &[10_000]),
            "\r10000 manifests read, 0 of 1 files done\u{1b}[K\rcompiling 10000 manifests\u{1b}[K\r\u{1b}[K"
        );
        for terminal in [true, false] {
            assert_eq!(messages(terminal, &[9_999]), "", "few need no message");
        }
    }
}
