//! Types of expressions, as far as they are known before anybody asks: what can only fail is refused when a policy is
//! accepted. Attributes come from claims, so theirs are not known.

use cel::common::ast::{Expr, IdedExpr, LiteralValue, operators as op};
use std::collections::HashMap;
use std::fmt;
use std::sync::LazyLock;

/// A type, or [`Kind::Any`] where it depends on the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Any,
    Null,
    Bool,
    Int,
    Uint,
    Double,
    Text,
    Bytes,
    Time,
    Duration,
    List,
    /// A list of texts.
    Texts,
    Map,
    /// A map from texts to texts.
    TextMap,
    Ip,
    Cidr,
    Url,
    Quantity,
}

use Kind::{
    Any, Bool, Bytes, Cidr, Double, Duration, Int, Ip, List, Map, Null, Quantity, Text, TextMap, Texts, Time, Uint, Url,
};

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Any => "anything",
            Null => "null",
            Bool => "bool",
            Int => "int",
            Uint => "uint",
            Double => "double",
            Text => "string",
            Bytes => "bytes",
            Time => "timestamp",
            Duration => "duration",
            List => "list",
            Texts => "list of strings",
            Map => "map",
            TextMap => "map of strings",
            Ip => "IP",
            Cidr => "CIDR",
            Url => "URL",
            Quantity => "quantity",
        })
    }
}

impl Kind {
    /// Whether a value of this type could be one of the other.
    fn fits(self, other: Self) -> bool {
        self == other
            || matches!(
                (self, other),
                (Any, _) | (_, Any) | (List, Texts) | (Texts, List) | (Map, TextMap) | (TextMap, Map)
            )
    }

    fn is_number(self) -> bool {
        matches!(self, Int | Uint | Double)
    }

    fn comparable(self, other: Self) -> bool {
        self.fits(other) || (self.is_number() && other.is_number())
    }

    fn is_ordered(self) -> bool {
        self.is_number() || matches!(self, Any | Bool | Text | Bytes | Time | Duration)
    }

    /// What it holds.
    fn element(self) -> Self {
        match self {
            Texts | TextMap => Text,
            _ => Any,
        }
    }
}

/// A function: whether it is called on its first argument, its arguments, and its result.
type TokenSignature = (&'static str, bool, &'static [Kind], Kind);

