//! Whether a log is what was written: its chains of hashes and their signatures.

use crate::audit::chain::{Event, Head, Link, MOST_UNSIGNED, TYP, hash, signature};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use durward_authn::keys::KeySet;
use jsonwebtoken::Algorithm;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

/// Findings that are told one by one; a log that was written anew has as many as it has lines.
const MOST_FINDINGS: usize = 100;

/// A line of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Place {
    /// Name of the file.
    pub file: Arc<str>,
    /// Number of the line, from 1.
    pub line: u64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// What is wrong with a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Kind {
    /// The line is not what was written.
    Altered,
    /// Lines that stood before it are gone.
    Removed,
    /// The line is of no chain.
    Inserted,
    /// The line stands where it did not, or twice.
    Reordered,
    /// A signature is missing or does not fit: from the last good one on, the lines may be anybody's.
    Forged,
    /// The line is cut off.
    Truncated,
}

/// Something wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Where.
    #[serde(flatten)]
    pub place: Place,
    /// What kind of thing.
    pub kind: Kind,
    /// What is wrong.
    pub message: String,
}

/// How a chain ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Close {
    /// With a signed end.
    Ended,
    /// The next process found it so and signed that.
    Continued,
    /// It just stops: it is still written, the process was killed, or lines were cut off.
    Open,
}

/// One chain as it was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ChainFound {
    /// Its name.
    pub id: String,
    /// Its first line.
    pub from: Place,
    /// Its last line.
    pub to: Place,
    /// Decisions and issuances.
    pub records: u64,
    /// Records that the process could not write, as the chain tells.
    pub lost: u64,
    /// How it ends.
    pub close: Close,
    /// Lines behind the last signature, which the next could still disown.
    pub unsigned: u64,
}

/// What came of verifying.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Lines read.
    pub lines: u64,
    /// Decisions and issuances in them.
    pub records: u64,
    /// Records that were lost when the log was written.
    pub lost: u64,
    /// The chains, in the order of their first lines.
    pub chains: Vec<ChainFound>,
    /// Names of the keys that signed.
    pub keys: BTreeSet<String>,
    /// Whether signatures were checked, by keys that the caller trusts.
    pub signatures_checked: bool,
    /// What is wrong.
    pub findings: Vec<Finding>,
    /// Findings beyond those.
    pub more_findings: u64,
}

impl Report {
    /// Whether some chain just stops.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.chains.iter().any(|chain| chain.close == Close::Open)
    }
}

#[derive(Deserialize)]
struct Line<'l> {
    #[serde(borrow)]
    event: Option<Cow<'l, str>>,
    chain: Link,
    after: Option<Head>,
    torn: Option<String>,
    lost: Option<u64>,
    jws: Option<IgnoredAny>,
}

impl Line<'_> {
    fn own(&self) -> Option<Event> {
        let name = self.event.as_deref()?;
        [("begin", Event::Begin), ("checkpoint", Event::Checkpoint), ("gap", Event::Gap), ("end", Event::End)]
            .into_iter()
            .find_map(|(own, event)| (own == name).then_some(event))
    }
}

/// A chain while it is read.
struct State {
    order: usize,
    next: u64,
    hash: String,
    from: Place,
    to: Place,
    proven: Place,
    records: u64,
    lost: u64,
    unsigned: u64,
    too_long_told: bool,
    close: Close,
}

/// Reads a log line by line, the oldest first.
pub struct Verifier<'k> {
    keys: Option<&'k KeySet>,
    partial: bool,
    chains: BTreeMap<String, State>,
    /// Lines of no chain, with their hashes: a crash leaves one, which the next process vouches for.
    strangers: Vec<(Place, String)>,
    report: Report,
}

impl fmt::Debug for Verifier<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier").field("report", &self.report).finish_non_exhaustive()
    }
}

impl<'k> Verifier<'k> {
    /// Verifies signatures by `keys`, if there are any. Of a `partial` log neither beginning nor end is missed.
    #[must_use]
    pub fn new(keys: Option<&'k KeySet>, partial: bool) -> Self {
        let report = Report { signatures_checked: keys.is_some(), ..Report::default() };
        Self { keys, partial, chains: BTreeMap::new(), strangers: Vec::new(), report }
    }

