//! Outcomes of conditions, and mistakes in expressions.

use super::*;
use crate::work::{WORK_EXHAUSTED, WorkBudget};
use cel::Value;
use std::collections::HashMap;

#[derive(Default)]
struct Alice(FactCache);

impl ConditionFacts for Alice {
    fn cache(&self) -> &FactCache {
        &self.0
    }

    fn principal(&self, field: &str) -> Option<Value> {
        Some(match field {
            "id" => "user:corporate/alice".into(),
            "groups" => vec!["support"].into(),
            "attributes" => Value::from(HashMap::from([("level", 3)])),
            _ => return None,
        })
    }

    fn request(&self, field: &str) -> Option<Value> {
        let time = chrono::DateTime::parse_from_rfc3339("2026-07-01T06:30:00Z").expect("valid");
        match field {
            "method" => Some("GET".into()),
            "time" => Some(Value::Timestamp(time)),
            _ => None,
        }
    }
}

fn outcome(source: &str) -> Truth {
    Condition::compile(source).expect(source).evaluate(&Alice::default(), &WorkBudget::default())
}

#[test]
fn conditions_hold_or_do_not() {
    assert_eq!(outcome("true"), Truth::True);
    assert_eq!(outcome("'support' in principal.groups && request.method == 'GET'"), Truth::True);
    assert_eq!(outcome("principal.attributes.level > 3"), Truth::False);
    assert_eq!(outcome("request.time.getHours('Europe/Berlin') == 8"), Truth::True);
    assert_eq!(outcome("principal.groups.exists(g, g.startsWith('sup'))"), Truth::True);
    assert_eq!(outcome("has(principal.attributes.suspended) && principal.attributes.suspended"), Truth::False);
}

#[test]
fn conditions_that_can_not_be_evaluated_fail() {
    for source in [
        "principal.attributes.missing == 1",
        "principal.attributes.level == 3 && 1 / 0 == 1",
        "principal.attributes.level",
        "principal.attributes.level.startsWith('3')",
        "request.time.getHours('Mars/Base') == 1",
    ] {
        assert!(matches!(outcome(source), Truth::Failed(_)), "{source}: {:?}", outcome(source));
    }
}

#[test]
fn mistakes_have_a_position() {
    for (source, line, column, message) in [
        ("principl.id == 'x'", 1, 1, "`principl` does not exist"),
        ("true &&\n request.verb == 'x'", 2, 9, "`request` has no field `verb`"),
        ("true &&", 1, 8, ""),
        ("1", 1, 1, "a condition must have type bool, not int"),
        ("principal.id", 1, 10, "a condition must have type bool, not string"),
        ("true &&\n principal.id == 3", 2, 15, "values of type string and int are never equal"),
        ("principal.subject != null", 1, 19, "values of type string and null are never equal; use `has(…)`"),
        ("request.time > 5", 1, 14, "values of type timestamp and int have no order"),
        ("request.method in 'GET,PUT'", 1, 16, "`in` needs a list or a map, not string"),
        ("3 in principal.groups", 1, 3, "a value of type int is never in a list of strings"),
        ("principal.groups.exists(g, g > 3)", 1, 30, "values of type string and int have no order"),
        ("principal.groups[0].name == 'x'", 1, 20, "type string has no field `name`"),
        (
            "principal.groups.startsWith('x')",
            1,
            28,
            "`startsWith` does not accept (list of strings, string); use string.startsWith(string)",
        ),
        ("request.path.beginsWith('/')", 1, 24, "there is no function `beginsWith`"),
        ("ip(request.sourceAddress) == request.sourceAddress", 1, 27, "values of type IP and string are never equal"),
        ("request.time + 'x' == request.time", 1, 14, "there is no `timestamp + string`"),
        ("principal.id ? true : false", 1, 10, "the condition before `?` must have type bool, not string"),
        ("principal.id.all(x, true)", 1, 10, "a loop needs a list or a map, not string"),
        ("principal.groups.map(g, g + g) == []", 1, 26, "can't be joined within a loop"),
    ] {
        let error = Condition::compile(source).expect_err(source);
        assert!(error.message.contains(message), "{error}");
        assert_eq!(error.line, line, "{error}");
        assert!(error.column.abs_diff(column) <= 2, "{error}");
    }
    for good in [
        "dyn(principal.id) == 3 || true",
        "principal.attributes.level == 3 && principal.attributes.name == 'x' && principal.attributes.tags[0] == 1",
        "1 == 1.0 && 1 < 2u && principal.groups == [] && principal.attributes == {}",
        "principal.groups.map(g, g.size()) == [7] && [1, 2].map(x, x * 2 + 1) == [3, 5]",
        "principal.groups.filter(g, g != 'a').exists_one(g, g == 'support')",
        "(true ? 1 : 2) == 1 && -1 < 0 && [[1]][0][0] == 1",
        "request.time - duration('5m') < request.time",
        "principal.attributes.map(k, k) == ['level']",
        "optional.of(principal.id).hasValue() || true",
    ] {
        assert!(Condition::compile(good).is_ok(), "{good}: {:?}", Condition::compile(good));
    }
    assert!(Condition::compile(&"a".repeat(MAX_SOURCE + 1)).is_err());
    assert!(Condition::compile("[1].all(a, [1].all(b, [1].all(c, a == b && b == c)))").is_err());
    assert!(Condition::compile(&format!("[{}] == []", vec!["1"; 600].join(","))).is_err());
    assert!(Condition::compile(&format!("{}1{}", "(".repeat(900), ")".repeat(900))).is_err());
}