const FUNCTIONS: &[TokenSignature] = &[
    ("bool", false, &[Bool], Bool),
    ("bool", false, &[Text], Bool),
    ("bytes", false, &[Text], Bytes),
    ("bytes", false, &[Bytes], Bytes),
    ("double", false, &[Int], Double),
    ("double", false, &[Uint], Double),
    ("double", false, &[Double], Double),
    ("double", false, &[Text], Double),
    ("duration", false, &[Text], Duration),
    ("duration", false, &[Duration], Duration),
    ("dyn", false, &[Any], Any),
    ("int", false, &[Int], Int),
    ("int", false, &[Uint], Int),
    ("int", false, &[Double], Int),
    ("int", false, &[Text], Int),
    ("int", false, &[Time], Int),
    ("string", false, &[Any], Text),
    ("timestamp", false, &[Text], Time),
    ("timestamp", false, &[Time], Time),
    ("timestamp", false, &[Int], Time),
    ("type", false, &[Any], Any),
    ("uint", false, &[Int], Uint),
    ("uint", false, &[Uint], Uint),
    ("uint", false, &[Double], Uint),
    ("uint", false, &[Text], Uint),
    ("size", false, &[Text], Int),
    ("size", false, &[Bytes], Int),
    ("size", false, &[List], Int),
    ("size", false, &[Map], Int),
    ("size", true, &[Text], Int),
    ("size", true, &[Bytes], Int),
    ("size", true, &[List], Int),
    ("size", true, &[Map], Int),
    ("contains", true, &[Text, Text], Bool),
    ("endsWith", true, &[Text, Text], Bool),
    ("startsWith", true, &[Text, Text], Bool),
    ("matches", true, &[Text, Text], Bool),
    ("matches", false, &[Text, Text], Bool),
    ("charAt", true, &[Text, Int], Text),
    ("indexOf", true, &[Text, Text], Int),
    ("lastIndexOf", true, &[Text, Text], Int),
    ("lowerAscii", true, &[Text], Text),
    ("upperAscii", true, &[Text], Text),
    ("trim", true, &[Text], Text),
    ("replace", true, &[Text, Text, Text], Text),
    ("split", true, &[Text, Text], Texts),
    ("substring", true, &[Text, Int], Text),
    ("substring", true, &[Text, Int, Int], Text),
    ("join", true, &[Texts], Text),
    ("join", true, &[Texts, Text], Text),
    ("getFullYear", true, &[Time], Int),
    ("getFullYear", true, &[Time, Text], Int),
    ("getMonth", true, &[Time], Int),
    ("getMonth", true, &[Time, Text], Int),
    ("getDate", true, &[Time], Int),
    ("getDate", true, &[Time, Text], Int),
    ("getDayOfMonth", true, &[Time], Int),
    ("getDayOfMonth", true, &[Time, Text], Int),
    ("getDayOfWeek", true, &[Time], Int),
    ("getDayOfWeek", true, &[Time, Text], Int),
    ("getDayOfYear", true, &[Time], Int),
    ("getDayOfYear", true, &[Time, Text], Int),
    ("getHours", true, &[Time], Int),
    ("getHours", true, &[Time, Text], Int),
    ("getHours", true, &[Duration], Int),
    ("getMinutes", true, &[Time], Int),
    ("getMinutes", true, &[Time, Text], Int),
    ("getMinutes", true, &[Duration], Int),
    ("getSeconds", true, &[Time], Int),
    ("getSeconds", true, &[Time, Text], Int),
    ("getSeconds", true, &[Duration], Int),
    ("getMilliseconds", true, &[Time], Int),
    ("getMilliseconds", true, &[Time, Text], Int),
    ("getMilliseconds", true, &[Duration], Int),
    ("ip", false, &[Text], Ip),
    ("isIP", false, &[Text], Bool),
    ("family", true, &[Ip], Int),
    ("isLoopback", true, &[Ip], Bool),
    ("isUnspecified", true, &[Ip], Bool),
    ("isLinkLocalUnicast", true, &[Ip], Bool),
    ("cidr", false, &[Text], Cidr),
    ("isCIDR", false, &[Text], Bool),
    ("containsIP", true, &[Cidr, Ip], Bool),
    ("containsIP", true, &[Cidr, Text], Bool),
    ("containsCIDR", true, &[Cidr, Cidr], Bool),
    ("containsCIDR", true, &[Cidr, Text], Bool),
    ("ip", true, &[Cidr], Ip),
    ("masked", true, &[Cidr], Cidr),
    ("prefixLength", true, &[Cidr], Int),
    ("url", false, &[Text], Url),
    ("isURL", false, &[Text], Bool),
    ("getScheme", true, &[Url], Text),
    ("getHost", true, &[Url], Text),
    ("getHostname", true, &[Url], Text),
    ("getPort", true, &[Url], Text),
    ("getEscapedPath", true, &[Url], Text),
    ("getQuery", true, &[Url], Map),
    ("quantity", false, &[Text], Quantity),
    ("isQuantity", false, &[Text], Bool),
    ("isLessThan", true, &[Quantity, Quantity], Bool),
    ("isGreaterThan", true, &[Quantity, Quantity], Bool),
    ("compareTo", true, &[Quantity, Quantity], Int),
    ("add", true, &[Quantity, Quantity], Quantity),
    ("sub", true, &[Quantity, Quantity], Quantity),
    ("sign", true, &[Quantity], Int),
    ("isInteger", true, &[Quantity], Bool),
    ("asInteger", true, &[Quantity], Int),
    ("asApproximateFloat", true, &[Quantity], Double),
];

