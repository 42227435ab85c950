//! Checks whether a caller has a relation to an object, and by which tuples.
//!
//! The search goes from the object to the caller, depth first. Its order depends on texts alone, so replicas that
//! received the tuples in different orders agree. It keeps its results for each `object#relation`:
//!
//! - A yes is final.
//! - Reaching a question that is still open is a provisional no: no proof of a question needs the question itself. A
//!   no that rests on a provisional one is valid while that question is open. It becomes final when the question ends
//!   in a no.
//! - Reaching an open question through an exclusion is a failure: neither answer would be sound.
//! - Reaching a limit is a failure, too. A failure is never a yes, and excluding a failure does not yield a yes.
//! - If some tuples are unknown, a no within an exclusion is a failure: the unknown tuples could make it a yes.
//!   Outside of exclusions unknown tuples can't turn a yes into a no.
//! - If the caller's groups are unknown, a no to a membership in a group of its provider is a failure, too.

use super::model::{CompiledRelationRule, GROUP, RelationModel};
use super::names::TextId;
use super::tuple::{MEMBER, kind_of};
use super::tuples::{EVERYBODY, IndexedTuple, PRINCIPAL, TupleIndex};
use crate::condition::Truth;
use crate::principal::Identity;
use crate::subject::{Membership, group_membership};
use crate::unknown_facts::UnknownCause;
use crate::work::{WORK_EXHAUSTED, WorkBudget};
use foldhash::fast::RandomState;
use serde::Serialize;
use std::collections::{HashMap, HashSet};
use std::fmt;

/// Maximum length of a chain of relations. Folders and groups nest a few levels; the search recurses, and stays far
/// below a thread's 2 MB of stack.
pub(super) const MAX_DEPTH: usize = 32;
/// Maximum number of sets or objects with one relation to one object. Principals are not counted.
pub(super) const MAX_BREADTH: usize = 1000;
/// Prices in units of work: see [`MAX_WORK`](crate::work::MAX_WORK). Visiting a node takes a few look-ups in tables.
const NODE: u64 = 12;
const RULE: u64 = 6;
/// A tuple is collected, sorted among up to a thousand by its text, and its result looked up.
const TUPLE: u64 = 12;

/// An object that no tuple contains.
const UNKNOWN: TextId = TextId::MAX;
/// The result rests on no open question.
const FINAL: usize = usize::MAX;

/// The result of a search.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelationCheck {
    /// Whether the relation holds.
    pub truth: Truth,
    /// The proof, from the object to the caller; empty if the relation does not hold.
    pub proof: Vec<ProofStep>,
}

/// One step of a proof.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ProofStep {
    /// The relation that holds: `object#relation`.
    pub holds: String,
    /// The tuple that it follows from, if any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tuple: Option<String>,
    /// The relation that it follows from, `object#relation`, if any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// The relation that was excluded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unless: Option<String>,
}

impl fmt::Display for ProofStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.holds)?;
        match (&self.tuple, &self.since, &self.unless) {
            (_, _, Some(unless)) => write!(f, ": and not by {unless}"),
            (Some(tuple), Some(since), _) => write!(f, ": by {tuple}, as {since}"),
            (Some(tuple), None, _) => write!(f, ": by {tuple}"),
            (None, Some(since), _) => write!(f, ": as {since}"),
            (None, None, _) => f.write_str(": by the caller's token"),
        }
    }
}

impl TupleIndex {
    /// Whether the caller has a relation to an object, `type:id`, with a budget of its own.
    #[must_use]
    pub fn check(&self, model: &RelationModel, object: &str, relation: &str, caller: &Identity) -> Truth {
        self.check_within(model, object, relation, caller, &WorkBudget::default())
    }

    /// As [`TupleIndex::check`], within the budget of a decision.
    #[must_use]
    pub fn check_within(
        &self,
        model: &RelationModel,
        object: &str,
        relation: &str,
        caller: &Identity,
        work: &WorkBudget,
    ) -> Truth {
        RelationSearch::new(self, model, object, caller, work, false).run(relation).truth
    }

