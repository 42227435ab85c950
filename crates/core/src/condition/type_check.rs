//! Checks the types of an expression. An expression that can only fail is refused when the policy is accepted. The
//! types of attributes are unknown, since attributes come from claims.

use super::fields::field;
use super::functions::{ConditionFunction, functions};
use super::value_type::ValueType::{
    self, Any, Bool, Bytes, Double, Duration, Int, List, Map, Null, Text, TextMap, Texts, Time, Uint,
};
use cel::common::ast::{Expr, IdedExpr, LiteralValue, operators as op};
use std::collections::HashMap;
use std::sync::LazyLock;

/// The arithmetic operators, with the types of both operands and of the result.
const ARITHMETIC: &[(&str, ValueType, ValueType, ValueType)] = &[
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

/// A mistake, with the id of its node.
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

fn expected(node: &IdedExpr, kind: ValueType, wanted: ValueType, what: &str) -> Result<(), Mistake> {
    if kind.fits(wanted) {
        return Ok(());
    }
    Err(Mistake { node: node.id, message: format!("{what} must have type {wanted}, not {kind}") })
}

struct Checker<'p> {
    /// Names that loops bind, with their types.
    bound: Vec<(&'p str, ValueType)>,
    loops: usize,
}

impl<'p> Checker<'p> {
    fn kind(&mut self, node: &'p IdedExpr) -> Result<ValueType, Mistake> {
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
                            let message = format!("type {other} has no field `{}`", select.field);
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
                let target = call.target.as_deref();
                // `optional` is a namespace, as in `optional.of(x)`, not a value
                let is_optional = target.is_some_and(|on| matches!(&on.expr, Expr::Ident(name) if name == "optional"));
                let receiver = if is_optional { None } else { target };
                let mut kinds = Vec::new();
                for part in receiver.into_iter().chain(&call.args) {
                    kinds.push((part, self.kind(part)?));
                }
                if is_optional { Any } else { self.call(node, &call.func_name, target.is_some(), &kinds)? }
            }
            Expr::Comprehension(each) => {
                let range = self.kind(&each.iter_range)?;
                if !range.fits(List) && !range.fits(Map) {
                    let message = format!("a loop needs a list or a map, not {range}");
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

    fn bound(&self, name: &str) -> Option<ValueType> {
        self.bound.iter().rev().find(|(bound, _)| *bound == name).map(|(_, kind)| *kind)
    }

    /// `principal`, `request`, `kubernetes` or `resource`, if the node is one of them.
    fn root(&self, node: &IdedExpr) -> Option<&'static str> {
        match &node.expr {
            Expr::Ident(name) if self.bound(name).is_none() => {
                ["principal", "request", "kubernetes", "resource"].into_iter().find(|root| root == name)
            }
            _ => None,
        }
    }

    fn call(
        &self,
        node: &IdedExpr,
        name: &str,
        member: bool,
        args: &[(&IdedExpr, ValueType)],
    ) -> Result<ValueType, Mistake> {
        let kinds: Vec<ValueType> = args.iter().map(|(_, kind)| *kind).collect();
        let mistake = |message: String| Err(Mistake { node: node.id, message });
        match (name, kinds.as_slice()) {
            (op::LOGICAL_AND | op::LOGICAL_OR | op::LOGICAL_NOT | op::NOT_STRICTLY_FALSE, _) => {
                args.iter()
                    .try_for_each(|(part, kind)| expected(part, *kind, Bool, "an operand of `&&`, `||` or `!`"))?;
                Ok(Bool)
            }
            (op::CONDITIONAL, [when, then, otherwise]) => {
                args.first().map_or(Ok(()), |(part, _)| expected(part, *when, Bool, "the condition before `?`"))?;
                Ok(if then == otherwise { *then } else { Any })
            }
            (op::EQUALS | op::NOT_EQUALS, [a, b]) if a.comparable(*b) => Ok(Bool),
            (op::EQUALS | op::NOT_EQUALS, [a, b]) => {
                let hint = if *a == Null || *b == Null { "; use `has(…)`" } else { "" };
                mistake(format!("values of type {a} and {b} are never equal{hint}"))
            }
            (op::LESS | op::LESS_EQUALS | op::GREATER | op::GREATER_EQUALS, [a, b]) => {
                if a.comparable(*b) && a.is_ordered() && b.is_ordered() {
                    return Ok(Bool);
                }
                mistake(format!("values of type {a} and {b} have no order"))
            }
            (op::IN, [item, within]) => match within {
                Any | Map | List => Ok(Bool),
                TextMap | Texts if item.fits(Text) => Ok(Bool),
                TextMap | Texts => mistake(format!("a value of type {item} is never in a {within}")),
                other => mistake(format!("`in` needs a list or a map, not {other}")),
            },
            (op::INDEX, [within, index]) => match within {
                Any | Map | TextMap => Ok(within.element()),
                List | Texts if index.fits(Int) || index.is_number() => Ok(within.element()),
                List | Texts => mistake(format!("the index of a list must have type int, not {index}")),
                other => mistake(format!("type {other} can't be indexed")),
            },
            (op::OPT_INDEX | op::OPT_SELECT, _) => Ok(Any),
            (op::NEGATE, [number]) if number.fits(Int) || number.is_number() => Ok(*number),
            (op::NEGATE, [other]) => mistake(format!("type {other} can't be negated")),
            (op::ADD | op::SUBSTRACT | op::MULTIPLY | op::DIVIDE | op::MODULO, [a, b]) => {
                self.arithmetic(node, name, *a, *b, args)
            }
            _ => function(node, name, member, &kinds),
        }
    }

    fn arithmetic(
        &self,
        node: &IdedExpr,
        name: &str,
        a: ValueType,
        b: ValueType,
        args: &[(&IdedExpr, ValueType)],
    ) -> Result<ValueType, Mistake> {
        let sign = name.trim_matches('_');
        // `map` and `filter` expand to loops that collect their results by `+`
        let gathers =
            args.first().is_some_and(|(part, _)| matches!(&part.expr, Expr::Ident(name) if name.starts_with('@')));
        let grows = !a.is_number() && !b.is_number() && !matches!((a, b), (Time | Duration, _) | (_, Time | Duration));
        if name == op::ADD && self.loops > 0 && grows && !gathers {
            let message =
                "texts and lists can't be joined within a loop, where they could grow without bound".to_owned();
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

static BY_NAME: LazyLock<HashMap<&'static str, Vec<&'static ConditionFunction>>> = LazyLock::new(|| {
    let mut by_name: HashMap<_, Vec<_>> = HashMap::new();
    functions().for_each(|function| by_name.entry(function.name()).or_default().push(function));
    by_name
});

fn function(node: &IdedExpr, name: &str, member: bool, arguments: &[ValueType]) -> Result<ValueType, Mistake> {
    let overloads = BY_NAME.get(name).map(Vec::as_slice).unwrap_or_default();
    let accepting = overloads.iter().filter(|function| function.accepts(member, arguments));
    let mut results = accepting.map(|function| function.result());
    match results.next() {
        Some(first) => Ok(if results.all(|other| other == first) { first } else { Any }),
        None if overloads.is_empty() => {
            Err(Mistake { node: node.id, message: format!("there is no function `{name}`") })
        }
        None => {
            let given: Vec<String> = arguments.iter().map(ToString::to_string).collect();
            let forms: Vec<String> = overloads.iter().map(|function| function.form()).collect();
            let message = format!("`{name}` does not accept ({}); use {}", given.join(", "), forms.join(", "));
            Err(Mistake { node: node.id, message })
        }
    }
}