/// What arithmetic there is.
const ARITHMETIC: &[(&str, Kind, Kind, Kind)] = &[
    (op::ADD, Text, Text, Text),
    (op::ADD, Bytes, Bytes, Bytes),
    (op::ADD, Texts, Texts, Texts),
    (op::ADD, List, List, List),
    (op::ADD, Time, Duration, Time),
    (op::ADD, Duration, Time, Time),
    (op::ADD, Duration, Duration, Duration),
    (op::SUBSTRACT, Time, Time, Duration),
    (op::SUBSTRACT, Time, Duration, Time),
    (op::SUBSTRACT, Duration, Duration, Duration),
];

static BY_NAME: LazyLock<HashMap<&'static str, Vec<&'static TokenSignature>>> = LazyLock::new(|| {
    let mut by_name: HashMap<_, Vec<_>> = HashMap::new();
    FUNCTIONS.iter().for_each(|signature| by_name.entry(signature.0).or_default().push(signature));
    by_name
});

/// The type of each field of `principal`, `request`, `kubernetes` and `resource`.
fn field(root: &str, field: &str) -> Kind {
    match (root, field) {
        ("principal", "groups" | "scopes") => Texts,
        ("principal", "attributes") | ("kubernetes", _) | ("resource", "properties") => Map,
        ("principal", "authenticatedAt") | ("request", "time") => Time,
        ("request", "captures" | "headers") => TextMap,
        _ => Text,
    }
}

/// What is wrong, and the number of the node.
pub(super) struct Mistake {
    pub(super) node: u64,
    pub(super) message: String,
}

/// Checks a whole condition.
pub(super) fn check(expression: &IdedExpr) -> Result<(), Mistake> {
    let mut checker = Checker { bound: Vec::new(), loops: 0 };
    let kind = checker.kind(expression)?;
    expected(expression, kind, Bool, "a condition")
}

fn expected(node: &IdedExpr, kind: Kind, wanted: Kind, what: &str) -> Result<(), Mistake> {
    if kind.fits(wanted) {
        return Ok(());
    }
    Err(Mistake { node: node.id, message: format!("{what} is a {wanted}, and this is a {kind}") })
}

struct Checker<'p> {
    /// Names bound by loops, with their types.
    bound: Vec<(&'p str, Kind)>,
    loops: usize,
}

impl<'p> Checker<'p> {
    fn kind(&mut self, node: &'p IdedExpr) -> Result<Kind, Mistake> {
        Ok(match &node.expr {
            Expr::Literal(literal) => match literal {
                LiteralValue::Boolean(_) => Bool,
                LiteralValue::Bytes(_) => Bytes,
                LiteralValue::Double(_) => Double,
                LiteralValue::Int(_) => Int,
                LiteralValue::Null => Null,
                LiteralValue::String(_) => Text,
                LiteralValue::UInt(_) => Uint,
            },
            Expr::Ident(name) => self.bound(name).unwrap_or(Any),
            Expr::Select(select) => {
                let kind = match self.root(&select.operand) {
                    Some(root) => field(root, &select.field),
                    None => match self.kind(&select.operand)? {
                        map @ (Any | Map | TextMap) => map.element(),
                        other => {
                            let message = format!("a {other} has no field `{}`", select.field);
                            return Err(Mistake { node: node.id, message });
                        }
                    },
                };
                if select.test { Bool } else { kind }
            }
            Expr::List(list) => {
                let mut texts = !list.elements.is_empty();
                for element in &list.elements {
                    texts &= self.kind(element)? == Text;
                }
                if texts { Texts } else { List }
            }
            Expr::Map(map) => {
                for entry in &map.entries {
                    if let cel::common::ast::EntryExpr::MapEntry(pair) = &entry.expr {
                        self.kind(&pair.key)?;
                        self.kind(&pair.value)?;
                    }
                }
                Map
            }
            Expr::Call(call) => {
                let mut kinds = Vec::new();
                let of_library = matches!(call.target.as_deref(), Some(IdedExpr { expr: Expr::Ident(name), .. }) if name == "optional");
                for part in call.target.iter().filter(|_| !of_library).map(AsRef::as_ref).chain(&call.args) {
                    kinds.push((part, self.kind(part)?));
                }
                if of_library { Any } else { self.call(node, &call.func_name, call.target.is_some(), &kinds)? }
            }
            Expr::Comprehension(each) => {
                let range = self.kind(&each.iter_range)?;
                if !range.fits(List) && !range.fits(Map) {
                    let message = format!("a loop goes over a list or a map, and this is a {range}");
                    return Err(Mistake { node: each.iter_range.id, message });
                }
                let accu = self.kind(&each.accu_init)?;
                let outer = self.bound.len();
                let item = match range {
                    Texts | TextMap => Text,
                    _ => Any,
                };
                self.bound.push((&each.iter_var, item));
                self.bound.extend(each.iter_var2.as_deref().map(|name| (name, Any)));
                self.bound.push((&each.accu_var, accu));
                self.loops += 1;
                self.kind(&each.loop_cond)?;
                self.kind(&each.loop_step)?;
                self.loops -= 1;
                let result = self.kind(&each.result)?;
                self.bound.truncate(outer);
                result
            }
            Expr::Struct(_) | Expr::Unspecified => Any,
        })
    }