    /// As [`TupleIndex::check`], with a proof.
    #[must_use]
    pub fn explain(&self, model: &RelationModel, object: &str, relation: &str, caller: &Identity) -> RelationCheck {
        self.explain_within(model, object, relation, caller, &WorkBudget::default())
    }

    /// As [`TupleIndex::explain`], within the budget of an explanation.
    #[must_use]
    pub(crate) fn explain_within(
        &self,
        model: &RelationModel,
        object: &str,
        relation: &str,
        caller: &Identity,
        work: &WorkBudget,
    ) -> RelationCheck {
        RelationSearch::new(self, model, object, caller, work, true).run(relation)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SearchVerdict {
    Yes,
    No,
    Failed(SearchFailure),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SearchFailure {
    Depth,
    Breadth,
    /// The budget of the decision is exhausted.
    Work,
    Exclusion,
    /// Some tuples are unknown.
    UnknownTuples,
    /// The caller's groups are unknown.
    UnknownGroups(UnknownCause),
}

impl fmt::Display for SearchFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownTuples => f.write_str("whom some tuples exclude is not known"),
            Self::UnknownGroups(cause) => write!(f, "the caller's groups are unknown: {cause}"),
            Self::Depth => write!(f, "relations lead through more than {MAX_DEPTH} others"),
            Self::Breadth => write!(f, "more than {MAX_BREADTH} sets or objects stand in one relation to one object"),
            Self::Work => f.write_str(WORK_EXHAUSTED),
            Self::Exclusion => f.write_str("a relation is excluded by itself"),
        }
    }
}

/// A verdict, and the lowest position on the stack that it rests on.
#[derive(Debug, Clone, Copy)]
struct SearchResult {
    verdict: SearchVerdict,
    rests_on: usize,
}

impl SearchResult {
    const fn definite(verdict: SearchVerdict) -> Self {
        Self { verdict, rests_on: FINAL }
    }

    /// The verdict of a union, so far `self`, with `other` as a further part.
    fn or(self, other: Self) -> Self {
        match (self.verdict, other.verdict) {
            (SearchVerdict::Yes, _) | (SearchVerdict::Failed(_), SearchVerdict::No | SearchVerdict::Failed(_)) => self,
            (_, SearchVerdict::Yes) | (SearchVerdict::No, SearchVerdict::Failed(_)) => other,
            (SearchVerdict::No, SearchVerdict::No) => {
                Self { verdict: SearchVerdict::No, rests_on: self.rests_on.min(other.rests_on) }
            }
        }
    }
}

/// `object#relation`.
type RelationNode<'a> = (TextId, &'a str);

/// Why a node holds: a tuple, another node, and what was excluded.
struct Justification<'a> {
    tuple: Option<IndexedTuple>,
    since: Option<RelationNode<'a>>,
    unless: Option<&'a CompiledRelationRule>,
}

struct RelationSearch<'a> {
    tuples: &'a TupleIndex,
    model: &'a RelationModel,
    caller: &'a Identity,
    /// The id of the caller's name, if a tuple contains it.
    caller_name: Option<TextId>,
    /// The object of the first question.
    start: &'a str,
    /// The open questions, from the first to the latest.
    stack: Vec<RelationNode<'a>>,
    /// Height of the stack at the last exclusion. Questions below it are outside of the exclusion.
    barrier: usize,
    /// Results so far: `None` for yes, otherwise the position that the no rests on.
    results: HashMap<RelationNode<'a>, Option<usize>, RandomState>,
    /// Each no that rests on an open question, in the order of discovery.
    resting: Vec<RelationNode<'a>>,
    work: &'a WorkBudget,
    /// Why each node holds, if a proof is wanted.
    reasons: Option<HashMap<RelationNode<'a>, Vec<Justification<'a>>, RandomState>>,
}

