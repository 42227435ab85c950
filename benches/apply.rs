//! How soon a change of a file is in force in `durward up`, with few and with many policies beside it.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a benchmark says what it expects")]

#[path = "../tests/harness/mod.rs"]
mod harness;

use harness::Up;
use std::time::{Duration, Instant};

const CHANGES: usize = 100;

fn main() {
    // `cargo test --all-targets` runs benchmarks too
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    println!("from a changed file to a changed decision, {CHANGES} changes:");
    for beside in [100, 10_000] {
        let others: String = (0..beside).map(|number| policy(&format!("p{number}"), "/")).collect();
        let up = Up::start(
            &[("others.yaml", &others), ("one.yaml", &policy("one", "/start"))],
            &["--audit-log", "/dev/null"],
        );
        let mut taken: Vec<Duration> = (0..CHANGES).map(|change| changed(&up, &format!("/change-{change}"))).collect();
        taken.sort();
        println!("  with {beside:>6} policies: p50 {:?}   p99 {:?}   max {:?}", taken[50], taken[98], taken[99]);
    }
}

fn policy(name: &str, path: &str) -> String {
    format!(
        "---\napiVersion: durward.dev/v1alpha1\nkind: AccessPolicy\nmetadata: {{name: {name}, namespace: shop}}\n\
         spec:\n  service: {{hosts: [{name}.shop.svc]}}\n  \
         operations: [{{name: open, public: true, http: [{{methods: [GET], paths: ['{path}']}}]}}]\n"
    )
}

fn changed(up: &Up, path: &str) -> Duration {
    let text = policy("one", path);
    let began = Instant::now();
    up.write("one.yaml", &text);
    while up.forward_auth("GET", "one.shop.svc", path, &[]).status != 200 {
        assert!(began.elapsed() < Duration::from_secs(30), "{path} never came into force");
        std::thread::sleep(Duration::from_millis(1));
    }
    began.elapsed()
}