    fn bound(&self, name: &str) -> Option<Kind> {
        self.bound.iter().rev().find(|(bound, _)| *bound == name).map(|(_, kind)| *kind)
    }

    /// `principal`, `request`, `kubernetes` or `resource`, if that is what the node stands for.
    fn root(&self, node: &IdedExpr) -> Option<&'static str> {
        match &node.expr {
            Expr::Ident(name) if self.bound(name).is_none() => {
                ["principal", "request", "kubernetes", "resource"].into_iter().find(|root| root == name)
            }
            _ => None,
        }
    }

    fn call(&self, node: &IdedExpr, name: &str, member: bool, args: &[(&IdedExpr, Kind)]) -> Result<Kind, Mistake> {
        let kinds: Vec<Kind> = args.iter().map(|(_, kind)| *kind).collect();
        let mistake = |message: String| Err(Mistake { node: node.id, message });
        match (name, kinds.as_slice()) {
            (op::LOGICAL_AND | op::LOGICAL_OR | op::LOGICAL_NOT | op::NOT_STRICTLY_FALSE, _) => {
                args.iter().try_for_each(|(part, kind)| expected(part, *kind, Bool, "what `&&`, `||` and `!` join"))?;
                Ok(Bool)
            }
            (op::CONDITIONAL, [when, then, otherwise]) => {
                args.first().map_or(Ok(()), |(part, _)| expected(part, *when, Bool, "what stands before `?`"))?;
                Ok(if then == otherwise { *then } else { Any })
            }
            (op::EQUALS | op::NOT_EQUALS, [a, b]) if a.comparable(*b) => Ok(Bool),
            (op::EQUALS | op::NOT_EQUALS, [a, b]) => {
                let hint = if *a == Null || *b == Null { "; ask `has(…)`" } else { "" };
                mistake(format!("a {a} is never equal to a {b}{hint}"))
            }
            (op::LESS | op::LESS_EQUALS | op::GREATER | op::GREATER_EQUALS, [a, b]) => {
                if a.comparable(*b) && a.is_ordered() && b.is_ordered() {
                    return Ok(Bool);
                }
                mistake(format!("a {a} is neither more nor less than a {b}"))
            }
            (op::IN, [item, within]) => match within {
                Any | Map | List => Ok(Bool),
                TextMap | Texts if item.fits(Text) => Ok(Bool),
                TextMap | Texts => mistake(format!("a {item} is never in a {within}")),
                other => mistake(format!("nothing is in a {other}; write a list")),
            },
            (op::INDEX, [within, index]) => match within {
                Any | Map | TextMap => Ok(within.element()),
                List | Texts if index.fits(Int) || index.is_number() => Ok(within.element()),
                List | Texts => mistake(format!("a list is indexed by an int, not by a {index}")),
                other => mistake(format!("a {other} can't be indexed")),
            },
            (op::OPT_INDEX | op::OPT_SELECT, _) => Ok(Any),
            (op::NEGATE, [number]) if number.fits(Int) || number.is_number() => Ok(*number),
            (op::NEGATE, [other]) => mistake(format!("a {other} has no negative")),
            (op::ADD | op::SUBSTRACT | op::MULTIPLY | op::DIVIDE | op::MODULO, [a, b]) => {
                self.arithmetic(node, name, *a, *b, args)
            }
            ("hasValue" | "value" | "or" | "orValue", [Any, ..]) if member => Ok(Any),
            _ => function(node, name, member, &kinds),
        }
    }

    fn arithmetic(
        &self,
        node: &IdedExpr,
        name: &str,
        a: Kind,
        b: Kind,
        args: &[(&IdedExpr, Kind)],
    ) -> Result<Kind, Mistake> {
        let sign = name.trim_matches('_');
        // the loops that `map` and `filter` stand for gather their results by `+`
        let gathers =
            args.first().is_some_and(|(part, _)| matches!(&part.expr, Expr::Ident(name) if name.starts_with('@')));
        let grows = !a.is_number() && !b.is_number() && !matches!((a, b), (Time | Duration, _) | (_, Time | Duration));
        if name == op::ADD && self.loops > 0 && grows && !gathers {
            let message = "texts and lists are not joined within a loop, where they could grow without end".to_owned();
            return Err(Mistake { node: node.id, message });
        }
        if a == Any || b == Any {
            return Ok(Any);
        }
        if a == b && a.is_number() {
            return Ok(a);
        }
        let found = ARITHMETIC.iter().find(|(of, left, right, _)| *of == name && a.fits(*left) && b.fits(*right));
        found.map(|(.., result)| *result).ok_or_else(|| Mistake {
            node: node.id,
            message: format!("there is no `{a} {sign} {b}`; convert one of them"),
        })
    }
}