impl<'a> RelationSearch<'a> {
    fn new(
        tuples: &'a TupleIndex,
        model: &'a RelationModel,
        start: &'a str,
        caller: &'a Identity,
        work: &'a WorkBudget,
        explain: bool,
    ) -> Self {
        Self {
            tuples,
            model,
            caller,
            caller_name: tuples.names.find(&caller.id.to_string()),
            start,
            stack: Vec::new(),
            barrier: 0,
            results: HashMap::default(),
            resting: Vec::new(),
            work,
            reasons: explain.then(HashMap::default),
        }
    }

    fn run(mut self, relation: &'a str) -> RelationCheck {
        let object = self.tuples.names.find(self.start).unwrap_or(UNKNOWN);
        match self.node((object, relation)).verdict {
            SearchVerdict::Yes => RelationCheck { truth: Truth::True, proof: self.proof((object, relation)) },
            SearchVerdict::No => RelationCheck { truth: Truth::False, proof: Vec::new() },
            SearchVerdict::Failed(failure) => {
                RelationCheck { truth: Truth::Failed(self.why(failure)), proof: Vec::new() }
            }
        }
    }

    fn why(&self, failure: SearchFailure) -> String {
        let source = if failure == SearchFailure::UnknownTuples { self.tuples.unknown_source() } else { None };
        match source {
            Some(source) => format!(
                "Relationship {source} is invalid and its last valid version is unknown, so the callers that it \
                 excludes are unknown: fix or remove it"
            ),
            None => failure.to_string(),
        }
    }

