//! The documents: commands run, links resolve, examples compile.

use durward_tests::{UpProcess, durward, repository, run};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn documents() -> Vec<PathBuf> {
    let docs = files(&repository("docs")).into_iter();
    let top = ["README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"].map(repository);
    docs.chain(top).filter(|path| path.extension().is_some_and(|extension| extension == "md")).collect()
}

/// The fenced blocks of a language.
fn blocks(text: &str, language: &str) -> Vec<String> {
    let open = format!("```{language}\n");
    text.split(&open).skip(1).map(|rest| rest.split("```").next().unwrap().to_owned()).collect()
}

#[test]
fn the_readme_tour_runs() {
    let read = |name: &str| fs::read_to_string(repository(&format!("examples/orders/{name}"))).unwrap();
    let up = UpProcess::with(&[
        ("namespace.yaml", &read("namespace.yaml")),
        ("policy.yaml", &read("policy.yaml")),
        ("partners.yaml", &read("partners.yaml")),
    ]);
    let readme = fs::read_to_string(repository("README.md")).unwrap();
    let tour = blocks(&readme, "bash").remove(0);
    // the folder of the program under test instead of the documented one
    let binary = durward_tests::program().parent().unwrap().display().to_string();
    let tour = tour.replace("$PWD/target/debug", &binary);
    let mut bash = Command::new("bash");
    bash.args(["-euc", &tour]).current_dir(repository(""));
    bash.env("DURWARD", format!("http://{}", up.listen["http"])).env("DURWARD_STATE", &up.state);
    let (code, output, stderr) = run(&mut bash);
    assert_eq!(code, 0, "{stderr}");
    let statuses: Vec<&str> = output.lines().take(5).collect();
    let promised: Vec<&str> =
        tour.lines().filter_map(|line| line.strip_prefix("ask ")?.split("# ").nth(1)?.split(':').next()).collect();
    assert_eq!(statuses, promised);
    assert!(output.contains("DENY  AssuranceTooLow"), "{output}");
}

#[test]
fn policies_in_the_documents_compile() {
    let mut found = 0;
    for document in documents() {
        for block in blocks(&fs::read_to_string(&document).unwrap(), "yaml") {
            if !block.contains("kind: AccessPolicy") {
                continue;
            }
            found += 1;
            let directory = tempfile::tempdir().unwrap();
            let namespace = fs::read_to_string(repository("examples/orders/namespace.yaml")).unwrap();
            fs::write(directory.path().join("policy.yaml"), format!("{namespace}\n---\n{block}")).unwrap();
            let (_, _, stderr) = run(durward()
                .arg("check")
                .arg("-p")
                .arg(directory.path())
                .args(["GET", "http://orders.example.com/orders"]));
            assert_eq!(stderr, "", "{}", document.display());
        }
    }
    assert!(found > 0);
}

/// All files below a directory.
fn files(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// Every example fails closed: Envoy by its setting, nginx because it passes errors on.
#[test]
fn no_example_fails_open() {
    let mut envoys = 0;
    let mut nginxes = 0;
    let folders = ["examples", "docs", "charts", "tests/kubernetes"].map(repository);
    for file in folders.iter().flat_map(|folder| files(folder)).chain([repository("README.md")]) {
        let Ok(text) = fs::read_to_string(&file) else { continue };
        let filters = text.matches("v3.ExtAuthz\n").count();
        assert!(text.matches("failure_mode_allow: false").count() >= filters, "{}", file.display());
        let opens = ["failure_mode_allow: true", "failure_mode_allow_header_add", "status_on_error: {code: OK"];
        assert!(opens.iter().all(|opens| !text.contains(opens)), "{}", file.display());
        envoys += filters;
        if text.contains("auth_request /") {
            // a refusal may only become a refusal with another body
            let refusals =
                [("error_page 401 = @unauthenticated;", "return 401"), ("error_page 403 = @forbidden;", "return 403")];
            let kept: usize = refusals
                .iter()
                .map(|(page, refusal)| text.matches(page).count().min(text.matches(refusal).count()))
                .sum();
            assert_eq!(text.matches("error_page").count(), kept, "{}", file.display());
            let opens = ["proxy_next_upstream", "proxy_intercept_errors", "satisfy any"];
            assert!(opens.iter().all(|opens| !text.contains(opens)), "{}", file.display());
            nginxes += 1;
        }
    }
    assert!(envoys >= 2 && nginxes >= 1, "{envoys} {nginxes}");
}

#[test]
fn links_resolve() {
    for document in documents() {
        let text = fs::read_to_string(&document).unwrap();
        for link in text.split("](").skip(1).map(|rest| rest.split(')').next().unwrap()) {
            let path = link.split('#').next().unwrap();
            if path.is_empty() || path.contains("://") {
                continue;
            }
            assert!(document.parent().unwrap().join(path).exists(), "{}: {link}", document.display());
        }
    }
}

/// A path in backticks that begins with a folder of sources exists.
#[test]
fn source_paths_exist() {
    let mut found = 0;
    for document in documents() {
        let text = fs::read_to_string(&document).unwrap();
        for quoted in text.split('`').skip(1).step_by(2) {
            let is_source =
                ["crates/", "src/", "tests/", "charts/", "examples/"].iter().any(|folder| quoted.starts_with(folder));
            if is_source && !quoted.contains(|c: char| c.is_whitespace() || "<*{".contains(c)) {
                found += 1;
                assert!(repository(quoted).exists(), "{}: `{quoted}` does not exist", document.display());
            }
        }
    }
    assert!(found > 20, "{found}");
}

#[test]
fn examples_compile_without_warnings() {
    let (code, _, stderr) = run(durward()
        .arg("check")
        .arg("-p")
        .arg(repository("examples/orders"))
        .args(["GET", "http://orders.example.com/healthz"]));
    assert_eq!((code, stderr.as_str()), (0, ""));
}
