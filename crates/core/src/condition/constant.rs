//! Expressions whose outcome does not depend on any fact.

use cel::common::ast::{Expr, LiteralValue, operators};

/// The outcome of an expression that needs no fact; `None` if it needs one.
pub(super) fn fold(expression: &Expr) -> Option<bool> {
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
