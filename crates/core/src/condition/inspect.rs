//! Checks the size of an expression and the names that it reads.

use super::error::{ConditionError, error_at};
use super::fields::{ATTRIBUTES, HEADERS, KUBERNETES, PRINCIPAL, REQUEST, RESOURCE, ReadFields};
use super::limits::{MAX_NESTED_LOOPS, MAX_NODES, MAX_TREE_DEPTH};
use cel::Program;
use cel::common::ast::{CallExpr, EntryExpr, Expr, IdedExpr, LiteralValue, operators};
use std::collections::BTreeSet;
use std::sync::Arc;

/// The fields that an expression reads. It fails if the expression is too large or a name is unknown.
pub(super) fn inspect(program: &Program, source: &str, listed: &[Arc<str>]) -> Result<ReadFields, ConditionError> {
    let reads = ReadFields::default();
    let mut inspector = Inspector { program, source, listed, nodes: 0, depth: 0, bound: Vec::new(), reads };
    inspector.visit(program.expression(), 0)?;
    Ok(inspector.reads)
}

/// Walks an expression once, for its size and for unknown names.
struct Inspector<'p> {
    program: &'p Program,
    source: &'p str,
    /// The headers that it may read.
    listed: &'p [Arc<str>],
    nodes: usize,
    depth: usize,
    /// Names bound by loops around the current node.
    bound: Vec<&'p str>,
    reads: ReadFields,
}

impl<'p> Inspector<'p> {
    fn visit(&mut self, node: &'p IdedExpr, loops: usize) -> Result<(), ConditionError> {
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            return Err(self.error(node, format!("the expression has more than {MAX_NODES} parts")));
        }
        if self.depth == MAX_TREE_DEPTH {
            return Err(
                self.error(node, format!("the expression has more than {MAX_TREE_DEPTH} chained or nested steps"))
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
                Some((root, fields, reads)) => {
                    // headers are read by their names
                    reads.extend(fields.iter().filter(|field| **field != HEADERS));
                    self.reads.attributes.all |= root == "principal";
                    Ok(())
                }
                None => self.name(node, name),
            },
            Expr::Select(select) if self.is_headers(&select.operand) => self.header(node, Some(&select.field)),
            Expr::Select(_) if self.is_headers(node) => self.header(node, None),
            Expr::Select(select) if self.is_field(&select.operand, "principal", ATTRIBUTES) => {
                self.attribute(Some(&select.field))
            }
            Expr::Select(_) if self.is_field(node, "principal", ATTRIBUTES) => self.attribute(None),
            Expr::Select(select) => match self.root(&select.operand) {
                Some((name, fields, reads)) => match fields.iter().find(|field| **field == select.field) {
                    Some(field) => {
                        reads.insert(field);
                        Ok(())
                    }
                    None => {
                        let message =
                            format!("`{name}` has no field `{}`; its fields are {}", select.field, fields.join(", "));
                        Err(self.error(node, message))
                    }
                },
                None => self.visit(&select.operand, loops),
            },
            Expr::Call(call) if self.named(call, "request", HEADERS).is_some() => {
                self.header(node, self.named(call, "request", HEADERS))
            }
            Expr::Call(call) if self.named(call, "principal", ATTRIBUTES).is_some() => {
                self.attribute(self.named(call, "principal", ATTRIBUTES))
            }
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

    /// Whether a node is `request.headers`.
    fn is_headers(&self, node: &IdedExpr) -> bool {
        self.is_field(node, "request", HEADERS)
    }

    /// Whether a node is `<root>.<field>`.
    fn is_field(&self, node: &IdedExpr, root: &str, field: &str) -> bool {
        let Expr::Select(select) = &node.expr else { return false };
        let is_root = |name: &str| name == root && !self.bound.contains(&name);
        select.field == field && matches!(&select.operand.expr, Expr::Ident(name) if is_root(name))
    }

    /// Notes that an attribute is read; without a name, any of them.
    fn attribute(&mut self, name: Option<&str>) -> Result<(), ConditionError> {
        self.reads.principal.insert(ATTRIBUTES);
        match name {
            Some(name) => drop(self.reads.attributes.names.insert(name.into())),
            None => self.reads.attributes.all = true,
        }
        Ok(())
    }

    /// The literal name by which a call reads or tests an entry of `<root>.<field>`.
    fn named(&self, call: &'p CallExpr, root: &str, field: &str) -> Option<&'p str> {
        let [first, second] = call.args.as_slice() else { return None };
        let (map, name) = match call.func_name.as_str() {
            operators::INDEX | operators::OPT_INDEX => (first, second),
            operators::IN => (second, first),
            _ => return None,
        };
        match &name.expr {
            Expr::Literal(LiteralValue::String(name)) if self.is_field(map, root, field) => Some(name.inner()),
            _ => None,
        }
    }

    /// Notes that a header is read; without a name, every listed header.
    fn header(&mut self, node: &IdedExpr, name: Option<&str>) -> Result<(), ConditionError> {
        let listed: Vec<&str> = self.listed.iter().map(AsRef::as_ref).collect();
        let message = match name {
            _ if listed.is_empty() => {
                "conditions can only read headers that the policy lists in `spec.headers`, and it lists none".to_owned()
            }
            Some(name) if !listed.contains(&name) => {
                format!("header `{name}` is not listed in `spec.headers`, which lists {}", listed.join(", "))
            }
            _ => {
                let read = self.listed.iter().filter(|one| name.is_none_or(|name| ***one == *name));
                self.reads.headers.extend(read.cloned());
                self.reads.request.insert(HEADERS);
                return Ok(());
            }
        };
        Err(self.error(node, message))
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

    /// The name and fields of `principal`, `request`, `kubernetes` or `resource`, if the node is one of them.
    fn root(
        &mut self,
        node: &IdedExpr,
    ) -> Option<(&'static str, &'static [&'static str], &mut BTreeSet<&'static str>)> {
        match &node.expr {
            Expr::Ident(name) if self.bound.contains(&name.as_str()) => None,
            Expr::Ident(name) if name == "principal" => Some(("principal", PRINCIPAL, &mut self.reads.principal)),
            Expr::Ident(name) if name == "request" => Some(("request", REQUEST, &mut self.reads.request)),
            Expr::Ident(name) if name == "kubernetes" => Some(("kubernetes", KUBERNETES, &mut self.reads.kubernetes)),
            Expr::Ident(name) if name == "resource" => Some(("resource", RESOURCE, &mut self.reads.resource)),
            _ => None,
        }
    }

    fn name(&self, node: &IdedExpr, name: &str) -> Result<(), ConditionError> {
        const TYPES: [&str; 11] =
            ["bool", "int", "uint", "double", "string", "bytes", "list", "map", "null_type", "type", "optional"];
        if self.bound.contains(&name) || TYPES.contains(&name) {
            return Ok(());
        }
        Err(self.error(
            node,
            format!(
                "`{name}` does not exist; a condition can read `principal`, `request`, `kubernetes` and `resource`"
            ),
        ))
    }

    fn error(&self, node: &IdedExpr, message: String) -> ConditionError {
        error_at(self.program, self.source, node.id, message)
    }
}