fn function(node: &IdedExpr, name: &str, member: bool, kinds: &[Kind]) -> Result<Kind, Mistake> {
    let signatures = BY_NAME.get(name).map(Vec::as_slice).unwrap_or_default();
    let fits = |signature: &&&TokenSignature| {
        let (_, of_member, args, _) = ***signature;
        of_member == member && args.len() == kinds.len() && args.iter().zip(kinds).all(|(arg, kind)| kind.fits(*arg))
    };
    let mut results = signatures.iter().filter(fits).map(|signature| signature.3);
    match results.next() {
        Some(first) => Ok(if results.all(|other| other == first) { first } else { Any }),
        None if signatures.is_empty() => {
            Err(Mistake { node: node.id, message: format!("there is no function `{name}`") })
        }
        None => {
            let given: Vec<String> = kinds.iter().map(ToString::to_string).collect();
            let forms: Vec<String> = signatures.iter().map(|signature| form(signature)).collect();
            let message = format!("`{name}` does not take ({}); there is {}", given.join(", "), forms.join(", "));
            Err(Mistake { node: node.id, message })
        }
    }
}

/// `string.contains(string)`.
fn form((name, member, args, _): &TokenSignature) -> String {
    let mut texts = args.iter().map(ToString::to_string);
    let on = if *member { texts.next().map(|on| format!("{on}.")).unwrap_or_default() } else { String::new() };
    format!("{on}{name}({})", texts.collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
pub(super) fn functions() -> impl Iterator<Item = (&'static str, bool, &'static [Kind])> {
    FUNCTIONS.iter().map(|(name, member, args, _)| (*name, *member, *args))
}
