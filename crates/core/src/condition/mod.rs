//! Conditions in CEL: compiled when a policy is accepted, evaluated with three outcomes.
//!
//! The outcome [`Truth::Failed`] is never an allow: a grant whose condition fails gives nothing, a denial whose
//! condition fails applies.

mod library;
mod types;

use cel::common::ast::{EntryExpr, Expr, IdedExpr, LiteralValue, operators};
use cel::common::types::{CelMap, CelMapKey};
use cel::common::value::{CowVal, Val};
use cel::context::VariableResolver;
use cel::{Context, Env, Program, Value};
use std::collections::{BTreeSet, HashMap};
use std::fmt;
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
const REQUEST: &[&str] = &["method", "path", "host", "operation", "captures", "time", "sourceAddress"];

static ENV: LazyLock<Arc<Env>> = LazyLock::new(|| {
    let mut env = Env::stdlib();
    // no name is declared twice, and a test calls each
    let _ = library::register(&mut env);
    Arc::new(env)
});

/// A condition that compiled.
pub struct Condition {
    source: Arc<str>,
    program: Program,
    spoken_of: SpokenOf,
}

/// The fields that a condition speaks of; no others are made for it.
#[derive(Default)]
struct SpokenOf {
    principal: BTreeSet<&'static str>,
    request: BTreeSet<&'static str>,
}

/// What a condition depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reach {
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
    /// Compiles an expression.
    ///
    /// # Errors
    /// When it does not parse, is too large, or names something that does not exist.
    pub fn compile(source: &str) -> Result<Self, ConditionError> {
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
        let spoken_of = SpokenOf::default();
        let mut inspector = Inspector { program: &program, source, nodes: 0, depth: 0, bound: Vec::new(), spoken_of };
        inspector.visit(program.expression(), 0)?;
        let spoken_of = inspector.spoken_of;
        types::check(program.expression())
            .map_err(|mistake| error_at(&program, source, mistake.node, mistake.message))?;
        Ok(Self { source: source.into(), program, spoken_of })
    }

    /// The expression as it was written.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Whether it always holds, or never: it comes to the same whatever the facts are.
    #[must_use]
    pub fn constant(&self) -> Option<bool> {
        fold(&self.program.expression().expr)
    }

    /// What the condition depends on.
    #[must_use]
    pub fn reach(&self) -> Reach {
        let reach = |field: &&str| match *field {
            "time" => Reach::Caller,
            "operation" => Reach::Operation,
            _ => Reach::Request,
        };
        self.spoken_of.request.iter().map(reach).max().unwrap_or(Reach::Caller)
    }

    /// Whether the condition holds for these facts.
    #[must_use]
    pub fn evaluate(&self, facts: &dyn Facts) -> Truth {
        let variables =
            Variables { facts, spoken_of: &self.spoken_of, principal: OnceLock::new(), request: OnceLock::new() };
        let mut context = Context::with_env(Arc::clone(&ENV));
        context.set_variable_resolver(&variables);
        match self.program.execute(&context) {
            Ok(Value::Bool(true)) => Truth::True,
            Ok(Value::Bool(false)) => Truth::False,
            Ok(other) => Truth::Failed(format!("the condition gave {:?} instead of a bool", other.type_of())),
            Err(error) => Truth::Failed(error.to_string()),
        }
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
pub trait Facts: Send + Sync {
    /// The value of `principal.<field>`, if the principal has it.
    fn principal(&self, field: &str) -> Option<Value>;
    /// The value of `request.<field>`, if the request has it.
    fn request(&self, field: &str) -> Option<Value>;
}

struct Variables<'f> {
    facts: &'f dyn Facts,
    spoken_of: &'f SpokenOf,
    principal: OnceLock<CelMap<'static>>,
    request: OnceLock<CelMap<'static>>,
}

