//! The functions of conditions beyond CEL's standard ones: those of Kubernetes' CEL, by the same names.
//!
//! Whatever makes a text longer is bounded, so that no chain of calls can fill the memory.

use cel::common::types::{
    CelBool, CelDouble, CelInt, CelList, CelMap, CelMapKey, CelString, LIST_TYPE, STRING_TYPE, Type,
};
use cel::common::value::{CowVal, StaticVal, Val};
use cel::{DeclarationError, Env, ExecutionError, add_member_overload, add_overload};
use ipnet::IpNet;
use std::any::Any;
use std::collections::HashMap;
use std::net::IpAddr;
use url::Url;

/// Longest text that a function makes, in bytes: some paths of the greatest length.
const MAX_TEXT: usize = 64 * 1024;

type Result<T> = std::result::Result<T, ExecutionError>;

/// A value of its own type, known by `$name` to expressions.
macro_rules! value {
    ($type:ident($inner:ty), $name:literal) => {
        #[derive(Debug, Clone, PartialEq)]
        struct $type($inner);

        impl Val for $type {
            fn get_type(&self) -> &Type {
                <Self as Val>::cel_type()
            }

            fn cel_type() -> &'static Type {
                static TYPE: Type = Type::new_unspecified_type($name);
                &TYPE
            }

            fn equals(&self, other: &dyn Val) -> bool {
                other.downcast_ref::<Self>().is_some_and(|other| self == other)
            }

            fn clone_as_boxed<'v>(&self) -> Box<dyn Val + 'v> {
                Box::new(self.clone())
            }

            fn as_any(&self) -> Option<&dyn Any> {
                Some(self)
            }
        }

        impl StaticVal for $type {}
    };
}

value!(Ip(IpAddr), "net.IP");
value!(Cidr(IpNet), "net.CIDR");
value!(Link(Url), "net.URL");
value!(Quantity(i128), "kubernetes.Quantity");

/// Adds the functions.
pub(super) fn register(env: &mut Env) -> std::result::Result<(), DeclarationError> {
    texts(env)?;
    addresses(env)?;
    links(env)?;
    quantities(env)
}

fn texts(env: &mut Env) -> std::result::Result<(), DeclarationError> {
    add_member_overload!(env, fn char_at: (CelString, CelInt) -> Result<CelString>)?;
    add_member_overload!(env, fn index_of: (CelString, CelString) -> CelInt)?;
    add_member_overload!(env, fn last_index_of: (CelString, CelString) -> CelInt)?;
    add_member_overload!(env, fn lower_ascii: (CelString) -> CelString)?;
    add_member_overload!(env, fn upper_ascii: (CelString) -> CelString)?;
    add_member_overload!(env, fn trim: (CelString) -> CelString)?;
    add_member_overload!(env, fn replace: (CelString, CelString, CelString) -> Result<CelString>)?;
    add_member_overload!(env, fn split: (CelString, CelString) -> Result<CelList>)?;
    add_member_overload!(env, fn substring: (CelString, CelInt) -> Result<CelString>)?;
    add_member_overload!(env, fn substring_to: (CelString, CelInt, CelInt) -> Result<CelString>, name = "substring")?;
    env.add_member_overload("join", "list.join()", LIST_TYPE, vec![], join)?;
    env.add_member_overload("join", "list.join(string)", LIST_TYPE, vec![STRING_TYPE], join)
}

fn wrong<T>(function: &str, why: impl ToString) -> Result<T> {
    Err(ExecutionError::function_error(function, why))
}

