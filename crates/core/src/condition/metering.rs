//! Prices the nodes of an expression, and makes it charge the budget of the decision while it is evaluated.
//!
//! - Nodes outside of loops are charged together, before the evaluation.
//! - Each turn of a loop charges the nodes of its body first, by reading [`STEP`].
//! - Work that grows with a value is charged by the size of the value: the value passes through [`SIZED`] on its way
//!   to an operator or function that copies, compares or searches it.
//! - `matches` becomes a call with the compiled pattern.
//!
//! No expression can contain these names, since `@` is not allowed in names.

use super::fields::field;
use super::functions::functions;
use super::pattern::{MAX_PATTERNS, Pattern};
use super::price::{LIST, MATCHES, PER_BYTE, SIZED};
use super::type_check::Mistake;
use super::value_type::ValueType;
use cel::common::ast::{CallExpr, ComprehensionExpr, EntryExpr, Expr, IdedExpr, LiteralValue, operators as op};

/// The budget of the decision.
pub(super) const WORK: &str = "@work";
/// The variable that a turn of a loop reads to pay, followed by its price.
pub(super) const STEP: &str = "@step";
/// A compiled pattern, followed by its number.
pub(super) const PATTERN: &str = "@pattern";

/// Prices in units: see [`MAX_WORK`](crate::work::MAX_WORK).
const LITERAL: u64 = 1;
const IDENTIFIER: u64 = 3;
const SELECTION: u64 = 8;
/// A function that formats or parses.
const CALL: u64 = 20;
/// A value that passes through [`SIZED`].
const PASSAGE: u64 = 6;
/// A turn copies an item, binds two variables and checks its budget.
const TURN: u64 = 12;
/// A list or map that the expression makes.
const CONTAINER: u64 = 8;

/// An expression that pays for its evaluation.
pub(super) struct MeteredExpression {
    pub(super) expression: IdedExpr,
    /// Price of everything outside of loops.
    pub(super) price: u64,
    pub(super) patterns: Vec<Pattern>,
}

/// Makes an expression pay for its evaluation.
///
/// # Errors
/// If a pattern is not a literal, or can't be compiled within its limits.
pub(super) fn meter(mut expression: IdedExpr) -> Result<MeteredExpression, Mistake> {
    let mut meter = Meter { patterns: Vec::new() };
    let price = meter.node(&mut expression)?;
    Ok(MeteredExpression { expression, price, patterns: meter.patterns })
}

struct Meter {
    patterns: Vec<Pattern>,
}

impl Meter {
    /// Rewrites a node. Returns its price, without the turns of loops.
    fn node(&mut self, node: &mut IdedExpr) -> Result<u64, Mistake> {
        let id = node.id;
        Ok(match &mut node.expr {
            Expr::Literal(literal) => LITERAL + length(literal) / 16,
            Expr::Ident(_) => IDENTIFIER,
            Expr::Unspecified => 0,
            Expr::Select(select) => SELECTION + self.charged(&mut select.operand, None)?,
            Expr::List(list) => self.all(CONTAINER, list.elements.iter_mut())?,
            Expr::Map(map) => {
                let parts = map.entries.iter_mut().flat_map(|entry| entry_parts(&mut entry.expr));
                self.all(CONTAINER, parts)?
            }
            Expr::Struct(object) => {
                let parts = object.entries.iter_mut().flat_map(|entry| entry_parts(&mut entry.expr));
                self.all(CONTAINER, parts)?
            }
            Expr::Comprehension(each) => self.comprehension(each)?,
            Expr::Call(call) if call.func_name == "matches" => self.matches(id, call)?,
            Expr::Call(call) => self.call(call)?,
        })
    }

