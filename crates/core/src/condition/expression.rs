//! A compiled condition.

use super::constant::fold;
use super::environment::{ENV, is_too_deep};
use super::error::{ConditionError, error_at};
use super::evaluation::Variables;
use super::facts::ConditionFacts;
use super::fields::{HEADERS, ReadFields};
use super::limits::{MAX_DEPTH, MAX_SOURCE};
use super::metering::{MeteredExpression, meter};
use super::truth::Truth;
use super::{inspect, type_check};
use crate::digest::Digest;
use crate::work::{WORK_EXHAUSTED, WorkBudget};
use cel::common::types::CelBool;
use cel::{Context, ExecutionError, Value};
use std::fmt;
use std::sync::Arc;

/// A compiled condition.
pub struct Condition {
    source: Arc<str>,
    metered: MeteredExpression,
    constant: Option<bool>,
    reads: ReadFields,
}

/// What a condition depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ConditionDependency {
    /// The caller and the time alone.
    Caller,
    /// The operation, too.
    Operation,
    /// Other parts of the request.
    Request,
}

impl Condition {
    /// Compiles an expression that reads no headers.
    ///
    /// # Errors
    /// When it does not parse, is too large, has a type mistake or contains an unknown name.
    pub fn compile(source: &str) -> Result<Self, ConditionError> {
        Self::compile_reading(source, &[])
    }

    /// Compiles an expression that may read these headers, named in lower case.
    ///
    /// # Errors
    /// When it does not parse, is too large, has a type mistake or contains an unknown name.
    pub fn compile_reading(source: &str, headers: &[Arc<str>]) -> Result<Self, ConditionError> {
        let at_start = |message: String| ConditionError { line: 1, column: 1, message };
        if source.len() > MAX_SOURCE {
            return Err(at_start(format!("the expression is longer than {MAX_SOURCE} bytes; split the rule in two")));
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
        let reads = inspect::inspect(&program, source, headers)?;
        type_check::check(program.expression())
            .map_err(|mistake| error_at(&program, source, mistake.node, mistake.message))?;
        let constant = fold(&program.expression().expr);
        let metered = meter(program.expression().clone())
            .map_err(|mistake| error_at(&program, source, mistake.node, mistake.message))?;
        Ok(Self { source: source.into(), metered, constant, reads })
    }

    /// The source of the expression.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The outcome, if it is the same for all facts.
    #[must_use]
    pub fn constant(&self) -> Option<bool> {
        self.constant
    }

    /// The headers that it reads.
    pub(crate) fn headers(&self) -> impl Iterator<Item = &Arc<str>> {
        self.reads.headers.iter()
    }

    /// The fields of `kubernetes` and `resource` that it reads.
    pub(crate) fn objects(&self) -> impl Iterator<Item = &'static str> {
        self.reads.kubernetes.iter().chain(&self.reads.resource).copied()
    }

    /// Whether it reads the object of a request to the Kubernetes API, and no other evidence.
    pub(crate) fn awaits_object(&self) -> bool {
        let others = self.reads.request.contains(HEADERS) || !self.reads.resource.is_empty();
        !self.reads.kubernetes.is_empty() && !others
    }

    /// Whether it reads evidence, which records of a decision do not contain.
    #[must_use]
    pub fn reads_evidence(&self) -> bool {
        self.reads.request.contains(HEADERS) || self.objects().next().is_some()
    }

    /// Digest of the source.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest::of([self.source.as_bytes()])
    }

    /// What the condition depends on.
    #[must_use]
    pub fn dependency(&self) -> ConditionDependency {
        let reach = |field: &&str| match *field {
            "time" => ConditionDependency::Caller,
            "operation" => ConditionDependency::Operation,
            _ => ConditionDependency::Request,
        };
        if self.objects().next().is_some() {
            return ConditionDependency::Request;
        }
        self.reads.request.iter().map(reach).max().unwrap_or(ConditionDependency::Caller)
    }

    /// Whether the condition holds for these facts. It fails once the budget is exhausted.
    #[must_use]
    pub fn evaluate(&self, facts: &dyn ConditionFacts, work: &WorkBudget) -> Truth {
        let exhausted = || Truth::Failed(WORK_EXHAUSTED.to_owned());
        if !work.charge(self.metered.price) {
            return exhausted();
        }
        let variables = match Variables::new(&self.reads, &self.metered.patterns, facts, work) {
            Ok(variables) => variables,
            Err(unreadable) => return Truth::Failed(unreadable.to_string()),
        };
        if work.is_exhausted() {
            return exhausted();
        }
        let mut context = Context::with_env(Arc::clone(&ENV));
        context.set_variable_resolver(&variables);
        let result = Value::resolve_val(&self.metered.expression, &context);
        if work.is_exhausted() {
            return exhausted();
        }
        match result {
            Ok(value) => match value.downcast_ref::<CelBool>() {
                Some(truth) if *truth.inner() => Truth::True,
                Some(_) => Truth::False,
                None => Truth::Failed(format!("the condition gave {} instead of a bool", value.get_type().name())),
            },
            Err(error) if self.reads_evidence() => Truth::Failed(redacted_reason(&error)),
            Err(error) => Truth::Failed(error.to_string()),
        }
    }
}

/// The reason for a failed evaluation, without any value: logs must not contain evidence.
fn redacted_reason(error: &ExecutionError) -> String {
    match error {
        ExecutionError::NoSuchKey(_) => "a field that it reads does not exist".to_owned(),
        ExecutionError::NoSuchOverload(mismatch) => mismatch.to_string(),
        ExecutionError::FunctionError { function, .. } => format!("`{function}` does not accept these values"),
        _ => "a value that it reads has the wrong type".to_owned(),
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