impl VariableResolver for Variables<'_> {
    fn resolve<'b>(&'b self, variable: &str) -> Option<CowVal<'b, 'b>> {
        let value = match variable {
            "principal" => {
                self.principal.get_or_init(|| object(&self.spoken_of.principal, |field| self.facts.principal(field)))
            }
            "request" => {
                self.request.get_or_init(|| object(&self.spoken_of.request, |field| self.facts.request(field)))
            }
            _ => return None,
        };
        Some(CowVal::Borrowed(value))
    }
}

fn object(fields: &BTreeSet<&'static str>, fact: impl Fn(&str) -> Option<Value>) -> CelMap<'static> {
    let entries = fields.iter().filter_map(|field| Some((CelMapKey::from(*field), native(fact(field)?))));
    CelMap::from(entries.collect::<HashMap<_, _>>())
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

/// Walks an expression once, for size and for names that do not exist.
struct Inspector<'p> {
    program: &'p Program,
    source: &'p str,
    nodes: usize,
    depth: usize,
    /// Names bound by loops around the current node.
    bound: Vec<&'p str>,
    spoken_of: SpokenOf,
}

impl<'p> Inspector<'p> {
    fn visit(&mut self, node: &'p IdedExpr, loops: usize) -> Result<(), ConditionError> {
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            return Err(self.error(node, format!("the expression has more than {MAX_NODES} parts")));
        }
        if self.depth == MAX_TREE_DEPTH {
            return Err(
                self.error(node, format!("the expression is a chain or nest of more than {MAX_TREE_DEPTH} steps"))
            );
        }
        self.depth += 1;
        self.parts(node, loops)?;
        self.depth -= 1;
        Ok(())
    }

    fn parts(&mut self, node: &'p IdedExpr, loops: usize) -> Result<(), ConditionError> {
        match &node.expr {
            Expr::Ident(name) => match self.root(node) {
                Some((_, fields, spoken_of)) => {
                    spoken_of.extend(fields);
                    Ok(())
                }
                None => self.name(node, name),
            },
            Expr::Select(select) => match self.root(&select.operand) {
                Some((name, fields, spoken_of)) => match fields.iter().find(|field| **field == select.field) {
                    Some(field) => {
                        spoken_of.insert(field);
                        Ok(())
                    }
                    None => {
                        let message =
                            format!("`{name}` has no field `{}`; there are {}", select.field, fields.join(", "));
                        Err(self.error(node, message))
                    }
                },
                None => self.visit(&select.operand, loops),
            },
            Expr::Call(call) => {
                if let Some(target) = &call.target {
                    self.visit(target, loops)?;
                }
                call.args.iter().try_for_each(|arg| self.visit(arg, loops))
            }
            Expr::List(list) => list.elements.iter().try_for_each(|element| self.visit(element, loops)),
            Expr::Map(map) => map.entries.iter().try_for_each(|entry| self.entry(&entry.expr, loops)),
            Expr::Struct(object) => object.entries.iter().try_for_each(|entry| self.entry(&entry.expr, loops)),
            Expr::Comprehension(each) => {
                if loops == MAX_NESTED_LOOPS {
                    return Err(self.error(node, format!("loops are nested deeper than {MAX_NESTED_LOOPS}")));
                }
                self.visit(&each.iter_range, loops)?;
                self.visit(&each.accu_init, loops)?;
                let outer = self.bound.len();
                self.bound.extend([each.iter_var.as_str(), each.accu_var.as_str()]);
                self.bound.extend(each.iter_var2.as_deref());
                for part in [&each.loop_cond, &each.loop_step, &each.result] {
                    self.visit(part, loops + 1)?;
                }
                self.bound.truncate(outer);
                Ok(())
            }
            Expr::Literal(_) | Expr::Unspecified => Ok(()),
        }
    }

    fn entry(&mut self, entry: &'p EntryExpr, loops: usize) -> Result<(), ConditionError> {
        match entry {
            EntryExpr::StructField(field) => self.visit(&field.value, loops),
            EntryExpr::MapEntry(pair) => {
                self.visit(&pair.key, loops)?;
                self.visit(&pair.value, loops)
            }
        }
    }

    /// The name and fields of `principal` or `request`, if that is what the node stands for.
    fn root(
        &mut self,
        node: &IdedExpr,
    ) -> Option<(&'static str, &'static [&'static str], &mut BTreeSet<&'static str>)> {
        match &node.expr {
            Expr::Ident(name) if self.bound.contains(&name.as_str()) => None,
            Expr::Ident(name) if name == "principal" => Some(("principal", PRINCIPAL, &mut self.spoken_of.principal)),
            Expr::Ident(name) if name == "request" => Some(("request", REQUEST, &mut self.spoken_of.request)),
            _ => None,
        }
    }

    fn name(&self, node: &IdedExpr, name: &str) -> Result<(), ConditionError> {
        const TYPES: [&str; 11] =
            ["bool", "int", "uint", "double", "string", "bytes", "list", "map", "null_type", "type", "optional"];
        if self.bound.contains(&name) || TYPES.contains(&name) {
            return Ok(());
        }
        Err(self.error(node, format!("`{name}` does not exist; a condition speaks of `principal` and `request`")))
    }

    fn error(&self, node: &IdedExpr, message: String) -> ConditionError {
        error_at(self.program, self.source, node.id, message)
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
mod tests {
    use super::*;

    struct Alice;

    impl Facts for Alice {
        fn principal(&self, field: &str) -> Option<Value> {
            Some(match field {
                "id" => "user:corporate/alice".into(),
                "groups" => vec!["support"].into(),
                "attributes" => Value::from(HashMap::from([("level", 3)])),
                _ => return None,
            })
        }

        fn request(&self, field: &str) -> Option<Value> {
            let time = chrono::DateTime::parse_from_rfc3339("2026-07-01T06:30:00Z").expect("valid");
            match field {
                "method" => Some("GET".into()),
                "time" => Some(Value::Timestamp(time)),
                _ => None,
            }
        }
    }

    fn said(source: &str) -> Truth {
        Condition::compile(source).expect(source).evaluate(&Alice)
    }

    #[test]
    fn conditions_hold_or_do_not() {
        assert_eq!(said("true"), Truth::True);
        assert_eq!(said("'support' in principal.groups && request.method == 'GET'"), Truth::True);
        assert_eq!(said("principal.attributes.level > 3"), Truth::False);
        assert_eq!(said("request.time.getHours('Europe/Berlin') == 8"), Truth::True);
        assert_eq!(said("principal.groups.exists(g, g.startsWith('sup'))"), Truth::True);
        assert_eq!(said("has(principal.attributes.suspended) && principal.attributes.suspended"), Truth::False);
    }

    #[test]
    fn what_can_not_be_evaluated_fails() {
        for source in [
            "principal.attributes.missing == 1",
            "principal.attributes.level == 3 && 1 / 0 == 1",
            "principal.attributes.level",
            "principal.attributes.level.startsWith('3')",
            "request.time.getHours('Mars/Base') == 1",
            "principal.id.matches('(')",
        ] {
            assert!(matches!(said(source), Truth::Failed(_)), "{source}: {:?}", said(source));
        }
    }

    #[test]
    fn mistakes_are_named_with_their_place() {
        for (source, line, column, message) in [
            ("principl.id == 'x'", 1, 1, "`principl` does not exist"),
            ("true &&\n request.verb == 'x'", 2, 9, "`request` has no field `verb`"),
            ("true &&", 1, 8, ""),
            ("1", 1, 1, "a condition is a bool, and this is a int"),
            ("principal.id", 1, 10, "a condition is a bool, and this is a string"),
            ("true &&\n principal.id == 3", 2, 15, "a string is never equal to a int"),
            ("principal.subject != null", 1, 19, "a string is never equal to a null; ask `has(…)`"),
            ("request.time > 5", 1, 14, "a timestamp is neither more nor less than a int"),
            ("request.method in 'GET,PUT'", 1, 16, "nothing is in a string; write a list"),
            ("3 in principal.groups", 1, 3, "a int is never in a list of strings"),
            ("principal.groups.exists(g, g > 3)", 1, 30, "a string is neither more nor less than a int"),
            ("principal.groups[0].name == 'x'", 1, 20, "a string has no field `name`"),
            (
                "principal.groups.startsWith('x')",
                1,
                28,
                "`startsWith` does not take (list of strings, string); there is string.startsWith(string)",
            ),
            ("request.path.beginsWith('/')", 1, 24, "there is no function `beginsWith`"),
            ("ip(request.sourceAddress) == request.sourceAddress", 1, 27, "a IP is never equal to a string"),
            ("request.time + 'x' == request.time", 1, 14, "there is no `timestamp + string`"),
            ("principal.id ? true : false", 1, 10, "what stands before `?` is a bool, and this is a string"),
            ("principal.id.all(x, true)", 1, 10, "a loop goes over a list or a map, and this is a string"),
            ("principal.groups.map(g, g + g) == []", 1, 26, "not joined within a loop"),
        ] {
            let error = Condition::compile(source).expect_err(source);
            assert!(error.message.contains(message), "{error}");
            assert_eq!(error.line, line, "{error}");
            assert!(error.column.abs_diff(column) <= 2, "{error}");
        }
        for good in [
            "dyn(principal.id) == 3 || true",
            "principal.attributes.level == 3 && principal.attributes.name == 'x' && principal.attributes.tags[0] == 1",
            "1 == 1.0 && 1 < 2u && principal.groups == [] && principal.attributes == {}",
            "principal.groups.map(g, g.size()) == [7] && [1, 2].map(x, x * 2 + 1) == [3, 5]",
            "principal.groups.filter(g, g != 'a').exists_one(g, g == 'support')",
            "(true ? 1 : 2) == 1 && -1 < 0 && [[1]][0][0] == 1",
            "request.time - duration('5m') < request.time",
            "principal.attributes.map(k, k) == ['level']",
            "optional.of(principal.id).hasValue() || true",
        ] {
            assert!(Condition::compile(good).is_ok(), "{good}: {:?}", Condition::compile(good));
        }
        assert!(Condition::compile(&"a".repeat(MAX_SOURCE + 1)).is_err());
        assert!(Condition::compile("[1].all(a, [1].all(b, [1].all(c, a == b && b == c)))").is_err());
        assert!(Condition::compile(&format!("[{}] == []", vec!["1"; 600].join(","))).is_err());
        assert!(Condition::compile(&format!("{}1{}", "(".repeat(900), ")".repeat(900))).is_err());
    }

    #[test]
    fn kubernetes_functions_are_there() {
        for source in [
            "'a-b'.charAt(1) == '-' && 'äbc'.indexOf('b') == 1 && 'abab'.lastIndexOf('b') == 3 && 'a'.indexOf('z') == -1",
            "'Ab'.lowerAscii() == 'ab' && 'Ab'.upperAscii() == 'AB' && ' a '.trim() == 'a'",
            "'a.b'.replace('.', '-') == 'a-b' && 'a,b'.split(',') == ['a', 'b'] && ['a', 'b'].join('+') == 'a+b' && ['a'].join() == 'a'",
            "'hello'.substring(1) == 'ello' && 'hello'.substring(1, 3) == 'el'",
            "isIP('10.0.0.1') && !isIP('10.0.0.256') && !isIP('::ffff:10.0.0.1') && ip('::1').family() == 6 && ip('::1').isLoopback()",
            "ip('0.0.0.0').isUnspecified() && ip('169.254.0.1').isLinkLocalUnicast() && string(ip('10.0.0.1')) == '10.0.0.1'",
            "cidr('10.0.0.0/8').containsIP('10.1.2.3') && !cidr('10.0.0.0/8').containsIP(ip('11.0.0.1'))",
            "cidr('10.0.0.0/8').containsCIDR('10.1.0.0/16') && cidr('10.0.0.0/8').containsCIDR(cidr('10.0.0.0/8'))",
            "isCIDR('::/0') && !isCIDR('10.0.0.0') && cidr('10.1.2.3/8').masked() == cidr('10.0.0.0/8') && cidr('10.1.2.3/8').prefixLength() == 8",
            "cidr('10.1.2.3/8').ip() == ip('10.1.2.3') && string(cidr('10.0.0.0/8')) == '10.0.0.0/8'",
            "isURL('https://a.example/x') && !isURL('/x y') && url('https://a.example:8443/x%20y?k=1&k=2').getPort() == '8443'",
            "url('https://[::1]:80/x').getHostname() == '::1' && url('https://a.example:81/x').getHost() == 'a.example:81'",
            "url('https://a.example/x').getScheme() == 'https' && url('https://a.example/x%20y').getEscapedPath() == '/x%20y'",
            "url('https://a.example/?k=1&k=2').getQuery() == {'k': ['1', '2']}",
            "isQuantity('1.5Gi') && !isQuantity('1.5GiB') && quantity('1Gi').isGreaterThan(quantity('1G')) && quantity('200m').isLessThan(quantity('1'))",
            "quantity('1Ki').compareTo(quantity('1024')) == 0 && quantity('1k').asInteger() == 1000 && !quantity('1.5').isInteger()",
            "quantity('1').add(quantity('500m')) == quantity('1.5') && quantity('1').sub(quantity('2')).sign() == -1",
            "quantity('50e-1').asApproximateFloat() == 5.0 && quantity('-1.5k') == quantity('-1500')",
            "request.time.getDayOfWeek() == 3 && request.time > timestamp('2020-01-01T00:00:00Z')",
        ] {
            assert_eq!(said(source), Truth::True, "{source}");
        }
        for source in [
            "ip('x').isLoopback()",
            "cidr('10.0.0.0/8').containsIP('x')",
            "quantity('9e28').add(quantity('9e28')) == quantity('1')",
            "quantity('1.5').asInteger() == 1",
            "url('x').getPort() == ''",
            "'a'.substring(2) == ''",
            "'abc'.charAt(9) == ''",
        ] {
            assert!(matches!(said(source), Truth::Failed(_)), "{source}: {:?}", said(source));
        }
    }

    #[test]
    fn every_function_that_is_accepted_is_there() {
        use types::Kind;
        let example = |kind: &Kind| match kind {
            Kind::Any | Kind::Text => "'1'",
            Kind::Null => "null",
            Kind::Bool => "true",
            Kind::Int => "0",
            Kind::Uint => "1u",
            Kind::Double => "1.0",
            Kind::Bytes => "b'1'",
            Kind::Time => "request.time",
            Kind::Duration => "duration('1s')",
            Kind::List => "[1]",
            Kind::Texts => "['1']",
            Kind::Map | Kind::TextMap => "{'a': 'b'}",
            Kind::Ip => "ip('10.0.0.1')",
            Kind::Cidr => "cidr('10.0.0.0/8')",
            Kind::Url => "url('https://a.example/')",
            Kind::Quantity => "quantity('1')",
        };
        for (name, member, args) in types::functions() {
            let mut args: Vec<&str> = args.iter().map(example).collect();
            let on = if member { format!("{}.", args.remove(0)) } else { String::new() };
            let call = format!("{on}{name}({})", args.join(", "));
            if let Truth::Failed(why) = said(&format!("dyn({call}) != 'x'")) {
                let known = ["no such overload", "undeclared", "Undeclared", "No such"];
                assert!(!known.iter().any(|known| why.contains(known)), "{call}: {why}");
            }
        }
    }

    #[test]
    fn no_chain_of_calls_fills_the_memory() {
        let eight = "'aaaaaaaa'";
        let replaced = format!("{eight}{} == ''", ".replace('a', 'aaaaaaaa')".repeat(20));
        let joined = format!("{eight}{} == ''", ".split('').join('aaaaaaaa')".repeat(12));
        for source in [replaced, joined] {
            assert!(matches!(said(&source), Truth::Failed(why) if why.contains("longer than")), "{source}");
        }
    }
}