    /// Rewrites parts whose values are copied.
    fn all<'a>(&mut self, own: u64, parts: impl Iterator<Item = &'a mut IdedExpr>) -> Result<u64, Mistake> {
        parts.into_iter().try_fold(own, |sum, part| Ok(sum + self.charged(part, Some(SIZED))?))
    }

    /// Rewrites a part whose value is charged by a function, unless it is small by its form.
    fn charged(&mut self, part: &mut IdedExpr, by: Option<&'static str>) -> Result<u64, Mistake> {
        let grows = grows(&part.expr);
        let small = is_small(&part.expr);
        let price = self.node(part)?;
        let by = if grows && by != Some(PER_BYTE) { Some(SIZED) } else { by };
        let Some(by) = by.filter(|_| !small) else { return Ok(price) };
        let id = part.id;
        let args = vec![identifier(id, WORK.to_owned()), std::mem::take(part)];
        *part = call(id, by, args);
        Ok(price + PASSAGE)
    }

    fn call(&mut self, call: &mut CallExpr) -> Result<u64, Mistake> {
        let member = call.target.is_some();
        let small = call.args.iter().any(|arg| is_small(&arg.expr));
        let gathers = call.args.first().is_some_and(|arg| is_internal(&arg.expr));
        let name = call.func_name.clone();
        let mut price = own_price(&name);
        if let Some(target) = &mut call.target {
            // `optional` is a namespace, as in `optional.of(x)`, not a value
            if !matches!(&target.expr, Expr::Ident(name) if name == "optional") {
                price += self.charged(target, charge(&name, 0, small, gathers))?;
            }
        }
        for (place, arg) in call.args.iter_mut().enumerate() {
            price += self.charged(arg, charge(&name, place + usize::from(member), small, gathers))?;
        }
        Ok(price)
    }

    /// `text.matches(pattern)` or `matches(text, pattern)`, with a compiled pattern in place of the text of one.
    fn matches(&mut self, id: u64, matches: &mut CallExpr) -> Result<u64, Mistake> {
        let mistake = |message: String| Mistake { node: id, message };
        let mut args = matches.target.take().map(|target| *target).into_iter().chain(std::mem::take(&mut matches.args));
        let (Some(mut text), Some(pattern), None) = (args.next(), args.next(), args.next()) else {
            return Err(mistake("`matches` takes a string and a pattern".to_owned()));
        };
        let Expr::Literal(LiteralValue::String(pattern)) = &pattern.expr else {
            return Err(mistake(
                "the pattern of `matches` must be a literal string, so that it is compiled only once".to_owned(),
            ));
        };
        if self.patterns.len() == MAX_PATTERNS {
            return Err(mistake(format!("`matches` occurs more than {MAX_PATTERNS} times; split the rule in two")));
        }
        let compiled = Pattern::compile(pattern.inner());
        let compiled = compiled.map_err(|error| mistake(format!("the pattern of `matches` {error}")))?;
        let price = self.charged(&mut text, None)?;
        let number = identifier(id, format!("{PATTERN}{}", self.patterns.len()));
        self.patterns.push(compiled);
        MATCHES.clone_into(&mut matches.func_name);
        matches.args = vec![identifier(id, WORK.to_owned()), text, number];
        Ok(price + CALL + 2 * IDENTIFIER)
    }

    fn comprehension(&mut self, each: &mut ComprehensionExpr) -> Result<u64, Mistake> {
        let start = self.charged(&mut each.iter_range, Some(SIZED))? + self.node(&mut each.accu_init)?;
        let condition = self.node(&mut each.loop_cond)?;
        let turn = TURN + condition + self.node(&mut each.loop_step)?;
        let end = self.node(&mut each.result)?;
        pay_each_turn(each, turn);
        // the first condition is evaluated even if there is no turn
        Ok(CALL + start + condition + end)
    }
}

/// Makes each turn of a loop pay first. The interpreter recognizes loops that build a list by a constant condition, and
/// by the form of the step.
fn pay_each_turn(each: &mut ComprehensionExpr, price: u64) {
    let no = |id| IdedExpr { id, expr: Expr::Literal(LiteralValue::Boolean(false.into())) };
    if !matches!(each.loop_cond.expr, Expr::Literal(_)) {
        let cond = &mut each.loop_cond;
        *cond = if_paid(price, std::mem::take(cond), no);
    } else if let Some(guard) = guard(&mut each.loop_step) {
        *guard = if_paid(price, std::mem::take(guard), no);
    } else {
        let accu = each.accu_var.clone();
        let step = std::mem::take(&mut each.loop_step);
        each.loop_step = if_paid(price, step, |id| identifier(id, accu));
    }
}

/// The condition on which a turn adds a value.
fn guard(step: &mut IdedExpr) -> Option<&mut IdedExpr> {
    match &mut step.expr {
        Expr::Call(call) if call.func_name == op::CONDITIONAL => call.args.first_mut(),
        _ => None,
    }
}

/// An expression that fails once the budget is exhausted.
fn if_paid(price: u64, then: IdedExpr, otherwise: impl FnOnce(u64) -> IdedExpr) -> IdedExpr {
    let id = then.id;
    call(id, op::CONDITIONAL, vec![identifier(id, format!("{STEP}{price}")), then, otherwise(id)])
}

fn identifier(id: u64, name: String) -> IdedExpr {
    IdedExpr { id, expr: Expr::Ident(name) }
}

