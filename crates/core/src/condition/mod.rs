//! Conditions in CEL: compiled when a policy is accepted, evaluated with three outcomes.
//!
//! The outcome [`Truth::Failed`] is never an allow: a grant whose condition fails gives nothing, a denial whose
//! condition fails applies.

mod inspect;
mod json;
mod library;
mod steps;
mod types;

pub use json::{JsonFields, MAX_LEVELS, MAX_PARTS};

use crate::digest::Digest;
use crate::evidence::HeaderValues;
use cel::common::ast::{Expr, IdedExpr, LiteralValue, operators};
use cel::common::types::{CelBool, CelMap, CelMapKey, CelString};
use cel::common::value::{CowVal, Val};
use cel::context::VariableResolver;
use cel::{Context, Env, ExecutionError, Program, Value};
use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, OnceLock};
use thiserror::Error;

/// Longest expression, in bytes. With [`MAX_NODES`] and [`MAX_NESTED_LOOPS`] it bounds what an evaluation can cost.
pub const MAX_SOURCE: usize = 2048;
/// Most nodes of an expression's tree.
const MAX_NODES: usize = 512;
/// Brackets and `?:` within each other. The parser recurses on them, and one level takes up to 200 kB of stack in a
/// debug build; threads have 2 MB.
const MAX_DEPTH: u16 = 8;
/// Depth of an expression's tree. The interpreter recurses on it, with up to 20 kB a level in a debug build.
const MAX_TREE_DEPTH: usize = 32;
/// Loops (`all`, `exists`, `map`, `filter`) within loops: the cost grows with the power of this.
const MAX_NESTED_LOOPS: usize = 2;

/// What the turns of all loops of an evaluation may cost: their number, times the parts of the expression, times the parts of
/// what it reads. A loop over two thousand groups goes by ten times as much, nested loops over them don't.
const MAX_WORK: usize = 1_000_000_000;
/// The same for what loops put into lists: the number of its values, times the parts of what is read, of which each is one
/// at most. Some hundred megabytes if every value were all that is read.
const MAX_KEPT: usize = 4_000_000;

/// The fields of `kubernetes`.
const KUBERNETES: &[&str] = &["object", "oldObject"];
/// The fields of `resource`.
const RESOURCE: &[&str] = &["type", "id", "properties"];
/// The fields of `principal`.
const PRINCIPAL: &[&str] = &[
    "id",
    "provider",
    "trustDomain",
    "namespace",
    "serviceAccount",
    "subject",
    "groups",
    "attributes",
    "scopes",
    "assurance",
    "authenticatedAt",
];
/// The fields of `request`.
const REQUEST: &[&str] = &["method", "path", "host", "operation", "captures", "headers", "time", "sourceAddress"];
/// The field of `request` that conditions see as far as the policy lists it.
const HEADERS: &str = "headers";

static ENV: LazyLock<Arc<Env>> = LazyLock::new(|| {
    let mut env = Env::stdlib();
    // no name is declared twice, and a test calls each
    let _ = library::register(&mut env);
    Arc::new(env)
});

/// A condition that compiled.
pub struct Condition {
    source: Arc<str>,
    /// Counts the turns of its loops.
    expression: IdedExpr,
    nodes: usize,
    loops: bool,
    spoken_of: ReadFields,
}

/// The fields that a condition speaks of; no others are made for it.
#[derive(Default)]
struct ReadFields {
    principal: BTreeSet<&'static str>,
    request: BTreeSet<&'static str>,
    headers: BTreeSet<Arc<str>>,
    kubernetes: BTreeSet<&'static str>,
    resource: BTreeSet<&'static str>,
}

/// What a condition depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ConditionDependency {
    /// The caller, and the time.
    Caller,
    /// The operation too.
    Operation,
    /// More of the request.
    Request,
}

/// What a condition said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Truth {
    /// It holds.
    True,
    /// It does not hold.
    False,
    /// It could not be evaluated, and why.
    Failed(String),
}

/// Why an expression is no condition.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{message} (line {line}, column {column} of the expression)")]
pub struct ConditionError {
    /// Line within the expression, from 1.
    pub line: usize,
    /// Column within the line, from 1.
    pub column: usize,
    /// What is wrong and what to do.
    pub message: String,
}

impl Condition {
    /// Compiles an expression that reads no headers.
    ///
    /// # Errors
    /// When it does not parse, is too large, or names something that does not exist.
    pub fn compile(source: &str) -> Result<Self, ConditionError> {
        Self::compile_reading(source, &[])
    }

