//! No two types of the program share a name.

use super::{packages, sources};
use durward_tests::repository;
use std::collections::BTreeMap;
use std::fs;
use syn::Item;

/// The names of the types that a list of items declares, tests left out.
fn declared(items: &[Item], found: &mut Vec<String>) {
    for item in items {
        let (attributes, name) = match item {
            Item::Struct(item) => (&item.attrs, &item.ident),
            Item::Enum(item) => (&item.attrs, &item.ident),
            Item::Union(item) => (&item.attrs, &item.ident),
            Item::Trait(item) => (&item.attrs, &item.ident),
            Item::Type(item) => (&item.attrs, &item.ident),
            Item::Mod(module) => {
                if !module.attrs.iter().any(|attribute| attribute.path().is_ident("cfg")) {
                    declared(module.content.as_ref().map_or(&[], |(_, items)| items), found);
                }
                continue;
            }
            _ => continue,
        };
        if !attributes.iter().any(|attribute| attribute.path().is_ident("cfg")) {
            found.push(name.to_string());
        }
    }
}

#[test]
fn no_two_types_share_a_name() {
    let root = repository("");
    let mut places: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for package in packages().into_values() {
        for file in sources(&package.folder.join("src")).into_iter().filter(|file| !file.ends_with("tests.rs")) {
            let text = fs::read_to_string(&file).expect("UTF-8");
            let syntax = syn::parse_file(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
            let mut names = Vec::new();
            declared(&syntax.items, &mut names);
            let place = file.strip_prefix(&root).unwrap_or(&file).display().to_string();
            for name in names {
                places.entry(name).or_default().push(place.clone());
            }
        }
    }
    let shared: Vec<_> = places.iter().filter(|(_, places)| places.len() > 1).collect();
    assert!(shared.is_empty(), "rename all but one of each: {shared:#?}");
}