    /// Takes in the next line, without its end.
    pub fn line(&mut self, place: &Place, line: &[u8]) {
        if line.trim_ascii().is_empty() {
            return;
        }
        self.report.lines += 1;
        match serde_json::from_slice::<Line<'_>>(line) {
            Ok(read) => self.chained(place, line, &read),
            Err(_) if self.strangers.len() < MOST_FINDINGS => self.strangers.push((place.clone(), hash(line))),
            Err(_) => self.report.more_findings += 1,
        }
    }

    fn chained(&mut self, place: &Place, text: &[u8], line: &Line<'_>) {
        let (link, event) = (&line.chain, line.own());
        if event == Some(Event::Begin) {
            self.begin(place, line);
        }
        // no other line has a signature, so that none becomes one by another name
        let signs = line.jws.is_some() || matches!(event, Some(Event::Begin | Event::Checkpoint | Event::End));
        let signed = signs.then(|| self.signed(text));
        let order = self.chains.len();
        if !self.chains.contains_key(&link.id) {
            if link.seq > 0 && !self.partial {
                let message =
                    format!("chain {} begins here with its line {}; what stood before is missing", link.id, link.seq);
                self.found(place, Kind::Removed, message);
            }
            if link.seq == 0 && event != Some(Event::Begin) {
                self.found(place, Kind::Forged, format!("chain {} has no signed beginning", link.id));
            }
            let state = State {
                order,
                next: link.seq,
                hash: link.prev.clone(),
                from: place.clone(),
                to: place.clone(),
                proven: place.clone(),
                records: 0,
                lost: 0,
                unsigned: 0,
                too_long_told: false,
                close: Close::Open,
            };
            self.chains.insert(link.id.clone(), state);
        }
        let Some(state) = self.chains.get_mut(&link.id) else { return };
        let mut findings = Vec::new();
        if link.seq < state.next {
            let message = format!(
                "line {} of chain {} stands after its line {}: moved, or written twice",
                link.seq,
                link.id,
                state.next - 1
            );
            self.found(place, Kind::Reordered, message);
            return;
        }
        if link.seq > state.next {
            let (first, last) = (state.next, link.seq - 1);
            let which = if first == last { format!("line {first}") } else { format!("lines {first} to {last}") };
            findings.push((place.clone(), Kind::Removed, format!("{which} of chain {} should stand before", link.id)));
        } else if link.prev != state.hash {
            let message = format!(
                "it is not what it was when line {} was written after it (or that one was altered)",
                place.line
            );
            findings.push((state.to.clone(), Kind::Altered, message));
        }
        if state.close == Close::Ended {
            findings.push((place.clone(), Kind::Inserted, format!("chain {} had ended before", link.id)));
        }
        state.next = link.seq.saturating_add(1);
        state.hash = hash(text);
        state.to = place.clone();
        state.unsigned += 1;
        match event {
            Some(Event::Gap) => state.lost = state.lost.saturating_add(line.lost.unwrap_or(0)),
            Some(Event::End) => state.close = Close::Ended,
            Some(Event::Begin | Event::Checkpoint) => {}
            None => state.records += 1,
        }
        match signed {
            Some(Ok(kid)) => {
                (state.unsigned, state.proven) = (0, place.clone());
                self.report.keys.extend(kid);
            }
            Some(Err(why)) => {
                let message = format!("{why}: nothing proves the lines after {}", state.proven);
                findings.push((place.clone(), Kind::Forged, message));
            }
            None => {}
        }
        if state.unsigned > MOST_UNSIGNED + 1 && !state.too_long_told {
            state.too_long_told = true;
            let message = format!("more than {MOST_UNSIGNED} lines without a checkpoint since {}", state.proven);
            findings.push((place.clone(), Kind::Forged, message));
        }
        for (place, kind, message) in findings {
            self.found(&place, kind, message);
        }
    }

    /// A new chain says what stood before it.
    fn begin(&mut self, place: &Place, line: &Line<'_>) {
        if let Some(torn) = &line.torn
            && let Some(at) = self.strangers.iter().position(|(_, hash)| hash == torn)
        {
            self.strangers.remove(at);
        }
        let Some(after) = &line.after else { return };
        let message = match self.chains.get_mut(&after.id) {
            Some(before) if before.next == after.seq.saturating_add(1) && before.hash == after.hash => {
                if before.close == Close::Open {
                    (before.close, before.unsigned) = (Close::Continued, 0);
                }
                return;
            }
            // another process went on with it meanwhile: its own lines prove it
            Some(before) if before.next > after.seq.saturating_add(1) => return,
            Some(before) if before.next == after.seq.saturating_add(1) => {
                let last = before.to.clone();
                let message = format!("it is not what line {} found when the next process began", place.line);
                self.found(&last, Kind::Altered, message);
                return;
            }
            Some(before) => format!("lines {} to {} of chain {} should stand before", before.next, after.seq, after.id),
            None if self.partial => return,
            None => format!("chain {} should stand before, up to its line {}", after.id, after.seq),
        };
        self.found(place, Kind::Removed, message);
    }

    /// Whether a line is signed by a key that is trusted; the name of the key.
    fn signed(&self, line: &[u8]) -> Result<Option<String>, &'static str> {
        #[derive(Deserialize)]
        struct Header {
            alg: String,
            typ: String,
            kid: String,
        }
        #[derive(Deserialize)]
        struct Claims {
            hash: String,
        }
        let (line, jws) = signature(line).ok_or("it is not signed")?;
        let unreadable = "its signature can't be read";
        let (message, mark) = jws.rsplit_once('.').ok_or(unreadable)?;
        let (header, claims) = message.split_once('.').ok_or(unreadable)?;
        let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| unreadable);
        let header: Header = serde_json::from_slice(&decode(header)?).map_err(|_| unreadable)?;
        let claims: Claims = serde_json::from_slice(&decode(claims)?).map_err(|_| unreadable)?;
        // whoever verifies it may pass over bits at the end that mean nothing, and those could be changed unnoticed
        decode(mark)?;
        if header.typ != TYP || header.alg != "ES256" {
            return Err("its signature is of another kind");
        }
        if claims.hash != hash(&line) {
            return Err("its signature is of another line");
        }
        let Some(keys) = self.keys else { return Ok(Some(header.kid)) };
        let key = keys.find(Some(&header.kid)).map_err(|_| "it is signed by a key that is not among the given ones")?;
        let verified = key.algorithms.contains(&Algorithm::ES256)
            && jsonwebtoken::crypto::verify(mark, message.as_bytes(), &key.key, Algorithm::ES256).unwrap_or(false);
        if verified { Ok(Some(header.kid)) } else { Err("its signature does not verify") }
    }

    fn found(&mut self, place: &Place, kind: Kind, message: String) {
        if self.report.findings.len() < MOST_FINDINGS {
            self.report.findings.push(Finding { place: place.clone(), kind, message });
        } else {
            self.report.more_findings += 1;
        }
    }

    /// What came of it. `cut` is the last line, if it has no end of line.
    #[must_use]
    pub fn finish(mut self, cut: Option<&Place>) -> Report {
        for (place, _) in std::mem::take(&mut self.strangers) {
            if cut == Some(&place) {
                // a log that is still written may be read in the middle of a line
                if !self.partial {
                    self.found(&place, Kind::Truncated, "the line is cut off".to_owned());
                }
            } else {
                let message = "it is of no chain: put in, or altered beyond reading".to_owned();
                self.found(&place, Kind::Inserted, message);
            }
        }
        let mut chains: Vec<_> = std::mem::take(&mut self.chains).into_iter().collect();
        chains.sort_unstable_by_key(|(_, state)| state.order);
        self.report.chains = chains
            .into_iter()
            .map(|(id, state)| ChainFound {
                id,
                from: state.from,
                to: state.to,
                records: state.records,
                lost: state.lost,
                close: state.close,
                unsigned: state.unsigned,
            })
            .collect();
        self.report.records = self.report.chains.iter().map(|chain| chain.records).sum();
        self.report.lost = self.report.chains.iter().map(|chain| chain.lost).sum();
        let place = |finding: &Finding| (Arc::clone(&finding.place.file), finding.place.line);
        self.report.findings.sort_by_key(place);
        self.report
    }
}