    /// Compiles an expression that may read these headers, named in lower case.
    ///
    /// # Errors
    /// When it does not parse, is too large, or names something that does not exist.
    pub fn compile_reading(source: &str, headers: &[Arc<str>]) -> Result<Self, ConditionError> {
        let at_start = |message: String| ConditionError { line: 1, column: 1, message };
        if source.len() > MAX_SOURCE {
            return Err(at_start(format!("the expression is longer than {MAX_SOURCE} bytes; split the grant in two")));
        }
        if is_too_deep(source) {
            return Err(at_start(format!("brackets or `?:` are nested deeper than {MAX_DEPTH}")));
        }
        let program = ENV.compile(source).map_err(|errors| match errors.errors.first() {
            Some(first) => ConditionError {
                line: usize::try_from(first.pos.0).unwrap_or(1).max(1),
                column: usize::try_from(first.pos.1).unwrap_or(1).max(1),
                message: first.msg.split('\n').next().unwrap_or_default().to_owned(),
            },
            None => at_start("the expression does not parse".to_owned()),
        })?;
        let (spoken_of, nodes) = inspect::inspect(&program, source, headers)?;
        types::check(program.expression())
            .map_err(|mistake| error_at(&program, source, mistake.node, mistake.message))?;
        let mut expression = program.expression().clone();
        let loops = steps::counted(&mut expression);
        Ok(Self { source: source.into(), expression, nodes, loops, spoken_of })
    }

    /// The expression as it was written.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Whether it always holds, or never: it comes to the same whatever the facts are.
    #[must_use]
    pub fn constant(&self) -> Option<bool> {
        fold(&self.expression.expr)
    }

    /// The headers that it reads.
    pub(crate) fn headers(&self) -> impl Iterator<Item = &Arc<str>> {
        self.spoken_of.headers.iter()
    }

    /// The fields of `kubernetes` and `resource` that it reads.
    pub(crate) fn objects(&self) -> impl Iterator<Item = &'static str> {
        self.spoken_of.kubernetes.iter().chain(&self.spoken_of.resource).copied()
    }

    /// Whether it reads the object of a request to the Kubernetes API, and else nothing that could be unknown.
    pub(crate) fn awaits_object(&self) -> bool {
        let others = self.spoken_of.request.contains(HEADERS) || !self.spoken_of.resource.is_empty();
        !self.spoken_of.kubernetes.is_empty() && !others
    }

    /// Whether it reads what no record of a decision holds.
    #[must_use]
    pub fn reads_evidence(&self) -> bool {
        self.spoken_of.request.contains(HEADERS) || self.objects().next().is_some()
    }

    /// Tells its text apart from any other.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest::of([self.source.as_bytes()])
    }

    /// What the condition depends on.
    #[must_use]
    pub fn reach(&self) -> ConditionDependency {
        let reach = |field: &&str| match *field {
            "time" => ConditionDependency::Caller,
            "operation" => ConditionDependency::Operation,
            _ => ConditionDependency::Request,
        };
        if self.objects().next().is_some() {
            return ConditionDependency::Request;
        }
        self.spoken_of.request.iter().map(reach).max().unwrap_or(ConditionDependency::Caller)
    }

    /// Whether the condition holds for these facts.
    #[must_use]
    pub fn evaluate(&self, facts: &dyn ConditionFacts) -> Truth {
        let variables = match self.variables(facts) {
            Ok(variables) => variables,
            Err(why) => return Truth::Failed(why),
        };
        let mut context = Context::with_env(Arc::clone(&ENV));
        context.set_variable_resolver(&variables);
        let result = Value::resolve(&self.expression, &context);
        if variables.exhausted.load(Ordering::Relaxed) {
            return Truth::Failed("its loops take more steps than one evaluation may".to_owned());
        }
        match result {
            Ok(Value::Bool(true)) => Truth::True,
            Ok(Value::Bool(false)) => Truth::False,
            Ok(other) => Truth::Failed(format!("the condition gave {:?} instead of a bool", other.type_of())),
            Err(error) if self.reads_evidence() => Truth::Failed(discreet(&error)),
            Err(error) => Truth::Failed(error.to_string()),
        }
    }

    fn variables<'f>(&'f self, facts: &'f dyn ConditionFacts) -> Result<Variables<'f>, String> {
        let headers = self.shown_headers(facts)?;
        let read = |fields: &BTreeSet<_>, objects: &dyn Fn() -> Option<&'f JsonFields>, what: &str| {
            let unknown = || format!("it reads the {what}, which nobody knows here");
            (!fields.is_empty()).then(|| objects().ok_or_else(unknown)?.read()).transpose()
        };
        let kubernetes = read(&self.spoken_of.kubernetes, &|| facts.objects(), "object")?;
        let resource = read(&self.spoken_of.resource, &|| facts.resource(), "resource")?;
        let parts = 1 + [kubernetes, resource].into_iter().flatten().map(|(_, parts)| parts).sum::<usize>();
        Ok(Variables {
            facts,
            headers,
            kubernetes: kubernetes.map(|(objects, _)| objects),
            resource: resource.map(|(resource, _)| resource),
            condition: self,
            principal: OnceLock::new(),
            request: OnceLock::new(),
            parts: parts.into(),
            steps: AtomicUsize::new(0),
            kept: AtomicUsize::new(0),
            exhausted: AtomicBool::new(false),
        })
    }

    /// The headers that it reads, if they can be told; none where it reads none.
    fn shown_headers<'f>(&self, facts: &'f dyn ConditionFacts) -> Result<Option<&'f HeaderValues>, String> {
        if !self.spoken_of.request.contains(HEADERS) {
            return Ok(None);
        }
        let headers = facts.headers().ok_or("it reads headers, and nobody knows those of the request")?;
        for name in &self.spoken_of.headers {
            if let Some(Err(why)) = headers.get(name) {
                return Err(format!("header `{name}` {why}"));
            }
        }
        Ok(Some(headers))
    }
}

