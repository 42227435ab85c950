//! What came of the cases, for people and for CI.

use super::trials::{Report, Tried};
use std::collections::BTreeMap;
use std::fmt::Write;

pub(super) fn text(report: &Report) -> String {
    let mut text = String::new();
    for (suite, cases) in suites(report) {
        let _ = writeln!(text, "{suite}");
        for case in cases {
            let _ = writeln!(text, "  {:<4} {}", if case.differences.is_empty() { "ok" } else { "FAIL" }, case.name);
            for difference in &case.differences {
                let _ = writeln!(text, "         {}:{}: {difference}", case.file, case.line);
            }
            if !case.differences.is_empty() {
                let _ = writeln!(text, "         decided: {}", case.decided);
            }
        }
    }
    let _ = writeln!(text, "\n{} passed, {} failed", report.passed, report.failed);
    let coverage = &report.coverage;
    let parts = [("operations", &coverage.operations), ("grants", &coverage.grants), ("denials", &coverage.denials)];
    let told: Vec<String> =
        parts.iter().map(|(what, part)| format!("{what} {}/{}", part.reached, part.all())).collect();
    let _ = writeln!(text, "coverage {}%: {}", coverage.percent(), told.join(", "));
    for (what, part) in parts {
        part.missed.iter().for_each(|missed| text += &format!("  {what} not reached: {missed}\n"));
    }
    text
}

fn suites(report: &Report) -> BTreeMap<&str, Vec<&Tried>> {
    let mut suites: BTreeMap<&str, Vec<&Tried>> = BTreeMap::new();
    report.cases.iter().for_each(|case| suites.entry(&case.suite).or_default().push(case));
    suites
}

/// The report in the form that CI systems read (JUnit's XML, as the Jenkins plugin has it).
pub(super) fn junit(report: &Report) -> String {
    let mut xml = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites name=\"durward test\" tests=\"{}\" failures=\"{}\">\n",
        report.cases.len(),
        report.failed
    );
    for (suite, cases) in suites(report) {
        let failures = cases.iter().filter(|case| !case.differences.is_empty()).count();
        let _ = writeln!(
            xml,
            "  <testsuite name=\"{}\" tests=\"{}\" failures=\"{failures}\">",
            escaped(suite),
            cases.len()
        );
        for case in cases {
            let _ = write!(
                xml,
                "    <testcase classname=\"{}\" name=\"{}\" file=\"{}\" line=\"{}\"",
                escaped(suite),
                escaped(&case.name),
                escaped(&case.file),
                case.line
            );
            if case.differences.is_empty() {
                xml.push_str("/>\n");
            } else {
                let message = escaped(&case.differences.join("; "));
                let decided = escaped(&case.decided);
                let _ = writeln!(
                    xml,
                    ">\n      <failure message=\"{message}\">decided: {decided}</failure>\n    </testcase>"
                );
            }
        }
        xml.push_str("  </testsuite>\n");
    }
    xml + "</testsuites>\n"
}

/// A text as XML 1.0 has it; characters that it can't have are replaced.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\n' | '\t' | '\r' => escaped.push(' '),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}