fn char_at(text: &CelString<'_>, at: &CelInt) -> Result<CelString<'static>> {
    let place = usize::try_from(*at.inner()).ok().filter(|at| *at <= text.inner().chars().count());
    let Some(place) = place else { return wrong("charAt", "there is no such place") };
    Ok(text.inner().chars().nth(place).map(String::from).unwrap_or_default().into())
}

/// Places are counted in characters, as Kubernetes counts them.
fn place(text: &str, found: Option<usize>) -> CelInt {
    let before = found.and_then(|at| text.get(..at)).map(|before| before.chars().count());
    before.and_then(|count| i64::try_from(count).ok()).unwrap_or(-1).into()
}

fn index_of(text: &CelString<'_>, part: &CelString<'_>) -> CelInt {
    place(text.inner(), text.inner().find(part.inner()))
}

fn last_index_of(text: &CelString<'_>, part: &CelString<'_>) -> CelInt {
    place(text.inner(), text.inner().rfind(part.inner()))
}

fn lower_ascii(text: &CelString<'_>) -> CelString<'static> {
    text.inner().to_ascii_lowercase().into()
}

fn upper_ascii(text: &CelString<'_>) -> CelString<'static> {
    text.inner().to_ascii_uppercase().into()
}

fn trim(text: &CelString<'_>) -> CelString<'static> {
    text.inner().trim().to_owned().into()
}

fn replace(text: &CelString<'_>, from: &CelString<'_>, to: &CelString<'_>) -> Result<CelString<'static>> {
    let (text, from, to) = (text.inner(), from.inner(), to.inner());
    let times = text.matches(from).count();
    if times.saturating_mul(to.len()).saturating_add(text.len()) > MAX_TEXT {
        return wrong("replace", format!("the text would be longer than {MAX_TEXT} bytes"));
    }
    Ok(text.replace(from, to).into())
}

fn split(text: &CelString<'_>, at: &CelString<'_>) -> Result<CelList<'static>> {
    if text.inner().len() > MAX_TEXT {
        return wrong("split", format!("the text is longer than {MAX_TEXT} bytes"));
    }
    let parts = text.inner().split(at.inner());
    Ok(parts.map(|part| Box::new(CelString::from(part.to_owned())) as Box<dyn Val>).collect::<Vec<_>>().into())
}

fn substring(text: &CelString<'_>, from: &CelInt) -> Result<CelString<'static>> {
    let end = i64::try_from(text.inner().chars().count()).unwrap_or(i64::MAX);
    substring_to(text, from, &end.into())
}

fn substring_to(text: &CelString<'_>, from: &CelInt, to: &CelInt) -> Result<CelString<'static>> {
    let count = text.inner().chars().count();
    match (usize::try_from(*from.inner()), usize::try_from(*to.inner())) {
        (Ok(from), Ok(to)) if from <= to && to <= count => {
            Ok(text.inner().chars().skip(from).take(to - from).collect::<String>().into())
        }
        _ => wrong("substring", "there is no such place"),
    }
}

fn join<'b, 'v>(args: Vec<CowVal<'b, 'v>>) -> Result<CowVal<'b, 'v>> {
    let mut args = args.iter();
    let separator = |value: &CowVal<'_, '_>| value.downcast_ref::<CelString>().map(|text| text.inner().to_owned());
    let list = args.next();
    let between = args.next().and_then(separator).unwrap_or_default();
    let Some(list) = list.and_then(|list| list.as_iterable()) else { return wrong("join", "that is no list") };
    let (mut items, mut joined, mut first) = (list.iter(), String::new(), true);
    while let Some(item) = items.next() {
        let Some(text) = item.downcast_ref::<CelString>() else { return wrong("join", "an item is no text") };
        if !std::mem::take(&mut first) {
            joined.push_str(&between);
        }
        joined.push_str(text.inner());
        if joined.len() > MAX_TEXT {
            return wrong("join", format!("the text would be longer than {MAX_TEXT} bytes"));
        }
    }
    Ok(CowVal::owned(CelString::from(joined)))
}

fn addresses(env: &mut Env) -> std::result::Result<(), DeclarationError> {
    add_overload!(env, fn ip: (CelString) -> Result<Ip>)?;
    add_overload!(env, fn is_ip: (CelString) -> CelBool, name = "isIP")?;
    add_overload!(env, fn ip_text: (Ip) -> CelString, name = "string")?;
    add_member_overload!(env, fn family: (Ip) -> CelInt)?;
    add_member_overload!(env, fn is_loopback: (Ip) -> CelBool)?;
    add_member_overload!(env, fn is_unspecified: (Ip) -> CelBool)?;
    add_member_overload!(env, fn is_link_local_unicast: (Ip) -> CelBool)?;
    add_overload!(env, fn cidr: (CelString) -> Result<Cidr>)?;
    add_overload!(env, fn is_cidr: (CelString) -> CelBool, name = "isCIDR")?;
    add_overload!(env, fn cidr_text: (Cidr) -> CelString, name = "string")?;
    add_member_overload!(env, fn contains_ip: (Cidr, Ip) -> CelBool, name = "containsIP")?;
    add_member_overload!(env, fn contains_ip_text: (Cidr, CelString) -> Result<CelBool>, name = "containsIP")?;
    add_member_overload!(env, fn contains_cidr: (Cidr, Cidr) -> CelBool, name = "containsCIDR")?;
    add_member_overload!(env, fn contains_cidr_text: (Cidr, CelString) -> Result<CelBool>, name = "containsCIDR")?;
    add_member_overload!(env, fn cidr_ip: (Cidr) -> Ip, name = "ip")?;
    add_member_overload!(env, fn masked: (Cidr) -> Cidr)?;
    add_member_overload!(env, fn prefix_length: (Cidr) -> CelInt)
}

/// An address in the one form that Kubernetes takes: no IPv4 written as IPv6, no zone.
fn parse_ip(text: &str) -> Option<IpAddr> {
    let mapped = |ip: &IpAddr| matches!(ip, IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some());
    text.parse().ok().filter(|ip| !mapped(ip))
}

fn parse_cidr(text: &str) -> Option<IpNet> {
    let net: IpNet = text.parse().ok()?;
    parse_ip(&net.addr().to_string()).map(|_| net)
}

fn ip(text: &CelString<'_>) -> Result<Ip> {
    parse_ip(text.inner()).map_or_else(|| wrong("ip", "that is no IP address"), |ip| Ok(Ip(ip)))
}

fn is_ip(text: &CelString<'_>) -> CelBool {
    parse_ip(text.inner()).is_some().into()
}

fn ip_text(ip: &Ip) -> CelString<'static> {
    ip.0.to_string().into()
}

fn family(ip: &Ip) -> CelInt {
    if ip.0.is_ipv4() { 4 } else { 6 }.into()
}

fn is_loopback(ip: &Ip) -> CelBool {
    ip.0.is_loopback().into()
}

fn is_unspecified(ip: &Ip) -> CelBool {
    ip.0.is_unspecified().into()
}

fn is_link_local_unicast(ip: &Ip) -> CelBool {
    match ip.0 {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
    .into()
}

fn cidr(text: &CelString<'_>) -> Result<Cidr> {
    parse_cidr(text.inner()).map_or_else(|| wrong("cidr", "that is no CIDR"), |net| Ok(Cidr(net)))
}

fn is_cidr(text: &CelString<'_>) -> CelBool {
    parse_cidr(text.inner()).is_some().into()
}

fn cidr_text(cidr: &Cidr) -> CelString<'static> {
    cidr.0.to_string().into()
}

fn contains_ip(cidr: &Cidr, ip: &Ip) -> CelBool {
    cidr.0.contains(&ip.0).into()
}

fn contains_ip_text(cidr: &Cidr, text: &CelString<'_>) -> Result<CelBool> {
    ip(text).map(|ip| contains_ip(cidr, &ip))
}

fn contains_cidr(outer: &Cidr, inner: &Cidr) -> CelBool {
    outer.0.contains(&inner.0).into()
}

fn contains_cidr_text(outer: &Cidr, text: &CelString<'_>) -> Result<CelBool> {
    cidr(text).map(|inner| contains_cidr(outer, &inner))
}

fn cidr_ip(cidr: &Cidr) -> Ip {
    Ip(cidr.0.addr())
}

fn masked(cidr: &Cidr) -> Cidr {
    Cidr(cidr.0.trunc())
}

fn prefix_length(cidr: &Cidr) -> CelInt {
    i64::from(cidr.0.prefix_len()).into()
}

fn links(env: &mut Env) -> std::result::Result<(), DeclarationError> {
    add_overload!(env, fn url: (CelString) -> Result<Link>)?;
    add_overload!(env, fn is_url: (CelString) -> CelBool, name = "isURL")?;
    add_member_overload!(env, fn get_scheme: (Link) -> CelString)?;
    add_member_overload!(env, fn get_host: (Link) -> CelString)?;
    add_member_overload!(env, fn get_hostname: (Link) -> CelString)?;
    add_member_overload!(env, fn get_port: (Link) -> CelString)?;
    add_member_overload!(env, fn get_escaped_path: (Link) -> CelString)?;
    add_member_overload!(env, fn get_query: (Link) -> CelMap)
}

fn parse_url(text: &str) -> Option<Url> {
    Url::parse(text).ok().filter(|_| text.len() <= MAX_TEXT)
}

fn url(text: &CelString<'_>) -> Result<Link> {
    parse_url(text.inner()).map_or_else(|| wrong("url", "that is no absolute URL"), |url| Ok(Link(url)))
}

fn is_url(text: &CelString<'_>) -> CelBool {
    parse_url(text.inner()).is_some().into()
}

fn get_scheme(url: &Link) -> CelString<'static> {
    url.0.scheme().to_owned().into()
}

fn get_host(url: &Link) -> CelString<'static> {
    let host = url.0.host_str().unwrap_or_default();
    url.0.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}")).into()
}

fn get_hostname(url: &Link) -> CelString<'static> {
    url.0.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned().into()
}

fn get_port(url: &Link) -> CelString<'static> {
    url.0.port().map(|port| port.to_string()).unwrap_or_default().into()
}