#[test]
fn kubernetes_functions_exist() {
    for source in [
        "'a-b'.charAt(1) == '-' && 'äbc'.indexOf('b') == 1 && 'abab'.lastIndexOf('b') == 3 && 'a'.indexOf('z') == -1",
        "'Ab'.lowerAscii() == 'ab' && 'Ab'.upperAscii() == 'AB' && ' a '.trim() == 'a'",
        "'a.b'.replace('.', '-') == 'a-b' && 'a,b'.split(',') == ['a', 'b'] && ['a', 'b'].join('+') == 'a+b' && ['a'].join() == 'a'",
        "'hello'.substring(1) == 'ello' && 'hello'.substring(1, 3) == 'el'",
        "isIP('10.0.0.1') && !isIP('10.0.0.256') && !isIP('::ffff:10.0.0.1') && ip('::1').family() == 6 && ip('::1').isLoopback()",
        "ip('0.0.0.0').isUnspecified() && ip('169.254.0.1').isLinkLocalUnicast() && string(ip('10.0.0.1')) == '10.0.0.1'",
        "cidr('10.0.0.0/8').containsIP('10.1.2.3') && !cidr('10.0.0.0/8').containsIP(ip('11.0.0.1'))",
        "cidr('10.0.0.0/8').containsCIDR('10.1.0.0/16') && cidr('10.0.0.0/8').containsCIDR(cidr('10.0.0.0/8'))",
        "isCIDR('::/0') && !isCIDR('10.0.0.0') && cidr('10.1.2.3/8').masked() == cidr('10.0.0.0/8') && cidr('10.1.2.3/8').prefixLength() == 8",
        "cidr('10.1.2.3/8').ip() == ip('10.1.2.3') && string(cidr('10.0.0.0/8')) == '10.0.0.0/8'",
        "isURL('https://a.example/x') && !isURL('/x y') && url('https://a.example:8443/x%20y?k=1&k=2').getPort() == '8443'",
        "url('https://[::1]:80/x').getHostname() == '::1' && url('https://a.example:81/x').getHost() == 'a.example:81'",
        "url('https://a.example/x').getScheme() == 'https' && url('https://a.example/x%20y').getEscapedPath() == '/x%20y'",
        "url('https://a.example/?k=1&k=2').getQuery() == {'k': ['1', '2']}",
        "isQuantity('1.5Gi') && !isQuantity('1.5GiB') && quantity('1Gi').isGreaterThan(quantity('1G')) && quantity('200m').isLessThan(quantity('1'))",
        "quantity('1Ki').compareTo(quantity('1024')) == 0 && quantity('1k').asInteger() == 1000 && !quantity('1.5').isInteger()",
        "quantity('1').add(quantity('500m')) == quantity('1.5') && quantity('1').sub(quantity('2')).sign() == -1",
        "quantity('50e-1').asApproximateFloat() == 5.0 && quantity('-1.5k') == quantity('-1500')",
        "request.time.getDayOfWeek() == 3 && request.time > timestamp('2020-01-01T00:00:00Z')",
    ] {
        assert_eq!(outcome(source), Truth::True, "{source}");
    }
    for source in [
        "ip('x').isLoopback()",
        "cidr('10.0.0.0/8').containsIP('x')",
        "quantity('9e28').add(quantity('9e28')) == quantity('1')",
        "quantity('1.5').asInteger() == 1",
        "url('x').getPort() == ''",
        "'a'.substring(2) == ''",
        "'abc'.charAt(9) == ''",
    ] {
        assert!(matches!(outcome(source), Truth::Failed(_)), "{source}: {:?}", outcome(source));
    }
}

