//! `durward audit verify`: whether a log is what was written.

use crate::cli::controller::block_on;
use crate::cli::output::Format;
use crate::cli::{Failure, Verdict};
use durward_authn::KeySource;
use durward_authn::keys::{KeySet, read};
use durward_engine::audit::is_own;
use durward_engine::audit::verify::{Close, Place, Report, Verifier};
use serde::Serialize;
use std::fmt::Write;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::PathBuf;
use std::sync::Arc;

/// Longest line that is read at once, in bytes; what is longer is no record.
const MAX_LINE: u64 = 256 * 1024;
/// Lines at the beginning of a file among which its first record is looked for.
const FIRST: usize = 10;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit codes: 0 it is what was written, 1 it is not, 2 that can't be told: without --keys, or when the log just stops.\n\n\
                        Examples:\n  durward audit keys > keys.json && durward audit verify audit.log.1 audit.log --keys keys.json\n  \
                        zcat audit.log.2.gz | durward audit verify - --partial --keys keys.json"
)]
pub(crate) struct Verify {
    /// The log, or all pieces that it was cut into; `-` for standard input
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Public keys of the installation (a JWKS), which `durward audit keys` prints and the token listener serves
    #[arg(long, value_name = "FILE|URL")]
    keys: Option<String>,
    /// Miss nothing before the first line and after the last: the files are a part of the log, or it is still written
    #[arg(long)]
    partial: bool,
    /// Output format
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
}

/// What can be said of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
enum Judgement {
    Intact,
    Broken,
    Unknown,
}

#[derive(Debug, Serialize)]
struct Told {
    verdict: Judgement,
    #[serde(flatten)]
    report: Report,
}

impl Verify {
    pub(crate) fn run(self) -> Result<Verdict, Failure> {
        let keys = self.keys.as_deref().map(keys).transpose()?;
        let mut verifier = Verifier::new(keys.as_ref(), self.partial);
        let mut pieces = self.files.iter().map(Piece::open).collect::<Result<Vec<_>, _>>()?;
        // however they are named, the oldest comes first; a wrong time shows as lines that are out of order. A piece too
        // small to hold a whole record goes with the one before it
        for at in 1..pieces.len() {
            if let Ok([before, piece]) = pieces.get_disjoint_mut([at - 1, at])
                && piece.time.is_empty()
            {
                before.time.clone_into(&mut piece.time);
            }
        }
        pieces.sort_by(|a, b| a.time.cmp(&b.time));
        let cut = feed(pieces, &mut verifier)?;
        let report = verifier.finish(cut.as_ref());
        let broken = !report.findings.is_empty();
        if report.chains.is_empty() && (report.lines == 0 || report.records == 0) {
            return Err("there is no line of an audit log in it".into());
        }
        let unknown = !report.signatures_checked || (report.is_open() && !self.partial);
        let verdict = match (broken, unknown) {
            (true, _) => Judgement::Broken,
            (false, true) => Judgement::Unknown,
            (false, false) => Judgement::Intact,
        };
        let told = Told { verdict, report };
        self.output.print(&told, text)?;
        match verdict {
            Judgement::Intact => Ok(Verdict::Yes),
            Judgement::Broken => Ok(Verdict::No),
            Judgement::Unknown => Err(unknown_why(&told.report).into()),
        }
    }
}

fn unknown_why(report: &Report) -> String {
    if report.signatures_checked {
        "the log just stops, so nobody can tell whether lines were cut off; if it is still written, or goes on in other files, say --partial"
    } else {
        "nobody can tell who wrote it: give the installation's keys with --keys"
    }
    .to_owned()
}

/// Reads the keys from a file or URL.
fn keys(from: &str) -> Result<KeySet, Failure> {
    let failed = |error: &dyn std::fmt::Display| format!("can't read the keys in {from}: {error}");
    let json = if from.contains("://") {
        let source = KeySource::Url(KeySource::url(from)?);
        block_on(async { Ok(read(&source).await?) }).map_err(|error| failed(&error))?
    } else {
        std::fs::read(from).map_err(|error| failed(&error))?
    };
    Ok(KeySet::parse(&json).map_err(|error| failed(&error))?)
}