fn call(id: u64, name: &str, args: Vec<IdedExpr>) -> IdedExpr {
    IdedExpr { id, expr: Expr::Call(CallExpr { func_name: name.to_owned(), target: None, args }) }
}

fn entry_parts(entry: &mut EntryExpr) -> Vec<&mut IdedExpr> {
    match entry {
        EntryExpr::StructField(field) => vec![&mut field.value],
        EntryExpr::MapEntry(pair) => vec![&mut pair.key, &mut pair.value],
    }
}

fn length(literal: &LiteralValue) -> u64 {
    let length = match literal {
        LiteralValue::String(text) => text.inner().len(),
        LiteralValue::Bytes(bytes) => bytes.inner().len(),
        _ => 0,
    };
    u64::try_from(length).unwrap_or(u64::MAX)
}

/// The price of an operator or function by itself.
fn own_price(name: &str) -> u64 {
    match name {
        op::LOGICAL_AND | op::LOGICAL_OR | op::NOT_STRICTLY_FALSE | op::CONDITIONAL | op::EQUALS | op::NOT_EQUALS => 1,
        "contains" | "startsWith" | "endsWith" | "size" | "dyn" | "type" => 8,
        "url" | "isURL" => 3 * CALL,
        name if name.contains(|c: char| c.is_ascii_alphabetic()) => CALL,
        // these prepare an error in case of wrong types
        _ => 8,
    }
}

/// The function that charges an argument of a call, `None` if the work does not grow with it. `small` says that one
/// argument is small, `gathers` that the first is the list that a loop builds.
fn charge(name: &str, place: usize, small: bool, gathers: bool) -> Option<&'static str> {
    match (name, place) {
        (op::LOGICAL_AND | op::LOGICAL_OR | op::LOGICAL_NOT | op::NOT_STRICTLY_FALSE | op::CONDITIONAL | "dyn", _)
        // values are borrowed from what they are selected from
        | (op::INDEX | op::OPT_INDEX | op::OPT_SELECT, 0)
        // the other text bounds the comparison
        | ("startsWith" | "endsWith", 0) => None,
        // both sides are compared in step, up to the end of the smaller one
        (op::EQUALS | op::NOT_EQUALS, place) => (place == 0 && !small).then_some(SIZED),
        // the interpreter appends to that list in place
        (op::ADD, _) if gathers => None,
        (op::IN, 1) => Some(LIST),
        ("split", 0) => Some(PER_BYTE),
        _ => Some(SIZED),
    }
}

/// Whether a name is one of those that no expression can contain.
fn is_internal(expr: &Expr) -> bool {
    matches!(expr, Expr::Ident(name) if name.starts_with('@'))
}

/// Whether a value is at most as large as the expression itself, by the form of the expression.
fn is_small(expr: &Expr) -> bool {
    match expr {
        Expr::Literal(_) => true,
        Expr::Select(select) if select.test => true,
        Expr::Select(select) => match &select.operand.expr {
            Expr::Ident(root) => field(root, &select.field) == ValueType::Time,
            _ => false,
        },
        Expr::Call(call) => match call.func_name.as_str() {
            op::LOGICAL_AND
            | op::LOGICAL_OR
            | op::LOGICAL_NOT
            | op::NOT_STRICTLY_FALSE
            | op::EQUALS
            | op::NOT_EQUALS
            | op::LESS
            | op::LESS_EQUALS
            | op::GREATER
            | op::GREATER_EQUALS
            | op::IN
            | op::NEGATE
            | op::SUBSTRACT
            | op::MULTIPLY
            | op::DIVIDE
            | op::MODULO
            | MATCHES => true,
            name => {
                let mut overloads = functions().filter(|function| function.name() == name).peekable();
                overloads.peek().is_some() && overloads.all(|function| is_scalar(function.result()))
            }
        },
        other => is_internal(other),
    }
}

fn is_scalar(kind: ValueType) -> bool {
    use ValueType::{Bool, Cidr, Double, Duration, Int, Ip, Null, Quantity, Time, Uint};
    matches!(kind, Null | Bool | Int | Uint | Double | Time | Duration | Ip | Cidr | Quantity)
}

/// Whether a value can be larger than everything that it is made of, or is a copy of a part.
fn grows(expr: &Expr) -> bool {
    const GROWING: [&str; 9] =
        [op::OPT_INDEX, op::OPT_SELECT, "replace", "join", "split", "getQuery", "or", "orValue", "value"];
    matches!(expr, Expr::Call(call) if GROWING.contains(&call.func_name.as_str()))
}
