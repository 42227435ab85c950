//! The budget of loops: each turn of a loop takes a step first, and the number of steps is limited.

use cel::common::ast::{CallExpr, EntryExpr, Expr, IdedExpr, LiteralValue, operators};

/// The variable that a turn reads to take a step. No expression can name it, since `@` is not allowed in names.
pub(super) const STEP: &str = "@step";
/// The same for a turn that adds to a list.
pub(super) const KEEP: &str = "@keep";

/// Makes each turn of each loop take a step. Returns whether there is a loop.
pub(super) fn count_steps(node: &mut IdedExpr) -> bool {
    match &mut node.expr {
        Expr::Call(call) => {
            let target = call.target.as_deref_mut().is_some_and(count_steps);
            call.args.iter_mut().fold(target, |any, arg| count_steps(arg) | any)
        }
        Expr::Select(select) => count_steps(&mut select.operand),
        Expr::List(list) => list.elements.iter_mut().fold(false, |any, element| count_steps(element) | any),
        Expr::Map(map) => map.entries.iter_mut().fold(false, |any, entry| count_steps_of_entry(&mut entry.expr) | any),
        Expr::Struct(object) => {
            object.entries.iter_mut().fold(false, |any, entry| count_steps_of_entry(&mut entry.expr) | any)
        }
        Expr::Comprehension(each) => {
            for part in [&mut each.iter_range, &mut each.accu_init, &mut each.loop_step, &mut each.result] {
                count_steps(part);
            }
            // the interpreter recognizes loops that build a list by a constant condition, and by the form of the step
            let no = |id| IdedExpr { id, expr: Expr::Literal(LiteralValue::Boolean(false.into())) };
            if !matches!(each.loop_cond.expr, Expr::Literal(_)) {
                let cond = &mut each.loop_cond;
                *cond = if_there(STEP, cond.clone(), no(cond.id));
            } else if let Some(guard) = guard(&mut each.loop_step) {
                *guard = if_there(KEEP, guard.clone(), no(guard.id));
            } else {
                let step = each.loop_step.clone();
                let id = step.id;
                each.loop_step = if_there(KEEP, step, IdedExpr { id, expr: Expr::Ident(each.accu_var.clone()) });
            }
            true
        }
        Expr::Ident(_) | Expr::Literal(_) | Expr::Unspecified => false,
    }
}

fn count_steps_of_entry(entry: &mut EntryExpr) -> bool {
    match entry {
        EntryExpr::StructField(field) => count_steps(&mut field.value),
        EntryExpr::MapEntry(pair) => count_steps(&mut pair.key) | count_steps(&mut pair.value),
    }
}

/// The condition on which a turn adds a value.
fn guard(step: &mut IdedExpr) -> Option<&mut IdedExpr> {
    match &mut step.expr {
        Expr::Call(call) if call.func_name == operators::CONDITIONAL => call.args.first_mut(),
        _ => None,
    }
}

/// A condition that fails once no steps are left.
fn if_there(step: &str, then: IdedExpr, otherwise: IdedExpr) -> IdedExpr {
    let id = then.id;
    let args = vec![IdedExpr { id, expr: Expr::Ident(step.to_owned()) }, then, otherwise];
    let call = CallExpr { func_name: operators::CONDITIONAL.to_owned(), target: None, args };
    IdedExpr { id, expr: Expr::Call(call) }
}