fn get_escaped_path(url: &Link) -> CelString<'static> {
    url.0.path().to_owned().into()
}

fn get_query(url: &Link) -> CelMap<'static> {
    let mut query: HashMap<String, Vec<Box<dyn Val>>> = HashMap::new();
    for (name, value) in url.0.query_pairs() {
        query.entry(name.into_owned()).or_default().push(Box::new(CelString::from(value.into_owned())));
    }
    let entry = |(name, values): (String, Vec<Box<dyn Val>>)| {
        (CelMapKey::from(name), Box::new(CelList::from(values)) as Box<dyn Val>)
    };
    CelMap::from(query.into_iter().map(entry).collect::<HashMap<_, _>>())
}

fn quantities(env: &mut Env) -> std::result::Result<(), DeclarationError> {
    add_overload!(env, fn quantity: (CelString) -> Result<Quantity>)?;
    add_overload!(env, fn is_quantity: (CelString) -> CelBool)?;
    add_member_overload!(env, fn is_less_than: (Quantity, Quantity) -> CelBool)?;
    add_member_overload!(env, fn is_greater_than: (Quantity, Quantity) -> CelBool)?;
    add_member_overload!(env, fn compare_to: (Quantity, Quantity) -> CelInt)?;
    add_member_overload!(env, fn add: (Quantity, Quantity) -> Result<Quantity>)?;
    add_member_overload!(env, fn sub: (Quantity, Quantity) -> Result<Quantity>)?;
    add_member_overload!(env, fn sign: (Quantity) -> CelInt)?;
    add_member_overload!(env, fn is_integer: (Quantity) -> CelBool)?;
    add_member_overload!(env, fn as_integer: (Quantity) -> Result<CelInt>)?;
    add_member_overload!(env, fn as_approximate_float: (Quantity) -> CelDouble)
}