/// Why an evaluation failed, without any value: what went into it is for no log.
fn discreet(error: &ExecutionError) -> String {
    match error {
        ExecutionError::NoSuchKey(_) => "something that it reads is not there".to_owned(),
        ExecutionError::NoSuchOverload(mismatch) => mismatch.to_string(),
        ExecutionError::FunctionError { function, .. } => format!("`{function}` can't do with what it is given"),
        _ => "what it reads is not of the form that it asks for".to_owned(),
    }
}

impl fmt::Debug for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Condition").field(&self.source).finish()
    }
}

impl PartialEq for Condition {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

/// What conditions speak of. A field is asked for at most once per evaluation, and only if it is spoken of.
pub trait ConditionFacts: Send + Sync {
    /// The value of `principal.<field>`, if the principal has it.
    fn principal(&self, field: &str) -> Option<Value>;
    /// The value of `request.<field>`, if the request has it; headers come apart.
    fn request(&self, field: &str) -> Option<Value>;
    /// The headers that conditions of the service read, if they are known.
    fn headers(&self) -> Option<&HeaderValues> {
        None
    }
    /// The fields of `kubernetes`, if they are known.
    fn objects(&self) -> Option<&JsonFields> {
        None
    }
    /// The fields of `resource`, if they are known.
    fn resource(&self) -> Option<&JsonFields> {
        None
    }
}

struct Variables<'f> {
    facts: &'f dyn ConditionFacts,
    headers: Option<&'f HeaderValues>,
    kubernetes: Option<&'f CelMap<'static>>,
    resource: Option<&'f CelMap<'static>>,
    condition: &'f Condition,
    principal: OnceLock<CelMap<'static>>,
    request: OnceLock<CelMap<'static>>,
    /// Parts of what was read so far.
    parts: AtomicUsize,
    /// Turns of loops so far, and those of them that add to a list.
    steps: AtomicUsize,
    kept: AtomicUsize,
    exhausted: AtomicBool,
}

impl Variables<'_> {
    fn request(&self, field: &str) -> Option<Box<dyn Val>> {
        match (field, self.headers) {
            (HEADERS, Some(headers)) => Some(Box::new(shown(&self.condition.spoken_of.headers, headers))),
            _ => self.facts.request(field).map(|value| self.counted(value)),
        }
    }

    /// The interpreter's own form of a value, whose parts are counted where there are loops.
    fn counted(&self, value: Value) -> Box<dyn Val> {
        if self.condition.loops {
            self.parts.fetch_add(parts(&value), Ordering::Relaxed);
        }
        native(value)
    }

    /// Whether a loop may take another turn.
    fn step(&self, keeps: bool) -> bool {
        let parts = self.parts.load(Ordering::Relaxed);
        let count = |so_far: &AtomicUsize, one: usize| so_far.fetch_add(one, Ordering::Relaxed).saturating_add(one);
        let work = count(&self.steps, 1).saturating_mul(self.condition.nodes).saturating_mul(parts);
        let kept = count(&self.kept, keeps.into()).saturating_mul(parts);
        let fits = work <= MAX_WORK && kept <= MAX_KEPT;
        self.exhausted.fetch_or(!fits, Ordering::Relaxed);
        fits
    }
}