/// One file of the log.
struct Piece {
    name: Arc<str>,
    reader: Box<dyn BufRead>,
    /// What was read to find its time.
    begun: Vec<u8>,
    /// Time of its first record.
    time: String,
}

impl Piece {
    fn open(path: &PathBuf) -> Result<Self, Failure> {
        let name: Arc<str> = path.display().to_string().into();
        let mut reader: Box<dyn BufRead> = if &*name == "-" {
            Box::new(BufReader::new(io::stdin()))
        } else {
            Box::new(BufReader::new(File::open(path).map_err(|error| unreadable(&name, &error))?))
        };
        let (mut begun, mut time) = (Vec::new(), String::new());
        for _ in 0..FIRST {
            let start = begun.len();
            reader.by_ref().take(MAX_LINE).read_until(b'\n', &mut begun).map_err(|error| unreadable(&name, &error))?;
            let line = begun.get(start..).unwrap_or_default();
            // those lines are written a little after the records that follow them were made
            if is_own(line) {
                continue;
            }
            let line: Result<serde_json::Value, _> = serde_json::from_slice(line);
            // all times are written in UTC and one form, so that text sorts as they do
            if let Some(found) = line.ok().as_ref().and_then(|line| line.get("time")?.as_str()) {
                found.clone_into(&mut time);
                break;
            }
        }
        Ok(Self { name, reader, begun, time })
    }
}

/// Reads all pieces as one text; returns the last line if it is cut off.
fn feed(pieces: Vec<Piece>, verifier: &mut Verifier<'_>) -> Result<Option<Place>, Failure> {
    let (mut line, mut place) = (Vec::new(), None::<Place>);
    for Piece { name, reader, begun, .. } in pieces {
        let mut reader = begun.as_slice().chain(reader);
        let mut number = 1;
        loop {
            let read = reader.by_ref().take(MAX_LINE).read_until(b'\n', &mut line);
            if read.map_err(|error| unreadable(&name, &error))? == 0 {
                break;
            }
            // a line that one file leaves off goes on in the next
            let at = place.get_or_insert_with(|| Place { file: Arc::clone(&name), line: number });
            if line.ends_with(b"\n") || line.len() as u64 >= MAX_LINE {
                number += u64::from(line.ends_with(b"\n"));
                line.pop_if(|last| *last == b'\n');
                verifier.line(at, &line);
                line.clear();
                place = None;
            }
        }
    }
    if let Some(at) = &place {
        verifier.line(at, &line);
    }
    Ok(place)
}

fn unreadable(name: &str, error: &io::Error) -> Failure {
    format!("can't read the audit log {name}: {error}").into()
}

fn text(told: &Told) -> String {
    let report = &told.report;
    let mut text = String::new();
    for finding in &report.findings {
        let kind = format!("{:?}", finding.kind).to_lowercase();
        let _ = writeln!(text, "{}: {kind}: {}", finding.place, finding.message);
    }
    if report.more_findings > 0 {
        let _ = writeln!(text, "and {} more", report.more_findings);
    }
    for chain in &report.chains {
        let close = match chain.close {
            Close::Ended => "ended",
            Close::Continued => "continued by the next",
            Close::Open => "just stops",
        };
        let lost = if chain.lost > 0 { format!(", {} lost when it was written", chain.lost) } else { String::new() };
        let tail =
            if chain.unsigned > 0 { format!(", {} lines not signed yet", chain.unsigned) } else { String::new() };
        let _ = writeln!(
            text,
            "chain {}: {} records from {} to {}{lost}, {close}{tail}",
            chain.id, chain.records, chain.from, chain.to
        );
    }
    let verdict = match told.verdict {
        Judgement::Intact => "INTACT   it is what was written",
        Judgement::Broken => "BROKEN   it is not what was written",
        Judgement::Unknown => "UNKNOWN  each line fits the next",
    };
    let keys = report.keys.iter().cloned().collect::<Vec<_>>().join(", ");
    let signed = if report.signatures_checked { "signed by" } else { "not checked: signed by" };
    let _ = writeln!(
        text,
        "{verdict}; {} records, {signed} {}",
        report.records,
        if keys.is_empty() { "nobody" } else { &keys }
    );
    text
}
