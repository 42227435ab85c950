//! Start-up time of `durward up`, and time until a changed file is in force, with few and with many policies.

use durward_tests::{UpProcess, repository};
use std::fs;
use std::time::{Duration, Instant};

const CHANGES: usize = 100;

fn main() {
    // `cargo test --all-targets` runs benchmarks, too
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    println!("from the start until every door listens:");
    let example = ["namespace.yaml", "policy.yaml", "partners.yaml"];
    let example = example.map(|name| fs::read_to_string(repository(&format!("examples/orders/{name}"))).unwrap());
    let files = [("a.yaml", &*example[0]), ("b.yaml", &*example[1]), ("c.yaml", &*example[2])];
    let began = Instant::now();
    let mut up = UpProcess::with(&files);
    println!("  examples/orders, which makes its keys: {:?}", began.elapsed());
    up.interrupt();
    let began = Instant::now();
    up.restart();
    println!("  examples/orders, with keys: {:?}, {} kB resident", began.elapsed(), up.resident());
    drop(up);
    let hundred: Vec<(String, String)> = (0..100)
        .map(|file| {
            let policies = (0..1000).map(|number| policy(&format!("p{file}-{number}"), "/"));
            (format!("{file}.yaml"), policies.collect())
        })
        .collect();
    let files: Vec<(&str, &str)> = hundred.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    let began = Instant::now();
    let up = UpProcess::with(&files);
    println!("  100,000 policies in 100 files: {:?}, {} MB resident", began.elapsed(), up.resident() / 1024);
    drop(up);
    println!("from a changed file to a changed decision, {CHANGES} changes:");
    for beside in [100, 10_000] {
        let others: String = (0..beside).map(|number| policy(&format!("p{number}"), "/")).collect();
        let up = UpProcess::start(
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

fn changed(up: &UpProcess, path: &str) -> Duration {
    let text = policy("one", path);
    let began = Instant::now();
    up.write("one.yaml", &text);
    while up.forward_auth("GET", "one.shop.svc", path, &[]).status != 200 {
        assert!(began.elapsed() < Duration::from_secs(30), "{path} never came into force");
        std::thread::sleep(Duration::from_millis(1));
    }
    began.elapsed()
}