impl VariableResolver for Variables<'_> {
    fn resolve<'b>(&'b self, variable: &str) -> Option<CowVal<'b, 'b>> {
        let spoken_of = &self.condition.spoken_of;
        let value = match variable {
            "principal" => self.principal.get_or_init(|| {
                object(&spoken_of.principal, |field| self.facts.principal(field).map(|value| self.counted(value)))
            }),
            "request" => self.request.get_or_init(|| object(&spoken_of.request, |field| self.request(field))),
            "kubernetes" => self.kubernetes?,
            "resource" => self.resource?,
            steps::STEP | steps::KEEP => {
                return self.step(variable == steps::KEEP).then(|| CowVal::owned(CelBool::from(true)));
            }
            _ => return None,
        };
        Some(CowVal::Borrowed(value))
    }
}

/// Of how many parts a value is.
fn parts(value: &Value) -> usize {
    match value {
        Value::String(text) => 1 + text.len() / 64,
        Value::List(items) => 1 + items.iter().map(parts).sum::<usize>(),
        Value::Map(map) => 1 + map.map.values().map(parts).sum::<usize>(),
        _ => 1,
    }
}

fn object(fields: &BTreeSet<&'static str>, fact: impl Fn(&str) -> Option<Box<dyn Val>>) -> CelMap<'static> {
    let entries = fields.iter().filter_map(|field| Some((CelMapKey::from(*field), fact(field)?)));
    CelMap::from(entries.collect::<HashMap<_, _>>())
}

/// The headers of these names that were sent.
fn shown(names: &BTreeSet<Arc<str>>, headers: &HeaderValues) -> CelMap<'static> {
    let sent = names.iter().filter_map(|name| Some((name, headers.get(name)?.as_ref().ok()?)));
    let entry = |(name, value): (&Arc<str>, &String)| {
        (CelMapKey::from(name.to_string()), Box::new(CelString::from(value.clone())) as Box<dyn Val>)
    };
    CelMap::from(sent.map(entry).collect::<HashMap<_, _>>())
}

/// Whether an expression nests too deep. What opens a level is counted first, as no expression is deeper than that;
/// where that is not enough the parser itself counts, for it alone knows what is text and what is a comment.
fn is_too_deep(source: &str) -> bool {
    let openers = source.bytes().filter(|byte| matches!(byte, b'(' | b'[' | b'{' | b'?')).count();
    openers > usize::from(MAX_DEPTH)
        && ENV
            .parser()
            .max_recursion_depth(MAX_DEPTH)
            .parse(source)
            .is_err_and(|errors| errors.errors.iter().any(|error| error.msg.contains("Recursion limit")))
}

/// The interpreter's own form of a value; what has none reads as an empty map, in which every field is missing.
fn native(value: Value) -> Box<dyn Val> {
    let converted: Result<Box<dyn Val>, _> = value.try_into();
    converted.unwrap_or_else(|_| Box::new(CelMap::from(HashMap::new())))
}

/// What an expression comes to without looking at any fact.
fn fold(expression: &Expr) -> Option<bool> {
    let call = match expression {
        Expr::Literal(LiteralValue::Boolean(truth)) => return Some(*truth.inner()),
        Expr::Call(call) if call.target.is_none() => call,
        _ => return None,
    };
    let part = |i: usize| call.args.get(i).map(|arg| &arg.expr);
    let folded = |i: usize| part(i).and_then(fold);
    match call.func_name.as_str() {
        operators::LOGICAL_NOT => folded(0).map(|truth| !truth),
        operators::LOGICAL_AND => match (folded(0), folded(1)) {
            (Some(false), _) | (_, Some(false)) => Some(false),
            (Some(true), other) => other,
            _ => None,
        },
        operators::LOGICAL_OR => match (folded(0), folded(1)) {
            (Some(true), _) | (_, Some(true)) => Some(true),
            (Some(false), other) => other,
            _ => None,
        },
        operators::EQUALS | operators::NOT_EQUALS => match (part(0)?, part(1)?) {
            (Expr::Literal(a), Expr::Literal(b)) => Some((a == b) == (call.func_name == operators::EQUALS)),
            _ => None,
        },
        _ => None,
    }
}

/// A mistake at a node of the expression.
fn error_at(program: &Program, source: &str, node: u64, message: String) -> ConditionError {
    let offset = program.source_info().offset_for(node).map_or(0, |(start, _)| start as usize);
    let before: String = source.chars().take(offset).collect();
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    ConditionError { line, column, message }
}

#[cfg(test)]
mod tests;
