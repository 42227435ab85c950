//! Reference pages that are generated from the code.

use durward_core::condition::functions;
use durward_tests::repository;
use std::fmt::Write;
use std::fs;

/// The page about the functions of conditions.
fn condition_functions() -> String {
    let mut text = String::from(
        "# Functions of conditions\n\n\
         After this page you know every function that a condition can call. [Conditions](../rules.md#functions-and-limits) \
         explains where conditions stand and what bounds them. `make reference` writes the page from the code.\n\n\
         ```yaml\nwhen: request.headers[\"x-team\"].lowerAscii() == \"payments\"\n```\n\n\
         | function | result | what it does |\n|---|---|---|\n",
    );
    for function in functions() {
        let form = function.form().replace('|', "\\|");
        let description = function.description().replace('|', "\\|");
        writeln!(text, "| `{form}` | {} | {description} |", function.result()).expect("a string");
    }
    text
}

#[test]
fn the_condition_functions_page_is_up_to_date() {
    let file = repository("docs/reference/condition-functions.md");
    let now = condition_functions();
    if std::env::var_os("UPDATE").is_some() {
        fs::create_dir_all(file.parent().expect("a folder")).expect("a folder");
        fs::write(&file, &now).expect("written");
    }
    let written = fs::read_to_string(&file).unwrap_or_default();
    assert!(written == now, "docs/reference/condition-functions.md is stale: run `make reference`");
}
