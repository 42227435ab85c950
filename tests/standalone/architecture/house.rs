//! The architecture page of the documents, generated from the crates.

use super::{LAYERS, Package, layer, packages, sources};
use durward_tests::repository;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;

/// The first sentence of a crate's documentation.
fn purpose(package: &Package) -> String {
    let root =
        ["lib.rs", "main.rs"].map(|file| package.folder.join("src").join(file)).into_iter().find(|file| file.exists());
    let text = fs::read_to_string(root.expect("a root module")).expect("UTF-8");
    let lines = text.lines().map_while(|line| line.strip_prefix("//!")).map(str::trim);
    let paragraph: Vec<_> = lines.take_while(|line| !line.is_empty()).collect();
    let paragraph = paragraph.join(" ");
    paragraph.split_inclusive(". ").next().unwrap_or_default().trim().to_owned()
}

/// The used crates that no other used crate uses.
fn direct<'p>(package: &'p Package, packages: &BTreeMap<String, Package>) -> Vec<&'p str> {
    let reaches = |from: &str, to: &str| {
        let mut open = vec![from];
        while let Some(next) = open.pop() {
            for used in &packages[next].uses {
                if used == to {
                    return true;
                }
                open.push(used);
            }
        }
        false
    };
    let covered = |used: &&String| !package.uses.iter().any(|other| other != *used && reaches(other, used));
    package.uses.iter().filter(covered).map(String::as_str).collect()
}

/// To the nearest hundred, so that small changes do not make the page stale.
fn rounded(lines: usize) -> usize {
    (lines + 50) / 100 * 100
}

fn document() -> String {
    let packages = packages();
    let mut text = String::from(
        "# Architecture\n\n\
         After this page you know which crate holds what, and which crates it may use. `make architecture` writes the page from \
         the sources; a test fails when it is stale.\n\n\
         One layer, one crate. A crate uses crates below it, never one beside or above it, so a circle can't be written. Inside a \
         crate, modules form no circle either.\n\n\
         ```mermaid\nflowchart BT\n",
    );
    for package in packages.values() {
        for used in direct(package, &packages) {
            writeln!(text, "    {used} --> {}", package.name).expect("a string");
        }
    }
    text.push_str("```\n\nLowest layer first:\n\n| layer | crate | what it is for | uses | files | lines |\n|---|---|---|---|---|---|\n");
    let mut total = 0;
    for name in LAYERS.iter().flat_map(|layer| layer.iter()) {
        let package = packages.get(*name).unwrap_or_else(|| panic!("crate `{name}` does not exist"));
        let files = sources(&package.folder.join("src"));
        let lines: usize = files.iter().map(|file| fs::read_to_string(file).expect("UTF-8").lines().count()).sum();
        total += lines;
        let folder = package.folder.strip_prefix(repository("")).unwrap_or(&package.folder).display().to_string();
        let folder = if folder.is_empty() { "." } else { &folder };
        let (number, purpose, uses) = (layer(name) + 1, purpose(package), package.uses.join(", "));
        let row = format!(
            "| {number} | [`{name}`](../../{folder}) | {purpose} | {uses} | {} | {} |",
            files.len(),
            rounded(lines)
        );
        writeln!(text, "{row}").expect("a string");
    }
    writeln!(
        text,
        "\n{} crates, {} lines with their unit tests, to the nearest hundred.",
        packages.len(),
        rounded(total)
    )
    .expect("a string");
    text
}

#[test]
fn the_architecture_page_is_up_to_date() {
    let file = repository("docs/contributing/architecture.md");
    let now = document();
    if std::env::var_os("UPDATE").is_some() {
        fs::create_dir_all(file.parent().expect("a folder")).expect("a folder");
        fs::write(&file, &now).expect("written");
    }
    let written = fs::read_to_string(&file).unwrap_or_default();
    assert!(written == now, "docs/contributing/architecture.md is stale: run `make architecture`");
}