/// Quantities are counted in billionths, the least that Kubernetes keeps.
const ONE: i128 = 1_000_000_000;

/// `resource.Quantity` of Kubernetes: a decimal number, and a suffix by which it is multiplied.
fn parse_quantity(text: &str) -> Option<i128> {
    let end = text.find(|c: char| !matches!(c, '0'..='9' | '.' | '+' | '-')).unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let negative = number.starts_with('-');
    let number = number.strip_prefix(['+', '-']).unwrap_or(number);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    if (whole.is_empty() && fraction.is_empty()) || !digits(whole) || !digits(fraction) || text.len() > 40 {
        return None;
    }
    // in units of the last digit that is there
    let count: i128 = format!("{whole}{fraction}").parse().ok()?;
    let decimals = u32::try_from(fraction.len()).ok()?;
    let times: i128 = match suffix {
        "" => ONE,
        "n" => 1,
        "u" => 1_000,
        "m" => 1_000_000,
        "k" => 1_000 * ONE,
        "M" => 1_000_000 * ONE,
        "G" => 1_000_000_000 * ONE,
        "T" => 1_000_000_000_000 * ONE,
        "P" => 1_000_000_000_000_000 * ONE,
        "E" => 1_000_000_000_000_000_000 * ONE,
        "Ki" => ONE << 10,
        "Mi" => ONE << 20,
        "Gi" => ONE << 30,
        "Ti" => ONE << 40,
        "Pi" => ONE << 50,
        "Ei" => ONE << 60,
        exponent => {
            let exponent: i32 = exponent.strip_prefix(['e', 'E'])?.parse().ok()?;
            10i128.checked_pow(u32::try_from(exponent.checked_add(9)?).ok()?)?
        }
    };
    let product = count.checked_mul(times)?;
    let unit = 10i128.checked_pow(decimals)?;
    // what is smaller than the least is rounded up, away from zero
    let rounded = product / unit + i128::from(product % unit != 0);
    Some(if negative { -rounded } else { rounded })
}

