//! How far the loading of many manifests is, for those who wait: on a terminal in one line, elsewhere a line at a time.

use std::io::{self, IsTerminal, Stderr, Write};

/// After how many manifests something is said again; as many are there in about a second, so fewer need no word.
const STEP: usize = 10_000;

/// What was read so far.
pub(super) struct Progress<W: Write> {
    to: W,
    terminal: bool,
    files: usize,
    all_files: usize,
    manifests: usize,
}

impl Progress<Stderr> {
    /// Of so many files.
    pub(super) fn on_stderr(files: usize) -> Self {
        let to = io::stderr();
        let terminal = to.is_terminal();
        Self::new(to, terminal, files)
    }
}

impl<W: Write> Progress<W> {
    fn new(to: W, terminal: bool, all_files: usize) -> Self {
        Self { to, terminal, files: 0, all_files, manifests: 0 }
    }

    /// One more manifest was read.
    pub(super) fn resource(&mut self) {
        self.manifests += 1;
        if self.manifests.is_multiple_of(STEP) {
            let (number, files, all) = (self.manifests, self.files, self.all_files);
            self.say(format_args!("{number} manifests read, {files} of {all} files done"));
        }
    }

    /// One more file was read.
    pub(super) fn file(&mut self) {
        self.files += 1;
    }

    /// All of them were read.
    pub(super) fn compiling(&mut self) {
        if self.manifests >= STEP {
            let number = self.manifests;
            self.say(format_args!("compiling {number} manifests"));
        }
    }

    /// They are in force; on a terminal nothing of it stays.
    pub(super) fn done(&mut self) {
        if self.terminal && self.manifests >= STEP {
            let _ = write!(self.to, "\r\u{1b}[K");
        }
    }

    fn say(&mut self, what: std::fmt::Arguments<'_>) {
        // who can't be told goes without
        let _ = if self.terminal { write!(self.to, "\r{what}\u{1b}[K") } else { writeln!(self.to, "{what}") };
        let _ = self.to.flush();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(terminal: bool, files: &[usize]) -> String {
        let mut to = Vec::new();
        let mut progress = Progress::new(&mut to, terminal, files.len());
        for manifests in files {
            (0..*manifests).for_each(|_| progress.resource());
            progress.file();
        }
        progress.compiling();
        progress.done();
        String::from_utf8_lossy(&to).into_owned()
    }

    #[test]
    fn who_waits_for_many_is_told_how_far_it_is() {
        assert_eq!(
            said(false, &[12_000, 12_000, 1]),
            "10000 manifests read, 0 of 3 files done\n20000 manifests read, 1 of 3 files done\ncompiling 24001 manifests\n"
        );
        assert_eq!(
            said(true, &[10_000]),
            "\r10000 manifests read, 0 of 1 files done\u{1b}[K\rcompiling 10000 manifests\u{1b}[K\r\u{1b}[K"
        );
        for terminal in [true, false] {
            assert_eq!(said(terminal, &[9_999]), "", "few need no word");
        }
    }
}