    fn text(&self, object: TextId) -> &'a str {
        if object == UNKNOWN { self.start } else { self.tuples.names.text(object) }
    }

    fn node(&mut self, node: RelationNode<'a>) -> SearchResult {
        if let Some(place) = self.stack.iter().rposition(|open| *open == node) {
            return if place < self.barrier {
                SearchResult::definite(SearchVerdict::Failed(SearchFailure::Exclusion))
            } else {
                SearchResult { verdict: SearchVerdict::No, rests_on: place }
            };
        }
        match self.results.get(&node) {
            Some(None) => return SearchResult::definite(SearchVerdict::Yes),
            Some(Some(rests_on)) if *rests_on >= self.barrier => {
                return SearchResult { verdict: SearchVerdict::No, rests_on: *rests_on };
            }
            _ => {}
        }
        let Some(rule) = self.model.rule(kind_of(self.text(node.0)), node.1) else {
            return SearchResult::definite(SearchVerdict::No);
        };
        if !self.work.charge(NODE) {
            return SearchResult::definite(SearchVerdict::Failed(SearchFailure::Work));
        }
        let place = self.stack.len();
        if place == MAX_DEPTH {
            return SearchResult::definite(SearchVerdict::Failed(SearchFailure::Depth));
        }
        let resting = self.resting.len();
        self.stack.push(node);
        let mut reasons = Vec::new();
        let result = self.rule(rule, node, &mut reasons);
        self.stack.pop();
        match result.verdict {
            SearchVerdict::Yes => {
                self.discard(resting);
                self.results.insert(node, None);
                if let Some(all) = &mut self.reasons {
                    all.insert(node, reasons);
                }
                SearchResult::definite(SearchVerdict::Yes)
            }
            SearchVerdict::Failed(_) => {
                self.discard(resting);
                SearchResult::definite(result.verdict)
            }
            SearchVerdict::No => self.keep_no(node, place, result.rests_on, resting),
        }
    }

    /// Keeps a no, and updates those that rest on it.
    fn keep_no(&mut self, node: RelationNode<'a>, place: usize, rests_on: usize, resting: usize) -> SearchResult {
        let rests_on = if rests_on >= place { FINAL } else { rests_on };
        for other in self.resting.get(resting..).unwrap_or_default() {
            if let Some(Some(lowest)) = self.results.get_mut(other) {
                *lowest = if rests_on == FINAL { FINAL } else { rests_on.min(*lowest) };
            }
        }
        self.results.insert(node, Some(rests_on));
        if rests_on == FINAL {
            self.resting.truncate(resting);
        } else {
            self.resting.push(node);
        }
        SearchResult { verdict: SearchVerdict::No, rests_on }
    }

    /// Discards each no that rested on a question which did not end in a no.
    fn discard(&mut self, resting: usize) {
        for node in self.resting.drain(resting..) {
            self.results.remove(&node);
        }
    }

    fn rule(
        &mut self,
        rule: &'a CompiledRelationRule,
        node: RelationNode<'a>,
        reasons: &mut Vec<Justification<'a>>,
    ) -> SearchResult {
        let mark = reasons.len();
        if !self.work.charge(RULE) {
            return SearchResult::definite(SearchVerdict::Failed(SearchFailure::Work));
        }
        let result = match rule {
            CompiledRelationRule::This => self.this(node, reasons),
            CompiledRelationRule::Computed(relation) => self.step(None, (node.0, relation), reasons),
            CompiledRelationRule::From { from, relation } => self.from(node.0, from, relation, reasons),
            CompiledRelationRule::Union(parts) => {
                let mut so_far = SearchResult::definite(SearchVerdict::No);
                for part in parts {
                    so_far = so_far.or(self.rule(part, node, reasons));
                    if so_far.verdict == SearchVerdict::Yes {
                        break;
                    }
                }
                so_far
            }
            CompiledRelationRule::Intersection(parts) => {
                let mut so_far = SearchResult::definite(SearchVerdict::Yes);
                for part in parts {
                    let result = self.rule(part, node, reasons);
                    match (so_far.verdict, result.verdict) {
                        (_, SearchVerdict::No) => {
                            so_far = result;
                            break;
                        }
                        (SearchVerdict::Yes, SearchVerdict::Failed(_)) => so_far = result,
                        _ => {}
                    }
                }
                so_far
            }
            CompiledRelationRule::Exclusion(base, others) => self.exclusion(base, others, node, reasons),
        };
        if result.verdict != SearchVerdict::Yes {
            reasons.truncate(mark);
        }
        result
    }

    fn exclusion(
        &mut self,
        base: &'a CompiledRelationRule,
        others: &'a [CompiledRelationRule],
        node: RelationNode<'a>,
        reasons: &mut Vec<Justification<'a>>,
    ) -> SearchResult {
        let mut so_far = self.rule(base, node, reasons);
        if so_far.verdict == SearchVerdict::No {
            return so_far;
        }
        let barrier = std::mem::replace(&mut self.barrier, self.stack.len());
        for other in others {
            match self.rule(other, node, &mut Vec::new()).verdict {
                SearchVerdict::Yes => {
                    so_far = SearchResult::definite(SearchVerdict::No);
                    break;
                }
                failed @ SearchVerdict::Failed(_) => so_far = SearchResult::definite(failed),
                SearchVerdict::No if self.tuples.unknown_source().is_some() => {
                    so_far = SearchResult::definite(SearchVerdict::Failed(SearchFailure::UnknownTuples))
                }
                SearchVerdict::No => reasons.push(Justification { tuple: None, since: None, unless: Some(other) }),
            }
        }
        self.barrier = barrier;
        so_far
    }

    /// Relations that tuples or the caller's token state directly.
    fn this(&mut self, (object, relation): RelationNode<'a>, reasons: &mut Vec<Justification<'a>>) -> SearchResult {
        let in_token = if relation == MEMBER { self.membership_in_token(object) } else { Membership::Outside };
        match (in_token, self.caller.unknown.groups) {
            (Membership::Member, _) => {
                reasons.push(Justification { tuple: None, since: None, unless: None });
                SearchResult::definite(SearchVerdict::Yes)
            }
            (Membership::Unknown, Some(cause)) => {
                let failure = SearchVerdict::Failed(SearchFailure::UnknownGroups(cause));
                self.stated((object, relation), reasons).or(SearchResult::definite(failure))
            }
            _ => self.stated((object, relation), reasons),
        }
    }

    /// Relations that tuples state directly.
    fn stated(&mut self, (object, relation): RelationNode<'a>, reasons: &mut Vec<Justification<'a>>) -> SearchResult {
        let name = if object == UNKNOWN { None } else { self.tuples.names.find(relation) };
        let Some(name) = name else {
            return SearchResult::definite(SearchVerdict::No);
        };
        let own = self.caller_name.map(|subject| IndexedTuple { object, relation: name, kind: PRINCIPAL, subject });
        let everybody = IndexedTuple { object, relation: name, kind: EVERYBODY, subject: object };
        if let Some(key) = own.into_iter().chain([everybody]).find(|key| self.tuples.has(*key)) {
            reasons.push(Justification { tuple: Some(key), since: None, unless: None });
            return SearchResult::definite(SearchVerdict::Yes);
        }
        let sets = self.tuples.sets(object, name).take(MAX_BREADTH + 1);
        let sets = sets.filter_map(|key| Some((*key, (key.subject, self.tuples.names.text(key.set()?))))).collect();
        self.any(sets, reasons)
    }

    fn from(
        &mut self,
        object: TextId,
        from: &'a str,
        relation: &'a str,
        reasons: &mut Vec<Justification<'a>>,
    ) -> SearchResult {
        let name = if object == UNKNOWN { None } else { self.tuples.names.find(from) };
        let Some(name) = name else {
            return SearchResult::definite(SearchVerdict::No);
        };
        let objects = self.tuples.objects(object, name).take(MAX_BREADTH + 1);
        let objects = objects.map(|key| (*key, (key.subject, relation))).collect();
        self.any(objects, reasons)
    }

    /// Whether any of these holds, in the order of their texts.
    fn any(
        &mut self,
        mut nodes: Vec<(IndexedTuple, RelationNode<'a>)>,
        reasons: &mut Vec<Justification<'a>>,
    ) -> SearchResult {
        if nodes.len() > MAX_BREADTH {
            return SearchResult::definite(SearchVerdict::Failed(SearchFailure::Breadth));
        }
        if !self.work.charge(TUPLE.saturating_mul(u64::try_from(nodes.len()).unwrap_or(u64::MAX))) {
            return SearchResult::definite(SearchVerdict::Failed(SearchFailure::Work));
        }
        nodes.sort_by_key(|(_, (object, relation))| (self.tuples.names.text(*object), *relation));
        let mut so_far = SearchResult::definite(SearchVerdict::No);
        for (key, node) in nodes {
            so_far = so_far.or(self.step(Some(key), node, reasons));
            if so_far.verdict == SearchVerdict::Yes {
                break;
            }
        }
        so_far
    }

    fn step(
        &mut self,
        tuple: Option<IndexedTuple>,
        node: RelationNode<'a>,
        reasons: &mut Vec<Justification<'a>>,
    ) -> SearchResult {
        let result = self.node(node);
        if result.verdict == SearchVerdict::Yes {
            reasons.push(Justification { tuple, since: Some(node), unless: None });
        }
        result
    }

    /// Whether the object is a group in the caller's token: `group:PROVIDER/NAME`.
    fn membership_in_token(&self, object: TextId) -> Membership {
        let group = self.text(object).split_once(':').filter(|(kind, _)| *kind == GROUP).map(|(_, id)| id);
        match group.and_then(|group| group.split_once('/')) {
            Some((provider, name)) if self.caller.provider() == Some(provider) => group_membership(self.caller, name),
            _ => Membership::Outside,
        }
    }

    /// The steps that lead to a node which holds, each once.
    fn proof(&self, node: RelationNode<'a>) -> Vec<ProofStep> {
        let Some(reasons) = &self.reasons else { return Vec::new() };
        let mut proof = Vec::new();
        let mut visited = HashSet::new();
        let mut waiting = vec![node];
        let named = |(object, relation): RelationNode<'a>| format!("{}#{relation}", self.text(object));
        while let Some(node) = waiting.pop() {
            if !visited.insert(node) {
                continue;
            }
            let of_node = reasons.get(&node).map(Vec::as_slice).unwrap_or_default();
            proof.extend(of_node.iter().map(|reason| ProofStep {
                holds: named(node),
                tuple: reason.tuple.map(|key| self.tuples.describe(&key)),
                since: reason.since.map(named),
                unless: reason.unless.map(ToString::to_string),
            }));
            waiting.extend(of_node.iter().rev().filter_map(|reason| reason.since));
        }
        proof
    }
}
