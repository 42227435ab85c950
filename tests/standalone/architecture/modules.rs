//! Modules inside a crate form no circle. A module is a file; it uses another by a path that begins with `crate` or `super`.
//!
//! A file below a folder's `mod.rs` is a part of that module, so it may use items of `mod.rs`. Files side by side, and
//! files of different folders, may not use each other in a circle.

use super::{packages, sources};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use syn::visit::{self, Visit};
use syn::{Attribute, Item, ItemMod, ItemUse, UseTree};

type ModulePath = Vec<String>;

/// The paths that a file uses, from the root of its crate.
struct Uses<'m> {
    /// The path of the module being read; inline modules are part of their file.
    module: &'m [String],
    paths: BTreeSet<ModulePath>,
    /// `pub use` of a module: the name, and its target.
    exports: BTreeMap<String, ModulePath>,
}

fn is_test(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && attribute.meta.require_list().is_ok_and(|list| list.tokens.to_string().contains("test"))
    })
}

/// A path as it is from the root of the crate; `None` for one that leaves the crate.
fn absolute(module: &[String], path: &[String]) -> Option<ModulePath> {
    let (first, rest) = path.split_first()?;
    match first.as_str() {
        "crate" => Some(rest.to_vec()),
        "self" => Some([module, rest].concat()),
        "super" => {
            let (_, parent) = module.split_last()?;
            absolute(parent, &[&["self".to_owned()], rest].concat()).and_then(|path| {
                // `super::super::x`: each further `super` leaves another module
                let at = path.iter().position(|segment| segment == "super");
                at.map_or(Some(path.clone()), |at| Some([&path[..at.saturating_sub(1)], &path[at + 1..]].concat()))
            })
        }
        _ => None,
    }
}

fn leaves(tree: &UseTree, prefix: &mut ModulePath, found: &mut Vec<(ModulePath, String)>) {
    match tree {
        UseTree::Path(path) => {
            prefix.push(path.ident.to_string());
            leaves(&path.tree, prefix, found);
            prefix.pop();
        }
        UseTree::Name(name) if name.ident == "self" => {
            found.push((prefix.clone(), prefix.last().cloned().unwrap_or_default()));
        }
        UseTree::Name(name) => {
            let name = name.ident.to_string();
            found.push(([prefix.clone(), vec![name.clone()]].concat(), name));
        }
        UseTree::Rename(rename) => {
            found.push(([prefix.clone(), vec![rename.ident.to_string()]].concat(), rename.rename.to_string()));
        }
        UseTree::Glob(_) => found.push((prefix.clone(), "*".to_owned())),
        UseTree::Group(group) => group.items.iter().for_each(|item| leaves(item, prefix, found)),
    }
}