fn quantity(text: &CelString<'_>) -> Result<Quantity> {
    parse_quantity(text.inner()).map_or_else(|| wrong("quantity", "that is no quantity"), |n| Ok(Quantity(n)))
}

fn is_quantity(text: &CelString<'_>) -> CelBool {
    parse_quantity(text.inner()).is_some().into()
}

fn is_less_than(a: &Quantity, b: &Quantity) -> CelBool {
    (a.0 < b.0).into()
}

fn is_greater_than(a: &Quantity, b: &Quantity) -> CelBool {
    (a.0 > b.0).into()
}

fn compare_to(a: &Quantity, b: &Quantity) -> CelInt {
    (a.0.cmp(&b.0) as i64).into()
}

fn add(a: &Quantity, b: &Quantity) -> Result<Quantity> {
    a.0.checked_add(b.0).map_or_else(|| wrong("add", "the sum is too large"), |n| Ok(Quantity(n)))
}

fn sub(a: &Quantity, b: &Quantity) -> Result<Quantity> {
    a.0.checked_sub(b.0).map_or_else(|| wrong("sub", "the difference is too large"), |n| Ok(Quantity(n)))
}

fn sign(quantity: &Quantity) -> CelInt {
    i64::try_from(quantity.0.signum()).unwrap_or_default().into()
}

fn whole(quantity: &Quantity) -> Option<i64> {
    (quantity.0 % ONE == 0).then_some(quantity.0 / ONE).and_then(|n| i64::try_from(n).ok())
}

fn is_integer(quantity: &Quantity) -> CelBool {
    whole(quantity).is_some().into()
}

fn as_integer(quantity: &Quantity) -> Result<CelInt> {
    whole(quantity).map_or_else(|| wrong("asInteger", "the quantity is not whole"), |n| Ok(n.into()))
}

fn as_approximate_float(quantity: &Quantity) -> CelDouble {
    (quantity.0 as f64 / ONE as f64).into()
}
