//! Fields that the CEL rules of a CustomResourceDefinition name and its schema does not have.
//!
//! Only what starts at `self`, `oldSelf` or the variable of a macro over them is followed: of anything else the type is
//! not known here, and nothing is said of it.

use kube_cel::cel::Program;
use kube_cel::cel::common::ast::{EntryExpr, Expr, IdedExpr, operators};
use serde_json::Value;

use super::object::text;

/// The first field of a rule at `schema` that is not there. A rule that cannot be read names none.
pub(crate) fn undefined(rule: &str, schema: &Value, is_root: bool) -> Option<String> {
    let program = Program::compile(rule).ok()?;
    let names = ["self", "oldSelf"].map(|name| (name.to_owned(), Some(Node { schema, is_root })));
    Scope(names.to_vec()).visit(program.expression()).err()
}

/// A value, by the schema that it follows.
#[derive(Clone, Copy)]
struct Node<'a> {
    schema: &'a Value,
    /// Whether it is a whole object, which has its kind and metadata without saying so.
    is_root: bool,
}

/// Variables with what is known of them; the last of a name counts.
#[derive(Clone)]
struct Scope<'a>(Vec<(String, Option<Node<'a>>)>);

impl<'a> Scope<'a> {
    /// What an expression is, if that is known; an error is the name of a field that is not there.
    fn visit(&self, expression: &IdedExpr) -> Result<Option<Node<'a>>, String> {
        match &expression.expr {
            Expr::Ident(name) => Ok(self.0.iter().rev().find(|(known, _)| known == name).and_then(|(_, node)| *node)),
            Expr::Select(select) => match self.visit(&select.operand)? {
                Some(node) => node.field(&select.field),
                None => Ok(None),
            },
            Expr::Call(call) => {
                let target = call.target.as_deref().map(|target| self.visit(target)).transpose()?;
                let args = call.args.iter().map(|arg| self.visit(arg)).collect::<Result<Vec<_>, _>>()?;
                let is_index = call.func_name == operators::INDEX;
                let of = target.or(args.first().copied()).flatten();
                Ok(of.filter(|_| is_index).and_then(Node::element))
            }
            Expr::Comprehension(comprehension) => {
                let range = self.visit(&comprehension.iter_range)?;
                // Over a map it goes by keys, and so does the first of two variables over a list.
                let is_list = range.is_some_and(|node| text(node.schema, "/type") == "array");
                let element = range.and_then(Node::element);
                let mut inner = self.clone();
                let (first, second) = match &comprehension.iter_var2 {
                    Some(second) => (None, Some((second.clone(), element))),
                    None => (element.filter(|_| is_list), None),
                };
                inner.0.push((comprehension.iter_var.clone(), first));
                inner.0.extend(second);
                inner.0.push((comprehension.accu_var.clone(), None));
                for part in [&comprehension.accu_init, &comprehension.loop_cond, &comprehension.loop_step] {
                    inner.visit(part)?;
                }
                inner.visit(&comprehension.result)?;
                Ok(None)
            }
            Expr::List(list) => self.visit_all(&list.elements),
            Expr::Map(map) => {
                for entry in &map.entries {
                    if let EntryExpr::MapEntry(entry) = &entry.expr {
                        self.visit(&entry.value)?;
                    }
                }
                Ok(None)
            }
            Expr::Literal(_) | Expr::Struct(_) | Expr::Unspecified => Ok(None),
        }
    }

    fn visit_all(&self, expressions: &[IdedExpr]) -> Result<Option<Node<'a>>, String> {
        expressions.iter().try_for_each(|expression| self.visit(expression).map(drop))?;
        Ok(None)
    }
}

impl<'a> Node<'a> {
    fn field(self, name: &str) -> Result<Option<Self>, String> {
        let schema = self.schema;
        let is_whole = self.is_root || schema["x-kubernetes-embedded-resource"] == true;
        if is_whole && matches!(name, "apiVersion" | "kind" | "metadata") {
            return Ok(None);
        }
        let found = [name, &unescaped(name)].into_iter().find_map(|name| schema["properties"].get(name));
        if let Some(schema) = found {
            return Ok(Some(Node { schema, is_root: false }));
        }
        let is_open = schema["x-kubernetes-preserve-unknown-fields"] == true
            || schema["x-kubernetes-int-or-string"] == true
            || schema.get("additionalProperties").is_some();
        if is_open { Ok(self.element()) } else { Err(name.to_owned()) }
    }

    /// Of a list its items, of a map its values.
    fn element(self) -> Option<Self> {
        let schema = ["items", "additionalProperties"].into_iter().find_map(|keyword| self.schema.get(keyword))?;
        schema.is_object().then_some(Node { schema, is_root: false })
    }
}

/// A field by its name in the schema: CEL has no signs in names, and reserves some words.
fn unescaped(name: &str) -> String {
    let signs = [("__dot__", "."), ("__dash__", "-"), ("__slash__", "/"), ("__underscores__", "__")];
    let plain = signs.iter().fold(name.to_owned(), |name, (escaped, sign)| name.replace(escaped, sign));
    match plain.strip_prefix("__").and_then(|word| word.strip_suffix("__")) {
        Some(word) if !word.is_empty() => word.to_owned(),
        _ => plain,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(rule: &str) -> Option<String> {
        let schema = json!({"type": "object", "properties": {
            "a": {"type": "string"},
            "list": {"type": "array", "items": {"type": "object", "properties": {"x": {"type": "integer"}}}},
            "map": {"type": "object", "additionalProperties": {"type": "object", "properties": {"y": {"type": "string"}}}},
            "namespace": {"type": "string"},
            "with-dash": {"type": "string"},
            "open": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
        }});
        undefined(rule, &schema, true)
    }

    #[test]
    fn a_field_that_the_schema_does_not_have_is_named() {
        for (rule, field) in [
            ("self.nofield == 'x'", "nofield"),
            ("self.a.b == 'x'", "b"),
            ("has(self.nofield)", "nofield"),
            ("self.a.size() > 0 && !has(self.zz)", "zz"),
            ("self.list.all(item, item.y > 1)", "y"),
            ("self.list[0].zz == 1", "zz"),
            ("self.map['k'].zz == ''", "zz"),
            ("oldSelf.nofield == 'x'", "nofield"),
            ("[self.nofield].size() == 1", "nofield"),
        ] {
            assert_eq!(of(rule).as_deref(), Some(field), "{rule}");
        }
    }

    #[test]
    fn what_is_there_or_not_known_passes() {
        for rule in [
            "has(self.a) && self.a.startsWith('x')",
            "self.list.all(item, item.x > 1)",
            "self.list.exists_one(item, self.list.all(other, other.x <= item.x))",
            "self.map.all(key, self.map[key].y == key)",
            "self.map.foo.y == 'x'",
            "self.__namespace__ == 'x' && self.namespace == 'x' && self.with__dash__dash == ''",
            "self.open.any.thing == 1",
            "self.metadata.name == 'x' && self.kind == 'Thing'",
            "self.a.split('.').map(part, size(part)).all(size, size < 64)",
        ] {
            assert_eq!(of(rule), None, "{rule}");
        }
    }
}
