//! The report of a test run, as text and as JUnit XML.

use super::runner::{CaseResult, TestReport};
use quick_xml::Writer;
use quick_xml::events::{BytesDecl, BytesText, Event};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::io;

pub(super) fn text(report: &TestReport) -> String {
    let mut text = String::new();
    for (suite, cases) in suites(report) {
        let _ = writeln!(text, "{suite}");
        for case in cases {
            let _ = writeln!(text, "  {:<4} {}", if case.passed() { "ok" } else { "FAIL" }, case.name);
            for difference in &case.differences {
                let _ = writeln!(text, "         {}:{}: {difference}", case.file, case.line);
            }
            if !case.passed() {
                let _ = writeln!(text, "         decided: {}", case.decided);
            }
        }
    }
    let _ = writeln!(text, "\n{} passed, {} failed", report.passed, report.failed);
    let coverage = &report.coverage;
    let parts = [("operations", &coverage.operations), ("grants", &coverage.grants), ("denials", &coverage.denials)];
    let counts: Vec<String> =
        parts.iter().map(|(name, part)| format!("{name} {}/{}", part.reached, part.total())).collect();
    let _ = writeln!(text, "coverage {}%: {}", coverage.percent(), counts.join(", "));
    for (name, part) in parts {
        part.missed.iter().for_each(|missed| text += &format!("  {name} not reached: {missed}\n"));
    }
    text
}

/// The cases by suite.
fn suites(report: &TestReport) -> BTreeMap<&str, Vec<&CaseResult>> {
    let mut suites: BTreeMap<&str, Vec<&CaseResult>> = BTreeMap::new();
    report.cases.iter().for_each(|case| suites.entry(&case.suite).or_default().push(case));
    suites
}

/// The report as JUnit XML, in the dialect of the Jenkins plugin, which CI systems read.
pub(super) fn junit(report: &TestReport) -> io::Result<Vec<u8>> {
    let mut writer = Writer::new_with_indent(Vec::new(), b' ', 2);
    writer.write_event(Event::Decl(BytesDecl::new("1.0", Some("UTF-8"), None)))?;
    let tests = report.cases.len().to_string();
    let failures = report.failed.to_string();
    let attributes = [("name", "durward test"), ("tests", tests.as_str()), ("failures", failures.as_str())];
    writer.create_element("testsuites").with_attributes(attributes).write_inner_content(|writer| {
        suites(report).into_iter().try_for_each(|(suite, cases)| write_suite(writer, suite, &cases))
    })?;
    let mut xml = writer.into_inner();
    xml.push(b'\n');
    Ok(xml)
}

fn write_suite(writer: &mut Writer<Vec<u8>>, suite: &str, cases: &[&CaseResult]) -> io::Result<()> {
    let name = printable(suite);
    let tests = cases.len().to_string();
    let failures = cases.iter().filter(|case| !case.passed()).count().to_string();
    let attributes = [("name", name.as_str()), ("tests", tests.as_str()), ("failures", failures.as_str())];
    let element = writer.create_element("testsuite").with_attributes(attributes);
    element.write_inner_content(|writer| cases.iter().try_for_each(|case| write_case(writer, case)))?;
    Ok(())
}

fn write_case(writer: &mut Writer<Vec<u8>>, case: &CaseResult) -> io::Result<()> {
    let line = case.line.to_string();
    let [suite, name, file] = [&case.suite, &case.name, &case.file].map(|text| printable(text));
    let attributes = [("classname", suite.as_str()), ("name", &name), ("file", &file), ("line", &line)];
    let element = writer.create_element("testcase").with_attributes(attributes);
    if case.passed() {
        element.write_empty()?;
        return Ok(());
    }
    let message = printable(&case.differences.join("; "));
    let decided = printable(&format!("decided: {}", case.decided));
    element.write_inner_content(|writer| {
        let failure = writer.create_element("failure").with_attribute(("message", message.as_str()));
        failure.write_text_content(BytesText::new(&decided))?;
        Ok(())
    })?;
    Ok(())
}

/// A text without the characters that XML 1.0 can't represent, on one line.
fn printable(text: &str) -> String {
    let replace = |c: char| match c {
        '\n' | '\t' | '\r' => ' ',
        c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => '\u{fffd}',
        c => c,
    };
    text.chars().map(replace).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::test::runner::Coverage;

    #[test]
    fn junit_escapes_names_and_failures() {
        let case = CaseResult {
            suite: "a <b>".to_owned(),
            name: "\"one\" & two\n".to_owned(),
            file: "x.test.yaml".to_owned(),
            line: 3,
            differences: vec!["verdict \u{1}".to_owned()],
            decided: "deny <Denied>".to_owned(),
        };
        let report = TestReport { passed: 0, failed: 1, cases: vec![case], coverage: Coverage::default() };
        let xml = String::from_utf8(junit(&report).expect("XML")).expect("UTF-8");
        assert_eq!(
            xml,
            r#"<?xml version="1.0" encoding="UTF-8"?>
<testsuites name="durward test" tests="1" failures="1">
  <testsuite name="a &lt;b&gt;" tests="1" failures="1">
    <testcase classname="a &lt;b&gt;" name="&quot;one&quot; &amp; two " file="x.test.yaml" line="3">
      <failure message="verdict �">decided: deny &lt;Denied&gt;</failure>
    </testcase>
  </testsuite>
</testsuites>
"#
        );
    }
}