#[test]
fn every_accepted_function_exists() {
    let example = |kind: &ValueType| match kind {
        ValueType::Any | ValueType::Text => "'1'",
        ValueType::Null => "null",
        ValueType::Bool => "true",
        ValueType::Int => "0",
        ValueType::Uint => "1u",
        ValueType::Double => "1.0",
        ValueType::Bytes => "b'1'",
        ValueType::Time => "request.time",
        ValueType::Duration => "duration('1s')",
        ValueType::List => "[1]",
        ValueType::Texts => "['1']",
        ValueType::Map | ValueType::TextMap => "{'a': 'b'}",
        ValueType::Ip => "ip('10.0.0.1')",
        ValueType::Cidr => "cidr('10.0.0.0/8')",
        ValueType::Url => "url('https://a.example/')",
        ValueType::Quantity => "quantity('1')",
        ValueType::Optional => "optional.of('1')",
    };
    for function in functions() {
        let name = function.name();
        let mut args: Vec<&str> = function.parameters().iter().map(example).collect();
        let on = if function.is_member() { format!("{}.", args.remove(0)) } else { String::new() };
        let call = format!("{on}{name}({})", args.join(", "));
        if let Truth::Failed(why) = outcome(&format!("dyn({call}) != 'x'")) {
            let known = ["no such overload", "undeclared", "Undeclared", "No such"];
            assert!(!known.iter().any(|known| why.contains(known)), "{call}: {why}");
        }
    }
}

#[test]
fn no_chain_of_calls_exhausts_the_memory() {
    let eight = "'aaaaaaaa'";
    let replaced = format!("{eight}{} == ''", ".replace('a', 'aaaaaaaa')".repeat(20));
    let joined = format!("{eight}{} == ''", ".split('').join('aaaaaaaa')".repeat(12));
    for source in [replaced, joined] {
        let bounded = |why: &str| why.contains("longer than") || why == WORK_EXHAUSTED;
        assert!(matches!(outcome(&source), Truth::Failed(why) if bounded(&why)), "{source}");
    }
}

#[test]
fn each_function_has_one_entry_and_one_line_of_description() {
    let mut signatures = std::collections::BTreeSet::new();
    for function in functions() {
        let description = function.description();
        assert!(description.ends_with('.') && !description.contains('\n'), "{function}: {description}");
        assert!(signatures.insert(function.form()), "{function} has two entries");
    }
    assert!(functions().any(|function| function.to_string() == "string.lastIndexOf(string) -> int"));
    assert!(functions().any(|function| function.to_string() == "isIP(string) -> bool"));
}