impl<'ast> Visit<'ast> for Uses<'_> {
    fn visit_item_mod(&mut self, item: &'ast ItemMod) {
        if !is_test(&item.attrs) {
            visit::visit_item_mod(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        if is_test(&item.attrs) {
            return;
        }
        let mut found = Vec::new();
        leaves(&item.tree, &mut Vec::new(), &mut found);
        let exported = !matches!(item.vis, syn::Visibility::Inherited);
        for (path, name) in found {
            // a path without `crate` or `super` leads into a child, or out of the crate
            let path = absolute(self.module, &path).unwrap_or_else(|| [self.module, &path].concat());
            if exported {
                self.exports.insert(name, path);
            } else {
                self.paths.insert(path);
            }
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments: Vec<String> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        if matches!(segments.first().map(String::as_str), Some("crate" | "super")) {
            self.paths.extend(absolute(self.module, &segments));
        }
        visit::visit_path(self, path);
    }

    fn visit_item(&mut self, item: &'ast Item) {
        let attributes = match item {
            Item::Fn(item) => &item.attrs,
            Item::Impl(item) => &item.attrs,
            Item::Struct(item) => &item.attrs,
            _ => return visit::visit_item(self, item),
        };
        if !is_test(attributes) {
            visit::visit_item(self, item);
        }
    }
}

/// The path of the module of a file.
fn module_of(root: &Path, file: &Path) -> ModulePath {
    let relative = file.strip_prefix(root).expect("below the root").with_extension("");
    let mut path: ModulePath = relative.iter().map(|part| part.to_string_lossy().into_owned()).collect();
    if matches!(path.last().map(String::as_str), Some("mod" | "lib" | "main")) {
        path.pop();
    }
    path
}

/// The modules of a crate, each with the modules that it uses.
fn graph(root: &Path) -> BTreeMap<ModulePath, BTreeSet<ModulePath>> {
    let mut files = BTreeMap::new();
    for file in
        sources(root).into_iter().filter(|file| !file.ends_with("tests.rs") && !file.iter().any(|part| part == "tests"))
    {
        let module = module_of(root, &file);
        let text = fs::read_to_string(&file).expect("UTF-8");
        let syntax = syn::parse_file(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let mut uses = Uses { module: &module, paths: BTreeSet::new(), exports: BTreeMap::new() };
        uses.visit_file(&syntax);
        let (paths, exports) = (uses.paths, uses.exports);
        files.insert(module, (paths, exports));
    }
    let resolve = |path: &ModulePath| -> Option<ModulePath> {
        let mut path = path.clone();
        for _ in 0..8 {
            let known = (0..=path.len()).rev().find(|length| files.contains_key(&path[..*length]))?;
            let (module, rest) = path.split_at(known);
            // a name that the module exports from elsewhere belongs there
            match rest.first().and_then(|name| files[module].1.get(name)) {
                Some(target) if *target != path => path = [target.clone(), rest[1..].to_vec()].concat(),
                _ => return Some(module.to_vec()),
            }
        }
        None
    };
    let uses = |(module, (paths, _)): (&ModulePath, &(BTreeSet<ModulePath>, _))| {
        // the module itself and its parents
        let outside = |used: &ModulePath| !module.starts_with(used);
        let used = paths.iter().filter_map(resolve).filter(outside).collect();
        (module.clone(), used)
    };
    files.iter().map(uses).collect()
}

/// A circle of modules, if there is one: each uses the next, and the last the first.
fn circle(graph: &BTreeMap<ModulePath, BTreeSet<ModulePath>>) -> Option<Vec<ModulePath>> {
    fn follow<'g>(
        graph: &'g BTreeMap<ModulePath, BTreeSet<ModulePath>>,
        module: &'g ModulePath,
        trail: &mut Vec<&'g ModulePath>,
        done: &mut BTreeSet<&'g ModulePath>,
    ) -> Option<Vec<ModulePath>> {
        if let Some(at) = trail.iter().position(|before| *before == module) {
            return Some(trail[at..].iter().map(|module| (*module).clone()).collect());
        }
        if done.contains(module) {
            return None;
        }
        trail.push(module);
        let found = graph.get(module).into_iter().flatten().find_map(|used| follow(graph, used, trail, done));
        trail.pop();
        done.insert(module);
        found
    }
    let mut done = BTreeSet::new();
    graph.keys().find_map(|module| follow(graph, module, &mut Vec::new(), &mut done))
}

#[test]
fn modules_form_no_circle() {
    let mut circles = Vec::new();
    for package in packages().into_values() {
        if let Some(found) = circle(&graph(&package.folder.join("src"))) {
            let names: Vec<_> = found.iter().map(|module| module.join("::")).collect();
            circles.push(format!("{}: {}", package.name, names.join(" → ")));
        }
    }
    assert!(circles.is_empty(), "each uses the next and the last the first:\n{}", circles.join("\n"));
}

#[test]
fn a_circle_is_found() {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).expect("written");
    write("lib.rs", "mod a; mod b; mod c; pub use c::C;");
    write("a.rs", "use crate::b::B; pub struct A;");
    write("b.rs", "use crate::C; pub struct B;");
    write("c.rs", "pub struct C;");
    assert_eq!(circle(&graph(folder.path())), None);
    write("c.rs", "pub struct C; pub fn c() { super::a::A; }");
    let found = circle(&graph(folder.path())).expect("a circle");
    assert_eq!(found.len(), 3, "{found:?}");
    write("a.rs", "pub mod part; pub struct A;");
    fs::create_dir(folder.path().join("a")).expect("a folder");
    write("a/part.rs", "use super::A; use crate::b::B;");
    let found = circle(&graph(folder.path()));
    assert_eq!(found, None, "a part may use its module");
    write("b.rs", "use crate::a::part; pub struct B;");
    assert!(circle(&graph(folder.path())).is_some(), "a circle through a part");
    write("b.rs", "pub struct B;");
    write("c.rs", "pub struct C; #[cfg(test)] mod tests { use crate::a::A; }");
    assert_eq!(circle(&graph(folder.path())), None, "tests may use anything");
}
